//! What PostgreSQL alone takes: a notification, and a commit. In milliseconds.

use std::time::{Duration, Instant};

use anyhow::Result;
use sqlx::postgres::PgListener;
use tests::databases::{Databases, Role};

const SAMPLES: usize = 300;
const PAUSE: Duration = Duration::from_millis(10);

/// From NOTIFY on one connection to its arrival on another.
pub async fn notify(databases: &Databases) -> Result<Vec<f64>> {
    let mut listener = PgListener::connect(&databases.app.url(Role::Superuser)).await?;
    listener.listen("bench").await?;
    let client = databases.app.connect(Role::Superuser).await?;
    client.batch_execute("SET synchronous_commit = 'off'").await?;
    let mut times = Vec::new();
    for _ in 0..SAMPLES {
        tokio::time::sleep(PAUSE).await;
        let began = Instant::now();
        let (told, heard) = tokio::join!(client.batch_execute("NOTIFY bench"), listener.recv());
        told?;
        heard?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

/// One row and its synchronous commit, in one round trip.
pub async fn commits(databases: &Databases) -> Result<Vec<f64>> {
    let client = databases.jobs.connect(Role::Superuser).await?;
    client.batch_execute("CREATE TABLE aftercommit.bench_commits (n bigint)").await?;
    let insert = client.prepare("INSERT INTO aftercommit.bench_commits VALUES (1)").await?;
    let mut times = Vec::new();
    for _ in 0..SAMPLES {
        tokio::time::sleep(PAUSE).await;
        let began = Instant::now();
        client.execute(&insert, &[]).await?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}
