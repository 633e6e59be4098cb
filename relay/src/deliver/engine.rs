//! The engine: what a delivering process has in hand, and one step of its work.
//!
//! A step takes what has ended, begins what can begin, and makes one round of statements: settlements and claims in one
//! go, and now and then a renewal or a look at the other processes. It is driven by `super::run`, which owns connections
//! and waits. If a statement fails nothing is lost: what was to be written stays here until it is.

mod standing;

use std::time::{Duration, Instant};

use super::alone::Alone;
use super::line::{ClaimPlan, Line};
use super::work::{Ended, Work};
use super::{ClaimedJob, Context, Failure, Lease, Outcome};
use crate::health::About;
use crate::jobs::claim::{self, Pick};
use crate::jobs::doubt::Desk;
use crate::jobs::lease::Boot;
use crate::jobs::low_water::FRONT;
use crate::jobs::process::{self, Identity};
use crate::jobs::rescue::Observer;
use crate::jobs::session::Session;
use crate::jobs::settle::{self, Settlement};
use crate::jobs::transition::{Decision, after_failure};
use crate::metrics::record;
use crate::postgres::Error;

/// The most settlements that one round of statements writes.
const MOST_SETTLEMENTS: usize = 2_000;

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Something was done; there may be more.
    Worked,
    /// Nothing to do for so long, unless somebody rings or a try ends.
    Idle(Duration),
    /// Stopped, with nothing left in hand.
    Done,
}

pub(super) struct Engine<'a> {
    context: &'a Context,
    identity: Identity,
    lines: Vec<Line>,
    work: Work,
    unsettled: Vec<Settlement>,
    doubts: Desk,
    alone: Alone,
    observer: Observer,
    next_look: Instant,
    renewed: Option<Boot>,
    unknown_kinds: Vec<String>,
    closing: Closing,
}

/// How far a stopping process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    No,
    /// Tries may end by themselves until then.
    Until(Instant),
    /// Tries were cut off.
    CutOff,
}

impl<'a> Engine<'a> {
    pub(super) fn new(context: &'a Context) -> Self {
        let (settings, now) = (&context.settings, Instant::now());
        Self {
            context,
            identity: Identity::new(settings.lease),
            lines: context.kinds.0.iter().map(|kind| Line::new(kind.clone(), settings, now)).collect(),
            work: Work::default(),
            unsettled: Vec::new(),
            doubts: Desk::default(),
            alone: Alone::default(),
            observer: Observer::new(settings.lease),
            next_look: now,
            renewed: None,
            unknown_kinds: Vec::new(),
            closing: Closing::No,
        }
    }

