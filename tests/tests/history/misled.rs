//! Relays whose address leads to the wrong server: a standby, an old primary that still answers, an old copy.

use std::sync::Arc;

use anyhow::{Result, ensure};
use relay::dispatch::{self, Context};
use tests::copies::{AtRest, app, await_replay, detach, primary, promote, standby_of};
use tests::databases::{DatabaseServer, Databases};
use tests::dispatcher::context;
use tests::forwarder::Forwarder;
use tests::postgres::Stop;
use tests::services::run_relay;
use tests::wait::until;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::audit::{Case, registry};
use crate::writers::Writers;

/// A dispatching worker as the service runs it, until it is dropped.
pub struct Service {
    context: Arc<Context>,
    task: JoinHandle<()>,
    stop: DropGuard,
}

impl Service {
    /// Reads from wherever an address leads.
    pub fn start(case: &Case, server: &Arc<DatabaseServer>, through: u16) -> Result<Self> {
        let databases = Databases { app: app(server).through(through), ..case.databases(server) };
        let context = Arc::new(context(&databases, registry())?);
        let (stop, worker) = (CancellationToken::new(), context.clone());
        let guard = stop.clone().drop_guard();
        let task = tokio::spawn(async move { dispatch::run(&worker, 0, &stop).await });
        Ok(Self { context, task, stop: guard })
    }

    /// Waits until it says why it does not work, in words that hold `part`.
    pub async fn refuses(&self, part: &str) -> Result<()> {
        until(&format!("a reason with \"{part}\" instead of {:?}", self.context.health.report()), async || {
            let told = self.context.health.report().parts;
            Ok(told.values().flatten().any(|trouble| trouble.reason.contains(part)).then_some(()))
        })
        .await
    }

    /// Waits until it has nothing to complain of.
    pub async fn works(&self) -> Result<()> {
        until("a relay that works", async || Ok(self.context.health.report().is_ready().then_some(()))).await
    }

    /// Looks at once.
    pub fn wake(&self) {
        self.context.outbox_bell.ring();
    }

    /// Stops it in order.
    pub async fn stop(self) -> Result<()> {
        drop(self.stop);
        Ok(self.task.await?)
    }
}

/// How many events have a job.
async fn dispatched(case: &Case) -> Result<usize> {
    let client = case.jobs.connect(tests::databases::Role::Superuser).await?;
    let count = "SELECT count(DISTINCT event_id) FROM aftercommit.jobs";
    Ok(usize::try_from(client.query_one(count, &[]).await?.get::<_, i64>(0))?)
}

