//! Physical standbys: made, kept behind, promoted.

use std::sync::Arc;

use anyhow::{Result, ensure};

use super::ancestor;
use crate::databases::DatabaseServer;
use crate::wait::until;

/// A hot standby that streams from a server that descends from [`primary`](super::primary), and calls itself `name` there.
pub async fn standby_of(primary: &DatabaseServer, name: &str) -> Result<Arc<DatabaseServer>> {
    let cluster = primary.cluster();
    let from = format!(
        "host=127.0.0.1 port={} user={} password={} application_name={name}",
        cluster.port(),
        crate::postgres::SUPERUSER,
        cluster.superuser_password(),
    );
    let copy = ancestor().await?.again().await?;
    copy.mark("standby.signal")?;
    let standby = copy.start(&[("primary_conninfo", &from)]).await?;
    await_replay(primary, &standby).await?;
    Ok(standby)
}

/// Waits until a standby has replayed all that its primary has written by now.
pub async fn await_replay(primary: &DatabaseServer, standby: &DatabaseServer) -> Result<()> {
    let primary = primary.cluster().connect("postgres").await?;
    let written: String = primary.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?.get(0);
    let standby = standby.cluster().connect("postgres").await?;
    until("the standby to catch up", async || {
        let replayed = "SELECT coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, false)";
        let caught_up: bool = standby.query_one(replayed, &[&written]).await?.get(0);
        Ok(caught_up.then_some(()))
    })
    .await
}

/// Ends a standby's stream: whatever its primary writes from now on, it will never know.
pub async fn detach(standby: &DatabaseServer) -> Result<()> {
    standby.cluster().configure(&[("primary_conninfo", "")])?;
    let client = standby.cluster().connect("postgres").await?;
    client.batch_execute("SELECT pg_reload_conf()").await?;
    until("the standby's stream to end", async || {
        let streams: i64 = client.query_one("SELECT count(*) FROM pg_stat_wal_receiver", &[]).await?.get(0);
        Ok((streams == 0).then_some(()))
    })
    .await
}

/// Makes a standby the primary, on a timeline of its own.
pub async fn promote(standby: &DatabaseServer) -> Result<()> {
    let client = standby.cluster().connect("postgres").await?;
    let promoted: bool = client.query_one("SELECT pg_promote(true, 60)", &[]).await?.get(0);
    ensure!(promoted, "the standby was not promoted in time");
    Ok(())
}
