//! What the relay's SMTP client promises, on a real server that misbehaves as it is told.

mod steps;
mod connections;
mod encryption;
mod bytes;

use std::sync::Arc;
use std::time::Duration;

use relay::deliver::{Lease, Outcome};
use relay::jobs::lease::{Boot, ProcessLease};
use relay::mail::message::{self, Mail, Sender};
use relay::mail::smtp::Smtp;
use relay::mail::smtp::options::{Options, Timeouts};
use relay::mail::target::{SmtpServer, Target};
use relay::mail::template::Content;
use shared::email_address::EmailAddress;
use shared::settings::{Faults, Secret};
use tests::smtp_sink::{Event, SmtpSink};
use time::macros::datetime;
use uuid::Uuid;

const ADA: &str = "ada@example.org";

/// What `SMTP_URL` leads to.
fn server(url: &str) -> SmtpServer {
    let mut faults = Faults::new();
    match Target::parse(&Secret::new(url), &mut faults) {
        Some(Target::Smtp(server)) => server,
        _ => panic!("{url}: {faults}"),
    }
}

fn client(url: &str) -> Smtp {
    client_with(url, Options::default())
}

fn client_with(url: &str, options: Options) -> Smtp {
    Smtp::new(server(url), options).expect("its settings are good")
}

/// A client that gives up on a silent server within seconds.
fn hasty_client(url: &str, seconds: u64) -> Smtp {
    client_with(url, Options { timeouts: Timeouts::all(Duration::from_secs(seconds)), ..Options::default() })
}

fn mail_to(to: &str) -> Mail {
    mail_saying(to, "Hello.\n")
}

/// A mail with an id of its own.
fn mail_saying(to: &str, text: &str) -> Mail {
    let mut faults = Faults::new();
    let from = "Example <no-reply@example.com>".to_owned();
    let from = Sender::parse(Some(from), &mut faults).unwrap_or_else(|| panic!("{faults}"));
    let to = EmailAddress::parse(to).expect("an address");
    let content = Content {
        subject: "Hello".to_owned(),
        text: text.to_owned(),
        html: format!("<p>{text}</p>"),
        unsubscribe: None,
    };
    message::build(&from, &to, &content, Uuid::now_v7(), datetime!(2026-01-02 12:00 UTC)).expect("a mail")
}

/// A process that holds its lease.
fn process() -> Arc<ProcessLease> {
    let process = ProcessLease::new(Duration::from_secs(600));
    process.extend(Boot::now());
    process
}

fn held() -> Lease {
    Lease::new(process())
}

async fn send(client: &Smtp, to: &str) -> Outcome {
    client.send(&mail_to(to), &held()).await
}

fn count(events: &[Event], step: &str) -> usize {
    events.iter().filter(|event| event.step == step).count()
}

/// Starts a server, or skips the test that calls it.
macro_rules! sink_or_skip {
    ($test:literal) => {
        match tests::smtp_sink::SmtpSink::start_or_skip($test).await {
            Some(sink) => sink,
            None => return Ok(()),
        }
    };
}
use sink_or_skip;

/// Waits until the server has seen so many connections end.
async fn connections_ended(sink: &SmtpSink, wanted: usize) -> anyhow::Result<Vec<Event>> {
    tests::wait::until("the end of connections", async || {
        let events = sink.events_by_now().await?;
        Ok((count(&events, "lost") >= wanted).then_some(events))
    })
    .await
}
