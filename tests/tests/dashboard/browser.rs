//! The dashboard in a real browser: what people come for, from the first look to the deed.

use anyhow::{Context as _, Result};
use serde_json::json;
use tests::browser::{Browser, Look};
use tests::databases::Role;
use tests::http;
use tests::services::{start_api, start_relay, verification_keys};
use tests::smtp_sink::SmtpSink;
use tests::smtp_sink::{Rule, Step};
use tests::{databases::Databases, postgres::free_port, wait::until};

use crate::support::{Stage, register, start};

#[tokio::test]
async fn a_registration_is_followed_to_its_mail() -> Result<()> {
    let Some(browser) = Browser::start_or_skip("a_registration_is_followed_to_its_mail", Look::Light).await? else {
        return Ok(());
    };
    let databases = Databases::new().await?;
    let keys = verification_keys();
    let mail = tempfile::tempdir()?;
    let mailbox = tests::mailbox::Mailbox::new(mail.path());
    let dashboard = format!("127.0.0.1:{}", free_port()?);
    let api = start_api(&databases, &keys, &[]).await?.ready().await?;
    let settings = [("DASHBOARD_LISTEN", &*dashboard)];
    let _relay = start_relay(&databases, &keys, &api.url, &mailbox.url(), &settings).await?.ready().await?;

    // The list is open before anything happens: the event shows up by itself.
    browser.open(&format!("http://{dashboard}/events")).await?;
    browser.wait_for_text("There are no events yet").await?;
    let body = json!({ "email": "ada@example.org", "display_name": "Ada" });
    let registered = http::post_json(&format!("{}/v1/users", api.url), &body).await?;
    assert_eq!(registered.status, 201);
    browser.wait_for_text("user.registered").await?;
    browser.find("#list tbody tr a").await?.click().await?;

    browser.wait_for_text("the mail was handed to the mail server").await?;
    let timeline = browser.text().await?;
    assert!(
        timeline.contains("Committed") && timeline.contains("send_verification_email asked for a job"),
        "{timeline}"
    );
    browser.picture("event").await?;
    browser.find("#timeline a[href^='/jobs/']").await?.click().await?;
    browser.wait_for_text("it was done at the first try").await?;
    browser.press("See the mail").await?;
    browser.wait_for_text("Message-ID").await?;
    let text = browser.text().await?;
    assert!(text.contains("ada@example.org") && text.contains("Confirm your email address"), "{text}");
    browser.picture("mail").await?;

    // The mail in its frame shows itself and runs nothing.
    assert!(browser.text_in_frame("iframe.mail").await?.contains("Ada"));

    // In development the captured mail leads on, as it would in its reader's hands.
    browser.press("Mailbox").await?;
    browser.wait_for_text("ada@example.org").await?;
    browser.find("#list tbody a").await?.click().await?;
    let link = browser.find("#links a").await?.attr("href").await?.context("a link")?;
    let page = http::get(&link).await?;
    assert_eq!(page.status, 200, "the link works: {link}");
    browser.close().await
}

#[tokio::test]
async fn a_replay_shows_what_it_would_do_before_it_does_it() -> Result<()> {
    let Some(browser) =
        Browser::start_or_skip("a_replay_shows_what_it_would_do_before_it_does_it", Look::Light).await?
    else {
        return Ok(());
    };
    let stage = Stage::start(&[]).await?;
    for n in 0..3 {
        stage.register(&format!("ada{n}@example.org")).await?;
    }
    let jobs = stage.jobs().await?;
    let count = async |condition: &str| -> Result<i64> {
        Ok(jobs.query_one(&format!("SELECT count(*) FROM aftercommit.jobs WHERE {condition}"), &[]).await?.get(0))
    };
    until("all mail to be sent", async || Ok((count("state = 'succeeded'").await? == 3).then_some(()))).await?;
    jobs.batch_execute(
        "DELETE FROM aftercommit.jobs WHERE job_id = (SELECT max(job_id::text)::uuid FROM aftercommit.jobs)",
    )
    .await?;

    browser.open(&stage.at("/replay")).await?;
    browser.fill("#from", "1h").await?;
    browser.press("Try it out").await?;
    let said = browser.wait_for_text("1 job would be stored").await?;
    assert!(
        said.contains("3 events") && said.contains("2 succeeded") && said.contains("Jobs that are not there"),
        "{said}"
    );
    browser.picture("replay").await?;
    assert_eq!(count("true").await?, 2, "nothing was changed yet");

    browser.fill("#reason", "lost in an accident").await?;
    browser.press("Store 1 job").await?;
    browser.wait_for_text("1 job stored").await?;
    assert_eq!(count("true").await?, 3);
    browser.press("Audit trail").await?;
    let trail = browser.wait_for_text("lost in an accident").await?;
    assert!(trail.contains("replay") && trail.contains("somebody on this machine"), "{trail}");

    // Again: the mail is really sent anew, and the page says so before.
    browser.open(&stage.at("/replay?from=1h&again=yes")).await?;
    browser.press("Try it out").await?;
    browser.wait_for_text("Mail is really sent again").await?;
    browser.press("Store 3 jobs").await?;
    browser.wait_for_text("3 jobs stored").await?;
    until("the mails sent anew", async || {
        Ok((count("generation = 1 AND state = 'succeeded'").await? == 3).then_some(()))
    })
    .await?;
    browser.close().await
}

