//! Who is not written to: on a staging system, and after a bounce or a complaint.

use anyhow::Result;

use crate::support::Stage;

#[tokio::test]
async fn in_a_sandbox_only_the_listed_are_written_to_and_the_rest_is_called_off() -> Result<()> {
    let test = "in_a_sandbox_only_the_listed_are_written_to_and_the_rest_is_called_off";
    let Some(stage) = Stage::set(test).await? else { return Ok(()) };
    let (known, stranger) = (stage.job("Ada@Example.org").await?, stage.job("canary@elsewhere.example").await?);
    let relay = stage.relay(&[("MAIL_SANDBOX", "*@example.org")]).await?;
    relay.process.line_with("SANDBOX").await?;
    let off = stage.wait_for(stranger, "cancelled").await?;
    assert!(off.last_error.as_deref().is_some_and(|reason| reason.contains("MAIL_SANDBOX")), "{off:?}");
    assert_eq!((off.attempt, off.claimed), (0, false), "nothing was tried");
    stage.wait_for(known, "succeeded").await?;
    assert_eq!(stage.sink.accepted().await?.len(), 1);
    assert!(!stage.sink.events_by_now().await?.iter().any(|event| event.recipients == ["canary@elsewhere.example"]));
    assert!(!relay.process.output().contains("canary"));
    Ok(())
}
