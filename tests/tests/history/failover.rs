//! Failovers to a standby, with and without loss.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Result;
use relay::dispatch::read::Found;
use tests::copies::{app, await_replay, detach, primary, promote, standby_of};
use tests::databases::{DatabaseServer, Role};
use tests::dispatcher::{Dispatcher, Step};
use tests::postgres::Stop;
use tests::wait::until;

use crate::audit::{Case, Findings, outbox};
use crate::writers::Writers;

/// A primary and its standby, with events on both, most of them dispatched.
struct Pair {
    case: Case,
    old: Arc<DatabaseServer>,
    new: Arc<DatabaseServer>,
    writers: Writers,
    relay: Dispatcher,
    /// Where the standby fell behind, in the ledger.
    cut: usize,
}

impl Pair {
    async fn begin(name: &'static str) -> Result<Self> {
        let mut case = Case::begin(name).await?;
        let old = primary().await?;
        let new = standby_of(&old, "standby").await?;
        let mut writers = Writers::on(&app(&old)).await?;
        let mut relay = case.relay(&old).await?;
        writers.burst(&mut case.ledger, 60).await?;
        relay.drain().await?;
        // It waits, on both.
        writers.burst(&mut case.ledger, 60).await?;
        Ok(Self { case, old, new, writers, relay, cut: 0 })
    }

    /// From now on the standby knows nothing of what is written.
    async fn fall_behind(&mut self) -> Result<()> {
        await_replay(&self.old, &self.new).await?;
        detach(&self.new).await?;
        self.cut = self.case.ledger.mark();
        Ok(())
    }

    async fn burst(&mut self, events: usize) -> Result<()> {
        self.writers.burst(&mut self.case.ledger, events).await
    }

    async fn fail_over(&mut self) -> Result<()> {
        self.old.cluster().stop(Stop::Immediate).await?;
        promote(&self.new).await
    }

