//! What the databases tell of the whole system, asked every few seconds, at rest once a minute: the gauges, and the points of
//! the history.
//!
//! The questions are those of `relay status`: answered from indexes and bounded, on two connections of their own, so
//! that a scrape is answered from memory and costs the databases nothing. When answers take long, it is asked less often.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use shared::database_url::DatabaseUrl;
use shared::metrics::OTHER;
use time::OffsetDateTime;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::history::{History, STEP, Totals};
use super::{BACKLOG, DATABASE_UP, FAILURES_OPEN, JOBS, JOBS_DUE, JOBS_DUE_OLDEST, LAG, RELAYS, UNHELD};
use crate::databases;
use crate::dispatch::lanes::LANES;
use crate::jobs::JobState;
use crate::status::count::Count;
use crate::status::{self, Application, Jobs, Status};

/// An answer that takes longer is none, and the connections are made anew.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is asked while nothing happens: this process did nothing, and nothing waited.
const AT_REST: Duration = Duration::from_secs(60);
/// At most one part in so many of the time is spent on asking.
const SHARE: u32 = 20;

/// What is asked, and in whose words it is told.
#[derive(Debug)]
pub struct Sampler {
    /// The application database.
    pub application: DatabaseUrl,
    /// The jobs database.
    pub jobs: DatabaseUrl,
    /// What this process calls itself to PostgreSQL.
    pub name: String,
    /// The handlers that may be labels.
    pub handlers: Vec<&'static str>,
    /// The kinds of jobs that may be labels.
    pub kinds: Vec<&'static str>,
    /// Where the points go.
    pub history: History,
}

impl Sampler {
    /// Asks until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut connections = Connections::default();
        let mut status: Option<Status> = None;
        let mut ask_at = Instant::now();
        let mut done = Totals::now();
        loop {
            let began = Instant::now();
            let at_rest = done == Totals::now() && status.as_ref().is_some_and(Status::is_at_rest);
            if began >= ask_at + if at_rest { AT_REST - STEP } else { Duration::ZERO } {
                done = Totals::now();
                let asking = tokio::time::timeout(PATIENCE, self.ask(&mut connections));
                let asked = tokio::select! {
                    asked = asking => asked.ok(),
                    () = stop.cancelled() => return,
                };
                if asked.is_none() {
                    connections = Connections::default();
                }
                // A little early, so that the next round, a step from now, is not just too soon.
                ask_at = Instant::now() + (began.elapsed() * SHARE).saturating_sub(STEP / 10);
                self.show(asked.as_ref());
                status = asked;
            }
            let application = status.as_ref().and_then(|status| status.application.as_ref().ok());
            let (lag, backlog) = (application.and_then(Application::lag), application.and_then(Application::backlog));
            self.history.add(Instant::now(), OffsetDateTime::now_utc(), Totals::now(), lag, backlog);
            shared::metrics::upkeep();
            tokio::select! {
                () = tokio::time::sleep(STEP.saturating_sub(began.elapsed())) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn ask(&self, connections: &mut Connections) -> Status {
        let (application, jobs) = tokio::join!(
            async {
                match connections.application.take() {
                    Some(client) => Ok(client),
                    None => databases::application(&self.application, &self.name).await,
                }
            },
            async {
                let client = match connections.jobs.take() {
                    Some(client) => client,
                    None => databases::jobs(&self.jobs, &self.name).await?,
                };
                let told = status::ask_jobs(&client).await?;
                Ok((client, told))
            }
        );
        let jobs = jobs.map(|(client, told)| {
            connections.jobs = Some(client);
            told
        });
        let application = match application {
            Ok(client) => {
                let cursors = jobs.as_ref().ok().map(|jobs: &Jobs| jobs.cursors.as_slice());
                let told = status::ask_application(&client, cursors).await;
                // After an error a transaction may be open on it.
                connections.application = told.is_ok().then_some(client);
                told
            }
            Err(error) => Err(error),
        };
        Status { application, jobs }
    }

    fn show(&self, status: Option<&Status>) {
        let application = status.and_then(|status| status.application.as_ref().ok());
        let jobs = status.and_then(|status| status.jobs.as_ref().ok());
        let up = |database: &str, told: bool| DATABASE_UP.set(&[("database", database)], f64::from(u8::from(told)));
        up("application", application.is_some());
        up("jobs", jobs.is_some());
        LAG.set(&[], application.and_then(Application::lag).unwrap_or(f64::NAN));
        BACKLOG.set(&[], application.and_then(Application::backlog).map_or(f64::NAN, number));
        RELAYS.set(&[], jobs.map_or(f64::NAN, |jobs| jobs.relays.len() as f64));
        UNHELD.set(&[], jobs.map_or(f64::NAN, |jobs| LANES as f64 - jobs.holders.len() as f64));
        if let Some(jobs) = jobs {
            self.show_failures(jobs);
            self.show_jobs(jobs);
        }
    }

    fn show_failures(&self, jobs: &Jobs) {
        let failures = &jobs.failures.by_handler;
        for handler in &self.handlers {
            FAILURES_OPEN.set(&[("handler", handler)], failures.get(*handler).copied().map_or(0.0, number));
        }
        let others = failures.iter().filter(|(handler, _)| !self.handlers.contains(&handler.as_str()));
        let others: Count = others.map(|(_, count)| *count).sum();
        FAILURES_OPEN.set(&[("handler", OTHER)], number(others));
    }

    fn show_jobs(&self, jobs: &Jobs) {
        let counts = &jobs.jobs;
        let known: BTreeSet<&str> = self.kinds.iter().copied().collect();
        for kind in self.kinds.iter().copied().chain([OTHER]) {
            let of_this = |name: &str| if kind == OTHER { !known.contains(name) } else { name == kind };
            for state in JobState::ALL {
                let kinds = counts.by_kind.iter().filter(|(name, _)| of_this(name));
                let count: Count = kinds.filter_map(|(_, states)| states.get(state.as_str())).copied().sum();
                let in_all = state == JobState::Succeeded && counts.succeeded_in_all.is_some();
                // Not counted by kind any more: no number is better than an old one.
                let value = if in_all { f64::NAN } else { number(count) };
                JOBS.set(&[("kind", kind), ("state", state.as_str())], value);
            }
            let due = counts.due.iter().filter(|(name, _)| of_this(name)).map(|(_, due)| *due);
            let (count, oldest) =
                due.fold((Count::ZERO, 0.0_f64), |(count, oldest), due| (count + due.count, oldest.max(due.oldest)));
            JOBS_DUE.set(&[("kind", kind)], number(count));
            JOBS_DUE_OLDEST.set(&[("kind", kind)], oldest);
        }
        if let Some(succeeded) = counts.succeeded_in_all {
            JOBS.set(&[("kind", "all"), ("state", JobState::Succeeded.as_str())], number(succeeded));
        }
    }
}

#[derive(Default)]
struct Connections {
    application: Option<Client>,
    jobs: Option<Client>,
}

fn number(count: Count) -> f64 {
    // Far below what a float holds exactly.
    count.number as f64
}