/// Waits until so many events have a job.
pub async fn until_dispatched(case: &Case, service: &Service, events: usize) -> Result<()> {
    until("every event dispatched", async || {
        service.wake();
        Ok((dispatched(case).await? >= events).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_given_by_mistake_is_promoted_later() -> Result<()> {
    let mut case = Case::begin("standby given by mistake").await?;
    let old = primary().await?;
    let standby = standby_of(&old, "standby").await?;
    let mut writers = Writers::on(&app(&old)).await?;
    writers.burst(&mut case.ledger, 60).await?;
    let service = Service::start(&case, &standby, standby.cluster().port())?;
    service.refuses("hot standby").await?;
    // The one with the right address has all the lanes meanwhile.
    let right = Service::start(&case, &old, old.cluster().port())?;
    until_dispatched(&case, &right, case.ledger.mark()).await?;
    right.stop().await?;
    writers.burst(&mut case.ledger, 60).await?;
    service.refuses("hot standby").await?;
    await_replay(&old, &standby).await?;
    old.cluster().stop(Stop::Immediate).await?;
    promote(&standby).await?;
    service.works().await?;
    Writers::on(&app(&standby)).await?.burst(&mut case.ledger, 60).await?;
    until_dispatched(&case, &service, case.ledger.mark()).await?;
    service.stop().await?;
    let findings = case.finish(&standby).await?;
    ensure!(findings.lost.is_empty() && findings.ghosts.is_empty() && findings.moves.is_empty());
    Ok(())
}

/// Two addresses, two primaries. The relay that reaches the new one dispatches everything, in lanes that were never used
/// before as well; the other one waits, and nothing goes back and forth.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_primary_still_answers() -> Result<()> {
    let mut case = Case::begin("old primary still answers").await?;
    let old = primary().await?;
    let new = standby_of(&old, "standby").await?;
    let (to_old, moving) = (Forwarder::to(old.cluster().port()).await?, Forwarder::to(old.cluster().port()).await?);
    let mut writers = Writers::on(&app(&old)).await?;
    let stale = Service::start(&case, &old, to_old.port())?;
    let service = Service::start(&case, &old, moving.port())?;
    writers.burst(&mut case.ledger, 60).await?;
    until_dispatched(&case, &service, case.ledger.mark()).await?;
    await_replay(&old, &new).await?;
    detach(&new).await?;
    // Dispatched and lost.
    writers.burst(&mut case.ledger, 40).await?;
    until_dispatched(&case, &service, case.ledger.mark()).await?;
    promote(&new).await?;
    moving.turn_to(new.cluster().port());
    moving.cut();
    Writers::on(&app(&new)).await?.burst(&mut case.ledger, 80).await?;
    until_dispatched(&case, &service, case.ledger.mark()).await?;
    stale.wake();
    stale.refuses("an old primary").await?;

    // What is written on the old one now is nobody's, and every lane goes on without the relay that sees it.
    let superuser = app(&old).connect(tests::databases::Role::Owner).await?;
    for index in 0..60 {
        tests::dispatcher::write_event(&superuser, &format!("nobody-{index}"), -1).await?;
    }
    let moves = "SELECT count(*) FROM aftercommit.history_moves";
    let jobs = case.jobs.connect(tests::databases::Role::Superuser).await?;
    let moved: i64 = jobs.query_one(moves, &[]).await?.get(0);
    let mut writers = Writers::on(&app(&new)).await?;
    for _ in 0..3 {
        writers.burst(&mut case.ledger, 40).await?;
        for index in 0..60 {
            case.ledger.commit(&writers.main, &format!("nobody-{index}")).await?;
        }
        stale.wake();
        until_dispatched(&case, &service, case.ledger.mark()).await?;
        stale.refuses("an old primary").await?;
    }
    assert_eq!(jobs.query_one(moves, &[]).await?.get::<_, i64>(0), moved, "nothing went back and forth");
    let of_old = "SELECT count(*) FROM aftercommit.jobs WHERE (args ->> 'number')::bigint < 0";
    assert_eq!(jobs.query_one(of_old, &[]).await?.get::<_, i64>(0), 0);
    // Its address is mended: it takes its share.
    to_old.turn_to(new.cluster().port());
    stale.works().await?;
    stale.stop().await?;
    service.stop().await?;
    let findings = case.finish(&new).await?;
    assert!(findings.ghosts.len() >= 40 && !findings.moves.is_empty());
    Ok(())
}

/// A copy from before the failover is put back on purpose. It looks like an old primary: a person decides.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_from_before_the_failover_is_put_back() -> Result<()> {
    let mut case = Case::begin("copy older than the failover").await?;
    let old = primary().await?;
    Writers::on(&app(&old)).await?.burst(&mut case.ledger, 60).await?;
    case.relay(&old).await?.drain().await?;
    Writers::on(&app(&old)).await?.burst(&mut case.ledger, 40).await?;
    let new = standby_of(&old, "standby").await?;
    old.cluster().stop(Stop::Fast).await?;
    let copy = AtRest::of(&old).await?;
    promote(&new).await?;
    let mut writers = Writers::on(&app(&new)).await?;
    writers.burst(&mut case.ledger, 80).await?;
    case.relay(&new).await?.drain().await?;
    case.deliver_some().await?;
    new.cluster().stop(Stop::Immediate).await?;

    let restored = copy.start(&[]).await?;
    let mut writers = Writers::on(&app(&restored)).await?;
    writers.burst(&mut case.ledger, 120).await?;
    let service = Service::start(&case, &restored, restored.cluster().port())?;
    service.refuses("relay accept-history").await?;
    let before = dispatched(&case).await?;
    writers.burst(&mut case.ledger, 40).await?;
    service.refuses("relay accept-history").await?;
    assert_eq!(dispatched(&case).await?, before, "nothing is dispatched until somebody decides");

    let databases = case.databases(&restored);
    let refused = run_relay(&databases, &["accept-history"]).await?;
    ensure!(refused.code() == Some(2) && refused.stderr.contains("--yes"), "{}", refused.stderr);
    let accepted = run_relay(&databases, &["accept-history", "--yes"]).await?.success()?;
    ensure!(accepted.stdout.contains("accepted"), "{}", accepted.stdout);
    service.works().await?;
    until("what the copy holds dispatched", async || {
        service.wake();
        let survivors = crate::audit::outbox(&restored).await?.len();
        let of = case.jobs.connect(tests::databases::Role::Superuser).await?;
        let done: i64 = of
            .query_one("SELECT count(DISTINCT event_id) FROM aftercommit.jobs WHERE state <> 'cancelled'", &[])
            .await?
            .get(0);
        Ok((done >= i64::try_from(survivors)?).then_some(()))
    })
    .await?;
    service.stop().await?;
    let findings = case.finish(&restored).await?;
    assert!(findings.ghosts.len() >= 80 && !findings.moves.is_empty());
    Ok(())
}