    /// As [`Case::finish`], on the new primary.
    async fn finish(self) -> Result<Findings> {
        self.case.finish(&self.new).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_lagged_is_promoted() -> Result<()> {
    let mut pair = Pair::begin("lossy failover").await?;
    pair.fall_behind().await?;
    pair.burst(80).await?;
    pair.relay.drain().await?;
    pair.case.deliver_some().await?;
    // Lost before anybody has read it.
    pair.burst(20).await?;
    let lost = pair.case.ledger.between(pair.cut, pair.case.ledger.mark());
    pair.fail_over().await?;
    assert!(pair.relay.drain().await.is_err(), "the server is gone");

    let findings = pair.finish().await?;
    assert_eq!(findings.lost, lost);
    assert!(findings.ghosts.is_subset(&lost) && findings.ghosts.len() >= 80, "{} ghosts", findings.ghosts.len());
    assert!(!findings.moves.is_empty());
    Ok(())
}

/// With the same transaction id and position in the same lane, only the event id tells a survivor from what was lost.
#[tokio::test(flavor = "multi_thread")]
async fn every_lost_id_and_position_is_used_again_before_the_relay_returns() -> Result<()> {
    let mut pair = Pair::begin("lossy failover, everything used again").await?;
    // A standby's sequence stands at what was written ahead of it; from there on both give out the same positions.
    let sequence = "SELECT log_cnt, nextval('aftercommit.outbox_position_seq') FROM aftercommit.outbox_position_seq";
    let superuser = app(&pair.old).connect(Role::Superuser).await?;
    while superuser.query_one(sequence, &[]).await?.get::<_, i64>(0) != 1 {}
    pair.fall_behind().await?;
    pair.burst(80).await?;
    pair.relay.drain().await?;
    pair.case.deliver_some().await?;
    pair.burst(20).await?;
    let cut = pair.cut;
    let lost_events = pair.case.ledger.between(cut, pair.case.ledger.mark());
    let place = |row: &crate::audit::Row| (row.transaction_id.clone(), row.position, row.aggregate.clone());
    let before = outbox(&pair.old).await?;
    pair.fail_over().await?;

    let mut writers = Writers::on(&app(&pair.new)).await?;
    for events in [80, 20, 100] {
        writers.burst(&mut pair.case.ledger, events).await?;
    }
    let after = outbox(&pair.new).await?;
    let lost: BTreeSet<_> =
        before.iter().filter(|(id, _)| !after.contains_key(id)).map(|(_, row)| place(row)).collect();
    let again: BTreeSet<_> = after.values().map(place).collect();
    // One was begun before the cut and committed after it: its id is spent.
    let spent = lost.difference(&again).count();
    assert!(lost.len() > 100 && spent == 1, "of {} lost places {spent} were not used again", lost.len());

    let findings = pair.finish().await?;
    assert_eq!(findings.lost, lost_events);
    assert!(findings.ghosts.len() >= 80);
    Ok(())
}

/// How much of a window is lost that the relay was in the middle of.
#[derive(Clone, Copy, PartialEq)]
enum Lost {
    /// Its upper end only: what it began at is still there.
    End,
    /// All of it, and what it began at.
    Everything,
    /// Nothing of it: the loss came after.
    Nothing,
}

async fn in_the_middle_of_a_window(name: &'static str, lost: Lost) -> Result<()> {
    let mut pair = Pair::begin(name).await?;
    pair.relay.drain().await?;
    if lost == Lost::Everything {
        pair.fall_behind().await?;
        pair.burst(40).await?;
        pair.relay.drain().await?;
    }
    let aggregates = ["hot", "big-1", "big-2"];
    pair.case.ledger.bulk(&pair.writers.main, &aggregates, 800).await?;
    if lost == Lost::End {
        pair.fall_behind().await?;
    }
    pair.case.ledger.bulk(&pair.writers.main, &aggregates, 800).await?;
    assert!(matches!(pair.relay.step().await?, Step::Dispatched(_)));
    let open = pair.relay.cursors().await?.iter().filter(|cursor| cursor.window.is_some()).count();
    assert!(open > 0, "no window was left open");
    if lost == Lost::Nothing {
        pair.fall_behind().await?;
        pair.burst(40).await?;
    }
    pair.fail_over().await?;
    let findings = pair.finish().await?;
    assert!(!findings.lost.is_empty());
    if lost == Lost::Nothing {
        assert!(findings.ghosts.is_empty() && findings.moves.is_empty(), "nothing that was lost had been seen");
    } else {
        assert!(!findings.ghosts.is_empty());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_middle_of_a_window_whose_end_is_lost() -> Result<()> {
    in_the_middle_of_a_window("lossy failover, a window's end lost", Lost::End).await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_middle_of_a_window_that_is_lost_whole() -> Result<()> {
    in_the_middle_of_a_window("lossy failover, a window lost whole", Lost::Everything).await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_middle_of_a_window_that_survives() -> Result<()> {
    in_the_middle_of_a_window("lossy failover, after an open window", Lost::Nothing).await
}

/// A pooler turns to the new primary between two transactions, with the relay's memory as it was.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_swapped_behind_a_live_connection() -> Result<()> {
    let mut pair = Pair::begin("lossy failover behind a live connection").await?;
    pair.relay.drain().await?;
    pair.fall_behind().await?;
    pair.burst(60).await?;
    pair.relay.drain().await?;
    // Read from the old one, stored when the new one is there already.
    pair.burst(20).await?;
    let Found::Batch(batch) = pair.relay.read().await? else { panic!("there is something to read") };
    pair.fail_over().await?;
    let mut writers = Writers::on(&app(&pair.new)).await?;
    writers.burst(&mut pair.case.ledger, 150).await?;
    pair.relay.turn_to(&pair.case.databases(&pair.new)).await?;
    pair.relay.commit(&batch).await?;
    assert!(pair.relay.drain().await? > 0);
    writers.burst(&mut pair.case.ledger, 40).await?;
    pair.relay.drain().await?;

    let findings = pair.case.audit(&pair.new).await?;
    assert_eq!(findings.out_of_order(), 0);
    findings.assert_ghosts_counted();
    assert!(findings.ghosts.len() >= 80);
    Ok(())
}

/// A transaction with an early id commits last on the old primary. What vouches for its lane survives, it does not.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_lost_that_lies_below_what_vouches_for_its_lane() -> Result<()> {
    let mut pair = Pair::begin("lossy failover below a witness").await?;
    let early = app(&pair.old).connect(Role::Owner).await?;
    early.batch_execute("BEGIN; SELECT pg_current_xact_id()").await?;
    pair.case.ledger.commit(&pair.writers.main, "one").await?;
    pair.relay.drain().await?;
    pair.fall_behind().await?;
    let written = pair.case.ledger.write(&early, "one").await?;
    let event_id = written.event_id;
    early.batch_execute("COMMIT").await?;
    pair.case.ledger.events.push(written);
    assert_eq!(pair.relay.drain().await?, 1);
    pair.fail_over().await?;
    let findings = pair.finish().await?;
    assert_eq!(findings.lost, BTreeSet::from([event_id]));
    assert_eq!(findings.ghosts, BTreeSet::from([event_id]));
    Ok(())
}

/// It was committed on the old primary and dispatched; on the new one it is still prepared, and commits again.
#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_whose_commit_was_lost_commits_again() -> Result<()> {
    let mut pair = Pair::begin("lossy failover, prepared transaction").await?;
    let session = app(&pair.old).connect(Role::Owner).await?;
    session.batch_execute("BEGIN").await?;
    let written = pair.case.ledger.write(&session, "prepared").await?;
    session.batch_execute("PREPARE TRANSACTION 'twice'").await?;
    pair.relay.drain().await?;
    pair.fall_behind().await?;
    session.batch_execute("COMMIT PREPARED 'twice'").await?;
    pair.case.ledger.events.push(written);
    pair.burst(60).await?;
    pair.relay.drain().await?;
    pair.fail_over().await?;

    let mut relay = pair.case.relay(&pair.new).await?;
    relay.drain().await?;
    app(&pair.new).connect(Role::Owner).await?.batch_execute("COMMIT PREPARED 'twice'").await?;
    let mut writers = Writers::on(&app(&pair.new)).await?;
    writers.burst(&mut pair.case.ledger, 40).await?;
    relay.drain().await?;
    let findings = pair.case.audit(&pair.new).await?;
    assert!(findings.survivors.values().any(|row| row.aggregate == "prepared"));
    assert_eq!(findings.out_of_order(), 0);
    Ok(())
}

/// The second standby is of the first: two moves, and the relay saw nothing between them.
#[tokio::test(flavor = "multi_thread")]
async fn two_failovers_before_the_relay_returns() -> Result<()> {
    let mut pair = Pair::begin("two lossy failovers").await?;
    pair.fall_behind().await?;
    pair.burst(60).await?;
    pair.relay.drain().await?;
    pair.fail_over().await?;
    let mut writers = Writers::on(&app(&pair.new)).await?;
    writers.burst(&mut pair.case.ledger, 40).await?;
    let newest = standby_of(&pair.new, "second").await?;
    detach(&newest).await?;
    writers.burst(&mut pair.case.ledger, 60).await?;
    pair.new.cluster().stop(Stop::Immediate).await?;
    promote(&newest).await?;
    let mut writers = Writers::on(&app(&newest)).await?;
    writers.burst(&mut pair.case.ledger, 80).await?;
    pair.new = newest;
    let findings = pair.finish().await?;
    assert!(findings.lost.len() > 120 && findings.ghosts.len() > 60);
    Ok(())
}

/// What a writer was told is committed is on the standby as well, and nothing else was ever visible.
#[tokio::test(flavor = "multi_thread")]
async fn a_synchronous_standby_is_promoted_and_nothing_is_lost() -> Result<()> {
    let mut pair = Pair::begin("synchronous failover").await?;
    pair.old.cluster().configure(&[("synchronous_standby_names", "standby")])?;
    let superuser = app(&pair.old).connect(Role::Superuser).await?;
    superuser.batch_execute("SELECT pg_reload_conf()").await?;
    until("a synchronous standby", async || {
        let state = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        Ok((superuser.query_one(state, &[]).await?.get::<_, i64>(0) == 1).then_some(()))
    })
    .await?;
    pair.burst(80).await?;
    pair.relay.drain().await?;
    pair.burst(40).await?;
    detach(&pair.new).await?;
    // Its commit is never answered, and is not to be seen meanwhile.
    let unanswered = app(&pair.old).connect(Role::Owner).await?;
    let commit = tokio::spawn(async move { tests::dispatcher::write_event(&unanswered, "hot", 0).await });
    until("the commit to wait for the standby", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        Ok((superuser.query_one(waiting, &[]).await?.get::<_, i64>(0) == 1).then_some(()))
    })
    .await?;
    pair.relay.drain().await?;
    pair.fail_over().await?;
    assert!(commit.await?.is_err());

    let findings = pair.finish().await?;
    assert!(findings.lost.is_empty() && findings.ghosts.is_empty() && findings.moves.is_empty());
    Ok(())
}
