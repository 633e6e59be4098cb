//! What the embedded PostgreSQL promises: it answers, keeps its data as told, and never outlives us.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::leash::Signal;
use tests::postgres::{Account, Cluster, SUPERUSER, Site, Stop, connect};
use tests::skip::skip;
use tests::wait::until;

const CHILD: &str = "EMBEDDED_POSTGRES_TEST_CHILD";

#[tokio::test]
async fn data_survive_an_immediate_stop_and_the_url_stays() -> Result<()> {
    let cluster = Cluster::builder().start().await?;
    let client = cluster.connect("postgres").await?;
    client.batch_execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (42)").await?;
    let url = cluster.superuser_url("postgres");

    cluster.stop(Stop::Immediate).await?;
    assert!(!cluster.is_running()?);
    assert!(connect(&url).await.is_err());
    cluster.start_again().await?;

    let n: i32 = connect(&url).await?.query_one("SELECT n FROM kept", &[]).await?.get(0);
    assert_eq!(n, 42);
    assert!(cluster.log().contains("automatic recovery in progress"), "{}", cluster.log());
    Ok(())
}

#[tokio::test]
async fn a_killed_server_starts_again() -> Result<()> {
    let cluster = Cluster::builder().without_fsync().start().await?;
    let session = cluster.connect("postgres").await?;
    cluster.kill().await?;
    until("the session to end", async || Ok(session.is_closed().then_some(()))).await?;
    cluster.start_again().await?;
    cluster.connect("postgres").await?.batch_execute("SELECT 1").await?;
    Ok(())
}

#[tokio::test]
async fn settings_hold_and_can_be_added_to() -> Result<()> {
    let cluster = Cluster::builder().setting("max_connections", "37").start().await?;
    let shown = async |name: &str| -> Result<String> {
        let client = cluster.connect("postgres").await?;
        Ok(client.query_one("SELECT current_setting($1)", &[&name]).await?.get(0))
    };
    assert_eq!(shown("max_connections").await?, "37");
    assert_eq!(shown("fsync").await?, "on");
    assert_eq!(shown("listen_addresses").await?, "127.0.0.1");
    assert_eq!(shown("unix_socket_directories").await?, "");

    cluster.configure(&[("application_name", "it's quoted")])?;
    cluster.stop(Stop::Fast).await?;
    cluster.start_again().await?;
    let client = cluster.connect("postgres").await?;
    let name: String = client
        .query_one("SELECT boot_val || reset_val FROM pg_settings WHERE name = 'application_name'", &[])
        .await?
        .get(0);
    assert!(name.contains("it's quoted"), "{name}");
    Ok(())
}

#[tokio::test]
async fn a_password_is_asked_for() -> Result<()> {
    let cluster = Cluster::builder().without_fsync().start().await?;
    for password in ["wrong", ""] {
        let refused = connect(&cluster.url("postgres", SUPERUSER, password)).await;
        assert!(refused.is_err(), "password {password:?} was taken");
    }
    Ok(())
}

#[tokio::test]
async fn root_lends_the_server_an_unprivileged_account() -> Result<()> {
    let cluster = Cluster::builder().without_fsync().start().await?;
    let owner = std::fs::metadata(cluster.site().data_dir())?.uid();
    assert_ne!(owner, 0, "the data directory belongs to root");
    if let Account::Lent { uid, .. } = cluster.site().account() {
        assert_eq!(owner, *uid);
    }
    Ok(())
}

#[tokio::test]
async fn a_taken_port_is_said_when_it_was_insisted_on_and_waited_for_at_a_restart() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port();
    let refused = Cluster::builder().without_fsync().port(port).start().await.err().context("the port was taken")?;
    assert_eq!(refused.to_string(), format!("port {port} was taken"));
    drop(taken);

    let cluster = Cluster::builder().without_fsync().port(port).start().await?;
    assert_eq!(cluster.port(), port);
    cluster.stop(Stop::Fast).await?;
    let squatter = TcpListener::bind(("127.0.0.1", port))?;
    let (started, freed) = tokio::join!(cluster.start_again(), async {
        // The log tells when the server has found the port taken; only then is it given back.
        let noticed = until("the server to find its port taken", async || {
            Ok(cluster.log().contains("could not bind").then_some(()))
        });
        let noticed = noticed.await;
        drop(squatter);
        noticed
    });
    freed?;
    started
}

