//! Everybody can use it: no serious finding of axe-core on any page, on light and dark ground and on a phone, where no
//! page is wider than the screen.

use anyhow::{Result, ensure};
use tests::axe;
use tests::browser::{Browser, Look};
use tests::wait::until;
use uuid::Uuid;

use crate::support::Stage;

#[tokio::test]
async fn on_a_light_ground() -> Result<()> {
    check("on_a_light_ground", Look::Light).await
}

#[tokio::test]
async fn on_a_dark_ground() -> Result<()> {
    check("on_a_dark_ground", Look::Dark).await
}

#[tokio::test]
async fn on_a_phone() -> Result<()> {
    check("on_a_phone", Look::Phone).await
}

async fn check(test: &str, look: Look) -> Result<()> {
    let Some(source) = axe::source_or_skip(test)? else { return Ok(()) };
    let Some(browser) = Browser::start_or_skip(test, look).await? else { return Ok(()) };
    let stage = Stage::start(&[]).await?;
    let event = stage.register("ada@example.org").await?;
    stage.mailbox.wait_for("ada@example.org", 1).await?;
    let jobs = stage.jobs().await?;
    let job: Uuid = jobs.query_one("SELECT job_id FROM aftercommit.jobs", &[]).await?.get(0);
    until("the job to be settled", async || {
        let row = jobs.query_one("SELECT state FROM aftercommit.jobs", &[]).await?;
        Ok((row.get::<_, &str>(0) == "succeeded").then_some(()))
    })
    .await?;
    plant(&stage).await?;
    let dead: Uuid = jobs.query_one("SELECT job_id FROM aftercommit.jobs WHERE state = 'dead'", &[]).await?.get(0);

    let mut serious = Vec::new();
    let pages = [
        ("overview", "/".to_owned()),
        ("events", "/events".to_owned()),
        ("event", format!("/events/{event}")),
        ("jobs", "/jobs".to_owned()),
        ("dead", "/jobs?state=dead".to_owned()),
        ("job", format!("/jobs/{job}")),
        ("dead-job", format!("/jobs/{dead}")),
        ("mail", format!("/jobs/{job}/mail")),
        ("failures", "/failures".to_owned()),
        ("change", "/change?do=retry&state=dead".to_owned()),
        ("replay", "/replay".to_owned()),
        ("pause", "/pause".to_owned()),
        ("audit", "/audit".to_owned()),
        ("mailbox", "/mailbox".to_owned()),
        ("nothing", "/nothing".to_owned()),
        ("empty", "/jobs?handler=none".to_owned()),
    ];
    for (name, path) in pages {
        browser.open(&stage.at(&path)).await?;
        browser.find("h1").await?;
        look_at(&browser, &source, &format!("{look:?}-{name}").to_lowercase(), &mut serious).await?;
    }
    browser.open(&stage.at("/replay?from=1h")).await?;
    browser.press("Try it out").await?;
    browser.wait_for_text("would be stored").await?;
    look_at(&browser, &source, &format!("{look:?}-replay-run").to_lowercase(), &mut serious).await?;
    browser.close().await?;
    ensure!(serious.is_empty(), "{serious:#?}");
    Ok(())
}

/// Notes what keeps people out, and whether the page is wider than its screen.
async fn look_at(browser: &Browser, source: &str, name: &str, serious: &mut Vec<String>) -> Result<()> {
    browser.picture(name).await?;
    let found = axe::findings(browser, source).await?;
    for finding in &found {
        eprintln!("{name}: {:?} {} ({}) at {:?}", finding.impact, finding.help, finding.id, finding.nodes);
    }
    serious.extend(found.iter().filter(|finding| finding.is_serious()).map(|finding| format!("{name}: {finding:?}")));
    let script =
        "arguments[arguments.length - 1](document.documentElement.scrollWidth - document.documentElement.clientWidth)";
    let beyond = browser.script(script).await?.as_i64().unwrap_or_default();
    if beyond > 0 {
        serious.push(format!("{name}: {beyond} pixels wider than the screen"));
    }
    Ok(())
}

/// One of everything that can go wrong.
async fn plant(stage: &Stage) -> Result<()> {
    stage
        .jobs()
        .await?
        .batch_execute(
            "INSERT INTO aftercommit.dispatch_failures (event_id, handler, lane, aggregate_type, aggregate_id, event_type, error)
             VALUES (gen_random_uuid(), 'send_welcome_email', 0, 'user', '0190f7a2-5d2c-7cc0-8b4e-0f6f2c9f4c11',
                     'user.email_verified', 'missing field `email` at line 1 column 27');
             WITH dead AS (
                 INSERT INTO aftercommit.jobs (job_id, event_id, handler, name, kind, args, occurred_at, state, max_attempts,
                                               attempt, finished_at, last_error, retry_initial, retry_multiplier,
                                               retry_max_interval, retry_jitter)
                 VALUES (gen_random_uuid(), gen_random_uuid(), 'send_verification_email', 'email', 'email', '{}', now(), 'dead',
                         5, 1, now(), '550 5.1.1 no such mailbox', 5, 3, 900, 0.25)
                 RETURNING job_id
             )
             INSERT INTO aftercommit.job_attempts (job_id, claim, attempt, started_at, duration, outcome, phase, code, error)
             SELECT job_id, 1, 1, now(), 0.042, 'dead', 'rcpt', 550, '550 5.1.1 no such mailbox' FROM dead;
             INSERT INTO aftercommit.operator_actions (operator, via, action, filter, affected, reason, finished_at)
             VALUES ('ada on relay-1', 'cli', 'retry jobs', '{\"states\": [\"dead\"]}', 12, 'the mail server is back', now());
             INSERT INTO aftercommit.pauses (part, kind, paused_by, reason) VALUES ('delivery', 'webhook', 'ada', 'planned work')",
        )
        .await?;
    Ok(())
}
