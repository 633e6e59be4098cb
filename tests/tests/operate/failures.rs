//! Failed dispatches by hand: tried again with mended handlers, or given up.

use anyhow::Result;
use relay::handlers::{HandlerError, Registry};
use relay::jobs::Job;
use relay::operate::{FailureFilter, Slice, failures};
use relay::replay::Session;
use relay::replay::tally::Tally;
use shared::envelope::Envelope;
use shared::shutdown::CancellationToken;
use tests::databases::Role;
use tests::dispatcher::{Counted, Dispatcher, counting, dispatched, url, write_event};

use crate::support::{Stage, by};

/// Two handlers, neither of which takes anything.
fn broken() -> Result<Registry> {
    let mut registry = Registry::default();
    registry.on("count", |_: &Envelope<Counted>| -> Result<Vec<Job>, HandlerError> { panic!("no") })?;
    registry.on("other", |_: &Envelope<Counted>| Err(HandlerError::Failed("never".to_owned())))?;
    Ok(registry)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_chosen_failures_are_tried_again_or_given_up() -> Result<()> {
    let mut stage = Stage::new().await?;
    let writer = stage.databases.app.connect(Role::Owner).await?;
    let mut events = Vec::new();
    for number in 0..6 {
        events.push(write_event(&writer, if number < 2 { "hot" } else { "a" }, number).await?);
    }
    Dispatcher::new(&stage.databases, broken()?).await?.drain().await?;

    let open = FailureFilter::default();
    assert_eq!(failures::count(&stage.client, &open).await?.number, 12);
    let hot = FailureFilter { aggregate: Some(("counter".to_owned(), "hot".to_owned())), ..FailureFilter::default() };
    assert_eq!(failures::count(&stage.client, &hot).await?.number, 4);
    let never = FailureFilter { error: Some("NEVER".to_owned()), ..FailureFilter::default() };
    assert_eq!(failures::count(&stage.client, &never).await?.number, 6);
    let (mut slice, mut seen) = (Slice::first(5), 0);
    loop {
        let page = failures::list(&stage.client, &open, &slice).await?;
        seen += page.len();
        let Some(last) = page.last().filter(|_| page.len() == 5) else { break };
        slice.after = Some((last.event_id, last.handler.clone()));
    }
    assert_eq!(seen, 12);

    // This build has mended one of the two handlers.
    let mut mended = counting();
    mended.on("other", |_: &Envelope<Counted>| Err(HandlerError::Failed("still not".to_owned())))?;
    let (app, jobs) = (url(&stage.databases.app.url(Role::Relay))?, url(&stage.databases.jobs.url(Role::Jobs))?);
    let mut session = Session::open(&app, &jobs, "test").await?;
    let (ada, stop, mut tally) = (stage.ada.clone(), CancellationToken::new(), Tally::default());
    failures::retry(&mut session, &mended, &hot, by(&ada, "mended"), &mut tally, &stop, |_| {}).await?;
    assert_eq!((tally.resolved(), tally.failed(), tally.stored()), (2, 2, 2));
    let mut numbers = dispatched(&stage.databases).await?;
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1], "the others were not tried");
    assert_eq!(failures::count(&stage.client, &open).await?.number, 10);

    let dismissed = failures::dismiss(&mut stage.client, &never, by(&ada, "hopeless")).await?;
    assert_eq!(dismissed, 4, "the tried ones say something else by now");
    assert_eq!(failures::dismiss(&mut stage.client, &never, by(&ada, "hopeless")).await?, 0);
    let all = FailureFilter { resolved_too: true, ..FailureFilter::default() };
    assert_eq!(failures::count(&stage.client, &all).await?.number, 12, "and stay visible");
    let trail = stage.trail().await?;
    let lines: Vec<_> = trail.iter().map(|line| (line.1.as_str(), line.3, line.5)).collect();
    assert_eq!(lines, [("retry failed dispatches", 2, true), ("dismiss failed dispatches", 4, true)]);
    Ok(())
}
