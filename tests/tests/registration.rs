//! What `api` promises over HTTP: one change or none, one account an address, every fault told, nothing disclosed.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hyper::Method;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, ORIGIN};
use serde_json::{Value, json};
use tests::databases::{DatabaseServer, Databases, Role};
use tests::http::{self, Answer};
use tests::postgres::Stop;
use tests::process::Launch;
use tests::services::{Service, start_api, verification_keys};
use tests::wait::until;

async fn api(databases: &Databases, settings: &[(&str, &str)]) -> Result<Service> {
    start_api(databases, &verification_keys(), settings).await?.ready().await
}

async fn register(api: &Service, email: &str, name: &str) -> Result<Answer> {
    http::post_json(&format!("{}/v1/users", api.url), &json!({ "email": email, "display_name": name })).await
}

async fn count(databases: &Databases, table: &str) -> Result<i64> {
    let client = databases.app.connect(Role::Superuser).await?;
    Ok(client.query_one(&format!("SELECT count(*) FROM aftercommit.{table}"), &[]).await?.get(0))
}

fn is_problem(answer: &Answer, status: u16) -> Result<Value> {
    ensure!(answer.status == status, "{} instead of {status}: {}", answer.status, answer.body);
    ensure!(answer.header("content-type") == Some("application/problem+json"), "{:?}", answer.headers);
    let problem = answer.json()?;
    ensure!(problem["status"] == status && problem["type"].is_string() && problem["title"].is_string(), "{problem}");
    Ok(problem)
}

#[tokio::test]
async fn user_and_event_are_written_together() -> Result<()> {
    let databases = Databases::new().await?;
    let api = api(&databases, &[]).await?;
    let answer = register(&api, "Ada@Example.org", "Ada").await?;
    ensure!(answer.status == 201, "{}", answer.body);
    let user = answer.json()?;
    ensure!(user.get("email").is_none(), "no address without the token: {user}");
    let location = answer.header("location").context("Location")?;
    let read = http::get(&format!("{}{location}", api.url)).await?;
    ensure!(read.status == 200 && read.json()?["user_id"] == user["user_id"], "{}", read.body);

    let client = databases.app.connect(Role::Superuser).await?;
    let row = client
        .query_one(
            "SELECT aggregate_id, event_type, payload ->> 'email', metadata ->> 'traceparent' IS NOT NULL, durable_at_commit
               FROM aftercommit.outbox",
            &[],
        )
        .await?;
    assert_eq!(row.get::<_, String>(0), user["user_id"].as_str().unwrap_or_default());
    assert_eq!(row.get::<_, String>(1), "user.registered");
    assert_eq!(row.get::<_, String>(2), "Ada@example.org");
    assert!(row.get::<_, bool>(3) && row.get::<_, bool>(4));
    Ok(())
}

/// The event can't be stored, so the user is not either: a trigger refuses it.
#[tokio::test]
async fn a_registration_that_is_rolled_back_leaves_nothing() -> Result<()> {
    let databases = Databases::new().await?;
    let api = api(&databases, &[]).await?;
    let client = databases.app.connect(Role::Superuser).await?;
    client
        .batch_execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
             CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON aftercommit.outbox DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .await?;
    let answer = register(&api, "ada@example.org", "Ada").await?;
    ensure!(answer.status.is_server_error(), "{}", answer.body);
    ensure!(!answer.body.contains("refuse") && !answer.body.contains("ada@"), "{}", answer.body);
    assert_eq!((count(&databases, "users").await?, count(&databases, "outbox").await?), (0, 0));
    client.batch_execute("DROP TRIGGER refuse ON aftercommit.outbox").await?;
    assert_eq!(register(&api, "ada@example.org", "Ada").await?.status, 201);
    assert_eq!((count(&databases, "users").await?, count(&databases, "outbox").await?), (1, 1));
    Ok(())
}

#[tokio::test]
async fn an_address_has_one_account_whatever_its_letter_case() -> Result<()> {
    let databases = Databases::new().await?;
    let api = api(&databases, &[("REGISTRATION_LIMIT", "off")]).await?;
    assert_eq!(register(&api, "ada@example.org", "Ada").await?.status, 201);
    for again in ["ada@example.org", "ADA@EXAMPLE.ORG", "Ada@Example.Org"] {
        is_problem(&register(&api, again, "Somebody").await?, 409)?;
    }
    let url = format!("{}/v1/users", api.url);
    let body = json!({ "email": "grace@example.org", "display_name": "Grace" });
    let racing = (0..8).map(|_| http::post_json(&url, &body));
    let answers = futures_util::future::try_join_all(racing).await?;
    let created = answers.iter().filter(|answer| answer.status == 201).count();
    let refused = answers.iter().filter(|answer| answer.status == 409).count();
    assert_eq!((created, refused), (1, 7));
    assert_eq!((count(&databases, "users").await?, count(&databases, "outbox").await?), (2, 2));
    Ok(())
}

