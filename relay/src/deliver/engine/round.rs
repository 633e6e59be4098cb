//! One round of statements: the ends of tries are written and more jobs are claimed.
//!
//! A busy process writes what was done and claims the next batch in one statement: half the round trips and half the
//! commits. Everything else that ends (failures, hand-backs) is rare, and goes beside it.

use std::time::{Duration, Instant};

use super::super::ClaimedJob;
use super::super::alone::Alone;
use super::super::line::{ClaimPlan, Line};
use super::Engine;
use crate::jobs::claim::{self, Pick, Wanted};
use crate::jobs::lease::Boot;
use crate::jobs::low_water::FRONT;
use crate::jobs::process::Identity;
use crate::jobs::rate::{self, Drawn};
use crate::jobs::session::Session;
use crate::jobs::settle::{self, Fences, Groups, Missed, Settlement};
use crate::jobs::transition::Decision;
use crate::metrics::record;
use crate::postgres::Error;

/// The most settlements that one round of statements writes.
const MOST_SETTLEMENTS: usize = 2_000;

impl Engine<'_> {
    /// Writes what has ended and claims what there is room for, in one round trip.
    pub(super) async fn settle_and_claim(&mut self, session: &Session) -> Result<bool, Error> {
        let count = self.unsettled.len().min(MOST_SETTLEMENTS);
        self.draw(session).await?;
        let plans = self.plan_claims();
        let groups = Groups::of(&self.unsettled[..count]);
        // What was done is written by the first claim, if that is one of ready jobs.
        let carried = plans.first().is_some_and(|plan| plan.pick == Pick::Ready);
        let claiming = async {
            let mut claims = Vec::with_capacity(plans.len());
            for (index, plan) in plans.iter().enumerate() {
                let done = if carried && index == 0 { &groups.done } else { &Fences::default() };
                claims.push(claim_one(session, &self.identity, &self.lines[plan.line], done, plan).await?);
            }
            Ok::<_, Error>(claims)
        };
        let settling = async {
            let mut missed = vec![settle::settle_others(session, &groups).await?];
            if !carried && !groups.done.is_empty() {
                missed.push(settle::settle_done(session, &groups.done).await?);
            }
            Ok::<_, Error>(missed)
        };
        let (settled, claimed) = tokio::join!(settling, claiming);
        // Each is taken in whatever became of the other. What was done is off the list only if all was written: writing
        // it again is harmless.
        let settled = match (settled, &claimed) {
            (Ok(mut missed), Ok(claims)) => {
                if carried {
                    let mut done = Missed::default();
                    done.unless_all(claims[0].settled, &groups.done);
                    missed.push(done);
                }
                settle::fenced(session, &missed).await.map(|fenced| {
                    self.unsettled.drain(..count);
                    record::fenced(fenced.len());
                    for job_id in fenced {
                        tracing::warn!(%job_id, "the claim was taken over before its end was written; it may be done twice");
                    }
                })
            }
            (Ok(_), Err(_)) => Ok(()),
            (Err(error), _) => Err(error),
        };
        let mut worked = count > 0;
        for (plan, claim) in plans.iter().zip(claimed?) {
            worked |= self.take_in(session, plan, claim).await?;
        }
        settled?;
        Ok(worked)
    }

    /// Draws from rates of all processes what is about to be claimed.
    async fn draw(&mut self, session: &Session) -> Result<(), Error> {
        if self.is_closing() || !matches!(self.alone, Alone::No { .. }) {
            return Ok(());
        }
        for index in 0..self.lines.len() {
            let line = &mut self.lines[index];
            let wanted = line.drawable(Instant::now());
            let Some(rate) = line.budget.rate_of_all().filter(|_| wanted > 0) else { continue };
            match rate::draw(session, line.kind.name(), wanted, rate).await? {
                Drawn::Granted(count) => line.budget.granted(count, Instant::now()),
                Drawn::NothingDue => {
                    line.nothing_due(Instant::now());
                    self.look_ahead(session, index).await?;
                }
            }
        }
        Ok(())
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
        let Claim { jobs, sent, began, ended, settled: _ } = claim;
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
}

/// What a claim brought.
struct Claim {
    settled: usize,
    jobs: Vec<ClaimedJob>,
    sent: Boot,
    began: Instant,
    ended: Instant,
}

async fn claim_one(
    session: &Session,
    identity: &Identity,
    line: &Line,
    done: &Fences,
    plan: &ClaimPlan,
) -> Result<Claim, Error> {
    let (sent, began) = (Boot::now(), Instant::now());
    let ClaimPlan { pick, behind, limit, .. } = *plan;
    let wanted = Wanted { kind: line.kind.name(), pick, behind, limit };
    let (settled, jobs) = claim::claim(session, identity.id, done, wanted).await?;
    if !jobs.is_empty() {
        identity.lease.extend(sent);
    }
    Ok(Claim { settled, jobs, sent, began, ended: Instant::now() })
}
