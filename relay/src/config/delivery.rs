//! The settings of delivery: how jobs are claimed, and how mail is made and sent.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use shared::public_url::PublicUrl;
use shared::settings::{self, Faults, Secret};
use shared::token::{self, KeyRing};

use crate::deliver;
use crate::mail::message::Sender;
use crate::mail::sandbox::Sandbox;
use crate::mail::smtp::options::{Options, Timeouts};
use crate::mail::smtp::outcomes::Outcomes;
use crate::mail::target::{self, Target};
use crate::mail::template::{TemplateError, Templates};
use crate::mail::{self, Email};

/// Mail: where it goes, who it is from, where its links lead.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Mail")]
pub struct MailArgs {
    /// The mail server (smtp://, smtps://), or a directory for development (file:///directory)
    #[arg(long, env = "SMTP_URL", hide_env_values = true, value_name = "URL")]
    smtp_url: Option<Secret>,
    /// The file that holds it
    #[arg(long, env = "SMTP_URL_FILE", value_name = "FILE")]
    smtp_url_file: Option<PathBuf>,
    /// The sender: no-reply@example.com or "Example <no-reply@example.com>"
    #[arg(long, env = "MAIL_FROM", value_name = "ADDRESS")]
    mail_from: Option<String>,
    /// Where answers go, if not to the sender
    #[arg(long, env = "MAIL_REPLY_TO", value_name = "ADDRESS")]
    mail_reply_to: Option<String>,
    /// A header that bears the job's id, for mail providers that know repeated mails by one
    #[arg(long, env = "MAIL_IDEMPOTENCY_HEADER", value_name = "NAME")]
    mail_idempotency_header: Option<String>,
    /// The directory of templates that stand in for those in the binary
    #[arg(long, env = "MAIL_TEMPLATES", value_name = "DIRECTORY")]
    mail_templates: Option<PathBuf>,
    /// Where people reach api; links in mails begin with it
    #[arg(long, env = "PUBLIC_URL", value_name = "URL")]
    public_url: Option<String>,
    /// The keys that verification links are signed with: kid:base64key, several separated by commas; the first signs
    #[arg(long, env = "VERIFICATION_KEYS", hide_env_values = true, value_name = "KEYS")]
    verification_keys: Option<Secret>,
    /// The file that holds them
    #[arg(long, env = "VERIFICATION_KEYS_FILE", value_name = "FILE")]
    verification_keys_file: Option<PathBuf>,
    /// How long a verification link works, counted from the event [default: 24h]
    #[arg(long, env = "VERIFICATION_TTL", value_name = "TIME")]
    verification_ttl: Option<String>,
    /// Mails under way at the same time, each on a connection of its own [default: 4]
    #[arg(long, env = "SMTP_CONNECTIONS", value_name = "NUMBER")]
    smtp_connections: Option<String>,
    /// Mails sent on one connection before it is closed [default: 100]
    #[arg(long, env = "SMTP_MAILS_PER_CONNECTION", value_name = "NUMBER")]
    smtp_mails_per_connection: Option<String>,
    /// How long an unused connection is kept [default: 15s]
    #[arg(long, env = "SMTP_IDLE", value_name = "TIME")]
    smtp_idle: Option<String>,
    /// The bound on each step, or one for all [default: connect=10s,command=60s,data=2m,body=3m,dot=10m]
    #[arg(long, env = "SMTP_TIMEOUTS", value_name = "TIMES")]
    smtp_timeouts: Option<String>,
    /// What replies mean, before the usual rules: "rcpt 452=retry, data 554 5.7.1=retry"
    #[arg(long, env = "SMTP_OUTCOMES", value_name = "RULES")]
    smtp_outcomes: Option<String>,
    /// true: an address that a mail server says is none (5.1.1 to RCPT) gets no more mail [default: false]
    #[arg(long, env = "MAIL_SUPPRESS_BOUNCES", value_name = "BOOL")]
    mail_suppress_bounces: Option<String>,
    /// On a staging system, the only recipients that mail is sent to: *@example.org,qa@example.com or none
    #[arg(long, env = "MAIL_SANDBOX", value_name = "LIST")]
    mail_sandbox: Option<String>,
}

/// How jobs are claimed and held.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Delivery")]
pub struct DeliveryArgs {
    /// The most jobs claimed at once [default: 1000]
    #[arg(long, env = "DELIVERY_BATCH", value_name = "NUMBER")]
    delivery_batch: Option<String>,
    /// How long the jobs of a relay that went silent stay its own [default: 30s]
    #[arg(long, env = "DELIVERY_LEASE", value_name = "TIME")]
    delivery_lease: Option<String>,
    /// How often to look for due jobs when no notification came [default: 2s]
    #[arg(long, env = "DELIVERY_POLL", value_name = "TIME")]
    delivery_poll: Option<String>,
    /// How long a stopping relay waits for what is under way [default: 10s]
    #[arg(long, env = "SHUTDOWN_GRACE", value_name = "TIME")]
    shutdown_grace: Option<String>,
}

