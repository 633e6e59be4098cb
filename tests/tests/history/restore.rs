//! Restores: the same cluster as it was at an earlier time, with its identity, its transaction ids and its positions.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Result;
use tests::copies::{AtRest, app, primary};
use tests::databases::{DatabaseServer, Role};
use tests::postgres::Stop;
use tests::wait::until;

use crate::audit::{Case, Findings, Row, outbox};
use crate::writers::Writers;

/// System identifier and timeline.
async fn identity(server: &DatabaseServer) -> Result<(i64, String)> {
    let asked = "SELECT system_identifier, left(pg_walfile_name(pg_current_wal_lsn()), 8) FROM pg_control_system()";
    let row = server.cluster().connect("postgres").await?.query_one(asked, &[]).await?;
    Ok((row.get(0), row.get(1)))
}

/// A cold copy of a stopped server, which then goes on.
async fn cold_copy(server: &DatabaseServer) -> Result<AtRest> {
    server.cluster().stop(Stop::Fast).await?;
    let copy = AtRest::of(server).await?;
    server.cluster().start_again().await?;
    Ok(copy)
}

/// A server goes on for a while after it was copied, and then its copy is started in its place. By what PostgreSQL says
/// of itself they can't be told apart, and the copy gives out every transaction id and position a second time.
async fn copy_put_back(mut case: Case, server: Arc<DatabaseServer>, copy: AtRest) -> Result<Findings> {
    let cut = case.ledger.mark();
    let mut writers = Writers::on(&app(&server)).await?;
    writers.burst(&mut case.ledger, 80).await?;
    case.relay(&server).await?.drain().await?;
    case.deliver_some().await?;
    writers.burst(&mut case.ledger, 20).await?;
    let (before, known) = (outbox(&server).await?, identity(&server).await?);
    let lost = case.ledger.between(cut, case.ledger.mark());
    server.cluster().stop(Stop::Immediate).await?;

    let restored = copy.start(&[]).await?;
    let mut writers = Writers::on(&app(&restored)).await?;
    for events in [80, 20, 100] {
        writers.burst(&mut case.ledger, events).await?;
    }
    assert_eq!(identity(&restored).await?, known);
    let after = outbox(&restored).await?;
    let place = |row: &Row| (row.transaction_id.clone(), row.position, row.aggregate.clone());
    let again: BTreeSet<_> = after.values().map(place).collect();
    let gone: Vec<_> = before.iter().filter(|(id, _)| !after.contains_key(id)).map(|(_, row)| place(row)).collect();
    assert!(gone.len() > 100 && gone.iter().all(|place| again.contains(place)), "each of them is another's place now");

    let findings = case.finish(&restored).await?;
    assert_eq!(findings.lost, lost);
    assert!(findings.ghosts.len() >= 80 && !findings.moves.is_empty());
    Ok(findings)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_copy_is_put_back() -> Result<()> {
    let mut case = Case::begin("file-level restore").await?;
    let server = primary().await?;
    let mut writers = Writers::on(&app(&server)).await?;
    writers.burst(&mut case.ledger, 60).await?;
    case.relay(&server).await?.drain().await?;
    // It waits, in both.
    writers.burst(&mut case.ledger, 60).await?;
    let copy = cold_copy(&server).await?;
    let findings = copy_put_back(case, server, copy).await?;
    assert!(findings.moves.iter().any(|moved| !moved.from_everything), "a checkpoint held");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_copy_is_put_back_that_is_older_than_every_checkpoint() -> Result<()> {
    let mut case = Case::begin("file-level restore, no checkpoint holds").await?;
    let server = primary().await?;
    Writers::on(&app(&server)).await?.burst(&mut case.ledger, 60).await?;
    let copy = cold_copy(&server).await?;
    // The first look of all comes after the copy, at newer events in nearly every lane.
    let findings = copy_put_back(case, server, copy).await?;
    assert!(findings.moves.iter().any(|moved| moved.from_everything), "no checkpoint held");
    Ok(())
}

/// A base backup and the write-ahead log up to a named point: the events after it are gone, on a timeline of its own.
#[tokio::test(flavor = "multi_thread")]
async fn recovery_stops_at_a_point_in_time() -> Result<()> {
    let mut case = Case::begin("point-in-time restore").await?;
    let server = primary().await?;
    let mut writers = Writers::on(&app(&server)).await?;
    let mut relay = case.relay(&server).await?;
    writers.burst(&mut case.ledger, 60).await?;
    relay.drain().await?;
    let backup = AtRest::backup_of(&server).await?;
    writers.burst(&mut case.ledger, 40).await?;
    relay.drain().await?;
    let superuser = app(&server).connect(Role::Superuser).await?;
    superuser.batch_execute("SELECT pg_create_restore_point('before the mistake')").await?;
    let cut = case.ledger.mark();
    writers.burst(&mut case.ledger, 80).await?;
    relay.drain().await?;
    case.deliver_some().await?;
    writers.burst(&mut case.ledger, 20).await?;
    let lost = case.ledger.between(cut, case.ledger.mark());
    let known = identity(&server).await?;
    server.cluster().stop(Stop::Fast).await?;

    backup.mark("recovery.signal")?;
    let log = server.cluster().site().data_dir().join("pg_wal");
    let restored = backup
        .start(&[
            ("restore_command", &format!("cp '{}/%f' '%p'", log.display())),
            ("recovery_target_name", "before the mistake"),
            ("recovery_target_action", "promote"),
        ])
        .await?;
    let superuser = app(&restored).connect(Role::Superuser).await?;
    until("the end of the recovery", async || {
        let recovering: bool = superuser.query_one("SELECT pg_is_in_recovery()", &[]).await?.get(0);
        Ok((!recovering).then_some(()))
    })
    .await?;
    let found = identity(&restored).await?;
    assert!(found.0 == known.0 && found.1 > known.1, "{found:?} after {known:?}");
    Writers::on(&app(&restored)).await?.burst(&mut case.ledger, 150).await?;

    let findings = case.finish(&restored).await?;
    assert_eq!(findings.lost, lost);
    assert!(findings.ghosts.len() >= 80 && !findings.moves.is_empty());
    Ok(())
}
