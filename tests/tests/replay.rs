//! What replay promises: it chooses what it is told to, changes nothing that is there, restores exactly what is lost,
//! and sends anew only when asked to.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use relay::handlers::{HandlerError, Registry, register_all};
use relay::jobs::Job;
use relay::outbox::page::{Filter, PAGE_ROWS};
use relay::replay::tally::{HandlerTally, Tally};
use relay::replay::{self, Events, Plan, Session};
use serde_json::Value;
use shared::envelope::Envelope;
use shared::shutdown::CancellationToken;
use tests::databases::{Database, Databases, Role};
use tests::dispatcher::{Counted, Dispatcher, Step, counting, dispatched, url, write_event};
use tests::services::run_relay;
use tokio_postgres::Client;
use uuid::Uuid;

/// Writes an event of a user's, so many hours ago.
async fn user_event(client: &Client, user: Uuid, event_type: &str, hours_ago: i32) -> Result<Uuid> {
    let event_id = Uuid::now_v7();
    client
        .execute(
            "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload, occurred_at)
             VALUES ($1, 'user', $2::text, $3,
                     jsonb_build_object('user_id', $2::text, 'email', 'ann@example.org', 'display_name', 'Ann'),
                     now() - $4 * interval '1 hour')",
            &[&event_id, &user.to_string(), &event_type, &f64::from(hours_ago)],
        )
        .await?;
    Ok(event_id)
}

/// Every job that there is: its id, with event, handler, generation and state.
async fn jobs(databases: &Databases) -> Result<BTreeMap<Uuid, (Uuid, String, i32, String)>> {
    let client = databases.jobs.connect(Role::Superuser).await?;
    let rows = client.query("SELECT job_id, event_id, handler, generation, state FROM aftercommit.jobs", &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2), row.get(3), row.get(4)))).collect())
}

async fn forget_jobs(database: &Database) -> Result<()> {
    Ok(database.connect(Role::Superuser).await?.batch_execute("DELETE FROM aftercommit.jobs").await?)
}

async fn run(databases: &Databases, registry: &Registry, plan: Plan) -> Result<Tally> {
    let (app, jobs) = (url(&databases.app.url(Role::Relay))?, url(&databases.jobs.url(Role::Jobs))?);
    let mut session = Session::open(&app, &jobs, "test").await?;
    let mut tally = Tally::default();
    replay::run(&mut session, registry, &plan, &mut tally, &CancellationToken::new(), |_| {}).await?;
    Ok(tally)
}

fn only(tally: &Tally, handler: &str) -> HandlerTally {
    assert_eq!(tally.handlers.keys().collect::<Vec<_>>(), [handler]);
    tally.handlers[handler].clone()
}

