//! What a scraper sees of both services: a whole journey in numbers, in a format that Prometheus's own checker accepts,
//! and under the names of the table alone.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::databases::{Databases, Role};
use tests::dispatcher::write_event;
use tests::http;
use tests::mailbox::Mailbox;
use tests::postgres::free_port;
use tests::services::{Service, start_api, start_relay, verification_keys};
use tests::skip::skip;
use tests::wait::until;

/// The value of a sample, by its name with labels as it is written.
fn value(text: &str, sample: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))?;
    line.parse().ok()
}

async fn scrape(url: &str) -> Result<String> {
    let answer = http::get(url).await?;
    ensure!(answer.status == 200, "{}", answer.body);
    ensure!(answer.header("content-type") == Some(shared::metrics::CONTENT_TYPE), "{:?}", answer.headers);
    Ok(answer.body)
}

/// Scrapes until all of these samples have at least these values.
async fn scrape_until(url: &str, wanted: &[(&str, f64)]) -> Result<String> {
    let mut last = String::new();
    let reached = until("the numbers", async || {
        last = scrape(url).await?;
        let reached = wanted.iter().all(|(sample, least)| value(&last, sample).is_some_and(|value| value >= *least));
        Ok(reached.then_some(()))
    });
    reached.await.with_context(|| format!("{wanted:?} is not all there:\n{last}"))?;
    Ok(last)
}

/// The names that the text describes.
fn described(text: &str) -> BTreeSet<&str> {
    text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next()).collect()
}

/// What Prometheus's checker says of the text; `None` where it is not installed.
fn promtool_check_metrics(text: &str) -> Result<Option<String>> {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut checker) = command.spawn() else { return Ok(None) };
    checker.stdin.take().context("stdin")?.write_all(text.as_bytes())?;
    let output = checker.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = format!("{}{}", String::from_utf8_lossy(&said), if output.status.success() { "" } else { "failed" });
    Ok(Some(said))
}

async fn services(databases: &Databases, mailbox: &Mailbox) -> Result<(Service, String, Service)> {
    let keys = verification_keys();
    let metrics = format!("127.0.0.1:{}", free_port()?);
    let api = start_api(databases, &keys, &[("API_METRICS_LISTEN", &metrics)]).await?.ready().await?;
    let relay = start_relay(databases, &keys, &api.url, &mailbox.url(), &[("UPKEEP_INTERVAL", "1s")]).await?;
    let relay = relay.ready().await?;
    Ok((api, format!("http://{metrics}/metrics"), relay))
}

#[tokio::test]
async fn a_journey_shows_in_the_metrics_of_both_services() -> Result<()> {
    let databases = Databases::new().await?;
    let mail = tempfile::tempdir()?;
    let mailbox = Mailbox::new(mail.path());
    let (api, api_metrics, relay) = services(&databases, &mailbox).await?;
    let relay_metrics = format!("{}/metrics", relay.url);

    let person = json!({ "email": "ada@example.org", "display_name": "Ada" });
    let users = format!("{}/v1/users", api.url);
    assert_eq!(http::post_json(&users, &person).await?.status, 201);
    assert_eq!(http::post_json(&users, &person).await?.status, 409);
    assert_eq!(http::get(&format!("{users}/{}", uuid::Uuid::new_v4())).await?.status, 404);
    assert_eq!(http::get(&format!("{}/no/such/{}", api.url, uuid::Uuid::new_v4())).await?.status, 404);
    mailbox.wait_for("ada@example.org", 1).await?;
    // An event that nobody handles, and one that a handler can't take.
    let writer = databases.app.connect(Role::Owner).await?;
    write_event(&writer, "a", 1).await?;
    let broken = "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)
                  VALUES (gen_random_uuid(), 'user', 'x', 'user.registered', '{}')";
    writer.batch_execute(broken).await?;

    let seen = scrape_until(
        &api_metrics,
        &[
            ("aftercommit_outbox_events_total{event_type=\"user.registered\"}", 1.0),
            ("aftercommit_units_of_work_total{outcome=\"committed\"}", 1.0),
            ("aftercommit_units_of_work_total{outcome=\"unchanged\"}", 1.0),
            ("aftercommit_database_connections_limit", 10.0),
            ("aftercommit_commit_duration_seconds_count", 1.0),
        ],
    )
    .await?;
    for (sample, count) in [
        ("{method=\"POST\",route=\"/v1/users\",status=\"2xx\"}", 1.0),
        ("{method=\"POST\",route=\"/v1/users\",status=\"4xx\"}", 1.0),
        ("{method=\"GET\",route=\"/v1/users/:id\",status=\"4xx\"}", 1.0),
        ("{method=\"GET\",route=\"unmatched\",status=\"4xx\"}", 1.0),
    ] {
        let sample = format!("aftercommit_http_request_duration_seconds_count{sample}");
        assert_eq!(value(&seen, &sample), Some(count), "{sample}:\n{seen}");
    }

    let handled =
        "aftercommit_dispatch_handled_total{event_type=\"user.registered\",handler=\"send_verification_email\"";
    let seen_of_relay = scrape_until(
        &relay_metrics,
        &[
            ("aftercommit_dispatch_events_total{event_type=\"user.registered\"}", 2.0),
            ("aftercommit_dispatch_events_total{event_type=\"other\"}", 1.0),
            ("aftercommit_dispatch_unknown_events_total", 1.0),
            (&format!("{handled},outcome=\"succeeded\"}}"), 1.0),
            (&format!("{handled},outcome=\"failed\"}}"), 1.0),
            ("aftercommit_dispatch_jobs_total", 1.0),
            ("aftercommit_dispatch_batch_events_count", 1.0),
            ("aftercommit_dispatch_lanes_held{worker=\"0\"}", 16.0),
            ("aftercommit_delivery_attempts_total{kind=\"email\",outcome=\"succeeded\"}", 1.0),
            ("aftercommit_delivery_latency_seconds_count{kind=\"email\"}", 1.0),
            // Asked of the databases, so somewhat later.
            ("aftercommit_jobs{kind=\"email\",state=\"succeeded\"}", 1.0),
            ("aftercommit_dispatch_failures_open{handler=\"send_verification_email\"}", 1.0),
            ("aftercommit_database_up{database=\"application\"}", 1.0),
            ("aftercommit_database_up{database=\"jobs\"}", 1.0),
            ("aftercommit_relays_connected", 1.0),
            // Once the relay has audited itself.
            ("aftercommit_audit_timestamp_seconds", 1.0),
        ],
    )
    .await?;
    assert_eq!(value(&seen_of_relay, "aftercommit_dispatch_lag_seconds"), Some(0.0), "{seen_of_relay}");
    assert_eq!(value(&seen_of_relay, "aftercommit_dispatch_backlog_events"), Some(0.0), "{seen_of_relay}");

    // The whole table is there, but for what has not happened, and nothing beside it.
    let table: BTreeSet<&str> = relay::metrics::TABLE.iter().map(|metric| metric.name).collect();
    let named = described(&seen_of_relay);
    assert!(named.is_subset(&table), "{:?}", named.difference(&table));
    assert_eq!(table.difference(&named).collect::<Vec<_>>(), Vec::<&&str>::new());

    assert!(http::get(&format!("{}/metrics", api.url)).await?.status == 404, "where people are, there are no metrics");
    println!("{seen_of_relay}\n{seen}");
    for text in [&seen, &seen_of_relay] {
        match promtool_check_metrics(text)? {
            Some(said) => assert_eq!(said, ""),
            None => skip("a_journey_shows_in_the_metrics_of_both_services", "promtool is not installed"),
        }
    }
    Ok(())
}

