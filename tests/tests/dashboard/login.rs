//! Tokens, roles and sessions.

use anyhow::{Context as _, Result};
use hyper::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use tests::page::form_field;

use crate::support::{Stage, Visit, cookie_of};

const OPERATOR: &str = "the-operators-long-token";
const READER: &str = "the-readers-long-token";
const PAUSE: [(&str, &str); 3] = [("part", "dispatch"), ("do", "pause"), ("reason", "to see")];

async fn stage() -> Result<Stage> {
    Stage::start(&[("DASHBOARD_TOKEN", OPERATOR), ("DASHBOARD_READ_TOKEN", READER)]).await
}

/// Logs in, and takes a form from a page.
async fn log_in(stage: &Stage, token: &str, name: &str) -> Result<Visit> {
    let fields = [("token", token), ("name", name), ("next", "/pause")];
    let answer = stage.post("/login", &fields, &[(ORIGIN, &stage.dashboard)]).await?;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (303, Some("/pause")), "{}", answer.body);
    let cookie = cookie_of(&answer)?;
    let page = stage.get("/pause", &[(COOKIE, &cookie)]).await?;
    assert_eq!(page.status, 200);
    Ok(Visit { cookie, form: form_field(&page.body, "form").context("a form")? })
}

#[tokio::test]
async fn nothing_is_shown_to_whoever_has_no_token() -> Result<()> {
    let stage = stage().await?;
    for path in [
        "/",
        "/events",
        "/jobs?state=dead",
        "/audit",
        "/mailbox",
        "/jobs/0190f7a2-5d2c-7cc0-8b4e-0f6f2c9f4c11/mail/html",
    ] {
        let answer = stage.get(path, &[]).await?;
        let there = answer.header("location").unwrap_or_default();
        assert!(answer.status == 303 && there.starts_with("/login?next=%2F"), "{path}: {} {there}", answer.status);
        assert_eq!(answer.body, "");
    }
    assert_eq!(stage.get("/live?view=/", &[]).await?.status, 401);
    assert_eq!(stage.post("/pause", &PAUSE, &[(ORIGIN, &stage.dashboard)]).await?.status, 401);
    assert_eq!(stage.changes().await?, 0);
    let form = stage.get("/login?next=//evil.example", &[]).await?;
    assert_eq!((form.status.as_u16(), form_field(&form.body, "next").as_deref()), (200, Some("/")));
    Ok(())
}

#[tokio::test]
async fn a_reader_looks_and_an_operator_changes_by_name() -> Result<()> {
    let stage = stage().await?;
    let reader = log_in(&stage, READER, "Bob").await?;
    let refused = stage.act(&reader, "/pause", &PAUSE).await?;
    assert!(refused.status == 403 && refused.body.contains("You may only look"), "{}", refused.body);
    let page = stage.get("/pause", &[(COOKIE, &reader.cookie)]).await?;
    assert!(!page.body.contains("value=\"pause\""), "no button that does nothing");
    assert_eq!(stage.changes().await?, 0);

    let operator = log_in(&stage, OPERATOR, "Ada").await?;
    assert_eq!(stage.act(&operator, "/pause", &PAUSE).await?.status, 303);
    let action = stage
        .jobs()
        .await?
        .query_one("SELECT operator, via, action, reason FROM aftercommit.operator_actions", &[])
        .await?;
    let action: (String, String, String, String) = (action.get(0), action.get(1), action.get(2), action.get(3));
    assert_eq!(action, ("Ada".into(), "dashboard".into(), "pause".into(), "to see".into()));
    let trail = stage.get("/audit", &[(COOKIE, &reader.cookie)]).await?;
    assert!(trail.body.contains("Ada") && trail.body.contains("to see"), "{}", trail.body);

    let out = stage.act(&reader, "/logout", &[]).await?;
    assert!(out.header("set-cookie").unwrap_or_default().contains("Max-Age=0"));
    let log = stage.relay.process.output();
    assert!(!log.contains(OPERATOR) && !log.contains(READER), "{log}");
    Ok(())
}

#[tokio::test]
async fn programs_bring_the_token_in_a_header() -> Result<()> {
    let stage = stage().await?;
    let bearer = |token: &str| format!("Bearer {token}");
    for (token, status) in [(OPERATOR, 200), (READER, 200), ("the-operators-long-toke", 401)] {
        assert_eq!(stage.get("/jobs", &[(AUTHORIZATION, &bearer(token))]).await?.status, status, "{token}");
    }
    assert_eq!(stage.post("/pause", &PAUSE, &[(AUTHORIZATION, &bearer(READER))]).await?.status, 403);
    let foreign = [(AUTHORIZATION, &*bearer(OPERATOR)), (ORIGIN, "https://evil.example")];
    assert_eq!(stage.post("/pause", &PAUSE, &foreign).await?.status, 403);
    assert_eq!(stage.changes().await?, 0);
    assert_eq!(stage.post("/pause", &PAUSE, &[(AUTHORIZATION, &bearer(OPERATOR))]).await?.status, 303);
    Ok(())
}

#[tokio::test]
async fn guessing_is_limited() -> Result<()> {
    let stage = stage().await?;
    let guess = async |token: &str| stage.post("/login", &[("token", token)], &[(ORIGIN, &stage.dashboard)]).await;
    for n in 0..10 {
        let answer = guess(&format!("a-wrong-and-long-token-{n}")).await?;
        assert!(answer.status == 401 && answer.header("set-cookie").is_none(), "{}", answer.status);
    }
    let refused = guess(OPERATOR).await?;
    assert!(refused.status == 429 && refused.header("retry-after").is_some(), "{}", refused.status);
    let bearer = stage.get("/", &[(AUTHORIZATION, &format!("Bearer {OPERATOR}"))]).await?;
    assert_eq!(bearer.status, 429, "the same door");
    Ok(())
}

#[tokio::test]
async fn cookies_are_for_our_pages_alone() -> Result<()> {
    let stage = Stage::start(&[("DASHBOARD_TOKEN", OPERATOR), ("DASHBOARD_HOSTS", "relay.example.com")]).await?;
    let enter = async |host: &str, origin: &str| {
        stage.post("/login", &[("token", OPERATOR)], &[(HOST, host), (ORIGIN, origin)]).await
    };
    let here = stage.dashboard.trim_start_matches("http://").to_owned();
    let plain = enter(&here, &stage.dashboard).await?;
    let cookie = plain.header("set-cookie").context("a cookie")?;
    assert!(cookie.starts_with("aftercommit-") && !cookie.contains("Secure"), "{cookie}");
    assert!(
        cookie.contains("; HttpOnly") && cookie.contains("; SameSite=Strict") && cookie.contains("; Path=/"),
        "{cookie}"
    );

    let secure = enter("relay.example.com", "https://relay.example.com").await?;
    let cookie = secure.header("set-cookie").context("a cookie")?;
    assert!(cookie.starts_with("__Host-aftercommit-") && cookie.contains("; Secure"), "{cookie}");

    let open = enter("relay.example.com", "http://relay.example.com").await?;
    assert!(open.status == 400 && open.header("set-cookie").is_none(), "{}", open.body);

    // The plain cookie proves nothing where it could have been overheard.
    let plain = cookie_of(&plain)?;
    assert_eq!(stage.get("/", &[(HOST, "relay.example.com"), (COOKIE, &plain)]).await?.status, 303);
    assert_eq!(stage.get("/", &[(COOKIE, &plain)]).await?.status, 200);
    Ok(())
}
