//! What goes wrong at each step, and what it means for the job.

use anyhow::Result;
use relay::deliver::{Meaning, Outcome};
use std::time::Duration;
use tests::smtp_sink::{Rule, Step};

use super::*;

const TRANSIENT: Meaning = Meaning::Transient { after: None };

/// Whom a failure is about: the server, or this mail, at a step and with a reply.
#[derive(Debug, PartialEq)]
enum About {
    Server,
    Mail(Meaning, &'static str, Option<i32>),
}

fn about(outcome: Outcome) -> About {
    match outcome {
        Outcome::Away(_) => About::Server,
        Outcome::Failed(failure) => About::Mail(failure.meaning, failure.phase.unwrap_or("?"), failure.code),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_reply_at_each_step_has_its_meaning() -> Result<()> {
    let sink = sink_or_skip!("each_reply_at_each_step_has_its_meaning");
    let five_minutes = Meaning::Transient { after: Some(Duration::from_secs(300)) };
    for (step, reply, expected) in [
        (Step::Connect, "554 no service", About::Server),
        (Step::Connect, "421 4.3.2 busy", About::Server),
        (Step::Ehlo, "502 5.5.1 what", About::Server),
        (Step::Ehlo, "421", About::Server),
        (Step::Mail, "421 4.3.2 going down", About::Server),
        (Step::Mail, "452 4.3.1 out of space", About::Server),
        (Step::Mail, "530 5.7.0 log in first", About::Server),
        (Step::Mail, "451 later", About::Mail(TRANSIENT, "mail", Some(451))),
        (Step::Mail, "553 5.1.8 not you", About::Mail(Meaning::Permanent, "mail", Some(553))),
        (Step::Rcpt, "421 4.7.0 slow down", About::Mail(TRANSIENT, "rcpt", Some(421))),
        (Step::Rcpt, "450 4.2.1 greylisted, try again in 300 seconds", About::Mail(five_minutes, "rcpt", Some(450))),
        (Step::Rcpt, "452", About::Mail(TRANSIENT, "rcpt", Some(452))),
        (Step::Rcpt, "550 5.1.1 unknown", About::Mail(Meaning::Permanent, "rcpt", Some(550))),
        (Step::Rcpt, "hello", About::Mail(TRANSIENT, "rcpt", None)),
        (Step::Rcpt, "354 what", About::Mail(TRANSIENT, "rcpt", None)),
        (Step::Data, "451 4.3.0 later", About::Mail(TRANSIENT, "data", Some(451))),
        (Step::Data, "554 5.6.0 no", About::Mail(Meaning::Permanent, "data", Some(554))),
        (Step::Data, "250 what", About::Mail(TRANSIENT, "data", None)),
        (Step::Dot, "451 4.7.1 later", About::Mail(TRANSIENT, "dot", Some(451))),
        (Step::Dot, "554 5.7.1 spam", About::Mail(Meaning::Permanent, "dot", Some(554))),
        (Step::Dot, "what", About::Mail(Meaning::InDoubt, "dot", None)),
    ] {
        let client = client(&sink.url());
        sink.rule(Rule::at(step).reply(reply).times(1)).await?;
        let outcome = send(&client, ADA).await;
        assert_eq!(about(outcome), expected, "{step:?} {reply}");
        assert_eq!(send(&client, ADA).await, Outcome::Succeeded, "after {step:?} {reply}");
    }
    Ok(())
}

/// What a lost or silent server means, step by step.
fn lost() -> [(Step, About); 7] {
    [
        (Step::Connect, About::Server),
        (Step::Ehlo, About::Server),
        (Step::Mail, About::Server),
        (Step::Rcpt, About::Mail(TRANSIENT, "rcpt", None)),
        (Step::Data, About::Mail(TRANSIENT, "data", None)),
        (Step::Body, About::Mail(TRANSIENT, "body", None)),
        (Step::Dot, About::Mail(Meaning::InDoubt, "dot", None)),
    ]
}

/// More than the buffers between client and server hold, so that the server's ways with it are felt while it is written.
fn large() -> String {
    "a line of a very long mail\n".repeat(1 << 18)
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_a_doubt_only_after_the_dot() -> Result<()> {
    let sink = sink_or_skip!("a_connection_that_breaks_leaves_a_doubt_only_after_the_dot");
    for (step, expected) in lost() {
        let mail = if step == Step::Body { mail_saying(ADA, &large()) } else { mail_to(ADA) };
        sink.rule(Rule::at(step).drop_connection().times(1)).await?;
        let outcome = client(&sink.url()).send(&mail, &held()).await;
        assert_eq!(about(outcome), expected, "{step:?}");
    }
    assert_eq!(count(&sink.events_by_now().await?, "dot"), 1);
    assert!(sink.accepted().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_server_that_falls_silent_is_given_up_in_time() -> Result<()> {
    let sink = sink_or_skip!("a_server_that_falls_silent_is_given_up_in_time");
    for (step, expected) in lost() {
        let mail = if step == Step::Body { mail_saying(ADA, &large()) } else { mail_to(ADA) };
        sink.rule(Rule::at(step).hold().times(1)).await?;
        let outcome = hasty_client(&sink.url(), 1).send(&mail, &held()).await;
        assert_eq!(about(outcome), expected, "{step:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_yes_before_the_final_dot_is_none() -> Result<()> {
    let sink = sink_or_skip!("a_yes_before_the_final_dot_is_none");
    sink.rule(Rule::at(Step::Data).reply("354 go\r\n250 taken").times(1)).await?;
    let outcome = send(&client(&sink.url()), ADA).await;
    assert_eq!(about(outcome), About::Mail(TRANSIENT, "body", None));
    sink.rule(Rule::at(Step::Data).reply("354 go\r\n552 5.3.4 too big").times(1)).await?;
    let outcome = send(&client(&sink.url()), ADA).await;
    assert_eq!(about(outcome), About::Mail(Meaning::Permanent, "body", Some(552)));
    sink.rule(Rule::at(Step::Rcpt).reply("250 ok\r\n354 go\r\n250 taken").times(1)).await?;
    let outcome = send(&client(&sink.url()), ADA).await;
    assert_eq!(about(outcome), About::Mail(TRANSIENT, "data", None));

    let events = connections_ended(&sink, 3).await?;
    assert_eq!((count(&events, "dot"), count(&events, "body")), (0, 0));
    Ok(())
}

#[tokio::test]
async fn replies_without_end_are_cut_off() -> Result<()> {
    let sink = sink_or_skip!("replies_without_end_are_cut_off");
    for endless in ["2".repeat(1 << 20), "250-x\r\n".repeat(1 << 20), "250-\r\n250".to_owned()] {
        sink.rule(Rule::at(Step::Ehlo).reply(&endless).times(1)).await?;
        let outcome = send(&hasty_client(&sink.url(), 5), ADA).await;
        assert_eq!(about(outcome), About::Server, "{}", &endless[..8]);
    }
    Ok(())
}

/// A tarpit: something comes all the time, and never enough of it.
#[tokio::test]
async fn a_server_that_drips_its_reply_is_given_up_in_time() -> Result<()> {
    let sink = sink_or_skip!("a_server_that_drips_its_reply_is_given_up_in_time");
    for (step, reply, expected) in [
        (Step::Ehlo, "250 sink.example", About::Server),
        (Step::Rcpt, "250 ok", About::Mail(TRANSIENT, "rcpt", None)),
        (Step::Dot, "250 ok", About::Mail(Meaning::InDoubt, "dot", None)),
    ] {
        sink.rule(Rule::at(step).reply(reply).drip(Duration::from_millis(400)).times(1)).await?;
        let outcome = hasty_client(&sink.url(), 1).send(&mail_to(ADA), &held()).await;
        assert_eq!(about(outcome), expected, "{step:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_yes_that_came_before_the_connection_broke_is_one() -> Result<()> {
    let sink = sink_or_skip!("a_yes_that_came_before_the_connection_broke_is_one");
    let client = client(&sink.url());
    sink.rule(Rule::at(Step::Dot).reply("250 taken").drop_connection().times(1)).await?;
    // Read before the end of the connection was; else it is in doubt, and never a plain failure.
    let outcome = send(&client, ADA).await;
    let in_doubt = matches!(&outcome, Outcome::Failed(failure) if failure.meaning == Meaning::InDoubt);
    assert!(outcome == Outcome::Succeeded || in_doubt, "{outcome:?}");
    // The broken connection is not used again.
    assert_eq!(send(&client, ADA).await, Outcome::Succeeded);
    assert_eq!(count(&sink.events_by_now().await?, "connected"), 2);

    sink.rule(Rule::at(Step::Dot).reply("554 5.7.1 no").drop_connection().times(1)).await?;
    let refused = about(send(&client, ADA).await);
    let no = About::Mail(Meaning::Permanent, "dot", Some(554));
    assert!(refused == no || refused == About::Mail(Meaning::InDoubt, "dot", None), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn bytes_that_are_no_reply_are_none() -> Result<()> {
    let sink = sink_or_skip!("bytes_that_are_no_reply_are_none");
    for garbage in ["\u{1}\u{2}\u{ff}\u{0}", "250-\u{0}\r\n354 x", "HTTP/1.1 400 Bad Request", "2500 ok", "-1 ok"] {
        for (step, expected) in [(Step::Ehlo, About::Server), (Step::Rcpt, About::Mail(TRANSIENT, "rcpt", None))] {
            sink.rule(Rule::at(step).reply(garbage).times(1)).await?;
            assert_eq!(about(send(&hasty_client(&sink.url(), 5), ADA).await), expected, "{step:?} {garbage:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_lease_that_ends_while_the_server_holds_back_354_sends_no_mail() -> Result<()> {
    let sink = sink_or_skip!("a_lease_that_ends_while_the_server_holds_back_354");
    sink.rule(Rule::at(Step::Data).hold().times(1)).await?;
    let (client, process) = (client(&sink.url()), process());
    let lease = Lease::new(process.clone());
    let sending = tokio::spawn({
        let lease = lease.clone();
        async move { client.send(&mail_to(ADA), &lease).await }
    });
    sink.wait_until_held(Step::Data).await?;
    process.revoke();
    sink.release(Step::Data).await?;
    assert_eq!(sending.await?, Outcome::LeaseLost);
    assert!(!lease.has_begun());
    let events = connections_ended(&sink, 1).await?;
    assert_eq!((count(&events, "body"), count(&events, "dot")), (0, 0));
    Ok(())
}

#[tokio::test]
async fn a_lease_that_ends_within_the_text_sends_no_dot() -> Result<()> {
    let sink = sink_or_skip!("a_lease_that_ends_within_the_text_sends_no_dot");
    sink.rule(Rule::at(Step::Body).hold().times(1)).await?;
    let (client, process) = (client(&sink.url()), process());
    let lease = Lease::new(process.clone());
    let sending = tokio::spawn({
        let lease = lease.clone();
        async move { client.send(&mail_saying(ADA, &large()), &lease).await }
    });
    sink.wait_until_held(Step::Body).await?;
    process.revoke();
    sink.release(Step::Body).await?;
    assert_eq!(sending.await?, Outcome::LeaseLost);
    assert!(!lease.has_begun());
    let events = connections_ended(&sink, 1).await?;
    assert_eq!((count(&events, "body"), count(&events, "dot")), (1, 0));
    Ok(())
}

#[tokio::test]
async fn a_doubt_is_noted_before_the_answer_to_the_dot() -> Result<()> {
    let sink = sink_or_skip!("a_doubt_is_noted_before_the_answer_to_the_dot");
    sink.rule(Rule::at(Step::Dot).hold().times(1)).await?;
    let (client, lease) = (client(&sink.url()), held());
    let sending = tokio::spawn({
        let lease = lease.clone();
        async move { client.send(&mail_to(ADA), &lease).await }
    });
    sink.wait_until_held(Step::Dot).await?;
    assert!(lease.has_begun());
    sink.release(Step::Dot).await?;
    assert_eq!(sending.await?, Outcome::Succeeded);
    Ok(())
}
