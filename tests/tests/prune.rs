//! `api prune` deletes what is old and done with, and nothing that anyone still needs; `api erase` blanks and keeps.

use anyhow::{Context, Result, ensure};
use relay::outbox::page::Filter;
use relay::verify::{self, Findings};
use serde_json::Value;
use shared::shutdown::CancellationToken;
use tests::databases::{DatabaseServer, Databases, Role};
use tests::dispatcher::{Dispatcher, counting, dispatched, url};
use tests::services::run_upkeep;
use tokio_postgres::Client;
use uuid::Uuid;

#[path = "../../api/src/prune/statements.rs"]
mod statements;

/// A pair of databases with a dispatcher, and sessions that may do anything.
struct World {
    databases: Databases,
    app: Client,
    jobs: Client,
    dispatcher: Dispatcher,
    number: i64,
}

impl World {
    async fn new() -> Result<Self> {
        // A server of its own: what others have open on a shared one holds back what lanes have passed for good.
        let server = DatabaseServer::start(DatabaseServer::for_tests().without_fsync()).await?;
        let databases = Databases::on(&server).await?;
        let app = databases.app.connect(Role::Superuser).await?;
        let jobs = databases.jobs.connect(Role::Superuser).await?;
        let dispatcher = Dispatcher::new(&databases, counting()).await?;
        Ok(Self { databases, app, jobs, dispatcher, number: 0 })
    }

    /// An event of an aggregate that happened some days ago.
    async fn event(&mut self, aggregate: &str, days: i32) -> Result<Uuid> {
        self.number += 1;
        event(&self.app, aggregate, self.number, days).await
    }

    /// Dispatches everything, and says that all jobs are done.
    async fn dispatch_and_finish(&mut self) -> Result<()> {
        self.dispatcher.drain().await?;
        let finish = "UPDATE aftercommit.jobs SET state = 'succeeded', finished_at = now() WHERE state = 'available'";
        self.jobs.batch_execute(finish).await?;
        Ok(())
    }

    async fn prune(&self, more: &[&str]) -> Result<Value> {
        let finished = run_upkeep(&self.databases, &[&["prune", "--json"], more].concat()).await?.success()?;
        Ok(serde_json::from_str(&finished.stdout)?)
    }

