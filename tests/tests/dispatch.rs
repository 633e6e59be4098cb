//! What dispatch promises: each committed event once, in order per aggregate, however transactions overlap.

use anyhow::Result;
use relay::dispatch::commit;
use relay::dispatch::read::Found;
use relay::handlers::{HandlerError, Registry};
use relay::jobs::Job;
use relay::outbox::window::{Snapshot, TransactionId};
use relay::outbox::{self, Question, Range, START, Slice, Stretch, Way};
use shared::envelope::Envelope;
use tests::databases::{DatabaseServer, Databases, Role};
use tests::dispatcher::{Counted, Dispatcher, Step, counting, dispatched, url, write_event};

#[tokio::test(flavor = "multi_thread")]
async fn a_lower_position_that_commits_later_is_delivered() -> Result<()> {
    let databases = Databases::new().await?;
    let (early, late) = (databases.app.connect(Role::Owner).await?, databases.app.connect(Role::Owner).await?);
    let mut dispatcher = Dispatcher::new(&databases, counting()).await?;

    early.batch_execute("BEGIN").await?;
    write_event(&early, "a", 1).await?;
    write_event(&late, "a", 2).await?;
    assert_eq!(dispatcher.drain().await?, 1);
    assert_eq!(dispatched(&databases).await?, [2]);

    early.batch_execute("COMMIT").await?;
    assert_eq!(dispatcher.drain().await?, 1);
    assert_eq!(dispatched(&databases).await?, [2, 1]);
    assert_eq!(dispatcher.step().await?, Step::Idle);
    Ok(())
}

/// By transaction id the second event would be the first.
#[tokio::test(flavor = "multi_thread")]
async fn the_transaction_that_began_first_and_wrote_last_comes_last() -> Result<()> {
    let databases = Databases::new().await?;
    let (early, late) = (databases.app.connect(Role::Owner).await?, databases.app.connect(Role::Owner).await?);
    let mut dispatcher = Dispatcher::new(&databases, counting()).await?;
    early.batch_execute("BEGIN; SELECT pg_current_xact_id()").await?;
    write_event(&late, "a", 1).await?;
    write_event(&early, "a", 2).await?;
    early.batch_execute("COMMIT").await?;
    assert_eq!(dispatcher.drain().await?, 2);
    assert_eq!(dispatched(&databases).await?, [1, 2]);
    Ok(())
}

/// Were each statement of a poll to see a moment of its own, the cursor would pass by what committed between them.
#[tokio::test(flavor = "multi_thread")]
async fn what_commits_between_two_statements_of_a_poll_waits_for_the_next() -> Result<()> {
    let databases = Databases::new().await?;
    let (early, writer) = (databases.app.connect(Role::Owner).await?, databases.app.connect(Role::Owner).await?);
    early.batch_execute("BEGIN").await?;
    write_event(&early, "a", 1).await?;
    let early_id: TransactionId = early.query_one("SELECT pg_current_xact_id()", &[]).await?.get(0);
    write_event(&writer, "a", 2).await?;
    let lane: i16 =
        writer.query_one("SELECT aftercommit.lane(aggregate_id) FROM aftercommit.outbox", &[]).await?.get(0);

    let application = relay::postgres::application(&url(&databases.app.url(Role::Relay))?, "test").await?;
    let seen = Snapshot::NOTHING;
    let question = Question { lane, seen: &seen, witness: None, next_witness: None };
    let (reading, look) = outbox::look(&application, &[question]).await?;
    early.batch_execute("COMMIT").await?;
    write_event(&writer, "a", 3).await?;
    let next = &look.next;
    let range = Range { lane, seen: &seen, next, everything: false, after: START, xmax: next.xmax() };
    let stretch = Stretch { range, slice: Slice::all(100), limit: 100 };
    let reads = reading.rows(&[stretch], next.xmax(), Way::InOrder).await?;
    let rows = &reads[0].rows;
    assert_eq!(rows.len(), 1, "what the look saw, and nothing since");
    assert!(!next.finished(early_id) && next.finished(rows[0].transaction_id));
    reading.end().await?;

    let mut dispatcher = Dispatcher::new(&databases, counting()).await?;
    dispatcher.drain().await?;
    assert_eq!(dispatched(&databases).await?, [1, 2, 3]);
    Ok(())
}