#[tokio::test]
async fn every_fault_of_the_input_is_named() -> Result<()> {
    let databases = Databases::new().await?;
    let api = api(&databases, &[]).await?;
    let url = format!("{}/v1/users", api.url);
    let post = async |body: &str, media: &'static str| {
        http::send(Method::POST, &url, &[(CONTENT_TYPE, media)], Bytes::from(body.to_owned())).await
    };
    let fields = |problem: &Value| -> BTreeSet<String> {
        let faults = problem["errors"].as_array().cloned().unwrap_or_default();
        faults.iter().filter_map(|fault| fault["field"].as_str().map(str::to_owned)).collect()
    };
    for (body, expected) in [
        (r#"{"email":"nobody","display_name":"\n"}"#, vec!["display_name", "email"]),
        (r#"{"display_name":7,"colour":"red"}"#, vec!["colour", "display_name", "email"]),
        (r#"{"email":"a@b.org","display_name":"x\u0000y"}"#, vec!["display_name"]),
        (r#"{"email":"a@b.org, c@d.org","display_name":"x"}"#, vec!["email"]),
        ("[]", vec!["(body)"]),
        (r#"{"email":"a@b.org","display_name":"\ud800"}"#, vec!["(body)"]),
    ] {
        let problem = is_problem(&post(body, "application/json").await?, 422).with_context(|| body.to_owned())?;
        assert_eq!(fields(&problem), expected.into_iter().map(str::to_owned).collect(), "{body}: {problem}");
    }
    is_problem(&post("{", "application/json").await?, 400)?;
    is_problem(&post("{}", "text/plain").await?, 415)?;
    is_problem(&post(&format!(r#"{{"email":"{}"}}"#, "x".repeat(70_000)), "application/json").await?, 413)?;
    is_problem(&http::get(&format!("{}/v1/users/{}", api.url, uuid::Uuid::now_v7())).await?, 404)?;
    is_problem(&http::get(&format!("{}/v1/users/not-a-uuid", api.url)).await?, 400)?;
    is_problem(&http::get(&format!("{}/nowhere", api.url)).await?, 404)?;
    is_problem(&http::send(Method::DELETE, &url, &[], Bytes::new()).await?, 405)?;
    assert_eq!(count(&databases, "outbox").await?, 0);
    Ok(())
}

#[tokio::test]
async fn addresses_are_for_the_bearer_of_the_token() -> Result<()> {
    let databases = Databases::new().await?;
    let api = api(&databases, &[("API_TOKEN", "a-long-enough-secret")]).await?;
    let answer = register(&api, "ada@example.org", "Ada").await?;
    let url = format!("{}{}", api.url, answer.header("location").context("Location")?);
    let bearer = hyper::header::AUTHORIZATION;
    let with = http::send(Method::GET, &url, &[(bearer.clone(), "Bearer a-long-enough-secret")], Bytes::new()).await?;
    assert_eq!(with.json()?["email"], "ada@example.org");
    let wrong = http::send(Method::GET, &url, &[(bearer, "Bearer a-long-enough-secreT")], Bytes::new()).await?;
    assert!(wrong.json()?.get("email").is_none());
    Ok(())
}

#[tokio::test]
async fn neutral_replies_tell_nothing() -> Result<()> {
    let databases = Databases::new().await?;
    let api = api(&databases, &[("REGISTRATION_REPLY", "neutral")]).await?;
    let (new, known) =
        (register(&api, "ada@example.org", "Ada").await?, register(&api, "ada@example.org", "Eve").await?);
    assert_eq!((new.status.as_u16(), known.status.as_u16()), (202, 202));
    assert_eq!(new.body, known.body);
    let names = |answer: &Answer| answer.headers.keys().map(ToString::to_string).collect::<BTreeSet<_>>();
    assert_eq!(names(&new), names(&known));
    let client = databases.app.connect(Role::Superuser).await?;
    let rows = client.query("SELECT event_type FROM aftercommit.outbox ORDER BY position", &[]).await?;
    let types: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(types, ["user.registered", "user.registration_repeated"]);
    Ok(())
}

#[tokio::test]
async fn asking_again_is_always_answered_alike_and_limited() -> Result<()> {
    let databases = Databases::new().await?;
    let api = api(&databases, &[("RESEND_LIMIT_ADDRESS", "2/1h")]).await?;
    register(&api, "ada@example.org", "Ada").await?;
    let url = format!("{}/v1/verification-requests", api.url);
    let mut bodies = BTreeSet::new();
    for email in ["ada@example.org", "ADA@example.org", "ada@example.org", "nobody@example.org"] {
        let answer = http::post_json(&url, &json!({ "email": email })).await?;
        assert_eq!(answer.status, 202, "{}", answer.body);
        bodies.insert(answer.body);
    }
    assert_eq!(bodies.len(), 1);
    assert_eq!(count(&databases, "outbox").await?, 3, "one registration, and two of the three requests");
    Ok(())
}

#[tokio::test]
async fn registrations_are_limited_per_network() -> Result<()> {
    let databases = Databases::new().await?;
    let api = api(&databases, &[("REGISTRATION_LIMIT", "2/1h")]).await?;
    for n in 0..2 {
        assert_eq!(register(&api, &format!("a{n}@example.org"), "A").await?.status, 201);
    }
    let answer = register(&api, "a2@example.org", "A").await?;
    is_problem(&answer, 429)?;
    let wait: u64 = answer.header("retry-after").context("Retry-After")?.parse()?;
    assert!((1..=3600).contains(&wait));
    Ok(())
}

#[tokio::test]
async fn a_page_of_another_site_cannot_press_the_button() -> Result<()> {
    let databases = Databases::new().await?;
    let api = api(&databases, &[]).await?;
    let url = format!("{}/verify-email", api.url);
    let form = [(CONTENT_TYPE, "application/x-www-form-urlencoded"), (ORIGIN, "https://evil.example")];
    let foreign = http::send(Method::POST, &url, &form, Bytes::from_static(b"token=x")).await?;
    assert_eq!(foreign.status, 403);
    let own = http::post_form(&url, &[("token", "x")]).await?;
    assert_eq!(own.status, 400, "a token of nobody's");
    let page = http::get(&format!("{url}?token=%22%3E%3Cscript%3E")).await?;
    assert_eq!(page.status, 200);
    assert!(!page.body.contains("<script"), "{}", page.body);
    let policy = page.header("content-security-policy").context("a policy")?;
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert_eq!(page.header("referrer-policy"), Some("same-origin"));
    assert_eq!(page.header("cache-control"), Some("no-store"));
    Ok(())
}

/// It starts with its database down, says so, and recovers by itself, twice.
#[tokio::test]
async fn while_the_database_is_away_requests_are_refused_for_a_while() -> Result<()> {
    let server = DatabaseServer::start(DatabaseServer::for_tests().without_fsync()).await?;
    let databases = Databases::on(&server).await?;
    server.cluster().stop(Stop::Immediate).await?;
    let api = start_api(&databases, &verification_keys(), &[("API_ACQUIRE_TIMEOUT", "500ms")]).await?;
    assert_eq!(http::get(&format!("{}/readyz", api.url)).await?.status, 503);
    let refused = register(&api, "ada@example.org", "Ada").await?;
    is_problem(&refused, 503)?;
    assert!(refused.header("retry-after").is_some());
    server.cluster().start_again().await?;
    let api = api.ready().await?;
    assert_eq!(register(&api, "ada@example.org", "Ada").await?.status, 201);

    server.cluster().stop(Stop::Immediate).await?;
    is_problem(&register(&api, "eve@example.org", "Eve").await?, 503)?;
    server.cluster().start_again().await?;
    until("recovery", async || Ok((register(&api, "eve@example.org", "Eve").await?.status == 201).then_some(())))
        .await?;
    assert_eq!((count(&databases, "users").await?, count(&databases, "outbox").await?), (2, 2));
    Ok(())
}

/// What each role may do with each table, against one table of what it should.
#[tokio::test]
async fn roles_may_do_what_they_need_and_nothing_else() -> Result<()> {
    const EXPECTED: &[(&str, &str, &str)] = &[
        ("aftercommit_api", "users", "SELECT,INSERT,UPDATE"),
        ("aftercommit_api", "outbox", ""),
        ("aftercommit_api", "request_limits", "SELECT,INSERT,UPDATE,DELETE"),
        ("aftercommit_relay", "users", ""),
        ("aftercommit_relay", "outbox", "SELECT"),
        ("aftercommit_relay", "request_limits", ""),
    ];
    let databases = Databases::new().await?;
    let client = databases.app.connect(Role::Superuser).await?;
    for (role, table, expected) in EXPECTED {
        let row = client
            .query_one(
                "SELECT coalesce(string_agg(verb, ',' ORDER BY number), '')
                   FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER'])
                        WITH ORDINALITY AS verbs (verb, number)
                  WHERE has_table_privilege($1, 'aftercommit.' || $2, verb)",
                &[role, table],
            )
            .await?;
        assert_eq!(&row.get::<_, String>(0), expected, "{role} on {table}");
    }
    // The api's rights on the outbox are by column: what the database sets is not the writer's.
    let row = client
        .query_one(
            "SELECT string_agg(attname, ',' ORDER BY attnum) FILTER (WHERE has_column_privilege('aftercommit_api', attrelid, attnum, 'INSERT')),
                    string_agg(attname, ',' ORDER BY attnum) FILTER (WHERE has_column_privilege('aftercommit_api', attrelid, attnum, 'SELECT')),
                    count(*) FILTER (WHERE has_column_privilege('aftercommit_api', attrelid, attnum, 'UPDATE'))
               FROM pg_attribute
              WHERE attrelid = 'aftercommit.outbox'::regclass AND attnum > 0",
            &[],
        )
        .await?;
    assert_eq!(
        row.get::<_, String>(0),
        "event_id,aggregate_type,aggregate_id,event_type,event_version,payload,metadata,occurred_at"
    );
    assert_eq!(row.get::<_, String>(1), "event_id");
    assert_eq!(row.get::<_, i64>(2), 0);
    for (database, role, rights) in [
        (&databases.app, "aftercommit_jobs", (false, false)),
        (&databases.app, "aftercommit_relay", (true, false)),
        (&databases.jobs, "aftercommit_relay", (false, false)),
        (&databases.jobs, "aftercommit_api", (false, false)),
        (&databases.jobs, "aftercommit_jobs", (true, false)),
    ] {
        let row = client
            .query_one(
                "SELECT has_database_privilege($1, $2, 'CONNECT'), has_database_privilege($1, $2, 'TEMP')",
                &[&role, &database.name()],
            )
            .await?;
        assert_eq!((row.get::<_, bool>(0), row.get::<_, bool>(1)), rights, "{role} in {}", database.name());
    }
    let relay = databases.app.connect(Role::Relay).await?;
    let read_only: String = relay.query_one("SHOW transaction_read_only", &[]).await?.get(0);
    assert_eq!(read_only, "on");
    Ok(())
}

/// An aggregate keeps its lane for ever: hash indexes rest on the same function, so upgrades keep it.
#[tokio::test]
async fn lanes_have_golden_values() -> Result<()> {
    let databases = Databases::new().await?;
    let client = databases.app.connect(Role::Superuser).await?;
    for (kind, id, lane) in LANES {
        let row = client
            .query_one(
                "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)
                 VALUES (gen_random_uuid(), $1, $2, 'x', '{}') RETURNING aftercommit.lane(aggregate_id)",
                &[kind, id],
            )
            .await?;
        assert_eq!(row.get::<_, i16>(0), *lane, "{kind}/{id}");
    }
    Ok(())
}

const LANES: &[(&str, &str, i16)] = &[
    ("user", "01890a5d-ac96-774b-bcce-b302099a8057", 11),
    ("user", "1", 9),
    ("order", "1", 9),
    ("größe", "Ünïcödé", 5),
];

#[tokio::test]
async fn eight_processes_migrate_at_once_and_one_that_dies_leaves_nothing_half_done() -> Result<()> {
    let server = DatabaseServer::start(DatabaseServer::for_tests().without_fsync()).await?;
    let control = server.cluster().connect("postgres").await?;
    control.batch_execute("CREATE DATABASE fresh OWNER aftercommit_owner").await?;
    let url = server.url("fresh", Role::Owner);
    let launch = Launch::built("api").await?.arguments(["migrate"]).environment([("DATABASE_URL", &*url)]);
    // Killed at some moment of its work, whichever it is.
    let victim = launch.clone().start()?;
    tokio::time::sleep(Duration::from_millis(20)).await; // not for luck: any moment will do
    victim.kill().await?;
    let all = futures_util::future::try_join_all((0..8).map(|_| launch.clone().run())).await?;
    for finished in all {
        finished.success()?;
    }
    let client = server.cluster().connect("fresh").await?;
    let row = client
        .query_one("SELECT count(*), count(DISTINCT version) FROM aftercommit.migrations WHERE success", &[])
        .await?;
    let known = std::fs::read_dir(tests::databases::project_folder().join("migrations/app"))?.count() as i64;
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (known, known));
    Ok(())
}

#[tokio::test]
async fn wrong_settings_are_told_all_at_once() -> Result<()> {
    let wrong = [
        ("DATABASE_URL", "mysql://me:canary@localhost/app"),
        ("PUBLIC_URL", "http://example.com"),
        ("VERIFICATION_KEYS", "k:Y2FuYXJ5"),
        ("API_LISTEN", "8080"),
        ("LOG_FORMAT", "xml"),
    ];
    let finished = Launch::built("api").await?.environment(wrong).run().await?;
    assert_eq!(finished.code(), Some(2));
    for (name, _) in wrong {
        assert!(finished.stderr.contains(name), "{name}: {}", finished.stderr);
    }
    assert!(!finished.stderr.contains("canary"), "{}", finished.stderr);
    Ok(())
}
