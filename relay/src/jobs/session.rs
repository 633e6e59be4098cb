//! The delivering process's session on the jobs database: its statements, prepared once, and planner settings that
//! leave each of them only the plan it was written for.
//!
//! The table of jobs is mostly finished rows, and its statistics are always of another moment: estimates can't be
//! trusted to tell a lookup from a scan. Every statement here goes through an index, so scans, sorts and joins that
//! read whole tables are switched off for this session, and planning is done once. A test pins the plans.

use std::future::Future;
use std::time::Duration;

use shared::database_url::DatabaseUrl;
use tokio_postgres::{Client, Notification, Statement};

use super::{claim, doubt, process, rate, rescue, settle};
use crate::postgres::{self, Error};

/// What the session sets for itself.
pub const SETTINGS: &str = "
SET plan_cache_mode = force_generic_plan;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET enable_sort = off;
SET jit = off;
";

/// Where relays tell each other of jobs that are ready.
pub const CHANNEL: &str = "aftercommit_jobs";

/// A statement that takes longer has gone wrong: the connection is dropped and a new one made.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection with everything prepared.
pub struct Session {
    pub(super) client: Client,
    pub(super) claim: Statement,
    pub(super) claim_suspect: Statement,
    pub(super) next_due: Statement,
    pub(super) unknown_kinds: Statement,
    pub(super) register: Statement,
    pub(super) renew: Statement,
    pub(super) leave: Statement,
    pub(super) held: Statement,
    pub(super) processes: Statement,
    pub(super) rescue: Statement,
    pub(super) rescue_orphans: Statement,
    pub(super) settle_succeeded: Statement,
    pub(super) settle_failed: Statement,
    pub(super) settle_untried: Statement,
    pub(super) find_fenced: Statement,
    pub(super) mark_in_doubt: Statement,
    pub(super) draw: Statement,
}

impl Session {
    /// Connects, listens and prepares.
    ///
    /// # Errors
    /// When there is no server, or its schema is not there yet.
    pub async fn open(
        url: &DatabaseUrl,
        name: &str,
        heard: impl Fn(Notification) + Send + 'static,
    ) -> Result<Self, Error> {
        let client = postgres::jobs_listener(url, name, heard).await?;
        in_time(async {
            client.batch_execute(SETTINGS).await?;
            client.batch_execute(&format!("LISTEN {CHANNEL}")).await?;
            Ok(Self {
                claim: client.prepare(claim::CLAIM).await?,
                claim_suspect: client.prepare(claim::CLAIM_SUSPECT).await?,
                next_due: client.prepare(claim::NEXT_DUE).await?,
                unknown_kinds: client.prepare(claim::UNKNOWN_KINDS).await?,
                register: client.prepare(process::REGISTER).await?,
                renew: client.prepare(process::RENEW).await?,
                leave: client.prepare(process::LEAVE).await?,
                held: client.prepare(process::HELD).await?,
                processes: client.prepare(rescue::PROCESSES).await?,
                rescue: client.prepare(rescue::RESCUE).await?,
                rescue_orphans: client.prepare(rescue::RESCUE_ORPHANS).await?,
                settle_succeeded: client.prepare(settle::SUCCEEDED).await?,
                settle_failed: client.prepare(settle::FAILED).await?,
                settle_untried: client.prepare(settle::UNTRIED).await?,
                find_fenced: client.prepare(settle::FIND_FENCED).await?,
                mark_in_doubt: client.prepare(doubt::MARK).await?,
                draw: client.prepare(rate::DRAW).await?,
                client,
            })
        })
        .await
    }
}

/// The bound on every operation of a session.
pub(super) async fn in_time<T>(operation: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Error> {
    postgres::within(STATEMENT_TIMEOUT, operation).await
}
