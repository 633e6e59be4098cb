//! The statements that pruning runs over and over. This file uses nothing else of the program, so that a test pins the
//! plans of these very statements.

/// Purpose: leaves the planner only plans by index, without more processes than one.
pub const SETTINGS: &str = "
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET max_parallel_workers_per_gather = 0;
SET jit = off;
SET row_security = off";

/// Purpose: how many rows of a lane are old enough and seen.
pub const COUNT: &str = "
SELECT count(*)
  FROM aftercommit.outbox
 WHERE aftercommit.lane(aggregate_id) = $1
   AND transaction_id < $2::text::xid8
   AND occurred_at < $3";

/// Purpose: the next rows of a lane that are seen, and whether they are old enough.
pub const ROWS: &str = "
SELECT event_id, transaction_id::text AS transaction_id, position, occurred_at < $6 AS old
  FROM aftercommit.outbox AS event
 WHERE aftercommit.lane(event.aggregate_id) = $1
   AND event.transaction_id < $2::text::xid8
   AND (event.transaction_id, position, event_id) > ($3::text::xid8, $4, $5)
 ORDER BY event.transaction_id, position, event_id
 LIMIT $7";

/// Purpose: deletes chosen rows. What they were chosen for never changes.
pub const DELETE: &str = "DELETE FROM aftercommit.outbox WHERE event_id = ANY ($1)";

/// Purpose: which of some events have an open failure or an unfinished job. An event's jobs are one range of the
/// primary key, which begins with the event's first 48 bits.
pub const NEEDED: &str = "
SELECT event_id
  FROM aftercommit.dispatch_failures
 WHERE event_id = ANY ($1)
   AND resolved_at IS NULL
 UNION
SELECT candidate.event_id
  FROM unnest($1::uuid[]) AS candidate (event_id)
 WHERE EXISTS (SELECT
                 FROM aftercommit.jobs AS job
                WHERE job.job_id BETWEEN (left(candidate.event_id::text, 13) || '-0000-0000-000000000000')::uuid
                                     AND (left(candidate.event_id::text, 13) || '-ffff-ffff-ffffffffffff')::uuid
                  AND job.event_id = candidate.event_id
                  AND job.state IN ('available', 'retrying', 'running'))";
