//! Tries: begun while there is room and the lease holds, and what each end means for its job and its line.

use std::time::{Duration, Instant};

use super::super::work::Ended;
use super::super::{Lease, Outcome, told};
use super::{Closing, Engine};
use crate::health::About;
use crate::jobs::settle::Settlement;
use crate::jobs::transition::Decision;
use crate::metrics::record;

impl Engine<'_> {
    pub(super) fn take_ended(&mut self) -> bool {
        let ended = self.work.take_ended();
        let any = !ended.is_empty();
        for ended in ended {
            self.lines[ended.line].in_flight -= 1;
            self.note(ended);
        }
        any
    }

    /// What an ended try means for its job and its line.
    fn note(&mut self, Ended { line: index, job, outcome, duration, marked }: Ended) {
        let now = Instant::now();
        let line = &mut self.lines[index];
        line.pace.done();
        if line.groups.are_limited()
            && let Some(group) = line.kind.group(&job)
        {
            line.groups.end(&group, duration);
        }
        let kind = line.kind.name();
        if outcome.reached_the_service() && line.breaker.there() {
            line.wake(now);
            tracing::info!(kind, "delivery goes on");
            self.context.health.well(&pause_part(kind));
        }
        let decision = match outcome {
            Outcome::Succeeded => {
                told::done(&job, duration);
                Decision::Succeeded
            }
            Outcome::Failed(failure) => told::failed(&job, failure, marked),
            Outcome::CalledOff(reason) => {
                told::called_off(&job, &reason);
                Decision::CalledOff(reason)
            }
            Outcome::LeaseLost => {
                line.lower(now);
                Decision::HandBack { reason: None }
            }
            Outcome::Away(reason) => {
                let news = line.breaker.away(now);
                line.lower(now);
                self.context.health.ill(&pause_part(kind), About::Breaker, reason.clone());
                if news {
                    tracing::warn!(kind, reason, "delivery pauses; no attempt is spent");
                }
                self.hand_back_queue(index, Some(&reason));
                Decision::HandBack { reason: Some(reason) }
            }
        };
        record::ended(kind, &job, &decision, duration);
        self.unsettled.push(Settlement::new(&job, decision, duration));
    }

    pub(super) fn hand_back_queue(&mut self, line: usize, reason: Option<&str>) {
        for job in self.lines[line].queue.drain(..) {
            let decision = Decision::HandBack { reason: reason.map(str::to_owned) };
            self.unsettled.push(Settlement::new(&job, decision, Duration::ZERO));
        }
    }

    /// Begins as many tries as there is room for, while the lease holds.
    pub(super) fn begin_tries(&mut self) {
        let now = Instant::now();
        for index in 0..self.lines.len() {
            while self.lines[index].room(now) > 0 && self.identity.lease.is_held() {
                let line = &mut self.lines[index];
                let Some(job) = line.queue.pop_front() else { break };
                if job.claimed_by != self.identity.id {
                    continue; // Claimed before this process was taken for dead: not its own any more.
                }
                let group = if line.groups.are_limited() { line.kind.group(&job) } else { None };
                if let Some(group) = &group
                    && let Err(delay) = line.groups.begin(group, now)
                {
                    self.unsettled.push(Settlement::new(&job, Decision::Later(delay), Duration::ZERO));
                    continue;
                }
                line.budget.take();
                let lease = Lease::of(&job, self.identity.lease.clone(), self.doubts.counter());
                match self.work.begin(index, &line.kind, job, lease) {
                    Some(ended) => self.note(ended),
                    None => line.in_flight += 1,
                }
            }
        }
    }

    /// What is paused by hand begins nothing; what waits here of it is handed back, so that it is seen as waiting.
    pub(super) fn heed_pauses(&mut self) {
        let now = Instant::now();
        for index in 0..self.lines.len() {
            let paused = self.context.pauses.delivery(self.lines[index].kind.name());
            self.lines[index].pause(paused, now);
            if paused {
                self.hand_back_queue(index, None);
            }
        }
    }

    pub(super) fn cut_off_when_late(&mut self) {
        if let Closing::Until(at) = self.closing
            && at <= Instant::now()
        {
            tracing::warn!(tries = self.work.len(), "the grace is over: cutting off tries");
            self.closing = Closing::CutOff;
            self.identity.lease.revoke();
            self.work.cut_off();
        }
    }
}

/// The part of health that is about one kind's pause.
fn pause_part(kind: &str) -> String {
    format!("delivery of {kind}")
}
