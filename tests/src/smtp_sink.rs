//! A real SMTP server (Python's aiosmtpd) that writes down each step and can be told to misbehave.
//!
//! It is somebody else's implementation on purpose: a server of our own would share our misunderstandings. Machines
//! without aiosmtpd skip the tests that need it, by name; see [`crate::skip`].

mod rule;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::mailbox::Mail;
use crate::skip::skip;
use crate::wait::until;

pub use rule::{Rule, Step};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/smtp_sink.py");

/// A step that the server took, in its own words: see `smtp_sink.py`.
#[derive(Clone, Debug, Deserialize)]
pub struct Event {
    /// Seconds on the server's monotonic clock.
    pub at: f64,
    /// What happened: `connected`, `ehlo`, `rcpt`, `data`, `reply`, `held`, `body`, `dot`, `verdict`, `lost`, …
    pub step: String,
    /// The connection's number, from 1.
    pub connection: Option<u64>,
    /// The recipients it is about.
    #[serde(default)]
    pub recipients: Vec<String>,
    /// The reply that was chosen.
    pub reply: Option<String>,
    /// Whether the connection was still there to take the reply.
    pub written: Option<bool>,
    /// The mail's Message-ID.
    pub message_id: Option<String>,
    /// The mail's hash.
    pub sha256: Option<String>,
    /// The step at which it was held or dropped.
    pub at_step: Option<String>,
    /// What the client said.
    pub argument: Option<String>,
    #[serde(default)]
    content: String,
    id: Option<u64>,
    port: Option<u16>,
}

impl Event {
    /// The mail's content, at the final dot.
    pub fn content(&self) -> Result<Vec<u8>> {
        Ok(base64::engine::general_purpose::STANDARD.decode(&self.content)?)
    }
}

/// How the server protects itself.
#[derive(Clone, Debug, Default)]
pub struct Options<'a> {
    /// A port to insist on, for a server that comes back.
    pub port: Option<u16>,
    /// `starttls` or `implicit`, with certificate and key as PEM files.
    pub tls: Option<(&'a str, &'a Path, &'a Path)>,
    /// `user:password` that AUTH has to give before mail is taken.
    pub login: Option<&'a str>,
}

/// The server; ended when dropped.
#[derive(Debug)]
pub struct SmtpSink {
    child: Child,
    orders: Mutex<ChildStdin>,
    events: Arc<Mutex<Vec<Event>>>,
    last_order: AtomicU64,
    last_done: Arc<AtomicU64>,
    port: u16,
}

impl SmtpSink {
    /// Starts a server; `None`, with a line that says so, where aiosmtpd is not installed.
    pub async fn start_or_skip(test: &str) -> Option<Self> {
        let Some(python) = python() else {
            skip(test, "no Python with aiosmtpd (Debian: python3-aiosmtpd)");
            return None;
        };
        Some(Self::start(&python, &Options::default()).await.expect("the SMTP server starts"))
    }

