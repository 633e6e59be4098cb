//! The outbox in another cluster: loaded from a dump, upgraded in place, filled by logical replication. Its rows are the
//! same, but their transaction ids are of a history that this cluster never had.

use std::sync::Arc;

use anyhow::Result;
use tests::copies::{Dump, app, other, primary, upgrade};
use tests::databases::{DatabaseServer, Role};
use tests::postgres::Stop;
use tests::wait::until;

use crate::audit::{Case, Findings, outbox};
use crate::misled::Service;
use crate::writers::Writers;

/// Where the new cluster's counters stand when the dump is loaded.
#[derive(Clone, Copy)]
struct Counters {
    /// Transaction ids begin above those in the dump, and not below them.
    above: bool,
    /// Positions begin at 1 again.
    positions_again: bool,
}

async fn dump_loaded(name: &'static str, counters: Counters) -> Result<Findings> {
    let mut case = Case::begin(name).await?;
    let old = primary().await?;
    let mut writers = Writers::on(&app(&old)).await?;
    let mut relay = case.relay(&old).await?;
    writers.burst(&mut case.ledger, 60).await?;
    relay.drain().await?;
    // It waits, in the dump.
    writers.burst(&mut case.ledger, 60).await?;
    let dump = Dump::of(&app(&old)).await?;
    let cut = case.ledger.mark();
    writers.burst(&mut case.ledger, 60).await?;
    relay.drain().await?;
    let lost = case.ledger.between(cut, case.ledger.mark());
    old.cluster().stop(Stop::Immediate).await?;

    let at_rest = other().await?;
    if counters.above {
        at_rest.set_epoch(1).await?;
    }
    let new = at_rest.start(&[]).await?;
    dump.load(&new).await?;
    let superuser = app(&new).connect(Role::Superuser).await?;
    let above = "SELECT bool_and(transaction_id::text::bigint < pg_snapshot_xmax(pg_current_snapshot())::text::bigint)
                   FROM aftercommit.outbox";
    assert_eq!(superuser.query_one(above, &[]).await?.get::<_, bool>(0), counters.above);
    if counters.positions_again {
        superuser.batch_execute("ALTER SEQUENCE aftercommit.outbox_position_seq RESTART").await?;
        // What the dump holds comes first: nothing else could tell that it is older.
        case.relay(&new).await?.drain().await?;
    }
    // Written before the relay first looks, and committed after.
    let early = app(&new).connect(Role::Owner).await?;
    early.batch_execute("BEGIN").await?;
    let written = case.ledger.write(&early, "early").await?;
    let mut writers = Writers::on(&app(&new)).await?;
    writers.burst(&mut case.ledger, 100).await?;
    let mut relay = case.relay(&new).await?;
    relay.drain().await?;
    early.batch_execute("COMMIT").await?;
    case.ledger.events.push(written);
    relay.drain().await?;
    // The counter passes the ids in the dump.
    while !superuser.query_one(above, &[]).await?.get::<_, bool>(0) {
        writers.burst(&mut case.ledger, 60).await?;
        relay.drain().await?;
    }
    let findings = case.finish(&new).await?;
    assert_eq!(findings.lost, lost);
    assert_eq!(findings.ghosts, lost);
    assert!(findings.moves.iter().all(|moved| moved.from_everything && moved.reason.contains("another cluster")));
    assert!(!findings.moves.is_empty());
    Ok(findings)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_is_loaded_where_fewer_transactions_have_been() -> Result<()> {
    let counters = Counters { above: false, positions_again: false };
    dump_loaded("dump into a new cluster, ids start below", counters).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_is_loaded_where_more_transactions_have_been() -> Result<()> {
    let counters = Counters { above: true, positions_again: false };
    dump_loaded("dump into a new cluster, ids start above", counters).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_is_loaded_and_positions_are_given_out_again() -> Result<()> {
    let counters = Counters { above: false, positions_again: true };
    dump_loaded("dump into a new cluster, positions start again", counters).await.map(drop)
}

/// Nothing is lost by an upgrade in place; ids, positions and rows stay, the system identifier does not.
#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_is_upgraded_in_place() -> Result<()> {
    let mut case = Case::begin("pg_upgrade").await?;
    let old = primary().await?;
    let mut writers = Writers::on(&app(&old)).await?;
    writers.burst(&mut case.ledger, 60).await?;
    case.relay(&old).await?.drain().await?;
    case.deliver_some().await?;
    writers.burst(&mut case.ledger, 60).await?;
    old.cluster().stop(Stop::Fast).await?;
    let new: Arc<DatabaseServer> = upgrade(&old).await?;
    Writers::on(&app(&new)).await?.burst(&mut case.ledger, 60).await?;
    let findings = case.finish(&new).await?;
    assert!(findings.lost.is_empty() && findings.ghosts.is_empty());
    assert!(findings.moves.iter().all(|moved| moved.reason.contains("another cluster")) && !findings.moves.is_empty());
    Ok(())
}

/// The new cluster is filled by a subscription and taken over once it has caught up. Rows arrive there with ids of the old
/// one, at any time, so nothing is read while they may.
#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_is_replaced_through_logical_replication() -> Result<()> {
    let mut case = Case::begin("upgrade by logical replication").await?;
    let old = primary().await?;
    let schema = Dump::of(&app(&old)).await?;
    let mut writers = Writers::on(&app(&old)).await?;
    let service = Service::start(&case, &old, old.cluster().port())?;
    writers.burst(&mut case.ledger, 60).await?;
    service.works().await?;
    let publish = app(&old).connect(Role::Superuser).await?;
    publish.batch_execute("CREATE PUBLICATION upgrade FOR TABLE aftercommit.outbox").await?;

    let new = other().await?.start(&[("max_logical_replication_workers", "4")]).await?;
    schema.load(&new).await?;
    // The slot of a subscription waits for transactions that are under way.
    drop(writers);
    let subscribe = app(&new).connect(Role::Superuser).await?;
    let source = app(&old).url(Role::Superuser);
    subscribe.batch_execute(&format!("CREATE SUBSCRIPTION upgrade CONNECTION '{source}' PUBLICATION upgrade")).await?;
    let misled = Service::start(&case, &new, new.cluster().port())?;
    misled.refuses("subscription").await?;
    let mut writers = Writers::on(&app(&old)).await?;
    writers.burst(&mut case.ledger, 60).await?;
    service.stop().await?;
    // It waits, and is dispatched from the new cluster.
    writers.burst(&mut case.ledger, 60).await?;
    drop(writers);
    let committed = outbox(&old).await?.len();
    until("the subscription to catch up", async || Ok((outbox(&new).await?.len() == committed).then_some(()))).await?;
    misled.refuses("subscription").await?;
    subscribe.batch_execute("DROP SUBSCRIPTION upgrade").await?;
    misled.works().await?;
    old.cluster().stop(Stop::Immediate).await?;
    // Sequences are not replicated: positions would start again, below those of events that wait.
    let go_on = "SELECT setval('aftercommit.outbox_position_seq', max(position)) FROM aftercommit.outbox";
    subscribe.batch_execute(go_on).await?;
    let mut writers = Writers::on(&app(&new)).await?;
    writers.burst(&mut case.ledger, 150).await?;
    misled.stop().await?;
    let findings = case.finish(&new).await?;
    assert!(findings.lost.is_empty() && findings.ghosts.is_empty() && !findings.moves.is_empty());
    Ok(())
}