#[tokio::test]
async fn dropping_it_leaves_nothing_even_when_it_was_frozen() -> Result<()> {
    let cluster = Cluster::builder().without_fsync().start().await?;
    let (base, port) = (cluster.site().base().to_owned(), cluster.port());
    cluster.signal(Signal::STOP)?;
    drop(cluster);
    assert!(!base.exists());
    assert!(!answers(port));
    Ok(())
}

#[tokio::test]
async fn a_kept_directory_serves_the_next_run() -> Result<()> {
    let home = reachable_home()?;
    let base = home.path().join("cluster");
    let first = Cluster::builder().persistent(&base).start().await?;
    first.connect("postgres").await?.batch_execute("CREATE TABLE kept (n int)").await?;
    let port = first.port();
    drop(first);
    assert!(!answers(port));

    let second = Cluster::builder().persistent(&base).start().await?;
    second.connect("postgres").await?.batch_execute("INSERT INTO kept VALUES (1)").await?;
    assert!(!second.log().contains("automatic recovery in progress"), "it was not shut down cleanly");
    Ok(())
}

/// The shape that tests of failover need: a second server on a copy of the first.
#[tokio::test]
async fn a_standby_can_be_made_and_promoted() -> Result<()> {
    let primary = Cluster::builder().setting("wal_level", "replica").start().await?;
    if primary.site().binaries().tool("pg_basebackup").is_err() {
        skip("a_standby_can_be_made_and_promoted", "pg_basebackup is not installed");
        return Ok(());
    }
    primary.connect("postgres").await?.batch_execute("CREATE TABLE kept (n int)").await?;
    let site = Site::temporary().await?;
    let target = site.data_dir();
    let arguments = ["-R", "-X", "stream", "-c", "fast", "-d", &primary.superuser_url("postgres"), "-D"];
    site.run("pg_basebackup", arguments.iter().map(Path::new).chain([target.as_path()])).await?;
    let standby = Cluster::open(site, primary.superuser_password(), &[], None).await?;

    let client = standby.connect("postgres").await?;
    let standing_by: bool = client.query_one("SELECT pg_is_in_recovery()", &[]).await?.get(0);
    assert!(standing_by);
    primary.stop(Stop::Immediate).await?;
    client.batch_execute("SELECT pg_promote()").await?;
    client.batch_execute("INSERT INTO kept VALUES (1)").await?;
    Ok(())
}

#[tokio::test]
async fn nothing_is_left_when_the_parent_is_killed() -> Result<()> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", "the_parent_that_is_killed", "--ignored", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()?;
    let output = BufReader::new(child.stdout.take().context("piped")?);
    let mut told = None;
    for line in output.lines() {
        if let Some(line) = line?.split("READY ").nth(1) {
            let (port, base) = line.split_once(' ').context("port and directory")?;
            told = Some((port.parse::<u16>()?, PathBuf::from(base)));
            break;
        }
    }
    let (port, base) = told.context("the child ended before its server was ready")?;
    ensure!(answers(port) && base.is_dir(), "the child's server should be there");

    child.kill()?;
    child.wait()?;

    until("server and directory to go", async || Ok((!answers(port) && !base.exists()).then_some(()))).await
}

#[tokio::test]
#[ignore = "not a test: the process that another test kills"]
async fn the_parent_that_is_killed() -> Result<()> {
    if std::env::var_os(CHILD).is_none() {
        return Ok(());
    }
    let cluster = Cluster::builder().start().await?;
    println!("READY {} {}", cluster.port(), cluster.site().base().display());
    tokio::time::sleep(Duration::from_secs(600)).await;
    Ok(())
}

fn answers(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// A temporary directory that the server's account can get to.
fn reachable_home() -> Result<tempfile::TempDir> {
    use std::os::unix::fs::PermissionsExt as _;
    let home = tempfile::tempdir()?;
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755))?;
    Ok(home)
}