impl MailArgs {
    /// Reads them and prepares the kind `email`: what can be wrong with it is a fault now rather than a dead job later.
    pub fn read(self, faults: &mut Faults) -> Option<Arc<Email>> {
        let file = self.smtp_url_file.as_deref();
        let url = settings::required_secret("SMTP_URL", self.smtp_url, file, target::EXAMPLE, faults);
        let target = url.and_then(|url| Target::parse(&url, faults));
        let from = Sender::parse(self.mail_from, faults)
            .map(|from| from.reply_to(self.mail_reply_to, faults))
            .map(|from| from.idempotency_header(self.mail_idempotency_header, faults));
        let templates = templates(self.mail_templates.as_deref(), faults);
        let public_url = PublicUrl::parse(self.public_url, faults);
        let file = self.verification_keys_file.as_deref();
        let keys = settings::required_secret("VERIFICATION_KEYS", self.verification_keys, file, token::EXAMPLE, faults);
        let keys = keys.and_then(|keys| KeyRing::parse(&keys, "VERIFICATION_KEYS", faults));
        let day = Duration::from_secs(24 * 3600);
        let link_ttl = settings::duration("VERIFICATION_TTL", self.verification_ttl, day, faults);
        let connections = settings::number("SMTP_CONNECTIONS", self.smtp_connections, 4, 1..=1000, faults);
        let smtp = smtp_options(
            self.smtp_mails_per_connection,
            self.smtp_idle,
            self.smtp_timeouts,
            self.smtp_outcomes,
            faults,
        );
        // A list that can't be read is no reason to write to everybody: its fault ends the start.
        let sandbox = settings::text(self.mail_sandbox).and_then(|list| Sandbox::parse(&list, faults));
        let settings = mail::Settings {
            from: from?,
            target: target?,
            public_url: public_url?,
            keys: keys?,
            link_ttl,
            connections: usize::try_from(connections).unwrap_or(4),
            smtp,
            suppress_bounces: settings::switch("MAIL_SUPPRESS_BOUNCES", self.mail_suppress_bounces, false, faults),
            sandbox,
        };
        match Email::new(settings, templates?) {
            Ok(email) => Some(email),
            Err(error) => {
                faults.push("SMTP_URL", error.to_string(), "Check the path, what is in it and its permissions");
                None
            }
        }
    }
}

/// Loads the templates; each that is wrong is a fault.
pub fn templates(directory: Option<&Path>, faults: &mut Faults) -> Option<Templates> {
    let directory = directory.filter(|path| !path.as_os_str().is_empty());
    let setting = if directory.is_some() { "MAIL_TEMPLATES" } else { "mail" };
    let told = |error: TemplateError| faults.push(setting, error.to_string(), "Correct it");
    Templates::load(directory).map_err(|errors| errors.into_iter().for_each(told)).ok()
}

fn smtp_options(
    mails_per_connection: Option<String>,
    idle: Option<String>,
    timeouts: Option<String>,
    outcomes: Option<String>,
    faults: &mut Faults,
) -> Options {
    let usual = Options::default();
    let most = u64::from(usual.mails_per_connection);
    let most = settings::number("SMTP_MAILS_PER_CONNECTION", mails_per_connection, most, 1..=1_000_000, faults);
    let idle = settings::duration("SMTP_IDLE", idle, usual.idle, faults);
    let timeouts = Timeouts::parse(&settings::text(timeouts).unwrap_or_default()).unwrap_or_else(|problem| {
        faults.push("SMTP_TIMEOUTS", problem, "Give such as 30s, or connect=10s,dot=10m");
        usual.timeouts
    });
    let outcomes = Outcomes::with(&outcomes.unwrap_or_default()).unwrap_or_else(|error| {
        faults.push("SMTP_OUTCOMES", error.to_string(), "Give such as rcpt 452=retry, data 554 5.7.1=retry");
        usual.outcomes
    });
    Options { timeouts, mails_per_connection: u32::try_from(most).unwrap_or(u32::MAX), idle, outcomes }
}

impl DeliveryArgs {
    /// Reads them.
    pub fn read(self, faults: &mut Faults) -> deliver::Settings {
        let default = deliver::Settings::default();
        let batch = settings::number("DELIVERY_BATCH", self.delivery_batch, default.batch as u64, 1..=10_000, faults);
        let lease = settings::duration("DELIVERY_LEASE", self.delivery_lease, default.lease, faults);
        if lease < Duration::from_secs(1) {
            faults.push("DELIVERY_LEASE", "is shorter than a second", "Give at least 1s; 30s is usual");
        }
        deliver::Settings {
            batch: usize::try_from(batch).unwrap_or(default.batch),
            lease,
            poll: settings::duration("DELIVERY_POLL", self.delivery_poll, default.poll, faults),
            grace: settings::duration("SHUTDOWN_GRACE", self.shutdown_grace, default.grace, faults),
        }
    }
}
