//! One trace follows a change from the HTTP request to the mail server's last answer, through two processes and two
//! databases; and a collector that is away is nobody's problem.

use anyhow::{Context as _, Result, ensure};
use hyper::header::{CONTENT_TYPE, HeaderName};
use serde_json::json;
use tests::collector::{Collector, Span, tree};
use tests::databases::{Databases, Role};
use tests::http;
use tests::mailbox::Mailbox;
use tests::services::{start_api, start_relay, verification_keys};
use tests::smtp_sink::SmtpSink;
use tests::wait::until;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// Registers somebody, as part of a caller's trace.
async fn register(api: &str, email: &str, flags: &str) -> Result<()> {
    let traceparent = format!("00-{TRACE}-{CALLER}-{flags}");
    let body = json!({ "email": email, "display_name": "Ada" }).to_string();
    let headers = [(CONTENT_TYPE, "application/json"), (HeaderName::from_static("traceparent"), traceparent.as_str())];
    let answer = http::send(hyper::Method::POST, &format!("{api}/v1/users"), &headers, body.into()).await?;
    ensure!(answer.status == 201, "{}", answer.body);
    Ok(())
}

fn one<'a>(spans: &'a [Span], name: &str) -> Result<&'a Span> {
    let found: Vec<&Span> = spans.iter().filter(|span| span.name == name).collect();
    ensure!(found.len() == 1, "{} spans are called {name:?}:\n{}", found.len(), tree(spans));
    Ok(found[0])
}

#[tokio::test]
async fn one_trace_shows_the_whole_path() -> Result<()> {
    let Some(sink) = SmtpSink::start_or_skip("one_trace_shows_the_whole_path").await else { return Ok(()) };
    let (databases, collector) = (Databases::new().await?, Collector::start().await?);
    let (keys, endpoint) = (verification_keys(), collector.endpoint());
    let traced = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint), ("OTEL_BSP_SCHEDULE_DELAY", "100")];
    let api = start_api(&databases, &keys, &traced).await?.ready().await?;
    let relay = start_relay(&databases, &keys, &api.url, &sink.url(), &traced).await?.ready().await?;

    register(&api.url, "ada@example.org", "01").await?;
    let spans = collector.trace_with(&["POST /v1/users", "unit of work", "dispatch ", "deliver email"]).await?;
    println!("{}", tree(&spans));

    // Each step is below the one before it.
    let path = ["POST /v1/users", "unit of work", "dispatch send_verification_email", "deliver email"];
    let mut parent = CALLER;
    for name in path {
        let span = one(&spans, name)?;
        assert_eq!((span.trace_id.as_str(), span.parent_id.as_str()), (TRACE, parent), "{name}:\n{}", tree(&spans));
        assert!(span.time.0 <= span.time.1 && !span.failed, "{span:?}");
        parent = &span.span_id;
    }
    for step in ["connect", "mail", "rcpt", "data", "body", "dot"] {
        assert_eq!(one(&spans, &format!("smtp {step}"))?.parent_id, parent, "{step}:\n{}", tree(&spans));
    }
    assert_eq!(spans.len(), path.len() + 6, "{}", tree(&spans));
    assert_eq!(one(&spans, path[0])?.attribute("http.response.status_code"), Some("201"));
    let delivery = one(&spans, "deliver email")?;
    assert_eq!((delivery.service.as_str(), delivery.attribute("aftercommit.attempt")), ("relay", Some("1")));

    // The batch is a trace of its own that names the events' spans.
    let dispatch = one(&spans, path[2])?.span_id.clone();
    let batch = collector.trace_with(&["dispatch batch"]).await?;
    assert!(batch[0].links.contains(&dispatch) && batch[0].trace_id != TRACE, "{batch:?}");

    // A caller that does not record its trace is kept to: no span, and the mail all the same.
    let before = collector.spans().len();
    register(&api.url, "bob@example.org", "00").await?;
    sink.wait_for_mails("bob@example.org", 1).await?;
    assert_eq!(relay.process.terminate().await?.code(), Some(0));
    assert_eq!(api.process.terminate().await?.code(), Some(0));
    let after = collector.spans();
    assert_eq!(after.iter().skip(before).filter(|span| span.trace_id == TRACE).count(), 0, "{}", tree(&after));
    Ok(())
}

#[tokio::test]
async fn a_collector_that_is_away_slows_nothing_and_is_reported_once() -> Result<()> {
    let databases = Databases::new().await?;
    let mail = tempfile::tempdir()?;
    let mailbox = Mailbox::new(mail.path());
    let keys = verification_keys();
    // It takes connections, and never answers.
    let silent = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let silent = format!("http://{}", silent.local_addr()?);
    // Nobody is there at all.
    let nobody = format!("http://127.0.0.1:{}", tests::postgres::free_port()?);
    let of = |endpoint| [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), ("OTEL_BSP_SCHEDULE_DELAY", "20")];
    let api = start_api(&databases, &keys, &of(&nobody)).await?.ready().await?;
    let relay = start_relay(&databases, &keys, &api.url, &mailbox.url(), &of(&silent)).await?.ready().await?;

    for number in 0..5 {
        let email = format!("ada{number}@example.org");
        register(&api.url, &email, "01").await?;
        mailbox.wait_for(&email, 1).await?;
        // So that each is an export of its own: what is told of the second is what must not be told.
        api.process.line_with("traces can't be exported").await?;
    }
    until("a second export that failed", async || {
        let jobs = databases.jobs.connect(Role::Superuser).await?;
        let done = "SELECT count(*) FROM aftercommit.jobs WHERE state = 'succeeded'";
        Ok((jobs.query_one(done, &[]).await?.get::<_, i64>(0) == 5).then_some(()))
    })
    .await?;
    assert_eq!(relay.process.terminate().await?.code(), Some(0), "a silent collector does not keep it");
    assert_eq!(api.process.terminate().await?.code(), Some(0));
    let told = api.process.output().matches("traces can't be exported").count();
    assert_eq!(told, 1, "{}", api.process.output());
    Ok(())
}

#[tokio::test]
async fn without_a_collector_the_context_travels_all_the_same() -> Result<()> {
    let databases = Databases::new().await?;
    let mail = tempfile::tempdir()?;
    let mailbox = Mailbox::new(mail.path());
    let keys = verification_keys();
    let api = start_api(&databases, &keys, &[]).await?.ready().await?;
    let _relay = start_relay(&databases, &keys, &api.url, &mailbox.url(), &[]).await?.ready().await?;
    register(&api.url, "ada@example.org", "01").await?;
    mailbox.wait_for("ada@example.org", 1).await?;
    let jobs = databases.jobs.connect(Role::Superuser).await?;
    let row = jobs.query_one("SELECT metadata ->> 'traceparent' FROM aftercommit.jobs", &[]).await?;
    let kept: Option<String> = row.get(0);
    assert_eq!(kept.context("a traceparent")?, format!("00-{TRACE}-{CALLER}-01"));
    Ok(())
}
