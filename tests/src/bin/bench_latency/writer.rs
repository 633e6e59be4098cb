//! Registrations as `api` makes them: one transaction each, then a NOTIFY outside of it, shared where it can be.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tests::databases::{Databases, Role};
use tests::measure::{Person, statements};
use tokio::sync::{Mutex, Notify};
use tokio_postgres::{Client, Statement};

/// Sessions that write at the same time under load.
const SESSIONS: usize = 16;

/// Sessions, and the bell.
pub struct Writer {
    sessions: Vec<Arc<Mutex<(Client, Statement)>>>,
    bell: Arc<Notify>,
}

impl Writer {
    /// Connects.
    pub async fn connect(databases: &Databases) -> Result<Self> {
        let mut sessions = Vec::new();
        for _ in 0..SESSIONS {
            let client = databases.app.connect(Role::Api).await?;
            let statement = client.prepare(statements::INSERT_USER).await?;
            sessions.push(Arc::new(Mutex::new((client, statement))));
        }
        let bell = Arc::new(Notify::new());
        let (rung, client) = (bell.clone(), databases.app.connect(Role::Api).await?);
        tokio::spawn(async move {
            loop {
                rung.notified().await;
                if client.batch_execute(statements::NOTIFY).await.is_err() {
                    return;
                }
                tokio::time::sleep(statements::NOTIFY_PAUSE).await;
            }
        });
        Ok(Self { sessions, bell })
    }

    /// One event at a time, at odd moments. Says for each address when its commit was answered.
    pub async fn spaced(&self, events: u32) -> Result<HashMap<String, Instant>> {
        let mut committed = HashMap::new();
        for _ in 0..events {
            tokio::time::sleep(Duration::from_millis(rand::random_range(30..60))).await;
            let (address, at) = register(self.sessions[0].clone(), self.bell.clone()).await?;
            committed.insert(address, at);
        }
        Ok(committed)
    }

    /// One event every so often, whether or not the one before is committed.
    pub async fn steady(&self, events: u32, pause: Duration) -> Result<HashMap<String, Instant>> {
        let mut ticks = tokio::time::interval(pause);
        let mut writing = Vec::new();
        for number in 0..events as usize {
            ticks.tick().await;
            let session = self.sessions[number % SESSIONS].clone();
            writing.push(tokio::spawn(register(session, self.bell.clone())));
        }
        let mut committed = HashMap::new();
        for written in writing {
            let (address, at) = written.await??;
            committed.insert(address, at);
        }
        Ok(committed)
    }
}

async fn register(session: Arc<Mutex<(Client, Statement)>>, bell: Arc<Notify>) -> Result<(String, Instant)> {
    let person = Person::next();
    let session = session.lock().await;
    let (client, statement) = &*session;
    person.register(client, statement).await?;
    let at = Instant::now();
    bell.notify_one();
    Ok((person.email, at))
}
