//! Who is not written to: on a staging system, and after a bounce or a complaint.

use anyhow::Result;
use serde_json::{Value, json};
use tests::services::run_relay;
use tests::smtp_sink::{Rule, Step};
use tests::wait::until;

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

#[tokio::test]
async fn whoever_is_on_the_suppression_list_gets_no_mail_until_taken_off() -> Result<()> {
    let test = "whoever_is_on_the_suppression_list_gets_no_mail_until_taken_off";
    let Some(stage) = Stage::set(test).await? else { return Ok(()) };
    let relay = async |arguments: &[&str]| -> Result<Value> {
        let finished = run_relay(&stage.databases, &[&["mail"], arguments, &["--json"]].concat()).await?;
        assert_eq!(finished.status.code(), Some(0), "{}{}", finished.stdout, finished.stderr);
        Ok(serde_json::from_str(&finished.stdout)?)
    };
    let said = relay(&["suppress", "Canary@Example.ORG", "--reason", "complained to us"]).await?;
    assert_eq!(said, json!({ "address": "canary@example.org", "suppressed": true }));
    assert_eq!(relay(&["suppress", "canary@example.org", "--reason", "again"]).await?["suppressed"], false);

    let (off, fine) = (stage.job("CANARY@example.org").await?, stage.job("ada@example.org").await?);
    let worker = stage.relay(&[]).await?;
    let cancelled = stage.wait_for(off, "cancelled").await?;
    let reason = "not sent: the recipient is on the suppression list (complained to us)";
    assert_eq!((cancelled.last_error.as_deref(), cancelled.attempt), (Some(reason), 0));
    stage.wait_for(fine, "succeeded").await?;

    let listed = relay(&["suppressed"]).await?;
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    assert_eq!((&listed[0]["address"], &listed[0]["source"]), (&json!("canary@example.org"), &json!("operator")));
    assert_eq!(relay(&["suppressed", "ada@example.org"]).await?, json!([]));
    assert_eq!(relay(&["unsuppress", "canary@example.org", "--reason", "asked for it"]).await?["unsuppressed"], true);
    assert_eq!(relay(&["unsuppress", "canary@example.org"]).await?["unsuppressed"], false);
    let again = stage.job("canary@example.org").await?;
    stage.wait_for(again, "succeeded").await?;

    // What was done is in the trail once each, without the address.
    let trail =
        stage.client.query("SELECT action, filter::text, reason FROM aftercommit.operator_actions ORDER BY 1", &[]);
    let trail = trail.await?;
    let actions: Vec<(&str, Option<&str>)> = trail.iter().map(|row| (row.get(0), row.get(2))).collect();
    assert_eq!(actions, [("suppress mail", Some("complained to us")), ("unsuppress mail", Some("asked for it"))]);
    assert!(
        trail.iter().all(|row| !row.get::<_, &str>(1).contains("canary") && row.get::<_, &str>(1).contains("sha256"))
    );
    worker.process.terminate().await?;
    assert!(!worker.process.output().to_lowercase().contains("canary"));
    Ok(())
}

#[tokio::test]
async fn an_address_that_a_server_says_is_none_gets_no_more_mail_if_so_set() -> Result<()> {
    let test = "an_address_that_a_server_says_is_none_gets_no_more_mail_if_so_set";
    let Some(stage) = Stage::set(test).await? else { return Ok(()) };
    for (to, reply) in [
        ("gone@example.org", "550 5.1.1 <gone@example.org> unknown"),
        ("policy@example.org", "550 5.7.1 not wanted"),
        ("bare@example.org", "550 unknown"),
    ] {
        stage.sink.rule(Rule::at(Step::Rcpt).to(to).reply(reply)).await?;
    }
    let bounce = stage.job("gone@example.org").await?;
    let others = [stage.job("policy@example.org").await?, stage.job("bare@example.org").await?];
    let relay = stage.relay(&[("MAIL_SUPPRESS_BOUNCES", "true")]).await?;
    for job in [bounce, others[0], others[1]] {
        stage.wait_for(job, "dead").await?;
    }
    let list =
        stage.client.query("SELECT address, reason, source, job_id FROM aftercommit.mail_suppressions", &[]).await?;
    assert_eq!(list.len(), 1, "only what is said to be no mailbox");
    assert_eq!((list[0].get::<_, &str>(0), list[0].get::<_, &str>(2)), ("gone@example.org", "bounce"));
    assert_eq!(list[0].get::<_, &str>(1), "bounced: 550 5.1.1 …@… unknown");
    assert_eq!(list[0].get::<_, uuid::Uuid>(3), bounce);
    let next = stage.job("gone@example.org").await?;
    stage.wait_for(next, "cancelled").await?;
    relay.process.terminate().await?;

    // Unless it is asked for, nobody is put on the list.
    stage.client.execute("DELETE FROM aftercommit.mail_suppressions", &[]).await?;
    let _relay = stage.relay(&[]).await?;
    let again = stage.job("gone@example.org").await?;
    stage.wait_for(again, "dead").await?;
    assert_eq!(stage.count("mail_suppressions").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_list_that_cant_be_read_is_a_reason_to_wait_and_none_to_send() -> Result<()> {
    let test = "a_list_that_cant_be_read_is_a_reason_to_wait_and_none_to_send";
    let Some(stage) = Stage::set(test).await? else { return Ok(()) };
    stage.client.batch_execute("ALTER TABLE aftercommit.mail_suppressions RENAME TO elsewhere").await?;
    let job = stage.job("ada@example.org").await?;
    let relay = stage.relay(&[]).await?;
    relay.process.line_with("delivery pauses").await?;
    until("the reason", async || {
        let row = stage.look(job).await?;
        Ok(row.last_error.filter(|error| error.contains("the suppression list can't be read")))
    })
    .await?;
    assert!(stage.sink.accepted().await?.is_empty());
    stage.client.batch_execute("ALTER TABLE aftercommit.elsewhere RENAME TO mail_suppressions").await?;
    assert_eq!(stage.wait_for(job, "succeeded").await?.attempt, 1);
    Ok(())
}