/// Runs `relay replay … --json`; the exit code and what it answered.
async fn replay_json(databases: &Databases, arguments: &[&str]) -> Result<(Option<i32>, Value)> {
    let finished = run_relay(databases, &[&["replay", "--json"], arguments].concat()).await?;
    let answer = serde_json::from_str(&finished.stdout).with_context(|| format!("{arguments:?}: {finished:?}"))?;
    Ok((finished.code(), answer))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_filter_chooses_its_events_and_handlers() -> Result<()> {
    let databases = Databases::new().await?;
    let writer = databases.app.connect(Role::Owner).await?;
    let (ann, bob) = (Uuid::now_v7(), Uuid::now_v7());
    let ann_registered = user_event(&writer, ann, "user.registered", 50).await?;
    let bob_registered = user_event(&writer, bob, "user.registered", 20).await?;
    let ann_verified = user_event(&writer, ann, "user.email_verified", 10).await?;
    let bob_asked = user_event(&writer, bob, "user.verification_requested", 1).await?;
    Dispatcher::new(&databases, register_all()?).await?.drain().await?;
    assert_eq!(jobs(&databases).await?.len(), 4);

    let of_ann = format!("user/{ann}");
    let (first, last) = (ann_registered.to_string(), bob_asked.to_string());
    let day_ago = time::OffsetDateTime::now_utc() - time::Duration::hours(24);
    let day_ago = day_ago.format(&time::format_description::well_known::Rfc3339)?;
    let cases: [(&[&str], &[Uuid]); 10] = [
        (&["--all"], &[ann_registered, bob_registered, ann_verified, bob_asked]),
        (&["--event-id", &first, "--event-id", &last], &[ann_registered, bob_asked]),
        (&["--aggregate", &of_ann], &[ann_registered, ann_verified]),
        (&["--type", "user.registered"], &[ann_registered, bob_registered]),
        (
            &["--type", "user.registered", "--type", "user.email_verified", "--aggregate", &of_ann],
            &[ann_registered, ann_verified],
        ),
        (&["--from", "24h"], &[bob_registered, ann_verified, bob_asked]),
        (&["--from", &day_ago, "--to", "5h"], &[bob_registered, ann_verified]),
        (&["--event-id", &first, "--from", "24h"], &[]),
        (&["--all", "--handler", "send_welcome_email"], &[ann_verified]),
        (
            &["--all", "--handler", "send_welcome_email", "--handler", "resend_verification_email"],
            &[ann_verified, bob_asked],
        ),
    ];
    for (arguments, events) in cases {
        forget_jobs(&databases.jobs).await?;
        let (code, dry) = replay_json(&databases, &[arguments, &["--dry-run"]].concat()).await?;
        assert_eq!((code, &dry["would_store"]), (Some(0), &events.len().into()), "{arguments:?}: {dry}");
        assert!(jobs(&databases).await?.is_empty(), "a dry run stores nothing");
        let (code, answer) = replay_json(&databases, arguments).await?;
        assert_eq!((code, &answer["stored"]), (Some(0), &events.len().into()), "{arguments:?}: {answer}");
        let stored: BTreeSet<Uuid> = jobs(&databases).await?.values().map(|job| job.0).collect();
        assert_eq!(stored, events.iter().copied().collect(), "{arguments:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_jobs_are_restored_exactly_and_no_others() -> Result<()> {
    let databases = Databases::new().await?;
    let writer = databases.app.connect(Role::Owner).await?;
    for number in 0..40 {
        let of = if number % 4 == 0 { "user.email_verified" } else { "user.registered" };
        user_event(&writer, Uuid::now_v7(), of, 1).await?;
    }
    Dispatcher::new(&databases, register_all()?).await?.drain().await?;
    let client = databases.jobs.connect(Role::Superuser).await?;
    client
        .batch_execute(
            "UPDATE aftercommit.jobs SET state = 'succeeded', attempt = 1, finished_at = now()
              WHERE handler = 'send_welcome_email';
             UPDATE aftercommit.jobs SET state = 'dead', attempt = 5, finished_at = now(), last_error = 'kept'
              WHERE job_id IN (SELECT job_id FROM aftercommit.jobs WHERE handler <> 'send_welcome_email' LIMIT 2)",
        )
        .await?;
    let before = jobs(&databases).await?;
    let lost: BTreeSet<Uuid> = before.keys().copied().step_by(17).collect();
    let lost_ids: Vec<Uuid> = lost.iter().copied().collect();
    client.execute("DELETE FROM aftercommit.jobs WHERE job_id = ANY ($1)", &[&lost_ids]).await?;
    let damaged = jobs(&databases).await?;

    let (code, dry) = replay_json(&databases, &["--all", "--dry-run"]).await?;
    assert_eq!(code, Some(0), "{dry}");
    let named: BTreeSet<Uuid> = dry["jobs"]
        .as_array()
        .context("jobs")?
        .iter()
        .map(|job| job["job_id"].as_str().unwrap_or("").parse())
        .collect::<Result<_, _>>()?;
    assert_eq!(named, lost, "a dry run names what is lost");
    assert_eq!(jobs(&databases).await?, damaged, "and writes nothing");
    let states = |handler: &str| -> Result<u64> {
        Ok(dry["handlers"][handler]["already_there"]
            .as_object()
            .context("states")?
            .values()
            .filter_map(Value::as_u64)
            .sum())
    };
    assert_eq!(states("send_verification_email")? + states("send_welcome_email")?, damaged.len() as u64, "{dry}");
    let dead = damaged.values().filter(|job| job.3 == "dead").count();
    assert_eq!(dry["handlers"]["send_verification_email"]["already_there"]["dead"], dead, "{dry}");

    let text = run_relay(&databases, &["replay", "--all"]).await?.success()?.stdout;
    assert!(text.contains("succeeded") && text.ends_with("40 events, 3 jobs stored\n"), "{text}");
    let after = jobs(&databases).await?;
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    assert!(damaged.iter().all(|(id, job)| after[id] == *job), "what was there is left alone");

    let (_, again) = replay_json(&databases, &["--all"]).await?;
    assert_eq!(again["stored"], 0);
    assert_eq!(jobs(&databases).await?, after);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sending_anew_makes_a_new_generation_and_has_to_be_meant() -> Result<()> {
    let databases = Databases::new().await?;
    let writer = databases.app.connect(Role::Owner).await?;
    let event = user_event(&writer, Uuid::now_v7(), "user.registered", 1).await?;
    let other = user_event(&writer, Uuid::now_v7(), "user.registered", 1).await?;
    Dispatcher::new(&databases, register_all()?).await?.drain().await?;
    let id = event.to_string();

    for (arguments, fault) in
        [(&["--event-id", &id, "--again"][..], "--yes"), (&["--all", "--again", "--yes"], "would send everything anew")]
    {
        let (code, answer) = replay_json(&databases, arguments).await?;
        assert!(code == Some(2) && answer["error"].as_str().unwrap_or("").contains(fault), "{arguments:?}: {answer}");
    }
    let (_, dry) = replay_json(&databases, &["--event-id", &id, "--again", "--dry-run"]).await?;
    assert_eq!((&dry["would_store"], &dry["jobs"][0]["generation"]), (&1.into(), &1.into()), "{dry}");
    assert_eq!(jobs(&databases).await?.len(), 2);

    for generation in 1..=3 {
        let (code, answer) = replay_json(&databases, &["--event-id", &id, "--again", "--yes"]).await?;
        assert_eq!((code, &answer["stored"]), (Some(0), &1.into()), "{answer}");
        let mine: BTreeSet<i32> =
            jobs(&databases).await?.values().filter(|job| job.0 == event).map(|job| job.2).collect();
        assert_eq!(mine, (0..=generation).collect());
    }
    assert_eq!(jobs(&databases).await?.values().filter(|job| job.0 == other).count(), 1);

    // The first generation stays what it is: a repair does not touch the later ones, nor they it.
    let (_, repair) = replay_json(&databases, &["--all"]).await?;
    assert_eq!(repair["stored"], 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sending_anew_what_was_never_sent_is_the_first_generation() -> Result<()> {
    let databases = Databases::new().await?;
    let writer = databases.app.connect(Role::Owner).await?;
    let event = write_event(&writer, "a", 1).await?;
    let plan = Plan { events: Events::Named([event].into()), again: true, ..Plan::default() };
    assert_eq!(run(&databases, &counting(), plan).await?.stored(), 1);
    // So dispatch, which comes later, sends nothing more.
    assert_eq!(Dispatcher::new(&databases, counting()).await?.drain().await?, 1);
    assert_eq!(dispatched(&databases).await?, [1]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_dispatch_has_yet_to_reach_is_stored_once() -> Result<()> {
    let databases = Databases::new().await?;
    let (writer, open) = (databases.app.connect(Role::Owner).await?, databases.app.connect(Role::Owner).await?);
    let mut dispatcher = Dispatcher::new(&databases, counting()).await?;
    for number in 0..30 {
        write_event(&writer, &format!("a{}", number % 5), number).await?;
    }
    open.batch_execute("BEGIN").await?;
    write_event(&open, "a1", 99).await?;

    let tally = run(&databases, &counting(), Plan::default()).await?;
    assert_eq!((tally.events, tally.stored()), (30, 30), "what has not committed is not there");
    open.batch_execute("COMMIT").await?;
    assert_eq!(dispatcher.drain().await?, 31);
    let mut numbers = dispatched(&databases).await?;
    numbers.sort_unstable();
    assert_eq!(numbers, (0..30).chain([99]).collect::<Vec<_>>());
    assert_eq!(dispatcher.step().await?, Step::Idle);
    Ok(())
}

/// Two handlers that could not take anything, of which new code cures one.
async fn two_failures(databases: &Databases, number: i64) -> Result<Uuid> {
    let event = write_event(&databases.app.connect(Role::Owner).await?, "a", number).await?;
    let mut broken = Registry::default();
    broken.on("count", |_: &Envelope<Counted>| -> Result<Vec<Job>, HandlerError> { panic!("no") })?;
    broken.on("hopeless", |_: &Envelope<Counted>| Err(HandlerError::Failed("never".to_owned())))?;
    Dispatcher::new(databases, broken).await?.drain().await?;
    assert!(dispatched(databases).await?.is_empty());
    Ok(event)
}

fn cured() -> Result<Registry> {
    let mut registry = counting();
    registry.on("hopeless", |_: &Envelope<Counted>| Err(HandlerError::Failed("still not".to_owned())))?;
    Ok(registry)
}

/// The failures: handler, attempts, error, whether it is open.
async fn failures(databases: &Databases) -> Result<Vec<(String, i32, String, bool)>> {
    let client = databases.jobs.connect(Role::Superuser).await?;
    let sql = "SELECT handler, attempts, error, resolved_at IS NULL FROM aftercommit.dispatch_failures ORDER BY 1";
    Ok(client.query(sql, &[]).await?.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_dispatch_is_cured_by_a_fixed_handler() -> Result<()> {
    let databases = Databases::new().await?;
    let event = two_failures(&databases, 7).await?;
    let failed = || Plan { events: Events::Failed(None), ..Plan::default() };

    let dry = run(&databases, &cured()?, Plan { dry_run: true, ..failed() }).await?;
    assert_eq!((dry.stored(), dry.resolved(), dry.failed()), (1, 1, 1));
    assert!(
        failures(&databases).await?.iter().all(|failure| failure.1 == 1 && failure.3),
        "a dry run resolves nothing"
    );

    let tally = run(&databases, &cured()?, failed()).await?;
    assert_eq!((tally.events, tally.stored(), tally.resolved(), tally.failed()), (1, 1, 1, 1));
    assert_eq!((tally.failures[0].event_id, tally.failures[0].error.as_str()), (event, "still not"));
    assert!(!tally.is_complete());
    assert_eq!(dispatched(&databases).await?, [7]);
    let open = failures(&databases).await?;
    assert_eq!((open[0].0.as_str(), open[0].3), ("count", false));
    assert_eq!(open[1], ("hopeless".to_owned(), 2, "still not".to_owned(), true));

    // Only what is open is tried; a handler that this build does not have is told.
    let tally = run(&databases, &counting(), failed()).await?;
    assert_eq!(only(&tally, "hopeless"), HandlerTally { unhandled: 1, ..HandlerTally::default() });
    assert!(!tally.is_complete());
    assert_eq!(failures(&databases).await?, open);

    // A handler that fails where none failed before is kept too, and one that is not asked for is not tried.
    let plan = Plan { handlers: Some(["count".to_owned()].into()), ..Plan::default() };
    assert!(run(&databases, &cured()?, plan).await?.is_complete());
    assert_eq!(failures(&databases).await?, open);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_that_start_try_the_open_failures_one_after_the_other() -> Result<()> {
    let databases = Databases::new().await?;
    two_failures(&databases, 7).await?;
    let stop = CancellationToken::new();
    let relays: Vec<_> = (0..3)
        .map(|_| {
            let context = tests::dispatcher::context(&databases, cured()?)?;
            let stop = stop.clone();
            Ok(tokio::spawn(async move { relay::dispatch::run(&context, 0, &stop).await }))
        })
        .collect::<Result<_>>()?;
    tests::wait::until("each relay's try", async || {
        Ok(failures(&databases).await?.iter().any(|failure| failure.0 == "hopeless" && failure.1 == 4).then_some(()))
    })
    .await?;
    stop.cancel();
    for relay in relays {
        relay.await?;
    }
    assert_eq!(dispatched(&databases).await?, [7]);
    assert_eq!(failures(&databases).await?[0].1, 1, "the cured one was resolved by the first, and not tried again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_events_and_large_ones_are_read_in_pages() -> Result<()> {
    let databases = Databases::new().await?;
    let writer = databases.app.connect(Role::Owner).await?;
    let events = PAGE_ROWS * 2 + 345;
    // One aggregate holds a third of them, in few transactions, and so shares of ids and positions.
    let fill = "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)
                SELECT gen_random_uuid(), 'counter', CASE WHEN n % 3 = 0 THEN 'hot' ELSE 'a' || n % 90 END,
                       CASE WHEN n % 1000 = 0 THEN 'counter.unheard_of' ELSE 'counter.counted' END,
                       jsonb_build_object('number', n)
                  FROM generate_series($1::bigint, $2::bigint) AS n";
    writer.execute(fill, &[&1_i64, &(events / 2)]).await?;
    writer.execute(fill, &[&(events / 2 + 1), &events]).await?;
    // More bytes than one read takes.
    writer
        .batch_execute(
            "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)
             SELECT gen_random_uuid(), 'counter', 'hot', 'counter.counted',
                    jsonb_build_object('number', 1000000 + n,
                        'ballast', (SELECT string_agg(md5((n * 10000 + i)::text), '') FROM generate_series(1, 7500) AS i))
               FROM generate_series(1, 60) AS n",
        )
        .await?;
    let unknown = events / 1000;
    let hot = events / 3 + 60 - unknown / 3;

    let plan = Plan {
        filter: Filter { types: Some(vec!["counter.counted".to_owned()]), ..Filter::default() },
        dry_run: true,
        ..Plan::default()
    };
    let tally = run(&databases, &counting(), plan).await?;
    assert_eq!(tally.stored(), (events - unknown + 60).unsigned_abs());

    let plan =
        Plan { filter: Filter { aggregate: Some("counter/hot".to_owned()), ..Filter::default() }, ..Plan::default() };
    let tally = run(&databases, &counting(), plan.clone()).await?;
    assert_eq!(only(&tally, "count").stored, hot.unsigned_abs());
    assert_eq!(tally.passed_by, (unknown / 3).unsigned_abs());

    let tally = run(&databases, &counting(), Plan::default()).await?;
    assert_eq!(tally.events, (events + 60).unsigned_abs());
    assert_eq!(only(&tally, "count").stored, (events - unknown + 60 - hot).unsigned_abs());
    assert_eq!(only(&tally, "count").existing["available"], hot.unsigned_abs());
    let numbers: BTreeSet<i64> = dispatched(&databases).await?.into_iter().collect();
    assert_eq!(numbers.len() as i64, events - unknown + 60);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn named_events_that_are_not_there_are_told() -> Result<()> {
    let databases = Databases::new().await?;
    let event = user_event(&databases.app.connect(Role::Owner).await?, Uuid::now_v7(), "user.registered", 1).await?;
    let (here, gone) = (event.to_string(), Uuid::now_v7().to_string());
    let (code, answer) = replay_json(&databases, &["--event-id", &here, "--event-id", &gone]).await?;
    assert_eq!((code, &answer["stored"], &answer["missing"]), (Some(1), &1.into(), &1.into()), "{answer}");
    assert_eq!(answer["missing_events"][0], gone);
    Ok(())
}
