//! Rows that no handler of ours would have written: none stops delivery.

use anyhow::Result;

use crate::support::{Policy, Stage};

#[tokio::test]
async fn odd_rows_end_with_a_reason_and_stop_nobody() -> Result<()> {
    let Some(stage) = Stage::set("odd_rows_end_with_a_reason_and_stop_nobody").await? else { return Ok(()) };
    let email = |to: &str, name: &str, template: &str| {
        serde_json::json!({ "template": template, "to": to, "name": name, "user_id": uuid::Uuid::nil() }).to_string()
    };
    let policy = Policy::default();
    let unknown = stage.row("webhook", "{}", policy, "").await?;
    let mut dead = vec![];
    for (args, extra, expected) in [
        ("[1]".to_owned(), "", "args can't be read"),
        ("null".to_owned(), "", "args can't be read"),
        (email("nobody", "Ada", "welcome"), "", "args.to"),
        (email("ada@canary.example\r\nBcc: eve@example.org", "Ada", "welcome"), "", "args.to"),
        (email("ada@canary.example", "Ada\r\nBcc: eve@example.org", "welcome"), "", "args.name"),
        (email("ada@canary.example", "Ada", "welcome"), "occurred_at = '-infinity'", "occurred_at"),
        (email("ada@canary.example", "Ada", "welcome"), "occurred_at = '294276-01-01'", "occurred_at"),
    ] {
        dead.push((stage.row("email", &args, policy, extra).await?, expected));
    }
    let late = stage.row("email", &email("late@example.org", "", "welcome"), policy, "expires_at = now()").await?;
    let earliest = stage.row("email", &email("early@example.org", "", "welcome"), policy, "name = 'early'").await?;
    stage.client.execute("UPDATE aftercommit.jobs SET run_at = '-infinity' WHERE job_id = $1", &[&earliest]).await?;

    let relay = stage.relay(&[]).await?;
    let fine = stage.job("bob@example.org").await?;
    for (job, expected) in dead {
        let row = stage.wait_for(job, "dead").await?;
        let error = row.last_error.unwrap_or_default();
        assert!(error.contains(expected) && !error.contains("canary"), "{expected}: {error}");
        assert_eq!(row.attempt, 1);
    }
    let expired = stage.wait_for(late, "expired").await?;
    assert_eq!((expired.attempt, expired.last_error.as_deref()), (0, Some("expired before it could be done")));
    stage.wait_for(fine, "succeeded").await?;
    stage.wait_for(earliest, "succeeded").await?;
    let left_alone = stage.look(unknown).await?;
    assert_eq!((left_alone.state.as_str(), left_alone.attempt), ("available", 0));
    relay.process.line_with("webhook").await?;
    Ok(())
}

#[tokio::test]
async fn a_job_that_waits_has_a_try_left() -> Result<()> {
    let Some(stage) = Stage::set("a_job_that_waits_has_a_try_left").await? else { return Ok(()) };
    let error = stage.row("email", "{}", Policy::default(), "attempt = 5").await.expect_err("refused");
    assert!(format!("{error:?}").contains("jobs_waiting_has_a_try_left"), "{error:?}");
    Ok(())
}
