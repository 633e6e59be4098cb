//! Where this process stands among the others: its identity and lease, what the database says it holds, and who else
//! went away.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::Engine;
use crate::jobs::claim;
use crate::jobs::lease::Boot;
use crate::jobs::process::{self, Identity};
use crate::jobs::rescue;
use crate::jobs::session::Session;
use crate::jobs::settle::Settlement;
use crate::metrics::record;
use crate::postgres::Error;

/// How long after a connection was lost a claim that was on its way may still be carried out: longer than any statement.
const STRAYS: Duration = Duration::from_secs(120);
/// How often to look for kinds that nobody here knows.
const UNKNOWN: Duration = Duration::from_secs(30);

impl Engine<'_> {
    /// Begins on a new connection: says who it is, learns whether its claims are still its own, and finds claims whose
    /// answer was lost.
    pub(in crate::deliver) async fn resume(&mut self, session: &Session) -> Result<(), Error> {
        if self.held() == 0 {
            process::register(session, &self.identity, &self.context.name).await?;
        } else {
            self.renew(session).await?;
        }
        self.next_look = Instant::now();
        self.strays_until = self.next_look + STRAYS;
        self.wake();
        Ok(())
    }

    pub(super) async fn renew(&mut self, session: &Session) -> Result<(), Error> {
        let sent = Boot::now();
        if process::renew(session, &self.identity).await? {
            self.renewed = Some(sent);
            Ok(())
        } else {
            self.start_anew(session).await
        }
    }

    /// The process's row is gone: it was taken for dead. What waited here is somebody else's; what is under way finds
    /// its lease revoked, and what was done is fenced when it is written.
    pub(super) async fn start_anew(&mut self, session: &Session) -> Result<(), Error> {
        if self.held() > 0 {
            record::lease_lost();
            tracing::warn!(jobs = self.held(), "was taken for dead: its claims were given to others");
        }
        self.identity.lease.revoke();
        self.lines.iter_mut().for_each(|line| line.queue.clear());
        self.identity = Identity::new(self.context.settings.lease);
        self.renewed = None;
        process::register(session, &self.identity, &self.context.name).await
    }

    /// Looks at the other processes, at what the database says this one holds, and at kinds nobody here knows.
    pub(super) async fn look(&mut self, session: &Session) -> Result<(), Error> {
        let sent = Instant::now();
        self.next_look = sent + self.observer.interval();
        let seen = rescue::look(session).await?;
        for dead in self.observer.observe(sent, Instant::now(), &seen) {
            if dead.process == self.identity.id {
                continue;
            }
            let freed = rescue::rescue(session, &dead).await?;
            if freed > 0 {
                record::rescued(freed);
                tracing::warn!(process = %dead.process, jobs = freed, "took over the claims of a relay that went away");
                self.lines.iter_mut().for_each(|line| line.lower(sent));
            }
        }
        if sent <= self.strays_until {
            self.hand_back_strays(session).await?;
        }
        if self.next_unknown <= sent {
            self.next_unknown = sent + UNKNOWN;
            self.tell_unknown_kinds(session).await?;
        }
        for line in 0..self.lines.len() {
            self.look_ahead(session, line).await?;
        }
        Ok(())
    }

    async fn tell_unknown_kinds(&mut self, session: &Session) -> Result<(), Error> {
        let known: Vec<_> = self.lines.iter().map(|line| line.kind.name()).collect();
        let unknown = claim::unknown_kinds(session, &known).await?;
        if unknown != self.unknown_kinds && !unknown.is_empty() {
            let kinds = unknown.iter().map(|kind| shared::redact::redact(kind)).collect::<Vec<_>>().join(", ");
            tracing::warn!(kinds, "jobs of kinds that this relay does not know are left to others");
        }
        self.unknown_kinds = unknown;
        Ok(())
    }

    /// Hands back what the database says is this process's and is not: claims whose answer was lost.
    async fn hand_back_strays(&mut self, session: &Session) -> Result<(), Error> {
        let in_database = process::held(session, self.identity.id).await?;
        let mut in_hand: HashSet<(Uuid, i64)> = self.work.claims().collect();
        in_hand.extend(self.unsettled.iter().map(Settlement::claim));
        in_hand.extend(self.lines.iter().flat_map(|line| &line.queue).map(|job| (job.job_id, job.claim)));
        for (job_id, claim) in in_database {
            if !in_hand.contains(&(job_id, claim)) {
                self.unsettled.push(Settlement::hand_back_unknown(job_id, claim, self.identity.id));
            }
        }
        Ok(())
    }
}