#[tokio::test]
async fn lag_and_backlog_grow_while_nothing_can_be_dispatched_and_are_unknown_without_a_database() -> Result<()> {
    let databases = Databases::new().await?;
    let mail = tempfile::tempdir()?;
    let mailbox = Mailbox::new(mail.path());
    // A relay that sees both databases and may not move a cursor: it reports, and dispatches nothing.
    let control = databases.jobs.connect(Role::Superuser).await?;
    control.batch_execute("REVOKE UPDATE ON aftercommit.lane_cursors FROM aftercommit_jobs").await?;
    let writer = databases.app.connect(Role::Owner).await?;
    for n in 0..3 {
        write_event(&writer, "a", n).await?;
    }
    let relay = start_relay(&databases, &verification_keys(), "http://127.0.0.1:8080", &mailbox.url(), &[]).await?;
    let url = format!("{}/metrics", relay.url);
    let seen = scrape_until(
        &url,
        &[
            ("aftercommit_dispatch_backlog_events", 3.0),
            ("aftercommit_dispatch_lag_seconds", 0.001),
            ("aftercommit_dispatch_interruptions_total", 1.0),
        ],
    )
    .await?;
    assert_eq!(value(&seen, "aftercommit_dispatch_backlog_events"), Some(3.0));

    // A transaction that still runs is no lag; the moment it commits it is one.
    let open = databases.app.connect(Role::Owner).await?;
    open.batch_execute("BEGIN").await?;
    write_event(&open, "b", 1).await?;
    assert_eq!(value(&scrape(&url).await?, "aftercommit_dispatch_backlog_events"), Some(3.0));
    open.batch_execute("COMMIT").await?;
    scrape_until(&url, &[("aftercommit_dispatch_backlog_events", 4.0)]).await?;

    // The jobs database is taken away: what can't be known is not shown as if it were.
    let name = databases.jobs.name();
    let postgres = databases.jobs.server().cluster().connect("postgres").await?;
    postgres.batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await?;
    let cut = format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{name}'");
    postgres.batch_execute(&cut).await?;
    until("an unknown lag", async || {
        let seen = scrape(&url).await?;
        let down = value(&seen, "aftercommit_database_up{database=\"jobs\"}") == Some(0.0);
        let unknown = value(&seen, "aftercommit_dispatch_lag_seconds").is_some_and(f64::is_nan);
        Ok((down && unknown).then_some(()))
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_paused_relay_says_so() -> Result<()> {
    let databases = Databases::new().await?;
    let mail = tempfile::tempdir()?;
    let mailbox = Mailbox::new(mail.path());
    let (keys, paused) = (verification_keys(), [("JOB_QUEUE_ENABLED", "false")]);
    let relay = start_relay(&databases, &keys, "http://127.0.0.1:8080", &mailbox.url(), &paused).await?.ready().await?;
    let seen = scrape(&format!("{}/metrics", relay.url)).await?;
    assert_eq!(value(&seen, "aftercommit_relay_enabled"), Some(0.0));
    Ok(())
}
