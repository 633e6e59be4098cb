//! 2. Dispatch: events → handlers → jobs and cursors, in one transaction.
//!
//! A worker holds a share of the lanes. It reads what is new in them, runs the handlers, and commits the jobs together
//! with the cursors, while it already reads on. Nothing is written while nothing happens.

pub mod commit;
pub mod cursor;
pub mod checkpoint;
pub mod registrations;
pub mod rebase;
pub mod ghosts;
pub mod history;
pub mod misled;
pub mod memory;
pub mod lanes;
pub mod lane;
mod choose;
pub mod read;
pub mod traced;
pub mod worker;
#[cfg(test)]
mod model;

use std::collections::BTreeMap;

use shared::database_url::DatabaseUrl;
use shared::migrate::standing::Standing;
use tokio_util::sync::CancellationToken;

use crate::handlers::Registry;
use crate::health::{About, Health};
use crate::metrics::record;
use crate::operate::watch::Pauses;
use crate::replay::at_start;
use crate::wake::Bell;
use crate::{outbox, postgres, retry};
use lane::Lane;
use memory::Memory;
use misled::Misled;
use worker::Worker;

/// What a dispatching worker needs.
#[derive(Debug)]
pub struct Context {
    /// The application database.
    pub application: DatabaseUrl,
    /// The jobs database.
    pub jobs: DatabaseUrl,
    /// What this process calls itself to PostgreSQL.
    pub name: String,
    /// What to do with events.
    pub registry: Registry,
    /// Rung when the outbox may hold something new.
    pub outbox_bell: Bell,
    /// To be rung when there are new jobs.
    pub jobs_bell: Bell,
    /// Where the worker says how it is.
    pub health: Health,
    /// What is paused by hand.
    pub pauses: Pauses,
}

/// Why a worker could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The application database.
    #[error("application database: {0}")]
    Application(outbox::Error),
    /// The jobs database.
    #[error("jobs database: {0}")]
    Jobs(postgres::Error),
    /// The jobs database's schema and this build do not fit.
    #[error("jobs database: {0}")]
    Schema(Standing),
    /// Another server than the one that was followed last.
    #[error("application database: {0}")]
    Misled(Misled),
    /// The hand-over.
    #[error(transparent)]
    Commit(#[from] commit::Error),
}

impl Error {
    /// What is in the way.
    fn about(&self) -> About {
        match self {
            Self::Application(outbox::Error::Standby | outbox::Error::Subscribed) => About::Standby,
            Self::Application(_) => About::ApplicationDatabase,
            Self::Schema(_) => About::Schema,
            Self::Jobs(_) | Self::Commit(commit::Error::Postgres(_)) => About::JobsDatabase,
            Self::Commit(commit::Error::Fenced) => About::Relay,
            Self::Misled(_) => About::History,
        }
    }
}

impl From<rebase::Error> for Error {
    fn from(error: rebase::Error) -> Self {
        match error {
            rebase::Error::Outbox(error) => Self::Application(error),
            rebase::Error::Commit(error) => Self::Commit(error),
        }
    }
}

impl From<outbox::Error> for Error {
    fn from(error: outbox::Error) -> Self {
        Self::Application(error)
    }
}

/// Dispatches until told to stop, over whatever happens to either database. The first worker of a process also tries the
/// open failures once, beside its own work.
pub async fn run(context: &Context, worker: usize, stop: &CancellationToken) {
    if worker > 0 {
        return work(context, worker, stop).await;
    }
    let Context { application, jobs, name, registry, jobs_bell, .. } = context;
    let failures = at_start::Context { application, jobs, name, registry, jobs_bell };
    tokio::join!(work(context, worker, stop), at_start::retry_open_failures(failures, stop));
}

/// What a worker is called where health is told.
fn part(worker: usize) -> String {
    format!("dispatch {worker}")
}

async fn work(context: &Context, worker: usize, stop: &CancellationToken) {
    let part = part(worker);
    context.health.ill(&part, About::Relay, "not connected yet");
    let (mut pace, memory) = (retry::reconnect(), Memory::default());
    while !stop.is_cancelled() {
        context.health.turned(&part);
        let session =
            async { session(Worker::connect(context, &memory).await?, context, worker, &mut pace, stop).await };
        let Err(error) = session.await else { break };
        let message = error.to_string();
        record::interrupted();
        record::lanes(worker, 0);
        if context.health.ill(&part, error.about(), message.as_str()) {
            tracing::warn!(part, error = message, "dispatch is interrupted; trying again");
        }
        tokio::select! {
            () = tokio::time::sleep(pace.next_delay()) => {}
            () = stop.cancelled() => {}
        }
    }
    context.health.ended(&part);
}

/// One pair of connections, until one breaks, a fence is met, or it is time to stop.
async fn session(
    mut worker: Worker,
    context: &Context,
    number: usize,
    pace: &mut retry::Reconnect,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let part = &part(number);
    let mut look = true;
    loop {
        context.health.turned(part);
        look |= worker.balance_if_due().await?;
        if look && !context.pauses.dispatch() {
            worker.drain(context, stop).await?;
            if let Some(misled) = worker.lanes().values().find_map(Lane::misled) {
                // Its lanes go to relays that reach the right one.
                return Err(Error::Misled(misled));
            }
        }
        report(context, part, worker.lanes());
        record::lanes(number, worker.lanes().len());
        pace.reset();
        if stop.is_cancelled() {
            return Ok(());
        }
        look = worker.rest(context, stop).await?;
    }
}

fn report(context: &Context, part: &str, lanes: &BTreeMap<i16, Lane>) {
    let mut troubles = lanes.iter().filter_map(|(lane, state)| state.trouble().map(|trouble| (lane, trouble)));
    match troubles.next() {
        None => context.health.well(part),
        Some((lane, trouble)) => {
            let message = format!("lane {lane}: {trouble}");
            if context.health.ill(part, About::History, message.as_str()) {
                tracing::error!(part, "{message}");
            }
        }
    }
}
