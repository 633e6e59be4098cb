//! A COMMIT whose answer is lost: the client is told the truth, whichever it is.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::databases::{Databases, Role};
use tests::http;
use tests::services::{start_api, verification_keys};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

/// Where the connection is cut.
#[derive(Clone, Copy, PartialEq)]
enum Cut {
    BeforeTheServerGotIt,
    AfterTheServerDidIt,
}

/// A proxy that cuts the first connection on which COMMIT is asked for, and lets all else through.
async fn proxy(server: u16, cut: Cut, done: Arc<AtomicBool>) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(forward(near, server, cut, done.clone()));
        }
    });
    Ok(port)
}

async fn forward(mut near: TcpStream, server: u16, cut: Cut, done: Arc<AtomicBool>) -> Result<()> {
    let mut far = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await?;
    let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            read = near.read(&mut asked) => {
                let bytes = &asked[..read?];
                let commit = bytes.windows(7).any(|window| window == b"COMMIT\0");
                if bytes.is_empty() {
                    return Ok(());
                }
                if commit && !done.swap(true, Ordering::SeqCst) {
                    if cut == Cut::AfterTheServerDidIt {
                        far.write_all(bytes).await?;
                        // Its answer shows that it is done; nobody else sees it.
                        let _ = far.read(&mut answered).await?;
                    }
                    return Ok(());
                }
                far.write_all(bytes).await?;
            }
            read = far.read(&mut answered) => {
                let bytes = &answered[..read?];
                if bytes.is_empty() {
                    return Ok(());
                }
                near.write_all(bytes).await?;
            }
        }
    }
}

async fn register_through(cut: Cut) -> Result<(http::Answer, i64, i64)> {
    let databases = Databases::new().await?;
    let mut url = Url::parse(&databases.app.url(Role::Api))?;
    let done = Arc::new(AtomicBool::new(false));
    let port = proxy(url.port().context("a port")?, cut, done.clone()).await?;
    url.set_port(Some(port)).ok().context("a port")?;
    let settings = [("DATABASE_URL", url.as_str())];
    let api = start_api(&databases, &verification_keys(), &settings).await?.ready().await?;
    let body = json!({ "email": "ada@example.org", "display_name": "Ada" });
    let answer = http::post_json(&format!("{}/v1/users", api.url), &body).await?;
    ensure!(done.load(Ordering::SeqCst), "the connection was cut");
    let client = databases.app.connect(Role::Superuser).await?;
    let counts = "SELECT (SELECT count(*) FROM aftercommit.users), (SELECT count(*) FROM aftercommit.outbox)";
    let row = client.query_one(counts, &[]).await?;
    Ok((answer, row.get(0), row.get(1)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_was_done_is_told_as_done() -> Result<()> {
    let (answer, users, events) = register_through(Cut::AfterTheServerDidIt).await?;
    assert_eq!((answer.status.as_u16(), users, events), (201, 1, 1), "{}", answer.body);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_never_arrived_is_told_as_not_done() -> Result<()> {
    let (answer, users, events) = register_through(Cut::BeforeTheServerGotIt).await?;
    assert_eq!((answer.status.as_u16(), users, events), (503, 0, 0), "{}", answer.body);
    assert!(answer.header("retry-after").is_some());
    Ok(())
}
