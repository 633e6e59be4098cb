//! What each fault of a mail server leaves in the row. The table in `relay/src/mail/MAIL.md` is this one.

use anyhow::Result;
use tests::smtp_sink::{Rule, Step};
use tests::wait::until;

use crate::support::{Policy, Stage};

/// What is left after the first try.
#[derive(Debug, PartialEq)]
struct Left<'a> {
    state: &'a str,
    attempt: i16,
    outcome: &'a str,
    phase: &'a str,
    code: Option<i32>,
}

const fn left<'a>(state: &'a str, outcome: &'a str, phase: &'a str, code: Option<i32>) -> Left<'a> {
    Left { state, attempt: 1, outcome, phase, code }
}

#[tokio::test]
async fn each_fault_of_one_mail_leaves_what_the_table_says() -> Result<()> {
    let Some(stage) = Stage::set("each_fault_of_one_mail_leaves_what_the_table_says").await? else { return Ok(()) };
    let rule = Rule::at;
    let table = [
        ("4xx", rule(Step::Rcpt).reply("450 4.2.1 busy"), left("retrying", "retry", "rcpt", Some(450))),
        ("4xx-bare", rule(Step::Rcpt).reply("450"), left("retrying", "retry", "rcpt", Some(450))),
        ("421-rcpt", rule(Step::Rcpt).reply("421 4.7.0 slow"), left("retrying", "retry", "rcpt", Some(421))),
        ("5xx", rule(Step::Rcpt).reply("550 5.1.1 unknown"), left("dead", "dead", "rcpt", Some(550))),
        ("garbage", rule(Step::Rcpt).reply("what?"), left("retrying", "retry", "rcpt", None)),
        ("endless", rule(Step::Rcpt).reply(&"2".repeat(1 << 18)), left("retrying", "retry", "rcpt", None)),
        ("drop-rcpt", rule(Step::Rcpt).drop_connection(), left("retrying", "retry", "rcpt", None)),
        ("silent-rcpt", rule(Step::Rcpt).hold(), left("retrying", "retry", "rcpt", None)),
        (
            "tarpit",
            rule(Step::Rcpt).reply("250 ok").drip(std::time::Duration::from_millis(700)),
            left("retrying", "retry", "rcpt", None),
        ),
        ("early-reply", rule(Step::Rcpt).reply("250 ok\r\n354 go\r\n250 ok"), left("retrying", "retry", "data", None)),
        ("4xx-data", rule(Step::Data).reply("451 4.3.0 later"), left("retrying", "retry", "data", Some(451))),
        ("5xx-data", rule(Step::Data).reply("554 5.6.0 no"), left("dead", "dead", "data", Some(554))),
        ("drop-data", rule(Step::Data).drop_connection(), left("retrying", "retry", "data", None)),
        ("silent-data", rule(Step::Data).hold(), left("retrying", "retry", "data", None)),
        ("early-yes", rule(Step::Data).reply("354 go\r\n250 taken"), left("retrying", "retry", "body", None)),
        ("4xx-dot", rule(Step::Dot).reply("452 4.3.1 full"), left("retrying", "retry", "dot", Some(452))),
        ("5xx-dot", rule(Step::Dot).reply("554 5.7.1 spam"), left("dead", "dead", "dot", Some(554))),
        ("drop-dot", rule(Step::Dot).drop_connection(), left("retrying", "in_doubt", "dot", None)),
        ("silent-dot", rule(Step::Dot).hold(), left("retrying", "in_doubt", "dot", None)),
        ("garbage-dot", rule(Step::Dot).reply("what?"), left("retrying", "in_doubt", "dot", None)),
    ];
    let policy = Policy { initial: 60.0, ..Policy::default() };
    let mut jobs = vec![];
    for (name, rule, expected) in table {
        let to = format!("{name}@example.org");
        stage.sink.rule(rule.to(&to)).await?;
        jobs.push((name, stage.job_with(&to, policy).await?, expected));
    }
    let fine = stage.job("ada@example.org").await?;
    let relay = stage.relay(&[("SMTP_TIMEOUTS", "2s"), ("SMTP_CONNECTIONS", "8")]).await?;
    let mut wrong = vec![];
    for (name, job, expected) in jobs {
        let row = until(name, async || {
            let row = stage.look(job).await?;
            Ok((!matches!(row.state.as_str(), "available" | "running")).then_some(row))
        })
        .await?;
        let tried = stage.attempts(job).await?;
        let [tried] = tried.as_slice() else { anyhow::bail!("{name}: {row:?} {tried:?}") };
        let found = Left {
            state: &row.state,
            attempt: row.attempt,
            outcome: &tried.outcome,
            phase: tried.phase.as_deref().unwrap_or_default(),
            code: tried.code,
        };
        if found != expected {
            wrong.push(format!("{name}: {found:?}, {}", tried.error));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Not one of them was about the server.
    stage.wait_for(fine, "succeeded").await?;
    assert!(!relay.process.output().contains("delivery pauses"));
    Ok(())
}

#[tokio::test]
async fn each_fault_of_the_server_pauses_delivery_and_spends_nothing() -> Result<()> {
    let test = "each_fault_of_the_server_pauses_delivery_and_spends_nothing";
    let Some(stage) = Stage::set(test).await? else { return Ok(()) };
    let relay = stage.relay(&[("SMTP_TIMEOUTS", "2s"), ("SMTP_MAILS_PER_CONNECTION", "1")]).await?;
    for (rule, reason) in [
        (Rule::at(Step::Connect).reply("554 5.3.2 no service"), "connect: 554 5.3.2"),
        (Rule::at(Step::Connect).drop_connection(), "connect: "),
        (Rule::at(Step::Connect).hold(), "connect: no answer within 2 s"),
        (Rule::at(Step::Ehlo).reply("421 4.3.2 busy"), "ehlo: 421 4.3.2"),
        (Rule::at(Step::Ehlo).reply("what?"), "ehlo: the server said something that is no reply"),
        (Rule::at(Step::Mail).reply("421 4.3.2 going down"), "mail: 421 4.3.2"),
        (Rule::at(Step::Mail).reply("451 4.7.1 too much from you"), "mail: 451 4.7.1"),
        (Rule::at(Step::Mail).reply("530 5.7.0 log in first"), "mail: 530 5.7.0"),
        (Rule::at(Step::Mail).drop_connection(), "mail: "),
        (Rule::at(Step::Mail).hold(), "mail: no answer within 2 s"),
    ] {
        stage.sink.rule(rule).await?;
        let job = stage.job("ada@example.org").await?;
        until(reason, async || {
            let row = stage.look(job).await?;
            Ok(row.last_error.is_some_and(|error| error.starts_with(reason)).then_some(()))
        })
        .await?;
        stage.sink.forget_rules().await?;
        stage.sink.release(Step::Connect).await?;
        stage.sink.release(Step::Mail).await?;
        // A probe finds the server well again.
        assert_eq!(stage.wait_for(job, "succeeded").await?.attempt, 1, "{reason}");
    }
    assert_eq!(stage.count("job_attempts").await?, 0);
    relay.process.fail_if_ended()?;
    Ok(())
}