/// A session takes positions in blocks, so that a later event has a lower one.
#[tokio::test(flavor = "multi_thread")]
async fn positions_given_out_in_blocks_are_no_order_to_read_by() -> Result<()> {
    let databases = Databases::new().await?;
    let superuser = databases.app.connect(Role::Superuser).await?;
    superuser.batch_execute("ALTER SEQUENCE aftercommit.outbox_position_seq CACHE 50").await?;
    let (one, two) = (databases.app.connect(Role::Owner).await?, databases.app.connect(Role::Owner).await?);
    let mut dispatcher = Dispatcher::new(&databases, counting()).await?;
    for number in 1..=10 {
        let (client, aggregate) = if number % 2 == 0 { (&one, "a") } else { (&two, "b") };
        write_event(client, aggregate, number).await?;
        assert_eq!(dispatcher.drain().await?, 1, "event {number}");
    }
    assert_eq!(dispatched(&databases).await?, (1..=10).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_transaction_delays_only_itself() -> Result<()> {
    let databases = Databases::new().await?;
    let (long, writer) = (databases.app.connect(Role::Owner).await?, databases.app.connect(Role::Owner).await?);
    let mut dispatcher = Dispatcher::new(&databases, counting()).await?;

    long.batch_execute("BEGIN").await?;
    write_event(&long, "long", 0).await?;
    for number in 1..=50 {
        write_event(&writer, &format!("a{}", number % 7), number).await?;
        assert_eq!(dispatcher.drain().await?, 1, "event {number}");
    }
    assert!(!dispatched(&databases).await?.contains(&0));
    long.batch_execute("COMMIT").await?;
    assert_eq!(dispatcher.drain().await?, 1);
    assert_eq!(dispatched(&databases).await?.last(), Some(&0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn savepoints_and_prepared_transactions_are_read_when_they_commit() -> Result<()> {
    let databases = Databases::new().await?;
    let (writer, other) = (databases.app.connect(Role::Owner).await?, databases.app.connect(Role::Owner).await?);
    let mut dispatcher = Dispatcher::new(&databases, counting()).await?;

    writer.batch_execute("BEGIN; SAVEPOINT one").await?;
    write_event(&writer, "a", 1).await?;
    writer.batch_execute("ROLLBACK TO one; SAVEPOINT two").await?;
    write_event(&writer, "a", 2).await?;
    writer.batch_execute("RELEASE two").await?;
    write_event(&other, "a", 3).await?;
    assert_eq!(dispatcher.drain().await?, 1);
    let name = format!("prepared_{}", databases.app.name());
    writer.batch_execute(&format!("PREPARE TRANSACTION '{name}'")).await?;
    write_event(&other, "a", 4).await?;
    assert_eq!(dispatcher.drain().await?, 1);
    other.batch_execute(&format!("COMMIT PREPARED '{name}'")).await?;
    assert_eq!(dispatcher.drain().await?, 1);
    assert_eq!(dispatched(&databases).await?, [3, 4, 2]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rolled_back_never_was() -> Result<()> {
    let databases = Databases::new().await?;
    let writer = databases.app.connect(Role::Owner).await?;
    let mut dispatcher = Dispatcher::new(&databases, counting()).await?;
    writer.batch_execute("BEGIN").await?;
    write_event(&writer, "a", 1).await?;
    assert_eq!(dispatcher.drain().await?, 0);
    writer.batch_execute("ROLLBACK").await?;
    assert_eq!(dispatcher.drain().await?, 0);
    assert!(dispatched(&databases).await?.is_empty());
    Ok(())
}

/// On a server of its own: other tests' synchronous commits would take this one's to disk. Where the WAL writer is
/// faster than the look, there is nothing to see: then the trial is made again.
#[tokio::test(flavor = "multi_thread")]
async fn an_asynchronous_commit_is_dispatched_once_it_is_on_disk() -> Result<()> {
    let lazy_writer = DatabaseServer::for_tests().without_fsync().setting("wal_writer_delay", "10s");
    let databases = Databases::on(&DatabaseServer::start(lazy_writer).await?).await?;
    let (lazy, strict) = (databases.app.connect(Role::Owner).await?, databases.app.connect(Role::Owner).await?);
    let mut dispatcher = Dispatcher::new(&databases, counting()).await?;
    lazy.batch_execute("SET synchronous_commit = off").await?;

    let mut gated = 0;
    for number in 0..200 {
        write_event(&lazy, "lazy", number).await?;
        if let Found::Unflushed = dispatcher.read().await? {
            gated += 1;
            assert!(!dispatched(&databases).await?.contains(&number), "not stored while it could still vanish");
            // A synchronous commit takes the WAL before it to disk.
            write_event(&strict, "strict", -1 - number).await?;
        }
        dispatcher.drain().await?;
        assert!(dispatched(&databases).await?.contains(&number));
        if gated == 5 {
            return Ok(());
        }
    }
    panic!("no asynchronous commit was seen before its flush");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_backlog_is_one_window_worked_off_in_slices_across_restarts() -> Result<()> {
    let databases = Databases::new().await?;
    let writer = databases.app.connect(Role::Owner).await?;
    const EVENTS: i64 = 12_000;
    // One hot aggregate takes a third, in transactions of several sizes, one of which commits after all others began.
    let late = databases.app.connect(Role::Owner).await?;
    late.batch_execute("BEGIN").await?;
    write_event(&late, "hot", 0).await?;
    let fill = "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)
         SELECT gen_random_uuid(), 'counter', CASE WHEN n % 3 = 0 THEN 'hot' ELSE 'a' || n % 40 END,
                'counter.counted', jsonb_build_object('number', n)
           FROM generate_series($1::bigint, $2::bigint) AS n";
    let mut from = 1_i64;
    for size in [1, 999, 3_000, 10, 5_990, 2_000] {
        writer.execute(fill, &[&from, &(from + size - 1)]).await?;
        from += size;
    }
    late.batch_execute("COMMIT").await?;
    assert_eq!(from - 1, EVENTS);

    // A new process after each step: what is in the cursor must be enough to go on from.
    let mut steps = 0;
    loop {
        let mut dispatcher = Dispatcher::new(&databases, counting()).await?;
        if steps % 3 == 1 {
            // Killed between the insert and the commit: nothing of it stays.
            let found = dispatcher.read().await?;
            drop((dispatcher, found));
            steps += 1;
            continue;
        }
        // More is written meanwhile: it is not in the window that is being worked off, and not lost.
        if steps < 4 {
            write_event(&writer, "hot", EVENTS + 1 + steps).await?;
        }
        steps += 1;
        if dispatcher.step().await? == Step::Idle {
            break;
        }
    }
    assert!(steps > 8, "it took {steps} steps");
    let numbers = dispatched(&databases).await?;
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), numbers.len(), "none twice");
    assert!((0..=EVENTS).all(|n| sorted.binary_search(&n).is_ok()), "none lost");

    // Per aggregate, jobs were stored in the order of positions.
    let jobs = databases.jobs.connect(Role::Superuser).await?;
    let app = databases.app.connect(Role::Superuser).await?;
    let order = app
        .query("SELECT (payload ->> 'number')::bigint FROM aftercommit.outbox WHERE aggregate_id = 'hot' ORDER BY position", &[])
        .await?;
    let hot: Vec<i64> = order.iter().map(|row| row.get(0)).collect();
    let hot_set: std::collections::HashSet<i64> = hot.iter().copied().collect();
    let stored: Vec<i64> = numbers.iter().copied().filter(|n| hot_set.contains(n)).collect();
    assert_eq!(stored.len(), hot.len());
    assert_eq!(stored, hot);
    let open: i64 =
        jobs.query_one("SELECT count(*) FROM aftercommit.lane_cursors WHERE next IS NOT NULL", &[]).await?.get(0);
    assert_eq!(open, 0, "every window was closed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_with_the_same_lane_hand_over_once() -> Result<()> {
    let databases = Databases::new().await?;
    let writer = databases.app.connect(Role::Owner).await?;
    let mut first = Dispatcher::new(&databases, counting()).await?;
    let mut second = Dispatcher::new(&databases, counting()).await?;
    for number in 0..20 {
        write_event(&writer, &number.to_string(), number).await?;
    }
    let (Found::Batch(one), Found::Batch(two)) = (first.read().await?, second.read().await?) else {
        panic!("both read the same events");
    };
    assert_eq!(first.commit(&one).await?, 20);
    assert!(matches!(second.commit(&two).await, Err(commit::Error::Fenced)));
    assert_eq!(dispatched(&databases).await?.len(), 20);
    let versions: i64 = first.cursors().await?.iter().map(|cursor| cursor.version).sum();
    assert_eq!(versions, one.cursors.len() as i64, "each lane moved once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_handler_is_set_aside_and_the_others_get_their_jobs() -> Result<()> {
    let databases = Databases::new().await?;
    let writer = databases.app.connect(Role::Owner).await?;
    let mut registry = Registry::default();
    registry.on("panics", |_: &Envelope<Counted>| -> Result<Vec<Job>, HandlerError> { panic!("no") })?;
    registry.on("count", |event: &Envelope<Counted>| Ok(vec![Job::new("count", "count", &event.payload)?]))?;
    let mut dispatcher = Dispatcher::new(&databases, registry).await?;
    write_event(&writer, "a", 1).await?;
    // A payload that the handlers can't read, and a type that nobody knows.
    writer
        .batch_execute(
            "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)
             VALUES (gen_random_uuid(), 'counter', 'a', 'counter.counted', '{\"number\": \"ann@example.org\"}'),
                    (gen_random_uuid(), 'counter', 'a', 'counter.unheard_of', 'null')",
        )
        .await?;
    write_event(&writer, "a", 2).await?;
    assert_eq!(dispatcher.drain().await?, 4);
    assert_eq!(dispatched(&databases).await?, [1, 2]);

    let jobs = databases.jobs.connect(Role::Superuser).await?;
    let rows = jobs
        .query("SELECT handler, count(*), string_agg(error, '; ') FROM aftercommit.dispatch_failures GROUP BY 1 ORDER BY 1", &[])
        .await?;
    let failures: Vec<(String, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(failures, [("count".to_owned(), 1), ("panics".to_owned(), 3)]);
    let errors: String = rows.iter().map(|row| row.get::<_, String>(2)).collect();
    assert!(errors.contains("panicked") && !errors.contains("ann@example.org"), "{errors}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_database_is_not_written_to() -> Result<()> {
    let databases = Databases::new().await?;
    let writer = databases.app.connect(Role::Owner).await?;
    let mut dispatcher = Dispatcher::new(&databases, counting()).await?;
    write_event(&writer, "a", 1).await?;
    dispatcher.drain().await?;
    let before = dispatcher.cursors().await?;
    // Transactions go by that write no event.
    for _ in 0..3 {
        writer.batch_execute("SELECT pg_current_xact_id()").await?;
        assert_eq!(dispatcher.step().await?, Step::Idle);
    }
    assert_eq!(dispatcher.cursors().await?, before);
    Ok(())
}