    /// Starts a server with options; the Python comes from [`python`].
    pub async fn start(python: &str, options: &Options<'_>) -> Result<Self> {
        let mut command = Command::new(python);
        command.args(["-W", "ignore", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(port) = options.port {
            command.args(["--port", &port.to_string()]);
        }
        if let Some((mode, certificate, key)) = options.tls {
            command.args(["--tls", mode, "--certificate"]).arg(certificate).arg("--key").arg(key);
        }
        if let Some(login) = options.login {
            command.args(["--login", login]);
        }
        let mut child = command.spawn().with_context(|| format!("cannot start {python}"))?;
        let orders = Mutex::new(child.stdin.take().context("piped")?);
        let stdout = child.stdout.take().context("piped")?;
        let events = Arc::new(Mutex::new(Vec::new()));
        let last_done = Arc::new(AtomicU64::new(0));
        let (collected, done) = (events.clone(), last_done.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { return };
                let event: Event = serde_json::from_str(&line).expect("the sink writes steps as JSON");
                match event.id {
                    Some(id) => done.store(id, Ordering::Release),
                    None => lock(&collected).push(event),
                }
            }
        });
        let mut sink = Self { child, orders, events, last_order: AtomicU64::new(0), last_done, port: 0 };
        sink.port = until("the SMTP server to listen", async || {
            let listening = lock(&sink.events).iter().find_map(|event| event.port);
            Ok(listening)
        })
        .await?;
        Ok(sink)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What `SMTP_URL` has to be for it.
    pub fn url(&self) -> String {
        format!("smtp://127.0.0.1:{}", self.port)
    }

    /// Adds a rule; the first that fits is obeyed.
    pub async fn rule(&self, rule: Rule) -> Result<()> {
        self.order(json!({ "do": "rule", "rule": rule })).await
    }

    /// Forgets all rules; what is held stays held.
    pub async fn forget_rules(&self) -> Result<()> {
        self.order(json!({ "do": "forget" })).await
    }

    /// Lets go on what is held at a step now.
    pub async fn release(&self, step: Step) -> Result<()> {
        self.order(json!({ "do": "release", "step": step })).await
    }

    /// Offers new connections no login by these ways (`PLAIN`, `LOGIN`).
    pub async fn offer_no_login_by(&self, mechanisms: &[&str]) -> Result<()> {
        self.order(json!({ "do": "exclude", "mechanisms": mechanisms })).await
    }

    /// Ends DATA also at a lone dot between bare line feeds (`lf`) or carriage returns (`cr`), as lax servers do.
    pub async fn end_data_at(&self, ends: &[&str]) -> Result<()> {
        self.order(json!({ "do": "lax", "ends": ends })).await
    }

    async fn order(&self, mut order: Value) -> Result<()> {
        let id = self.last_order.fetch_add(1, Ordering::Relaxed) + 1;
        order["id"] = id.into();
        writeln!(lock(&self.orders), "{order}").context("the SMTP server is gone")?;
        until("the SMTP server to carry out an order", async || {
            Ok((self.last_done.load(Ordering::Acquire) >= id).then_some(()))
        })
        .await
    }

    /// All steps that the server has taken by now: an answer of its own says that they have been read.
    pub async fn events_by_now(&self) -> Result<Vec<Event>> {
        self.order(json!({ "do": "nothing" })).await?;
        Ok(lock(&self.events).clone())
    }

    /// Waits for a step, in what has happened and what will.
    pub async fn wait_for(&self, what: &str, mut wanted: impl FnMut(&Event) -> bool) -> Result<Event> {
        let found = until(what, async || Ok(lock(&self.events).iter().find(|event| wanted(event)).cloned())).await;
        found.with_context(|| self.summary())
    }

    /// Waits until a session is held at a step.
    pub async fn wait_until_held(&self, step: Step) -> Result<Event> {
        let name = json!(step);
        self.wait_for(&format!("a session held at {name}"), |event| {
            event.step == "held" && event.at_step.as_deref() == name.as_str()
        })
        .await
    }

    /// The mails that the server has accepted by now, in order.
    pub async fn accepted(&self) -> Result<Vec<Accepted>> {
        accepted_in(&self.events_by_now().await?)
    }

    /// Waits until `count` mails for an address were accepted, and returns them.
    pub async fn wait_for_mails(&self, address: &str, count: usize) -> Result<Vec<Accepted>> {
        until(&format!("{count} mails to {address}"), async || {
            let mut mails = accepted_in(&lock(&self.events))?;
            mails.retain(|accepted| accepted.recipients.iter().any(|recipient| recipient == address));
            Ok((mails.len() >= count).then_some(mails))
        })
        .await
        .with_context(|| self.summary())
    }

    fn summary(&self) -> String {
        let mut text = String::from("the SMTP server saw:");
        for event in lock(&self.events).iter() {
            let Event { step, connection, recipients, reply, .. } = event;
            let (connection, reply) = (connection.unwrap_or_default(), reply.as_deref().unwrap_or_default());
            text += &format!("\n  {connection} {step} {recipients:?} {reply}");
        }
        text
    }
}

fn accepted_in(events: &[Event]) -> Result<Vec<Accepted>> {
    let mut accepted = Vec::new();
    for (index, verdict) in events.iter().enumerate().filter(|(_, event)| event.step == "verdict") {
        let same = |event: &&Event| event.connection == verdict.connection;
        let dot = events[..index].iter().rev().filter(same).find(|event| event.step == "dot");
        let dot = dot.context("a verdict without a dot")?;
        let reply = events[index..].iter().filter(same).find(|event| event.step == "reply");
        accepted.push(Accepted {
            mail: Mail::parse(&dot.content()?)?,
            recipients: dot.recipients.clone(),
            sha256: dot.sha256.clone().unwrap_or_default(),
            answered: reply.is_some_and(|reply| reply.written == Some(true)),
        });
    }
    Ok(accepted)
}

/// A mail that the server took over.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The mail.
    pub mail: Mail,
    /// The recipients of its envelope.
    pub recipients: Vec<String>,
    /// The hash of its content.
    pub sha256: String,
    /// Whether the client was still there when it was answered.
    pub answered: bool,
}

impl Drop for SmtpSink {
    fn drop(&mut self) {
        // It would end by itself at the end of its input; waiting keeps no zombie.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Python that has aiosmtpd: the one on the PATH, or the system's.
pub fn python() -> Option<String> {
    ["python3", "/usr/bin/python3", "/opt/homebrew/bin/python3"].into_iter().map(str::to_owned).find(|python| {
        let mut command = Command::new(python);
        command.args(["-c", "import aiosmtpd"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
