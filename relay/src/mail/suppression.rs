//! The suppression list: who gets no mail, asked right before a mail is made.
//!
//! It is in the jobs database, so that what one relay learns holds for all. A list that can't be read is a reason to wait,
//! never one to send. People change it through `operate::suppressions`.

use std::sync::Arc;
use std::time::Duration;

use shared::database_url::DatabaseUrl;
use shared::email_address::EmailAddress;
use tokio::sync::Mutex;
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use crate::postgres::{self, Error};
use crate::text::one_line;

/// `find`: why an address gets no mail.
pub const FIND: &str = "SELECT reason FROM aftercommit.mail_suppressions WHERE address = $1";

/// `bounced`: no more mail to an address that a server says is none.
pub const BOUNCED: &str = "
INSERT INTO aftercommit.mail_suppressions (address, reason, source, job_id)
VALUES ($1, $2, 'bounce', $3)
    ON CONFLICT DO NOTHING";

/// What a bounce's reason may be long.
const LONGEST_REASON: usize = 1_000;

/// The bound on a look at the list.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the module. One connection serves all mails under way; it is made when it is first needed, and again when it broke.
#[derive(Clone)]
pub struct Suppressions(Arc<Inner>);

struct Inner {
    jobs: DatabaseUrl,
    name: String,
    session: Mutex<Option<Arc<Session>>>,
}

struct Session {
    client: Client,
    find: Statement,
    bounced: Statement,
}

impl Suppressions {
    /// The list in a jobs database, for a process of this name. Connects to nothing yet.
    pub fn new(jobs: DatabaseUrl, name: String) -> Self {
        Self(Arc::new(Inner { jobs, name, session: Mutex::new(None) }))
    }

    /// Connects ahead of the first mail.
    pub fn warm(&self) {
        let list = self.clone();
        tokio::spawn(async move { drop(list.session().await) });
    }

    /// Why an address gets no mail, if it gets none.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn find(&self, to: &EmailAddress) -> Result<Option<String>, Error> {
        let session = self.session().await?;
        let row = self.within(session.client.query_opt(&session.find, &[&to.key()])).await?;
        row.map(|row| Ok(row.try_get(0)?)).transpose()
    }

    /// Puts an address on the list that a server says is none. `reply` holds no address.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn bounced(&self, to: &EmailAddress, reply: &str, job_id: Uuid) -> Result<(), Error> {
        let session = self.session().await?;
        let reason = format!("bounced: {}", one_line(reply, LONGEST_REASON - 20));
        self.within(session.client.execute(&session.bounced, &[&to.key(), &reason, &job_id])).await.map(drop)
    }

    async fn session(&self) -> Result<Arc<Session>, Error> {
        let mut held = self.0.session.lock().await;
        if let Some(session) = held.as_ref().filter(|session| !session.client.is_closed()) {
            return Ok(session.clone());
        }
        let client = postgres::jobs_listener(&self.0.jobs, &self.0.name, |_| {}).await?;
        let session = postgres::within(PATIENCE, async {
            // A plan made while the list was short must do for a long one.
            client.batch_execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan").await?;
            let (find, bounced) = (client.prepare(FIND).await?, client.prepare(BOUNCED).await?);
            Ok(Arc::new(Session { client, find, bounced }))
        });
        Ok(held.insert(session.await?).clone())
    }

    /// Gives an operation its bound; after one that did not end, the next gets a connection of its own.
    async fn within<T>(&self, operation: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Error> {
        let result = postgres::within(PATIENCE, operation).await;
        if result.is_err() {
            *self.0.session.lock().await = None;
        }
        result
    }
}