#[tokio::test]
async fn dead_letters_are_retried_one_and_all() -> Result<()> {
    const TEST: &str = "dead_letters_are_retried_one_and_all";
    let Some(sink) = SmtpSink::start_or_skip(TEST).await else { return Ok(()) };
    let Some(browser) = Browser::start_or_skip(TEST, Look::Light).await? else { return Ok(()) };
    sink.rule(Rule::at(Step::Rcpt).reply("554 5.7.1 blocked for now")).await?;
    let (databases, _relay, dashboard) = start(&sink.url(), &[]).await?;
    for n in 0..3 {
        register(&databases, &format!("ada{n}@example.org")).await?;
    }
    browser.open(&dashboard).await?;
    browser.wait_for_text("3 dead jobs").await?;
    browser.picture("overview-problems").await?;
    browser.press("See why, retry or cancel").await?;
    let said = browser.wait_for_text("blocked for now").await?;
    assert!(said.contains("Dead letters"), "{said}");
    browser.picture("dead-letters").await?;

    // One by itself: it is tried again while somebody watches, and fails again.
    browser.find("#list tbody a[href^='/jobs/']").await?.click().await?;
    browser.wait_for_text("554").await?;
    sink.forget_rules().await?;
    browser.fill("#reason", "unblocked").await?;
    browser.press("Retry").await?;
    browser.wait_for_text("succeeded").await?;
    browser.picture("job").await?;

    // The rest by the filter: first how many.
    browser.open(&format!("{dashboard}/jobs?state=dead")).await?;
    browser.press("Retry…").await?;
    browser.wait_for_text("This will retry 2 jobs").await?;
    browser.press("Retry 2 jobs").await?;
    browser.wait_for_text("retry jobs").await?;
    for n in 0..3 {
        sink.wait_for_mails(&format!("ada{n}@example.org"), 1).await?;
    }
    let jobs = databases.jobs.connect(Role::Superuser).await?;
    let rows = jobs.query("SELECT affected, reason FROM aftercommit.operator_actions ORDER BY action_id", &[]).await?;
    let rows: Vec<(i64, Option<String>)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(rows, [(1, Some("unblocked".to_owned())), (2, None)]);
    browser.open(&format!("{dashboard}/jobs?state=dead")).await?;
    browser.wait_for_text("There are no dead letters").await?;
    browser.close().await
}

#[tokio::test]
async fn people_log_in_and_pause() -> Result<()> {
    let Some(browser) = Browser::start_or_skip("people_log_in_and_pause", Look::Light).await? else { return Ok(()) };
    let token = "the-operators-long-token";
    let stage = Stage::start(&[("DASHBOARD_TOKEN", token)]).await?;
    browser.open(&stage.at("/pause")).await?;
    browser.fill("#token", "not-the-token").await?;
    browser.press("Log in").await?;
    browser.wait_for_text("That is no token of this dashboard").await?;
    browser.fill("#token", token).await?;
    browser.fill("#name", "Ada").await?;
    browser.press("Log in").await?;
    browser.wait_for_text("Pause and resume").await?;
    assert!(browser.url().await?.ends_with("/pause"), "to where they wanted to go");
    browser.open(&stage.at("/pause")).await?;
    browser.fill("#part-dispatch- input[name=reason]", "a look at the mail server").await?;
    browser.press("Pause dispatch").await?;
    browser.wait_for_text("paused").await?;
    browser.open(&stage.at("/")).await?;
    browser.wait_for_text("Dispatch is paused by Ada: a look at the mail server").await?;
    browser.press("Log out").await?;
    browser.find("#token").await?;
    browser.close().await
}
