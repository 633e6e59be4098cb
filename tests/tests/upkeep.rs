//! Upkeep: the audit finds what is missing and says so, and finished jobs of pruned events are deleted, those and no others.

use std::time::Duration;

use anyhow::{Result, ensure};
use relay::upkeep::audit::{self, Board};
use relay::upkeep::{self, retention};
use shared::shutdown::CancellationToken;
use tests::databases::{Databases, Role};
use tests::dispatcher::{Dispatcher, counting, url, write_event};
use tests::services::{run_upkeep, start_relay, verification_keys};
use tests::wait::until;
use tokio_postgres::Client;
use uuid::Uuid;

const HOUR: Duration = Duration::from_secs(3_600);

async fn sessions(databases: &Databases) -> Result<(Client, Client)> {
    let app = relay::databases::application(&url(&databases.app.url(Role::Relay))?, "test").await?;
    let jobs = relay::databases::jobs(&url(&databases.jobs.url(Role::Jobs))?, "test").await?;
    Ok((app, jobs))
}

/// An event that happened and was made some days ago, so that its id is as old as it is.
async fn old_event(client: &Client, number: i64, days: i64) -> Result<Uuid> {
    let at = time::OffsetDateTime::now_utc() - time::Duration::days(days);
    let seconds = uuid::Timestamp::from_unix(uuid::NoContext, at.unix_timestamp().unsigned_abs(), 0);
    let event_id = Uuid::new_v7(seconds);
    let insert = "
        INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload, occurred_at)
        VALUES ($1, 'counter', 'a', 'counter.counted', jsonb_build_object('number', $2::bigint), $3)";
    client.execute(insert, &[&event_id, &number, &at]).await?;
    Ok(event_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_jobs_of_pruned_events_are_deleted_and_no_others() -> Result<()> {
    let databases = Databases::new().await?;
    let (writer, owner) =
        (databases.app.connect(Role::Superuser).await?, databases.jobs.connect(Role::Superuser).await?);
    let mut dispatcher = Dispatcher::new(&databases, counting()).await?;
    let mut events = Vec::new();
    for number in 0..6 {
        events.push(old_event(&writer, number, 60).await?);
    }
    let young = old_event(&writer, 10, 10).await?;
    dispatcher.drain().await?;
    // 0: long finished. 1: finished just now. 2: not finished. 3: dead for long, with a failed try. 4: long finished, its
    // event kept by an open failure. 5: long finished, its event taken away by somebody else. And the young one.
    let long_ago = "finished_at = now() - interval '8 days'";
    for (event_id, set) in [
        (events[0], format!("state = 'succeeded', {long_ago}")),
        (events[1], "state = 'succeeded', finished_at = now()".to_owned()),
        (events[3], format!("state = 'dead', {long_ago}")),
        (events[4], format!("state = 'succeeded', {long_ago}")),
        (young, format!("state = 'succeeded', {long_ago}")),
    ] {
        owner.execute(&format!("UPDATE aftercommit.jobs SET {set} WHERE event_id = $1"), &[&event_id]).await?;
    }
    owner
        .execute(
            "INSERT INTO aftercommit.job_attempts (job_id, claim, attempt, started_at, duration, outcome, error)
             SELECT job_id, 1, 1, now(), 1, 'dead', 'no' FROM aftercommit.jobs WHERE event_id = $1",
            &[&events[3]],
        )
        .await?;
    for (event_id, resolved) in [(events[4], false), (events[3], true), (young, true)] {
        let failure = "
            INSERT INTO aftercommit.dispatch_failures (event_id, handler, lane, aggregate_type, aggregate_id, event_type,
                                                       error, resolved_at)
            VALUES ($1, 'other', 0, 'counter', 'a', 'counter.counted', 'no',
                    CASE WHEN $2 THEN now() - interval '8 days' END)";
        owner.execute(failure, &[&event_id, &resolved]).await?;
    }
    let (app, jobs) = sessions(&databases).await?;
    let (never, keep) = (CancellationToken::new(), 7 * 24 * HOUR);
    assert_eq!(retention::prune(&app, &jobs, keep, &never).await?, 0, "nobody has pruned yet");
    run_upkeep(&databases, &["prune"]).await?.success()?;
    // What moved history took away is no pruned event, though it is as old.
    assert_eq!(retention::prune(&app, &jobs, keep, &never).await?, 2);
    assert_eq!(retention::prune(&app, &jobs, keep, &never).await?, 0, "a second time there is nothing");

    let left = owner.query("SELECT event_id FROM aftercommit.jobs ORDER BY (args ->> 'number')::int", &[]).await?;
    let left: Vec<Uuid> = left.iter().map(|row| row.get(0)).collect();
    assert_eq!(left, [events[1], events[2], events[4], events[5], young]);
    let counts =
        "SELECT (SELECT count(*) FROM aftercommit.job_attempts), (SELECT count(*) FROM aftercommit.dispatch_failures)";
    let counts = owner.query_one(counts, &[]).await?;
    assert_eq!(
        (counts.get::<_, i64>(0), counts.get::<_, i64>(1)),
        (0, 2),
        "tries go with their job, failures with their event"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_walks_by_key_and_deletes_by_key() -> Result<()> {
    let databases = Databases::new().await?;
    let (_, jobs) = sessions(&databases).await?;
    for (sql, index) in [(retention::CANDIDATES, "jobs_pkey"), (retention::DELETE_JOBS, "jobs_pkey")] {
        let types = if sql == retention::CANDIDATES { "uuid, uuid, bigint, float8" } else { "uuid[]" };
        let values = if sql == retention::CANDIDATES {
            "'00000000-0000-0000-0000-000000000000', 'ffffffff-0000-0000-0000-000000000000', 1000, 60"
        } else {
            "ARRAY['00000000-0000-0000-0000-000000000000']::uuid[]"
        };
        for mode in ["force_custom_plan", "force_generic_plan"] {
            jobs.batch_execute(&format!("SET plan_cache_mode = {mode}; PREPARE pinned ({types}) AS {sql}")).await?;
            let plan = jobs.query(&format!("EXPLAIN EXECUTE pinned ({values})"), &[]).await?;
            let plan: String = plan.iter().map(|row| row.get::<_, String>(0) + "\n").collect();
            ensure!(plan.contains(index) && !plan.contains("Seq Scan on jobs"), "{mode}:\n{plan}");
            jobs.batch_execute("DEALLOCATE pinned").await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_counts_what_is_missing_in_its_span() -> Result<()> {
    let databases = Databases::new().await?;
    let (writer, owner) =
        (databases.app.connect(Role::Superuser).await?, databases.jobs.connect(Role::Superuser).await?);
    let mut dispatcher = Dispatcher::new(&databases, counting()).await?;
    let old = old_event(&writer, 0, 2).await?;
    let mut events = Vec::new();
    for number in 1..5 {
        events.push(write_event(&writer, "a", number).await?);
    }
    writer.batch_execute("UPDATE aftercommit.outbox SET occurred_at = occurred_at - interval '1 minute'").await?;
    dispatcher.drain().await?;
    let (app, jobs) = sessions(&databases).await?;
    let (board, never) = (Board::default(), CancellationToken::new());
    let audit = async || {
        audit::audit(&app, &jobs, &counting(), HOUR, &board, &never).await?;
        let last = board.last().expect("an audit");
        anyhow::Ok((last.findings.events, last.findings.missing_count, last.findings.phantom_count))
    };
    assert_eq!(audit().await?, (4, 0, 0), "the old one is not in the span");
    owner.execute("DELETE FROM aftercommit.jobs WHERE event_id = ANY ($1)", &[&[events[0], old].as_slice()]).await?;
    writer.execute("DELETE FROM aftercommit.outbox WHERE event_id = $1", &[&events[3]]).await?;
    // The last one is the lane's witness; the audit does not mind, it only looks.
    assert_eq!(audit().await?, (3, 1, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_audits_by_itself_and_one_at_a_time() -> Result<()> {
    let databases = Databases::new().await?;
    let (writer, owner) =
        (databases.app.connect(Role::Superuser).await?, databases.jobs.connect(Role::Superuser).await?);
    // As long as another session has the lock, there is nothing to do.
    owner.batch_execute("SELECT pg_advisory_lock(x'61667475'::int, 0)").await?;
    let context = upkeep::Context {
        application: url(&databases.app.url(Role::Relay))?,
        jobs: url(&databases.jobs.url(Role::Jobs))?,
        name: "test".to_owned(),
        settings: upkeep::Settings::default(),
        board: Board::default(),
    };
    upkeep::once(&context, &CancellationToken::new()).await?;
    ensure!(context.board.last().is_none(), "another one was at it");
    owner.batch_execute("SELECT pg_advisory_unlock_all()").await?;
    upkeep::once(&context, &CancellationToken::new()).await?;
    ensure!(context.board.last().is_some_and(|last| last.findings.is_sound()), "now it was its turn");

    let folder = tempfile::tempdir()?;
    let mail = format!("file://{}", folder.path().display());
    let settings = [("UPKEEP_INTERVAL", "1s")];
    let relay = start_relay(&databases, &verification_keys(), "http://127.0.0.1:8080", &mail, &settings).await?;
    let relay = relay.ready().await?;
    writer
        .batch_execute(
            "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload, occurred_at)
             VALUES ((lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint), 12, '0') || '700080000000000000aa')::uuid,
                     'user', '0190f7a2-5d2c-7cc0-8b4e-0f6f2c9f4c11', 'user.registered',
                     '{\"user_id\": \"0190f7a2-5d2c-7cc0-8b4e-0f6f2c9f4c11\", \"email\": \"ada@example.org\", \"display_name\": \"Ada\"}',
                     now() - interval '1 minute')",
        )
        .await?;
    until("the job to be done", async || {
        let done = owner.query_opt("SELECT FROM aftercommit.jobs WHERE state = 'succeeded'", &[]).await?;
        Ok(done.map(drop))
    })
    .await?;
    owner.batch_execute("DELETE FROM aftercommit.jobs").await?;
    let line = relay.process.line_with("the audit of the last").await?;
    ensure!(line.contains("missing_jobs=1") && !line.contains("ada@"), "{line}");
    Ok(())
}
