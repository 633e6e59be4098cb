//! The jobs database at an earlier state: cursors, checkpoints and jobs go back together.

use anyhow::Result;
use tests::copies::{Dump, app, primary};
use tests::databases::Role;
use tests::wait::until;

use crate::audit::Case;
use crate::misled::{Service, until_dispatched};
use crate::writers::Writers;

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_database_is_put_back_under_a_relay_at_work() -> Result<()> {
    let mut case = Case::begin("jobs database restored").await?;
    let server = primary().await?;
    let mut writers = Writers::on(&app(&server)).await?;
    let service = Service::start(&case, &server, server.cluster().port())?;
    writers.burst(&mut case.ledger, 60).await?;
    until_dispatched(&case, &service, case.ledger.mark()).await?;
    let dump = Dump::of(&case.jobs).await?;
    writers.burst(&mut case.ledger, 60).await?;
    until_dispatched(&case, &service, case.ledger.mark()).await?;
    case.deliver_some().await?;

    // It ends the relay's sessions, as a restore does.
    dump.load(case.jobs.server()).await?;
    writers.burst(&mut case.ledger, 60).await?;
    until("the database to be there again", async || Ok(case.jobs.connect(Role::Jobs).await.is_ok().then_some(())))
        .await?;
    until_dispatched(&case, &service, case.ledger.mark()).await?;
    service.stop().await?;
    let findings = case.finish(&server).await?;
    assert!(findings.lost.is_empty() && findings.ghosts.is_empty());
    assert!(!findings.moves.is_empty());
    assert!(findings.moves.iter().all(|moved| moved.reason.contains("jobs database") && !moved.from_everything));
    Ok(())
}
