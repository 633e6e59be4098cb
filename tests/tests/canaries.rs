//! Nothing that leaves the processes holds what it must not: addresses, names, passwords, keys and tokens are planted as
//! words that stand nowhere else, a whole journey with every kind of failure is made, and everything that came out is
//! searched: logs in both formats, metrics, traces, problem documents, error columns, status, help.

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName};
use serde_json::json;
use tests::collector::Collector;
use tests::databases::{Databases, Role};
use tests::http;
use tests::page::form_field;
use tests::postgres::free_port;
use tests::process::Launch;
use tests::services::{self, start};
use tests::skip::skip;
use tests::smtp_sink::{Options, Rule, SmtpSink, Step, python};
use tests::wait::until;

const DOMAIN: &str = "canarydomain.example";
const LOCAL: &str = "canarylocal";
const NAME: &str = "Canaryname";
const TOKEN: &str = "canarytoken-0123456789abcdef";
const SMTP_PASSWORD: &str = "canarysmtppassword";

/// What must be nowhere, each by a name for people.
struct Canaries(Vec<(&'static str, String)>);

impl Canaries {
    fn are_not_in(&self, place: &str, text: &str) {
        let text = text.to_lowercase();
        let found = self.0.iter().filter_map(|(what, canary)| {
            let (before, _) = text.split_once(&canary.to_lowercase())?;
            let around: String = before.chars().rev().take(300).collect::<Vec<_>>().iter().rev().collect();
            Some(format!("{what}, after …{around}\n"))
        });
        let found: String = found.collect();
        assert!(found.is_empty(), "{place} holds {found}");
    }
}

async fn journey(format: &str) -> Result<()> {
    let Some(python) = python() else {
        skip("nothing_secret_leaves_the_processes", "no Python with aiosmtpd (Debian: python3-aiosmtpd)");
        return Ok(());
    };
    let login = format!("relay:{SMTP_PASSWORD}");
    let sink = SmtpSink::start(&python, &Options { login: Some(&login), ..Options::default() }).await?;
    let (databases, collector) = (Databases::new().await?, Collector::start().await?);
    let key = base64::engine::general_purpose::STANDARD.encode(b"canary key of thirty-two bytes!!");
    let keys = format!("k1:{key}");
    let password = databases.app.server().password().to_owned();
    let address = |n: u32| format!("{LOCAL}{n}@{DOMAIN}");
    let mut canaries = Canaries(vec![
        ("an address's domain", DOMAIN.to_owned()),
        ("an address's local part", LOCAL.to_owned()),
        ("a person's name", NAME.to_owned()),
        ("the api token", TOKEN.to_owned()),
        ("the mail server's password", SMTP_PASSWORD.to_owned()),
        ("the same as AUTH PLAIN sends it", {
            base64::engine::general_purpose::STANDARD.encode(format!("\0relay\0{SMTP_PASSWORD}"))
        }),
        ("the databases' password", password),
        ("the key", key),
    ]);

    let endpoint = collector.endpoint();
    let metrics = format!("127.0.0.1:{}", free_port()?);
    let level = if format == "json" { "trace" } else { "debug" };
    let common = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint), ("LOG_FORMAT", format), ("LOG_LEVEL", level)];
    let common = common.into_iter().chain([("OTEL_BSP_SCHEDULE_DELAY", "50")]);
    let api = services::api(&databases, &keys).await?.environment(common.clone());
    let settings = [("API_TOKEN", TOKEN), ("API_METRICS_LISTEN", &*metrics), ("REGISTRATION_REPLY", "conflict")];
    let api = start(api, "API_LISTEN", &settings).await?.ready().await?;
    let smtp = sink.url().replace("smtp://", &format!("smtp://{login}@"));
    let relay = services::relay(&databases, &keys, &api.url, &smtp).await?.environment(common);
    let relay = start(relay, "RELAY_LISTEN", &[]).await?.ready().await?;

    // A server that quotes whom it refuses, for good and for now; that breaks off; and one that takes.
    sink.rule(Rule::at(Step::Rcpt).to(&address(1)).reply(&format!("550 5.1.1 <{}>: no {LOCAL}1 here", address(1))))
        .await?;
    sink.rule(Rule::at(Step::Dot).to(&address(2)).times(1).reply(&format!("451 4.3.0 {} later", address(2)))).await?;
    sink.rule(Rule::at(Step::Body).to(&address(3)).times(1).drop_connection()).await?;
    let users = format!("{}/v1/users", api.url);
    let mut problems = String::new();
    for n in 1..=4 {
        let person = json!({ "email": address(n), "display_name": format!("{NAME} {n}") });
        let answer = http::post_json(&users, &person).await?;
        assert_eq!(answer.status, 201, "{}", answer.body);
    }
    let known = json!({ "email": address(4), "display_name": NAME });
    for wrong in [
        known,
        json!({ "email": format!("{LOCAL} at {DOMAIN}"), "display_name": NAME }),
        json!({ "email": address(9), "display_name": format!("{NAME}\u{202e}{}", "x".repeat(99)) }),
        json!({ "email": [address(9)], "display_name": { NAME: NAME } }),
    ] {
        let answer = http::post_json(&users, &wrong).await?;
        ensure!(answer.status.is_client_error(), "{wrong}: {}", answer.status);
        problems.push_str(&answer.body);
    }
    let bearer = format!("Bearer {TOKEN}x");
    let headers = [(AUTHORIZATION, &*bearer), (CONTENT_TYPE, "text/plain")];
    let traced = [(HeaderName::from_static("x-request-id"), "a b"), (CONTENT_TYPE, "application/json")];
    for (method, path, headers) in [
        (hyper::Method::GET, format!("/v1/users/{LOCAL}"), &headers),
        (hyper::Method::POST, "/v1/users".to_owned(), &headers),
        (hyper::Method::DELETE, "/v1/users".to_owned(), &traced),
    ] {
        let answer = http::send(method, &format!("{}{path}", api.url), headers, address(9).into()).await?;
        ensure!(answer.status.is_client_error(), "{path}: {}", answer.status);
        problems.push_str(&answer.body);
    }

    // The last one verifies; its token is a secret from now on, and so is a wrong one.
    let mail = sink.wait_for_mails(&address(4), 1).await?.remove(0);
    let page = http::get(mail.mail.link()?.as_str()).await?;
    let token = form_field(&page.body, "token").context("a token")?;
    let wrong = format!("{}canarywrong", &token[..token.len() - 4]);
    let button = format!("{}/verify-email", api.url);
    let refused = http::post_form(&button, &[("token", &wrong)]).await?;
    ensure!(refused.status.is_client_error(), "{}", refused.status);
    problems.push_str(&http::get(&format!("{button}?token={wrong}")).await?.body.replace(&wrong, ""));
    assert_eq!(http::post_form(&button, &[("token", &token)]).await?.status, 200);
    canaries.0.push(("a verification token", token));
    canaries.0.push(("a refused token", "canarywrong".to_owned()));

    // Events that handlers can't take, with what they can't take in them; and a job that can't be rendered.
    let writer = databases.app.connect(Role::Owner).await?;
    let broken = format!(
        "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload) VALUES
             (gen_random_uuid(), 'user', 'x', 'user.registered', '{{\"user_id\": \"{address}\", \"email\": 1}}'),
             (gen_random_uuid(), 'user', 'y', 'user.registered',
              '{{\"user_id\": \"{uuid}\", \"email\": \"{LOCAL} {DOMAIN}\", \"display_name\": \"{NAME}\"}}')",
        address = address(9),
        uuid = uuid::Uuid::nil(),
    );
    writer.batch_execute(&broken).await?;
    let jobs = databases.jobs.connect(Role::Superuser).await?;
    until("every failure to be stored", async || {
        let counts = "SELECT (SELECT count(*) FROM aftercommit.dispatch_failures),
                             (SELECT count(*) FROM aftercommit.jobs WHERE state = 'dead'),
                             (SELECT count(*) FROM aftercommit.job_attempts WHERE outcome <> 'dead')";
        let row = jobs.query_one(counts, &[]).await?;
        let [failures, dead, retried] = [0, 1, 2].map(|column| row.get::<_, i64>(column));
        Ok((failures >= 1 && dead >= 1 && retried >= 2).then_some(()))
    })
    .await?;
    collector.trace_with(&["POST /v1/users", "unit of work", "dispatch ", "deliver email"]).await?;

    let scraped = http::get(&format!("{}/metrics", relay.url)).await?.body
        + &http::get(&format!("http://{metrics}/metrics")).await?.body
        + &http::get(&format!("{}/readyz", relay.url)).await?.body;
    let status = services::run_relay(&databases, &["status", "--json"]).await?.success()?.stdout;
    let columns = "SELECT coalesce(string_agg(error, '|'), '') FROM (
                       SELECT error FROM aftercommit.dispatch_failures
                        UNION ALL SELECT error FROM aftercommit.job_attempts
                        UNION ALL SELECT last_error FROM aftercommit.jobs) AS errors";
    let columns: String = jobs.query_one(columns, &[]).await?.get(0);

    // Cut off from the jobs database and the mail server, to hear what is said then.
    jobs.batch_execute("REVOKE UPDATE ON aftercommit.lane_cursors FROM aftercommit_jobs").await?;
    http::post_json(&users, &json!({ "email": address(5), "display_name": NAME })).await?;
    relay.process.line_with("dispatch is interrupted").await?;
    assert_eq!(relay.process.terminate().await?.code(), Some(0));
    assert_eq!(api.process.terminate().await?.code(), Some(0));

    // The help of a program that has secrets in its environment, and its complaint about wrong ones.
    let secrets =
        [("DATABASE_URL", smtp.as_str()), ("VERIFICATION_KEYS", &keys), ("API_TOKEN", TOKEN), ("SMTP_URL", &smtp)];
    let mut help = String::new();
    for (program, arguments) in
        [("api", &["--help"][..]), ("api", &[]), ("relay", &["run", "--help"]), ("relay", &["run"])]
    {
        let launch = Launch::built(program).await?.arguments(arguments.iter().copied()).environment(secrets);
        let said = launch.run().await?;
        help.push_str(&(said.stdout + &said.stderr));
    }

    let logs = [api.process.output(), relay.process.output()];
    for (place, text) in [
        ("the api's log", &logs[0]),
        ("the relay's log", &logs[1]),
        ("a problem document", &problems),
        ("metrics or health", &scraped),
        ("relay status --json", &status),
        ("an error column", &columns),
        ("the traces", &collector.everything()),
        ("help or a complaint", &help),
    ] {
        ensure!(text.len() > 100, "{place} is empty: that proves nothing");
        canaries.are_not_in(place, text);
    }
    lines_lead_on(format, &logs[1])
}

