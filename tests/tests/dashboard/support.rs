//! A relay with a dashboard, and requests as a browser or another site's page would send them.

use anyhow::{Context as _, Result};
use hyper::header::{CONTENT_TYPE, COOKIE, HeaderName, ORIGIN};
use hyper::{Method, body::Bytes};
use tests::databases::{Databases, Role};
use tests::http::{self, Answer};
use tests::mailbox::Mailbox;
use tests::page::form_field;
use tests::postgres::free_port;
use tests::services::{Service, start_relay, verification_keys};
use tokio_postgres::Client;
use uuid::Uuid;

/// A relay that delivers into a directory, and its dashboard.
pub struct Stage {
    pub databases: Databases,
    pub relay: Service,
    pub dashboard: String,
    pub mailbox: Mailbox,
    _mail: tempfile::TempDir,
}

impl Stage {
    /// Starts it with settings beside the usual ones.
    pub async fn start(settings: &[(&str, &str)]) -> Result<Self> {
        let mail = tempfile::tempdir()?;
        let mailbox = Mailbox::new(mail.path());
        let (databases, relay, dashboard) = start(&mailbox.url(), settings).await?;
        Ok(Self { databases, relay, dashboard, mailbox, _mail: mail })
    }

    /// A page's address.
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.dashboard)
    }

    /// GET with headers.
    pub async fn get(&self, path: &str, headers: &[(HeaderName, &str)]) -> Result<Answer> {
        http::send(Method::GET, &self.at(path), headers, Bytes::new()).await
    }

    /// POST of a form with headers.
    pub async fn post(&self, path: &str, fields: &[(&str, &str)], headers: &[(HeaderName, &str)]) -> Result<Answer> {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let mut headers = headers.to_vec();
        headers.push((CONTENT_TYPE, "application/x-www-form-urlencoded"));
        http::send(Method::POST, &self.at(path), &headers, body.into()).await
    }

    /// A visitor's cookie and the token of a form, from a page.
    pub async fn visit(&self, path: &str) -> Result<Visit> {
        let page = self.get(path, &[]).await?;
        let cookie = cookie_of(&page)?;
        Ok(Visit { cookie, form: form_field(&page.body, "form").context("a form")? })
    }

    /// POST as our own page does it.
    pub async fn act(&self, visit: &Visit, path: &str, fields: &[(&str, &str)]) -> Result<Answer> {
        let fields = [&[("form", &*visit.form)], fields].concat();
        self.post(path, &fields, &[(COOKIE, &visit.cookie), (ORIGIN, &self.dashboard)]).await
    }

    /// How many pauses and actions there are.
    pub async fn changes(&self) -> Result<i64> {
        let client = self.jobs().await?;
        let sql =
            "SELECT (SELECT count(*) FROM aftercommit.pauses) + (SELECT count(*) FROM aftercommit.operator_actions)";
        Ok(client.query_one(sql, &[]).await?.get(0))
    }

    /// The jobs database, behind the system's back.
    pub async fn jobs(&self) -> Result<Client> {
        self.databases.jobs.connect(Role::Superuser).await
    }

    /// Writes a registration into the outbox. Returns the event's id.
    pub async fn register(&self, email: &str) -> Result<Uuid> {
        register(&self.databases, email).await
    }
}

/// What a browser keeps of a visit.
pub struct Visit {
    pub cookie: String,
    pub form: String,
}

/// The cookie that an answer sets, as it is sent back.
pub fn cookie_of(answer: &Answer) -> Result<String> {
    let set = answer.header("set-cookie").with_context(|| format!("no cookie: {} {}", answer.status, answer.body))?;
    Ok(set.split(';').next().unwrap_or_default().to_owned())
}

/// A relay with a dashboard that sends mail to a server or a directory.
pub async fn start(smtp_url: &str, settings: &[(&str, &str)]) -> Result<(Databases, Service, String)> {
    let databases = Databases::new().await?;
    let address = format!("127.0.0.1:{}", free_port()?);
    let settings = [&[("DASHBOARD_LISTEN", &*address)], settings].concat();
    let relay = start_relay(&databases, &verification_keys(), "http://127.0.0.1:8080", smtp_url, &settings).await?;
    Ok((databases, relay.ready().await?, format!("http://{address}")))
}

/// Writes a registration into the outbox. Returns the event's id.
pub async fn register(databases: &Databases, email: &str) -> Result<Uuid> {
    let (event_id, user_id) = (Uuid::now_v7(), Uuid::now_v7().to_string());
    let writer = databases.app.connect(Role::Owner).await?;
    writer
        .execute(
            "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload, metadata)
             VALUES ($1, 'user', $2::text, 'user.registered',
                     jsonb_build_object('user_id', $2::text, 'email', $3::text, 'display_name', 'Ada <i>Lovelace'),
                     '{\"traceparent\": \"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\"}')",
            &[&event_id, &user_id, &email],
        )
        .await?;
    writer.batch_execute("NOTIFY aftercommit_outbox").await?;
    Ok(event_id)
}