    /// Claims nothing more; hands back what has not begun, and lets the rest end within the grace.
    pub(super) fn close(&mut self) {
        if !self.is_closing() {
            self.closing = Closing::Until(Instant::now() + self.context.settings.grace);
            (0..self.lines.len()).for_each(|line| self.hand_back_queue(line, None));
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing != Closing::No
    }

    pub(super) fn holds_nothing(&self) -> bool {
        self.held() == 0
    }

    /// There may be new jobs.
    pub(super) fn wake(&mut self) {
        let now = Instant::now();
        self.lines.iter_mut().for_each(|line| line.wake(now));
    }

    /// Waits until a try ends, or asks for a mark in its row.
    pub(super) async fn try_stirs(&mut self) {
        tokio::select! {
            () = self.work.wait() => {}
            () = self.doubts.asked() => {}
        }
    }

    /// The connection is gone: whatever was seen of other processes proves nothing any more.
    pub(super) fn disconnected(&mut self) {
        self.observer.forget();
    }

    pub(super) async fn step(&mut self, session: &Session) -> Result<Step, Error> {
        let mut worked = self.take_ended();
        self.cut_off_when_late();
        self.heed_pauses();
        self.begin_tries();

        if self.held() > 0 && self.renewed.is_none_or(|at| Boot::now().since(at) >= self.context.settings.lease / 3) {
            self.renew(session).await?;
        }
        if self.next_look <= Instant::now() {
            self.look(session).await?;
        }
        worked |= self.doubts.serve(session).await?;
        worked |= self.settle_and_claim(session).await?;
        self.begin_tries();
        self.lines.iter().for_each(Line::show);

        if self.is_closing() && self.held() == 0 {
            process::leave(session, self.identity.id).await?;
            return Ok(Step::Done);
        }
        Ok(if worked { Step::Worked } else { Step::Idle(self.until_due()) })
    }

    /// Claims that this process answers for: waiting, under way, or ended and not yet written down.
    fn held(&self) -> usize {
        self.unsettled.len() + self.work.len() + self.lines.iter().map(|line| line.queue.len()).sum::<usize>()
    }

    fn take_ended(&mut self) -> bool {
        let ended = self.work.take_ended();
        let any = !ended.is_empty();
        ended.into_iter().for_each(|ended| self.note(ended));
        any
    }

    /// What an ended try means for its job and its line.
    fn note(&mut self, Ended { line: index, job, outcome, duration, marked }: Ended) {
        let now = Instant::now();
        let line = &mut self.lines[index];
        line.in_flight -= 1;
        line.pace.done();
        let kind = line.kind.name();
        if outcome.reached_the_service() && line.breaker.there() {
            line.wake(now);
            tracing::info!(kind, "delivery goes on");
            self.context.health.well(&pause_part(kind));
        }
        let decision = match outcome {
            Outcome::Succeeded => {
                tracing::debug!(job_id = %job.job_id, kind, attempt = job.attempt, ?duration, "job done");
                Decision::Succeeded
            }
            Outcome::Failed(failure) => failed(&job, failure, marked),
            Outcome::CalledOff(reason) => {
                tracing::info!(job_id = %job.job_id, kind, reason, "job is called off");
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

    fn hand_back_queue(&mut self, line: usize, reason: Option<&str>) {
        for job in self.lines[line].queue.drain(..) {
            let decision = Decision::HandBack { reason: reason.map(str::to_owned) };
            self.unsettled.push(Settlement::new(&job, decision, Duration::ZERO));
        }
    }

    /// Begins as many tries as there is room for, while the lease holds.
    fn begin_tries(&mut self) {
        let now = Instant::now();
        for (index, line) in self.lines.iter_mut().enumerate() {
            while line.room(now) > 0 && self.identity.lease.is_held() {
                let Some(job) = line.queue.pop_front() else { break };
                if job.claimed_by != self.identity.id {
                    continue; // Claimed before this process was taken for dead: not its own any more.
                }
                line.in_flight += 1;
                let lease = Lease::of(&job, self.identity.lease.clone(), self.doubts.counter());
                self.work.begin(index, &line.kind, job, lease);
            }
        }
    }

    /// What is paused by hand begins nothing; what waits here of it is handed back, so that it is seen as waiting.
    fn heed_pauses(&mut self) {
        let now = Instant::now();
        for index in 0..self.lines.len() {
            let paused = self.context.pauses.delivery(self.lines[index].kind.name());
            self.lines[index].pause(paused, now);
            if paused {
                self.hand_back_queue(index, None);
            }
        }
    }

    fn cut_off_when_late(&mut self) {
        if let Closing::Until(at) = self.closing
            && at <= Instant::now()
        {
            tracing::warn!(tries = self.work.len(), "the grace is over: cutting off tries");
            self.closing = Closing::CutOff;
            self.identity.lease.revoke();
            self.work.cut_off();
        }
    }

    /// Writes what has ended and claims what there is room for, in one round trip.
    async fn settle_and_claim(&mut self, session: &Session) -> Result<bool, Error> {
        let count = self.unsettled.len().min(MOST_SETTLEMENTS);
        let plans = self.plan_claims();
        let claiming = async {
            let mut claims = Vec::with_capacity(plans.len());
            for plan in &plans {
                claims.push(claim_one(session, &self.identity, &self.lines[plan.line], plan).await?);
            }
            Ok::<_, Error>(claims)
        };
        let settling =
            async { if count == 0 { Ok(vec![]) } else { settle::settle(session, &self.unsettled[..count]).await } };
        let (settled, claimed) = tokio::join!(settling, claiming);
        // Each is taken in whatever became of the other.
        let settled = settled.map(|fenced| {
            self.unsettled.drain(..count);
            record::fenced(fenced.len());
            for job_id in fenced {
                tracing::warn!(%job_id, "the claim was taken over before its end was written; it may be done twice");
            }
        });
        let mut worked = count > 0;
        for (plan, claim) in plans.iter().zip(claimed?) {
            worked |= self.take_in(session, plan, claim).await?;
        }
        settled?;
        Ok(worked)
    }

    fn plan_claims(&mut self) -> Vec<ClaimPlan> {
        let now = Instant::now();
        if self.is_closing() {
            return vec![];
        }
        if self.held() == 0
            && let Some(line) = self.alone.nothing_in_hand(now)
        {
            self.lines[line].suspect_taken(true, now);
        }
        for (index, line) in self.lines.iter().enumerate() {
            if line.suspect_is_due(now) {
                self.alone.suspect_is_due(index, now);
            }
        }
        match self.alone {
            Alone::No { .. } => {
                self.lines.iter_mut().enumerate().filter_map(|(index, line)| line.plan(index, now)).collect()
            }
            Alone::Clearing { line } if !self.lines[line].suspect_is_due(now) => {
                self.alone = Alone::default(); // Its kind was paused meanwhile.
                vec![]
            }
            Alone::Clearing { line } if self.held() == 0 => {
                vec![ClaimPlan { line, pick: Pick::Suspects, behind: FRONT, limit: 1 }]
            }
            Alone::Clearing { .. } | Alone::Running { .. } => vec![],
        }
    }

    /// Takes in what a claim brought. Says whether that was anything.
    async fn take_in(&mut self, session: &Session, plan: &ClaimPlan, claim: Claim) -> Result<bool, Error> {
        let Claim { jobs, sent, began, ended } = claim;
        let any = !jobs.is_empty();
        if any {
            self.renewed = Some(sent);
        }
        let line = &mut self.lines[plan.line];
        let ask_ahead = match plan.pick {
            Pick::Ready => line.claimed(plan, &jobs, began, ended),
            Pick::Suspects => {
                line.suspect_taken(false, ended);
                self.alone.claimed(plan.line, any, ended);
                false
            }
        };
        for job in jobs {
            if job.expired {
                record::ended(line.kind.name(), &job, &Decision::Expired, Duration::ZERO);
                self.unsettled.push(Settlement::new(&job, Decision::Expired, Duration::ZERO));
            } else {
                line.queue.push_back(job);
            }
        }
        if ask_ahead {
            self.look_ahead(session, plan.line).await?;
        }
        Ok(any)
    }

    async fn look_ahead(&mut self, session: &Session, line: usize) -> Result<(), Error> {
        let ahead = claim::look_ahead(session, self.identity.id, self.lines[line].kind.name()).await?;
        self.lines[line].ahead(&ahead, Instant::now());
        if !ahead.registered {
            self.start_anew(session).await?;
        }
        Ok(())
    }

    fn until_due(&mut self) -> Duration {
        let now = Instant::now();
        let lease = self.context.settings.lease;
        let mut pauses = vec![self.next_look.saturating_duration_since(now)];
        if self.held() > 0 {
            pauses.push(self.renewed.map_or(Duration::ZERO, |at| (lease / 3).saturating_sub(Boot::now().since(at))));
        }
        match (self.closing, self.alone) {
            (Closing::Until(cut_off), _) => pauses.push(cut_off.saturating_duration_since(now)),
            (Closing::No, Alone::No { not_before }) => {
                pauses.extend(self.lines.iter_mut().filter_map(|line| line.until_due(now)));
                let turn = not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
                pauses
                    .extend(self.lines.iter().filter_map(|line| line.until_suspect(now)).map(|pause| pause.max(turn)));
            }
            (Closing::No | Closing::CutOff, _) => {}
        }
        pauses.into_iter().min().unwrap_or_default()
    }
}

/// What a claim brought.
struct Claim {
    jobs: Vec<ClaimedJob>,
    sent: Boot,
    began: Instant,
    ended: Instant,
}

async fn claim_one(session: &Session, identity: &Identity, line: &Line, plan: &ClaimPlan) -> Result<Claim, Error> {
    let (sent, began) = (Boot::now(), Instant::now());
    let jobs = claim::claim(session, identity.id, line.kind.name(), plan.pick, plan.behind, plan.limit).await?;
    if !jobs.is_empty() {
        identity.lease.extend(sent);
    }
    Ok(Claim { jobs, sent, began, ended: Instant::now() })
}

/// What a failed try leads to, and its line in the log: how far it came, not what the other side said.
fn failed(job: &ClaimedJob, failure: Failure, marked: bool) -> Decision {
    let (job_id, kind, attempt) = (job.job_id, &job.kind, job.attempt);
    let (phase, code) = (failure.phase, failure.code);
    let decision = after_failure(attempt, &job.retry, job.retry_interval, failure, marked);
    let outcome = decision.attempt_outcome();
    match &decision {
        Decision::Retry { delay, .. } => {
            tracing::info!(%job_id, kind, attempt, phase, code, outcome, ?delay, "job failed; it is tried again");
        }
        _ => tracing::warn!(%job_id, kind, attempt, phase, code, outcome, "job is dead"),
    }
    decision
}

/// The part of health that is about one kind's pause.
fn pause_part(kind: &str) -> String {
    format!("delivery of {kind}")
}