/// Lines about a job that failed name the job, its event and its trace.
fn lines_lead_on(format: &str, log: &str) -> Result<()> {
    let line = log.lines().find(|line| line.contains("job is dead")).context("a dead job's line")?;
    if format == "json" {
        for line in log.lines() {
            serde_json::from_str::<serde_json::Value>(line).with_context(|| format!("no JSON: {line}"))?;
        }
        let line: serde_json::Value = serde_json::from_str(line)?;
        for id in ["job_id", "event_id"] {
            ensure!(line[id].as_str().is_some_and(|id| uuid::Uuid::parse_str(id).is_ok()), "{id}: {line}");
        }
        ensure!(line["trace_id"].as_str().is_some_and(|id| id.len() == 32), "trace_id: {line}");
    }
    ensure!(["job_id", "event_id", "trace_id"].iter().all(|id| line.contains(id)), "{line}");
    let set_aside = log.lines().find(|line| line.contains("event set aside")).context("a failed event's line")?;
    ensure!(["event_id", "trace_id", "lane", "handler"].iter().all(|id| set_aside.contains(id)), "{set_aside}");
    Ok(())
}

#[tokio::test]
async fn nothing_secret_leaves_the_processes_as_text() -> Result<()> {
    journey("text").await
}

#[tokio::test]
async fn nothing_secret_leaves_the_processes_as_json() -> Result<()> {
    journey("json").await
}
