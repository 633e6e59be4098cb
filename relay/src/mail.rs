//! The kind `email`: one mail to one recipient, rendered when it is sent.
//!
//! What a mail says follows from its job alone (and from templates and keys): Message-ID, Date, MIME boundary and token
//! are the same at every attempt, so that a mail sent twice is the same mail twice. Secrets are made here and stored
//! nowhere. No address is ever logged.

pub mod args;
pub mod template;
pub mod sample;
pub mod message;
pub mod target;
pub mod mailbox;
pub mod smtp;
pub mod sandbox;
pub mod suppression;
mod probe;
pub mod preview;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use shared::email_address::EmailAddress;
use shared::public_url::PublicUrl;
use shared::redact::redact;
use shared::token::KeyRing;

use crate::deliver::{ClaimedJob, Failure, Kind, Lease, Meaning, Outcome};
use args::CheckedArgs;
use message::Sender;
pub use probe::{Probe, Server};
use sandbox::Sandbox;
use smtp::Smtp;
use smtp::options::Options;
use smtp::outcomes::Phase;
use suppression::Suppressions;
use target::Target;
use template::about::InDoubt;
use template::{TemplateError, Templates};

/// What the kind is called.
pub const KIND: &str = "email";

/// What the kind needs to be told.
#[derive(Debug)]
pub struct Settings {
    /// Who the mail is from.
    pub from: Sender,
    /// Where mail goes.
    pub target: Target,
    /// Where links lead.
    pub public_url: PublicUrl,
    /// What verification links are signed with.
    pub keys: KeyRing,
    /// How long a verification link works, counted from the event.
    pub link_ttl: Duration,
    /// Mails under way at the same time.
    pub connections: usize,
    /// How a mail server is treated.
    pub smtp: Options,
    /// Whether an address that a server says is none is put on the suppression list.
    pub suppress_bounces: bool,
    /// The only recipients that mail is sent to, if there is such a list.
    pub sandbox: Option<Sandbox>,
}

/// Where a mail goes.
enum Transport {
    Smtp(Box<Smtp>),
    Mailbox(PathBuf),
}

/// See the module.
pub struct Email {
    settings: Settings,
    templates: Templates,
    transport: Transport,
    suppressions: OnceLock<Suppressions>,
}

/// Why mail can't be sent with these settings or templates.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificate authorities can't be used.
    #[error("the certificate authorities can't be used: {0}")]
    Tls(String),
    /// The mailbox directory can't be made.
    #[error("the mailbox directory {path} can't be made: {error}")]
    Mailbox {
        /// The directory.
        path: String,
        /// What is wrong.
        error: std::io::Error,
    },
}

impl Email {
    /// Checks what can be checked before there is a mail: certificates, the mailbox. Templates were when they were loaded.
    ///
    /// # Errors
    /// What is wrong.
    pub fn new(settings: Settings, templates: Templates) -> Result<Arc<Self>, StartError> {
        let transport = match &settings.target {
            Target::Smtp(server) => {
                let smtp = Smtp::new(server.clone(), settings.smtp.clone()).map_err(StartError::Tls)?;
                Transport::Smtp(Box::new(smtp))
            }
            Target::Mailbox(directory) => {
                std::fs::create_dir_all(directory)
                    .map_err(|error| StartError::Mailbox { path: directory.display().to_string(), error })?;
                Transport::Mailbox(directory.clone())
            }
        };
        Ok(Arc::new(Self { settings, templates, transport, suppressions: OnceLock::new() }))
    }

    /// From now on, asks a suppression list before each mail. A second list changes nothing.
    pub fn consult(&self, list: Suppressions) {
        list.warm();
        let _ = self.suppressions.set(list);
    }

    /// Says in the log what about its settings should not go unnoticed.
    pub fn announce(&self) {
        if let Some(sandbox) = &self.settings.sandbox {
            sandbox.announce();
        }
    }

