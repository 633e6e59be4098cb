//! A statement that commits, and its answer is lost: the client is told the truth, whichever it is.

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

/// Where to cut: what the client sends there, and how many messages of its later.
#[derive(Clone, Copy)]
struct Spot {
    bytes: &'static [u8],
    later: usize,
}

/// The COMMIT of a unit of work.
const COMMIT: Spot = Spot { bytes: b"COMMIT\0", later: 0 };
/// The statement that adds a user. It is prepared first, so the next message executes it.
const ADD: Spot = Spot { bytes: b"INSERT INTO aftercommit.users", later: 1 };

/// A proxy that cuts the first connection that comes to a spot, and lets all else through; or nothing more, if it is the end.
struct Proxy {
    server: u16,
    spot: Spot,
    cut: Cut,
    the_end: bool,
    done: AtomicBool,
}

impl Proxy {
    async fn start(self) -> Result<(u16, Arc<Self>)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let proxy = Arc::new(self);
        let accepting = proxy.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if !(accepting.the_end && accepting.done.load(Ordering::SeqCst)) {
                    tokio::spawn(forward(near, accepting.clone()));
                }
            }
        });
        Ok((port, proxy))
    }
}

async fn forward(mut near: TcpStream, proxy: Arc<Proxy>) -> Result<()> {
    let mut far = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.server)).await?;
    let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
    let mut left = None;
    loop {
        tokio::select! {
            read = near.read(&mut asked) => {
                let bytes = &asked[..read?];
                if bytes.is_empty() {
                    return Ok(());
                }
                left = match left {
                    None => bytes.windows(proxy.spot.bytes.len()).any(|w| w == proxy.spot.bytes).then_some(proxy.spot.later),
                    Some(left) => Some(left - 1),
                };
                if left == Some(0) && !proxy.done.swap(true, Ordering::SeqCst) {
                    if proxy.cut == Cut::AfterTheServerDidIt {
                        far.write_all(bytes).await?;
                        // Its answer shows that it is done; nobody else sees it.
                        let _ = far.read(&mut answered).await?;
                    }
                    return Ok(());
                }
                left = left.filter(|left| *left > 0);
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

struct Told {
    answer: http::Answer,
    users: i64,
    events: i64,
}

/// Asks for something through a proxy. With `known`, Ada has an account before that.
async fn ask_through(path: &str, known: bool, spot: Spot, cut: Cut, the_end: bool) -> Result<Told> {
    let databases = Databases::new().await?;
    let registration = json!({ "email": "ada@example.org", "display_name": "Ada" });
    let body = if known { json!({ "email": "ada@example.org" }) } else { registration.clone() };
    if known {
        let api = start_api(&databases, &verification_keys(), &[]).await?.ready().await?;
        ensure!(http::post_json(&format!("{}/v1/users", api.url), &registration).await?.status == 201);
    }
    let mut url = Url::parse(&databases.app.url(Role::Api))?;
    let server = url.port().context("a port")?;
    let (port, proxy) = Proxy { server, spot, cut, the_end, done: AtomicBool::new(false) }.start().await?;
    url.set_port(Some(port)).ok().context("a port")?;
    let settings = [("DATABASE_URL", url.as_str()), ("API_ACQUIRE_TIMEOUT", "1s")];
    let api = start_api(&databases, &verification_keys(), &settings).await?.ready().await?;
    let answer = http::post_json(&format!("{}{path}", api.url), &body).await?;
    ensure!(proxy.done.load(Ordering::SeqCst), "the connection was cut");
    let client = databases.app.connect(Role::Superuser).await?;
    let counts = "SELECT (SELECT count(*) FROM aftercommit.users), (SELECT count(*) FROM aftercommit.outbox)";
    let row = client.query_one(counts, &[]).await?;
    Ok(Told { answer, users: row.get(0), events: row.get(1) })
}

async fn request(cut: Cut) -> Result<Told> {
    ask_through("/v1/verification-requests", true, COMMIT, cut, false).await
}

async fn register(cut: Cut, the_end: bool) -> Result<Told> {
    ask_through("/v1/users", false, ADD, cut, the_end).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_was_done_is_told_as_done() -> Result<()> {
    let Told { answer, users, events } = request(Cut::AfterTheServerDidIt).await?;
    assert_eq!((answer.status.as_u16(), users, events), (202, 1, 2), "{}", answer.body);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_never_arrived_is_told_as_not_done() -> Result<()> {
    let Told { answer, users, events } = request(Cut::BeforeTheServerGotIt).await?;
    assert_eq!((answer.status.as_u16(), users, events), (503, 1, 1), "{}", answer.body);
    assert!(answer.header("retry-after").is_some());
    Ok(())
}

/// The second try finds the event of the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_was_done_is_told_as_done() -> Result<()> {
    let Told { answer, users, events } = register(Cut::AfterTheServerDidIt, false).await?;
    assert_eq!((answer.status.as_u16(), users, events), (201, 1, 1), "{}", answer.body);
    Ok(())
}

/// The second try does it.
#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_never_arrived_is_done() -> Result<()> {
    let Told { answer, users, events } = register(Cut::BeforeTheServerGotIt, false).await?;
    assert_eq!((answer.status.as_u16(), users, events), (201, 1, 1), "{}", answer.body);
    Ok(())
}

/// Nobody can be asked any more, and nothing is claimed.
#[tokio::test(flavor = "multi_thread")]
async fn a_registration_whose_outcome_cannot_be_seen_is_told_as_unknown() -> Result<()> {
    let Told { answer, users, events } = register(Cut::AfterTheServerDidIt, true).await?;
    assert_eq!((answer.status.as_u16(), users, events), (503, 1, 1), "{}", answer.body);
    assert!(answer.body.contains("outcome-unknown"), "{}", answer.body);
    Ok(())
}
