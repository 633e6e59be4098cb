-- Doubt that is written down before it can arise, and what the other side said about a failed try.

-- `in_doubt`, while running: the try is past the point from where it may have been done, and its kind would rather hold
-- the job than do it twice. Of a dead job: its last try may have been done. Each claim begins without it.
ALTER TABLE aftercommit.jobs
    ADD CONSTRAINT jobs_in_doubt CHECK (NOT in_doubt OR state <> 'succeeded');

ALTER TABLE aftercommit.job_attempts
    ADD COLUMN enhanced_code text,             -- as SMTP has it: 4.7.1
    ADD COLUMN reply         text,             -- the other side's words, cleaned and cut
    ADD CONSTRAINT job_attempts_enhanced_code CHECK (octet_length(enhanced_code) BETWEEN 1 AND 20),
    ADD CONSTRAINT job_attempts_reply         CHECK (octet_length(reply) BETWEEN 1 AND 1024);
