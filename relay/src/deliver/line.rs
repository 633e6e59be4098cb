//! One kind's side of delivery: what is in hand of it, and when to claim more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::breaker::{Allowance, Breaker};
use super::budget::Budget;
use super::limits::Groups;
use super::pace::Pace;
use super::{Kind, Limits, Settings};
use crate::jobs::claim::{Ahead, ClaimedJob, Pick};
use crate::jobs::low_water::{LowWater, Mark};
use crate::metrics::record;

/// See the module.
pub(super) struct Line {
    pub(super) kind: Arc<dyn Kind>,
    pub(super) breaker: Breaker,
    pub(super) pace: Pace,
    pub(super) budget: Budget,
    pub(super) groups: Groups,
    /// Claimed and not begun.
    pub(super) queue: VecDeque<ClaimedJob>,
    /// Begun and not ended.
    pub(super) in_flight: usize,
    water: LowWater,
    next_claim: Instant,
    suspect_at: Option<Instant>,
    poll: Duration,
    /// By hand: nothing is begun until somebody resumes it.
    paused: bool,
}

/// A claim to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClaimPlan {
    pub(super) line: usize,
    pub(super) pick: Pick,
    pub(super) behind: Mark,
    pub(super) limit: usize,
}

impl Line {
    pub(super) fn new(kind: Arc<dyn Kind>, limits: &Limits, settings: &Settings, now: Instant) -> Self {
        let pace = Pace::new(kind.concurrency(), settings.batch, now);
        Self {
            kind,
            breaker: Breaker::default(),
            pace,
            budget: Budget::new(limits, now),
            groups: Groups::new(limits),
            queue: VecDeque::new(),
            in_flight: 0,
            water: LowWater::default(),
            next_claim: now,
            suspect_at: None,
            poll: settings.poll,
            paused: false,
        }
    }

    /// Whether it is paused by hand. What became due meanwhile is looked for when it goes on.
    pub(super) fn pause(&mut self, paused: bool, now: Instant) {
        if std::mem::replace(&mut self.paused, paused) && !paused {
            self.lower(now);
        }
    }

    fn allowance(&self, now: Instant) -> Allowance {
        if self.paused { Allowance::None(self.poll) } else { self.breaker.allowance(now) }
    }

    /// There may be jobs: claim at the next step.
    pub(super) fn wake(&mut self, now: Instant) {
        self.next_claim = now;
    }

    /// Jobs may have become ready behind the mark: look there too.
    pub(super) fn lower(&mut self, now: Instant) {
        self.water.lower();
        self.wake(now);
    }

    /// How many tries may begin now.
    pub(super) fn room(&mut self, now: Instant) -> usize {
        let room = match self.allowance(now) {
            Allowance::Any => self.kind.concurrency().saturating_sub(self.in_flight),
            Allowance::One => usize::from(self.in_flight == 0),
            Allowance::None(_) => 0,
        };
        room.min(self.budget.room(now))
    }

    /// Shows the metrics what is in hand.
    pub(super) fn show(&self) {
        record::line(self.kind.name(), self.in_flight, self.queue.len(), self.breaker.is_open());
    }

    /// How many jobs to claim if it is time to claim, as far as limits allow.
    fn wanted(&mut self, now: Instant) -> usize {
        let wanted = self.wanted_at_all(now);
        self.budget.claimable(wanted, self.queue.len(), now)
    }

    /// How many tries to draw from the rate of all processes first; 0 when there is none, or no need.
    pub(super) fn drawable(&mut self, now: Instant) -> usize {
        if self.next_claim > now || !self.budget.must_draw(now) {
            return 0;
        }
        self.wanted_at_all(now)
    }

    /// Nothing is due, and what lies ahead is to be asked.
    pub(super) fn nothing_due(&mut self, now: Instant) {
        self.next_claim = now + self.poll;
    }

    fn wanted_at_all(&mut self, now: Instant) -> usize {
        match self.allowance(now) {
            Allowance::Any => {
                let target = self.pace.target(now);
                // Claims that are a trickle cost as much as full ones.
                if self.queue.len() > target / 2 { 0 } else { target - self.queue.len() }
            }
            Allowance::One => usize::from(self.in_flight == 0 && self.queue.is_empty()),
            Allowance::None(_) => 0,
        }
    }

    /// The claim that is due, if one is.
    pub(super) fn plan(&mut self, line: usize, now: Instant) -> Option<ClaimPlan> {
        let limit = if self.next_claim <= now { self.wanted(now) } else { 0 };
        (limit > 0).then(|| ClaimPlan { line, pick: Pick::Ready, behind: self.water.start(now), limit })
    }

    /// How long until there is something to do without anybody saying so; `None` when only an ended try will tell.
    pub(super) fn until_due(&mut self, now: Instant) -> Option<Duration> {
        match self.allowance(now) {
            Allowance::None(pause) => Some(pause),
            _ if self.wanted_at_all(now) == 0 => None,
            _ => Some(self.next_claim.saturating_duration_since(now).max(self.budget.until_more(now))),
        }
    }

    /// A claim was made. Returns whether everything that was ready has been seen.
    pub(super) fn claimed(&mut self, plan: &ClaimPlan, jobs: &[ClaimedJob], began: Instant, ended: Instant) -> bool {
        let more = jobs.len() >= plan.limit;
        let all_seen = self.water.claimed(plan.behind, jobs.last().map(|job| job.place), more, began, ended);
        self.next_claim = match (more, all_seen) {
            (true, _) => ended,
            (false, true) => ended + self.poll,
            (false, false) => ended + self.water.until_sweep(ended).min(self.poll),
        };
        all_seen
    }

    /// What lies ahead is known.
    pub(super) fn ahead(&mut self, ahead: &Ahead, now: Instant) {
        if let Some(at) = instant_in(ahead.ready_in, now) {
            self.next_claim = self.next_claim.min(at);
        }
        self.suspect_at = instant_in(ahead.suspect_in, now);
    }

    /// Whether a suspect is due and may be tried.
    pub(super) fn suspect_is_due(&self, now: Instant) -> bool {
        self.suspect_at.is_some_and(|at| at <= now) && !matches!(self.allowance(now), Allowance::None(_))
    }

    /// How long until the next suspect is due, if it may be tried then.
    pub(super) fn until_suspect(&self, now: Instant) -> Option<Duration> {
        let at = self.suspect_at.filter(|_| !matches!(self.allowance(now), Allowance::None(_)));
        at.map(|at| at.saturating_duration_since(now))
    }

    /// Whether there is a suspect is to be asked again.
    pub(super) fn suspect_taken(&mut self, maybe_more: bool, now: Instant) {
        self.suspect_at = maybe_more.then_some(now);
    }
}

/// A time that PostgreSQL gave as seconds from now; infinity and the far future are never.
fn instant_in(seconds: Option<f64>, now: Instant) -> Option<Instant> {
    Duration::try_from_secs_f64(seconds?.max(0.0)).ok().and_then(|pause| now.checked_add(pause))
}
