//! 4. Upkeep: what a relay does now and then beside its work, one relay at a time.
//!
//! An audit holds the last hour's events against their jobs, in both directions; retention deletes jobs that nobody needs
//! any more. Whoever holds the advisory lock does both, once per interval; a relay that finds it taken has nothing to do.
//! Neither is urgent, so every error waits for the next interval.

pub mod audit;
pub mod retention;

use std::time::Duration;

use shared::database_url::DatabaseUrl;
use tokio_util::sync::CancellationToken;

use crate::databases::{self, PATIENCE};
use crate::handlers;
use crate::postgres::within;
use crate::replay::Error;
use audit::Board;

/// How upkeep behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How often.
    pub interval: Duration,
    /// How far an audit looks back; none: no audit.
    pub audit: Option<Duration>,
    /// How long a job is kept once it is finished, at least; none: for ever.
    pub jobs: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(600),
            audit: Some(Duration::from_secs(3_600)),
            jobs: Some(Duration::from_secs(7 * 24 * 3_600)),
        }
    }
}

/// What upkeep needs.
pub struct Context {
    /// The application database.
    pub application: DatabaseUrl,
    /// The jobs database.
    pub jobs: DatabaseUrl,
    /// What this process calls itself to PostgreSQL.
    pub name: String,
    /// How it behaves.
    pub settings: Settings,
    /// Where the last audit is put.
    pub board: Board,
}

/// The class of this lock; see `dispatch::lanes` for the other (`aftu`).
const LOCK_CLASS: i32 = 0x6166_7475;

/// `lock`: one relay at a time, until its session ends.
const LOCK: &str = "SELECT pg_try_advisory_lock($1, 0)";

/// Keeps up until told to stop.
pub async fn run(context: Context, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(context.settings.interval) => {}
            () = stop.cancelled() => return,
        }
        match once(&context, &stop).await {
            Ok(()) => {}
            Err(error) => tracing::debug!(%error, "upkeep waits for its next turn"),
        }
    }
}

/// One turn, unless another relay has it.
///
/// # Errors
/// When a database is away, or its state refuses the work.
pub async fn once(context: &Context, stop: &CancellationToken) -> Result<(), Error> {
    let jobs = databases::jobs(&context.jobs, &context.name).await?;
    let locked = within(PATIENCE, jobs.query_one(LOCK, &[&LOCK_CLASS])).await?;
    if !locked.get::<_, bool>(0) {
        return Ok(());
    }
    let application = databases::application(&context.application, &context.name).await?;
    if let (Some(span), Ok(registry)) = (context.settings.audit, handlers::register_all()) {
        audit::audit(&application, &jobs, &registry, span, &context.board, stop).await?;
    }
    if let Some(keep) = context.settings.jobs {
        retention::prune(&application, &jobs, keep, stop).await?;
    }
    Ok(())
}