    /// The events that are left, in the order in which they were written.
    async fn left(&self) -> Result<Vec<Uuid>> {
        let rows = self.app.query("SELECT event_id FROM aftercommit.outbox ORDER BY position", &[]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn verify(&self) -> Result<Findings> {
        let (app, jobs) = (url(&self.databases.app.url(Role::Relay))?, url(&self.databases.jobs.url(Role::Jobs))?);
        let never = CancellationToken::new();
        Ok(verify::run(&app, &jobs, "test", &counting(), Filter::default(), &never, |_| {}).await?)
    }
}

async fn event(client: &Client, aggregate: &str, number: i64, days: i32) -> Result<Uuid> {
    let event_id = Uuid::now_v7();
    let insert = "
        INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload, occurred_at)
        VALUES ($1, 'counter', $2, 'counter.counted', jsonb_build_object('number', $3::bigint),
                now() - make_interval(days => $4))";
    client.execute(insert, &[&event_id, &aggregate, &number, &days]).await?;
    Ok(event_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_and_done_goes_and_the_rest_stays() -> Result<()> {
    let mut world = World::new().await?;
    let mut expected = Vec::new();
    for number in 0..1_200 {
        world.event("a", 60).await?;
        if number % 100 == 0 {
            expected.push(world.event("a", 10).await?);
        }
    }
    // The last one is the lane's witness.
    expected.push(world.event("a", 10).await?);
    world.dispatch_and_finish().await?;
    let dry = world.prune(&["--dry-run"]).await?;
    assert_eq!((&dry["dry_run"], &dry["old"], &dry["pruned"]), (&true.into(), &1200.into(), &1200.into()), "{dry}");
    assert_eq!(world.left().await?.len(), 1213, "a dry run deletes nothing");

    let done = world.prune(&[]).await?;
    assert_eq!((&done["pruned"], &done["kept_as_witness"]), (&1200.into(), &0.into()), "{done}");
    assert_eq!(world.left().await?, expected[..], "what is younger than the retention stays");
    assert_eq!(world.prune(&[]).await?["pruned"], 0, "nothing is left for a second run");

    // Dispatch, verify and replay go on as before.
    let next = world.event("a", 0).await?;
    world.dispatch_and_finish().await?;
    let findings = world.verify().await?;
    assert!(findings.is_sound(), "jobs of pruned events are no jobs without events: {}", findings.to_text());
    assert_eq!(findings.events, 14);
    let replayed = tests::services::run_relay(&world.databases, &["replay", "--event-id", &next.to_string()]).await?;
    ensure!(replayed.code() == Some(0), "{}{}", replayed.stdout, replayed.stderr);
    assert_eq!(dispatched(&world.databases).await?.len(), 1214, "each event became one job, and its job outlives it");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_job_is_lost_after_the_pruning_is_still_found() -> Result<()> {
    let mut world = World::new().await?;
    world.event("a", 60).await?;
    let young = world.event("a", 1).await?;
    world.dispatch_and_finish().await?;
    assert_eq!(world.prune(&[]).await?["pruned"], 1);
    world.app.execute("DELETE FROM aftercommit.outbox WHERE event_id = $1", &[&young]).await?;
    let findings = world.verify().await?;
    assert_eq!((findings.phantom_count, findings.phantoms.first()), (1, Some(&young)), "{}", findings.to_text());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_witness_goes_not_an_idle_lane_s_and_not_a_checkpoint_s() -> Result<()> {
    let mut world = World::new().await?;
    world.event("idle", 400).await?;
    let idle = world.event("idle", 300).await?;
    world.dispatch_and_finish().await?;
    // The busy lane's first witness is kept by a checkpoint: the dispatcher takes one with its first batch.
    world.event("often", 200).await?;
    let checkpoint = world.event("often", 200).await?;
    world.dispatch_and_finish().await?;
    world.event("often", 200).await?;
    let last = world.event("often", 100).await?;
    world.dispatch_and_finish().await?;
    let lanes = "SELECT count(DISTINCT aftercommit.lane(aggregate_id)) FROM aftercommit.outbox";
    ensure!(world.app.query_one(lanes, &[]).await?.get::<_, i64>(0) == 2, "the aggregates are in two lanes");

    let done = world.prune(&[]).await?;
    assert_eq!(world.left().await?, [idle, checkpoint, last], "{done}");
    assert_eq!((&done["pruned"], &done["kept_as_witness"]), (&3.into(), &3.into()), "{done}");
    world.event("idle", 0).await?;
    assert_eq!(world.dispatcher.drain().await?, 1, "and dispatch does not take it for a moved history");
    assert_eq!(world.dispatcher.trouble(), None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_dispatch_has_not_passed_stays_however_old() -> Result<()> {
    let mut world = World::new().await?;
    let waiting = [world.event("a", 60).await?, world.event("a", 60).await?];
    let done = world.prune(&[]).await?;
    assert_eq!(done["lanes_without_cursor"].as_array().context("lanes")?.len(), 16, "no lane has a cursor yet");
    assert_eq!(world.left().await?, waiting);
    world.dispatch_and_finish().await?;
    // A transaction that was open before what came after it: the cursor has seen past it, but not below.
    let other = world.databases.app.connect(Role::Superuser).await?;
    other.batch_execute("BEGIN").await?;
    let late = event(&other, "a", 100, 60).await?;
    let after = [world.event("a", 60).await?, world.event("a", 60).await?];
    world.dispatch_and_finish().await?;
    let undispatched = world.event("a", 60).await?;
    world.prune(&[]).await?;
    // Of the first two one is the first checkpoint's witness.
    assert_eq!(
        world.left().await?,
        [&[waiting[1]], &after[..], &[undispatched]].concat(),
        "below the oldest open one only"
    );
    other.batch_execute("COMMIT").await?;
    world.dispatch_and_finish().await?;
    assert!(dispatched(&world.databases).await?.contains(&100), "{late} was dispatched");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_with_an_open_failure_or_an_unfinished_job_stay() -> Result<()> {
    let mut world = World::new().await?;
    let mut events = Vec::new();
    for _ in 0..8 {
        events.push(world.event("a", 60).await?);
    }
    world.dispatcher.drain().await?;
    let states = [
        "state = 'available'",
        "state = 'retrying'",
        "state = 'running', claimed_by = gen_random_uuid()",
        "state = 'succeeded', finished_at = now()",
        "state = 'dead', finished_at = now()",
        "state = 'succeeded', finished_at = now()",
        "state = 'succeeded', finished_at = now()",
    ];
    for (event_id, state) in events.iter().zip(states) {
        let set = format!("UPDATE aftercommit.jobs SET {state} WHERE event_id = $1");
        ensure!(world.jobs.execute(&set, &[event_id]).await? == 1, "{state}");
    }
    for (event_id, resolved) in [(events[5], false), (events[6], true)] {
        let failure = "
            INSERT INTO aftercommit.dispatch_failures (event_id, handler, lane, aggregate_type, aggregate_id, event_type,
                                                       error, resolved_at)
            VALUES ($1, 'count', 0, 'counter', 'a', 'counter.counted', 'no', CASE WHEN $2 THEN now() END)";
        world.jobs.execute(failure, &[&event_id, &resolved]).await?;
    }
    let done = world.prune(&[]).await?;
    // The last one is the lane's witness.
    assert_eq!(world.left().await?, [events[0], events[1], events[2], events[5], events[7]], "{done}");
    assert_eq!((&done["kept_as_open"], &done["pruned"]), (&4.into(), &3.into()), "{done}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_the_cursors_do_not_point_into_is_refused() -> Result<()> {
    let mut world = World::new().await?;
    world.event("a", 60).await?;
    world.event("a", 60).await?;
    world.dispatch_and_finish().await?;
    for (wrong, why) in [
        ("UPDATE aftercommit.lane_cursors SET system_identifier = system_identifier + 1", "another cluster"),
        ("UPDATE aftercommit.lane_cursors SET timeline = timeline + 1", "another timeline"),
        (
            "UPDATE aftercommit.lane_cursors SET witness_event_id = gen_random_uuid() WHERE witness_event_id IS NOT NULL",
            "its last event",
        ),
    ] {
        world
            .jobs
            .batch_execute(&format!("CREATE TEMP TABLE kept AS SELECT * FROM aftercommit.lane_cursors; {wrong}"))
            .await?;
        let refused = run_upkeep(&world.databases, &["prune"]).await?;
        assert_eq!(refused.code(), Some(3), "{}{}", refused.stdout, refused.stderr);
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
        world
            .jobs
            .batch_execute(
                "UPDATE aftercommit.lane_cursors AS cursor
                    SET system_identifier = kept.system_identifier, timeline = kept.timeline,
                        witness_event_id = kept.witness_event_id
                   FROM kept WHERE kept.lane = cursor.lane;
                 DROP TABLE kept",
            )
            .await?;
    }
    assert_eq!(world.left().await?.len(), 2);
    assert_eq!(world.prune(&[]).await?["pruned"], 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_tells_what_is_missing() -> Result<()> {
    let databases = Databases::new().await?;
    let wrong = run_upkeep(&databases, &["prune", "--outbox-retention", "soon"]).await?;
    assert_eq!(wrong.code(), Some(2), "{}", wrong.stderr);
    let api = databases.app.url(Role::Api);
    let refused = run_upkeep(&databases, &["prune", "--json", "--database-url", &api]).await?;
    assert_eq!(refused.code(), Some(0), "nothing is old: no right is needed: {}", refused.stdout);
    let jobs = databases.jobs.connect(Role::Superuser).await?;
    jobs.batch_execute("DROP TABLE aftercommit.lane_cursors").await?;
    let refused = run_upkeep(&databases, &["prune", "--json"]).await?;
    assert_eq!(refused.code(), Some(3), "{}", refused.stdout);
    assert!(
        serde_json::from_str::<Value>(&refused.stdout)?["error"].as_str().context("error")?.contains("relay migrate")
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn erasing_blanks_events_and_jobs_and_nothing_runs_on_them_again() -> Result<()> {
    let mut world = World::new().await?;
    let erased = [world.event("ada", 1).await?, world.event("ada", 0).await?];
    world.event("bob", 0).await?;
    let refused = run_upkeep(&world.databases, &["erase", "--aggregate", "counter/ada"]).await?;
    assert_eq!(refused.code(), Some(3), "not dispatched yet: {}", refused.stderr);
    world.dispatcher.drain().await?;
    let refused = run_upkeep(&world.databases, &["erase", "--aggregate", "counter/ada"]).await?;
    assert_eq!(refused.code(), Some(3), "not done yet: {}", refused.stderr);
    world.dispatch_and_finish().await?;
    let done = run_upkeep(&world.databases, &["erase", "--aggregate", "counter/ada", "--json"]).await?.success()?;
    let done: Value = serde_json::from_str(&done.stdout)?;
    assert_eq!((&done["events"], &done["jobs"]), (&2.into(), &2.into()), "{done}");

    let blank = "SELECT count(*) FROM aftercommit.outbox WHERE payload::text = '{}' AND event_id = ANY ($1)";
    assert_eq!(world.app.query_one(blank, &[&erased.as_slice()]).await?.get::<_, i64>(0), 2);
    let blank = "SELECT count(*) FROM aftercommit.jobs WHERE args = '{}' AND event_id = ANY ($1)";
    assert_eq!(world.jobs.query_one(blank, &[&erased.as_slice()]).await?.get::<_, i64>(0), 2);
    let findings = world.verify().await?;
    assert!(findings.is_sound(), "{}", findings.to_text());
    // Even with its jobs lost, nothing is made of a blanked event, and nothing fails on it.
    world.jobs.execute("DELETE FROM aftercommit.jobs WHERE event_id = ANY ($1)", &[&erased.as_slice()]).await?;
    assert!(world.verify().await?.is_sound());
    let replay = ["replay", "--aggregate", "counter/ada", "--json"];
    let replayed = tests::services::run_relay(&world.databases, &replay).await?;
    assert_eq!(replayed.code(), Some(0), "{}", replayed.stdout);
    world
        .jobs
        .batch_execute(
            "UPDATE aftercommit.lane_cursors SET seen = '1:1:', witness_event_id = NULL,
                              witness_transaction_id = NULL, witness_position = NULL, version = version + 1",
        )
        .await?;
    world.dispatcher.turn_to(&world.databases).await?;
    world.dispatcher.drain().await?;
    let failures = world.jobs.query_one("SELECT count(*) FROM aftercommit.dispatch_failures", &[]).await?;
    assert_eq!(failures.get::<_, i64>(0), 0);
    assert_eq!(dispatched(&world.databases).await?.len(), 1, "bob's");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_goes_by_index_whatever_the_planner_knows() -> Result<()> {
    let mut world = World::new().await?;
    let fill = "
        INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)
        SELECT gen_random_uuid(), 'counter', 'a' || n, 'counter.counted', jsonb_build_object('number', n)
          FROM generate_series(1, 5000) AS n";
    let pinned = [
        (true, "outbox_window", "smallint, text, timestamptz", "3, '900000', now()", statements::COUNT),
        (
            true,
            "outbox_window",
            "smallint, text, text, bigint, uuid, timestamptz, bigint",
            "3, '900000', '700', 5, gen_random_uuid(), now(), 1000",
            statements::ROWS,
        ),
        (true, "outbox_pkey", "uuid[]", "ARRAY[gen_random_uuid(), gen_random_uuid()]", statements::DELETE),
        (false, "jobs_pkey", "uuid[]", "ARRAY[gen_random_uuid(), gen_random_uuid()]", statements::NEEDED),
    ];
    for round in ["empty", "filled", "analyzed"] {
        match round {
            "empty" => {}
            "filled" => {
                world.app.batch_execute(fill).await?;
                world.dispatch_and_finish().await?;
            }
            _ => {
                world.app.batch_execute("VACUUM ANALYZE aftercommit.outbox").await?;
                world.jobs.batch_execute("VACUUM ANALYZE aftercommit.jobs").await?;
            }
        }
        for (of_app, index, types, values, sql) in pinned {
            let database = if of_app { &world.databases.app } else { &world.databases.jobs };
            let owner = database.connect(Role::Owner).await?;
            owner.batch_execute(statements::SETTINGS).await?;
            for mode in ["force_custom_plan", "force_generic_plan"] {
                let prepare =
                    format!("SET plan_cache_mode = {mode}; DEALLOCATE ALL; PREPARE pinned ({types}) AS {sql}");
                owner.batch_execute(&prepare).await?;
                let plan = owner.query(&format!("EXPLAIN EXECUTE pinned ({values})"), &[]).await?;
                let plan: String = plan.iter().map(|row| row.get::<_, String>(0) + "\n").collect();
                ensure!(
                    plan.contains(index) && !plan.contains("Seq Scan on outbox") && !plan.contains("Seq Scan on jobs"),
                    "{round}, {mode}:\n{plan}"
                );
            }
        }
    }
    Ok(())
}
