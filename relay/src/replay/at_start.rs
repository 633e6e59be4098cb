//! The one retry of open dispatch failures that each start of a relay makes.
//!
//! A handler is a pure function, so only new code can cure it, and new code comes with a start. Relays that start
//! together take turns by a lock, so that each failure is tried by one at a time.

use std::time::Duration;

use shared::database_url::DatabaseUrl;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::tally::Tally;
use super::{Error, Events, Plan, Session, run};
use crate::databases::{self, PATIENCE};
use crate::dispatch::lanes::LOCK_CLASS;
use crate::handlers::Registry;
use crate::postgres::within;
use crate::retry;
use crate::wake::Bell;

/// The lock's object, beyond those of the lanes.
const TURN: i32 = 100;

/// How soon to ask again whose turn it is.
const PAUSE: Duration = Duration::from_secs(1);

/// `any_open`: whether there is an open failure at all.
const ANY_OPEN: &str = "SELECT EXISTS (SELECT FROM dispatch_failures WHERE resolved_at IS NULL)";

/// `take_turn`: whether it is this session's turn. Ends with the session.
const TAKE_TURN: &str = "SELECT pg_try_advisory_lock($1, $2)";

/// What the retry needs.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The application database.
    pub application: &'a DatabaseUrl,
    /// The jobs database.
    pub jobs: &'a DatabaseUrl,
    /// What this process calls itself to PostgreSQL.
    pub name: &'a str,
    /// The handlers of this build.
    pub registry: &'a Registry,
    /// To be rung when there are new jobs.
    pub jobs_bell: &'a Bell,
}

/// Tries the open failures once, as soon as both databases let it.
pub async fn retry_open_failures(context: Context<'_>, stop: &CancellationToken) {
    let mut pace = retry::reconnect();
    loop {
        let tried = tokio::select! {
            tried = attempt(context, stop) => tried,
            // Connecting, or waiting for a turn; what is being stored commits or does not.
            () = stop.cancelled() => return,
        };
        match tried {
            Ok(tally) => return report(&tally, context.jobs_bell),
            // The worker beside says loudly what is wrong with a database.
            Err(error) => tracing::debug!(%error, "open dispatch failures are not tried yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(pace.next_delay()) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn attempt(context: Context<'_>, stop: &CancellationToken) -> Result<Tally, Error> {
    let jobs = databases::jobs(context.jobs, context.name).await?;
    let mut tally = Tally::default();
    if !within(PATIENCE, jobs.query_one(ANY_OPEN, &[])).await?.get::<_, bool>(0) {
        return Ok(tally);
    }
    while !take_turn(&jobs).await? {
        tokio::time::sleep(PAUSE).await;
    }
    let mut session = Session::with_jobs(context.application, jobs, context.name).await?;
    let plan = Plan { events: Events::Failed(None), ..Plan::default() };
    run(&mut session, context.registry, &plan, &mut tally, stop, |_| {}).await?;
    Ok(tally)
}

async fn take_turn(jobs: &Client) -> Result<bool, Error> {
    Ok(within(PATIENCE, jobs.query_one(TAKE_TURN, &[&LOCK_CLASS, &TURN])).await?.get(0))
}

fn report(tally: &Tally, jobs_bell: &Bell) {
    if tally.stored() > 0 {
        jobs_bell.ring();
    }
    let (resolved, stored, failed) = (tally.resolved(), tally.stored(), tally.failed());
    if tally.is_complete() {
        if tally.events > 0 {
            tracing::info!(resolved, jobs = stored, "open dispatch failures were tried again and are resolved");
        }
    } else {
        let first = tally.failures.first().map(|failure| format!("{}: {}", failure.handler, failure.error));
        tracing::warn!(
            resolved,
            jobs = stored,
            failed,
            missing = tally.missing,
            error = first,
            "open dispatch failures were tried again, and some are still open"
        );
    }
}
