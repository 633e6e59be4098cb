//! Who writes: transactions and single statements, with and without their event, and requests. Each returns how many it did
//! in a second.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tests::databases::{Databases, Role};
use tests::measure::{Person, statements};
use tests::services::{Service, start_api, verification_keys};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_postgres::{Client, Statement};

/// How long one contender runs at a time.
const TURN: Duration = Duration::from_secs(2);

/// Clients that speak to PostgreSQL.
pub struct Transactions(Vec<Session>);

struct Session {
    client: Client,
    bare: Statement,
    with: Statement,
}

impl Transactions {
    /// Connects so many clients.
    pub async fn connect(databases: &Databases, clients: usize) -> Result<Self> {
        let mut sessions = Vec::new();
        for _ in 0..clients {
            let client = databases.app.connect(Role::Api).await?;
            let bare = client.prepare(statements::INSERT_USER_ALONE).await?;
            let with = client.prepare(statements::INSERT_USER).await?;
            sessions.push(Session { client, bare, with });
        }
        Ok(Self(sessions))
    }

    /// One turn of a contender.
    pub async fn rate(&self, contender: Contender) -> Result<f64> {
        let Contender { with_event, in_transaction } = contender;
        rate(&self.0, async |Session { client, bare, with }: &Session| {
            let person = Person::next();
            if in_transaction {
                client.batch_execute(statements::BEGIN).await?;
            }
            match with_event {
                false => person.register_alone(client, bare).await?,
                true => person.register(client, with).await?,
            }
            if in_transaction {
                client.batch_execute("COMMIT").await?;
            }
            Ok(())
        })
        .await
    }
}

/// What is written, and how.
#[derive(Clone, Copy)]
pub struct Contender {
    /// The account with its event, not alone.
    pub with_event: bool,
    /// Between BEGIN and COMMIT, as a unit of work does; else the statement is its own transaction.
    pub in_transaction: bool,
}

/// Clients that speak HTTP, and the api that they speak to.
pub struct Http {
    api: Service,
    clients: Vec<Mutex<SendRequest<Full<Bytes>>>>,
}

impl Http {
    /// Starts an api that may have as many connections as there are clients, and connects these.
    pub async fn start(databases: &Databases, clients: usize) -> Result<Self> {
        let connections = clients.to_string();
        let settings = [
            ("API_DATABASE_CONNECTIONS", connections.as_str()),
            ("TRUSTED_PROXIES", "127.0.0.1"),
            // Clients wait while the others have their turn.
            ("API_READ_TIMEOUT", "60s"),
            ("LOG_LEVEL", "warn"),
        ];
        let api = start_api(databases, &verification_keys(), &settings).await?.ready().await?;
        let mut connected = Vec::new();
        for _ in 0..clients {
            let stream = TcpStream::connect(api.url.trim_start_matches("http://")).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            connected.push(Mutex::new(sender));
        }
        Ok(Self { api, clients: connected })
    }

    /// Whole registrations.
    pub async fn posts(&self) -> Result<f64> {
        let host = self.api.url.trim_start_matches("http://");
        rate(&self.clients, async |client: &Mutex<SendRequest<Full<Bytes>>>| {
            let Person { email, name } = Person::next();
            let from: [u8; 3] = rand::random();
            let request = Request::post("/v1/users")
                .header(HOST, host)
                .header(CONTENT_TYPE, "application/json")
                .header("x-forwarded-for", format!("10.{}.{}.{}", from[0], from[1], from[2]))
                .body(Full::new(Bytes::from(json!({ "email": email, "display_name": name }).to_string())))?;
            let mut client = client.lock().await;
            client.ready().await?;
            let answer = client.send_request(request).await?;
            let status = answer.status();
            let body = answer.into_body().collect().await?.to_bytes();
            ensure!(status == 201, "{status}: {}", String::from_utf8_lossy(&body));
            Ok(())
        })
        .await
    }
}

/// Lets each client work for a turn, one piece of work after the other, and counts what all of them did in a second.
async fn rate<C>(clients: &[C], work: impl AsyncFn(&C) -> Result<()>) -> Result<f64> {
    let began = Instant::now();
    let done = try_join_all(clients.iter().map(async |client| {
        let mut done = 0_u64;
        while began.elapsed() < TURN {
            work(client).await?;
            done += 1;
        }
        anyhow::Ok(done)
    }))
    .await?;
    Ok(done.iter().sum::<u64>() as f64 / began.elapsed().as_secs_f64())
}