    /// One try, from the row to the server's answer.
    async fn send(&self, job: &ClaimedJob, lease: &Lease) -> Result<Outcome, Failure> {
        let args = read(job)?;
        if self.settings.sandbox.as_ref().is_some_and(|sandbox| !sandbox.allows(&args.to)) {
            return Ok(Outcome::CalledOff(sandbox::REASON.to_owned()));
        }
        if let Some(list) = self.suppressions.get() {
            match list.find(&args.to).await {
                Ok(None) => {}
                Ok(Some(reason)) => {
                    return Ok(Outcome::CalledOff(format!(
                        "not sent: the recipient is on the suppression list ({})",
                        // People write it, and may name the recipient: it is logged.
                        redact(&reason)
                    )));
                }
                Err(error) => return Ok(Outcome::Away(format!("the suppression list can't be read: {error}"))),
            }
        }
        let mail = self.render(job, &args)?;
        let outcome = match &self.transport {
            Transport::Smtp(smtp) => smtp.send(&mail, lease).await,
            Transport::Mailbox(directory) => mailbox::deliver(directory, &mail, lease).await,
        };
        Ok(match outcome {
            Outcome::Failed(failure) => {
                if is_bounce(&failure) && self.settings.suppress_bounces {
                    self.suppress(job, &args.to, &failure, &mail.to).await;
                }
                let reply = failure.reply.as_deref().map(|reply| without(reply, &mail.to));
                Outcome::Failed(Failure { error: without(&failure.error, &mail.to), reply, ..failure })
            }
            Outcome::Away(reason) => Outcome::Away(without(&reason, &mail.to)),
            other => other,
        })
    }

    /// Sends no more to an address that a server says is none. The job is dead whether or not that can be noted.
    async fn suppress(&self, job: &ClaimedJob, to: &EmailAddress, failure: &Failure, address: &str) {
        let Some(list) = self.suppressions.get() else { return };
        let reply = without(failure.reply.as_deref().unwrap_or_default(), address);
        match list.bounced(to, &reply, job.job_id).await {
            Ok(()) => tracing::info!(job_id = %job.job_id, "the recipient is put on the suppression list"),
            Err(error) => tracing::warn!(job_id = %job.job_id, %error, "the suppression list can't be written"),
        }
    }

    /// Makes a job's mail; what fails here fails at every attempt.
    fn render(&self, job: &ClaimedJob, args: &CheckedArgs) -> Result<message::Mail, Failure> {
        let occurred_at =
            job.occurred_at.ok_or_else(|| Failure::permanent("occurred_at is outside the years 1970 to 9999"))?;
        let content = self.templates.render(args, &self.settings, occurred_at).map_err(|error| match error {
            // A newer relay may know it: while relays are being replaced, jobs of both are there.
            TemplateError::Unknown(_) => Failure::transient(error.to_string()),
            TemplateError::Wrong { .. } => Failure::permanent(error.to_string()),
        })?;
        let mail = message::build(&self.settings.from, &args.to, &content, job.job_id, occurred_at)
            .map_err(|error| Failure::permanent(error.to_string()))?;
        Ok(message::Mail { hold: self.templates.about(&args.template).in_doubt == InDoubt::Hold, ..mail })
    }
}

#[async_trait::async_trait]
impl Kind for Email {
    fn name(&self) -> &'static str {
        KIND
    }

    fn concurrency(&self) -> usize {
        self.settings.connections
    }

    /// The recipient's domain.
    fn group(&self, job: &ClaimedJob) -> Option<String> {
        let args = CheckedArgs::read(&job.args).ok()?;
        args.address.rsplit_once('@').map(|(_, domain)| domain.to_lowercase())
    }

    async fn perform(&self, job: &ClaimedJob, lease: &Lease) -> Outcome {
        self.send(job, lease).await.unwrap_or_else(|failure| {
            // Whatever fails before a server is asked fails in the making.
            Outcome::Failed(Failure { phase: Some("render"), reached: false, ..failure })
        })
    }
}

/// Whether a server said that there is no such mailbox, for good: it never was, has moved, or its domain takes no mail.
fn is_bounce(failure: &Failure) -> bool {
    failure.meaning == Meaning::Permanent
        && failure.phase == Some(Phase::Rcpt.as_str())
        && matches!(failure.enhanced_code.as_deref(), Some("5.1.1" | "5.1.6" | "5.1.10"))
}

fn read(job: &ClaimedJob) -> Result<CheckedArgs, Failure> {
    CheckedArgs::read(&job.args).map_err(|error| Failure::permanent(error.to_string()))
}

/// The shortest part before the @ that is looked for in what a server says. A shorter one is in half of all words.
const SHORTEST_LOCAL: usize = 3;

/// An error text without the recipient: servers like to quote it, in whole or in part.
fn without(text: &str, address: &str) -> String {
    let (local, domain) = address.rsplit_once('@').unwrap_or(("", address));
    let parts = [local, domain].map(str::to_lowercase);
    let names_it = |word: &&str| {
        let word = word.to_lowercase();
        parts.iter().any(|part| part.len() >= SHORTEST_LOCAL && word.contains(part.as_str()))
    };
    let text = redact(text);
    let words = text.split(' ').map(|word| if names_it(&word) { "…" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
