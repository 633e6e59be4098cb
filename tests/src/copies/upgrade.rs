//! `pg_upgrade`, from the installed version to itself: what it does to a cluster is the same as between versions.

use std::sync::Arc;

use anyhow::Result;

use super::AtRest;
use crate::databases::DatabaseServer;
use crate::leash::Ending;
use crate::postgres::{Cluster, Stop, free_port};

/// Upgrades a stopped server into a new cluster, and starts that.
pub async fn upgrade(old: &DatabaseServer) -> Result<Arc<DatabaseServer>> {
    let new = Cluster::builder().without_fsync().start().await?;
    // It asks both servers with one password.
    let password = old.cluster().superuser_password();
    new.connect("postgres").await?.batch_execute(&format!("ALTER ROLE postgres PASSWORD '{password}'")).await?;
    new.stop(Stop::Fast).await?;

    let programs = &new.site().binaries().directory;
    let mut command = new.site().command("pg_upgrade", Ending::Kill)?;
    command.arg("-b").arg(programs).arg("-B").arg(programs).arg("-d").arg(old.cluster().site().data_dir());
    command.arg("-D").arg(new.site().data_dir()).args(["-U", "postgres", "-j", "2"]);
    // They name sockets in the new cluster's directory; nothing listens on the network.
    command.args(["-p", &free_port()?.to_string(), "-P", &free_port()?.to_string()]);
    command.env("PGPASSWORD", password);
    new.site().run_command(command).await?;
    let upgraded = AtRest::copied(&new.site().data_dir(), password, old.password()).await?;
    upgraded.start(&[]).await
}
