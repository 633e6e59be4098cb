//! Who is kept out, on loopback too.

use anyhow::Result;
use hyper::Method;
use hyper::body::Bytes;
use hyper::header::{COOKIE, HOST, HeaderName, ORIGIN};
use tests::databases::Databases;
use tests::http;
use tests::mailbox::Mailbox;
use tests::services::{relay, verification_keys};

use crate::support::{Stage, Visit};

const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
const PAUSE: [(&str, &str); 2] = [("part", "dispatch"), ("do", "pause")];

/// What is wrong with a request, the form's token it brings, and its headers.
type Case<'a> = (&'a str, &'a str, &'a [(HeaderName, &'a str)]);

#[tokio::test]
async fn only_names_that_are_ours_are_answered() -> Result<()> {
    let stage = Stage::start(&[("DASHBOARD_HOSTS", "relay.example.com")]).await?;
    let port = stage.dashboard.rsplit(':').next().unwrap_or_default();
    for (host, status) in [
        (format!("127.0.0.1:{port}"), 200),
        (format!("localhost:{port}"), 200),
        (format!("LOCALHOST:{port}"), 200),
        (format!("[::1]:{port}"), 200),
        ("relay.example.com".to_owned(), 200),
        (format!("evil.example:{port}"), 421),
        (format!("127.0.0.1.evil.example:{port}"), 421),
        (format!("192.0.2.7:{port}"), 421),
        (String::new(), 421),
    ] {
        for path in ["/", "/assets/style.css", "/live?view=/", "/nothing"] {
            if path != "/live?view=/" || status != 200 {
                let answer = stage.get(path, &[(HOST, &host)]).await?;
                let expected = if path == "/nothing" && status == 200 { 404 } else { status };
                assert_eq!(answer.status, expected, "{host} {path}: {}", answer.body);
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_change_has_to_come_from_our_own_page() -> Result<()> {
    let stage = Stage::start(&[]).await?;
    let (mine, other) = (stage.visit("/pause").await?, stage.visit("/pause").await?);
    let own = stage.dashboard.as_str();
    let cookie = mine.cookie.as_str();
    let foreign_port = "http://127.0.0.1:1";
    let cases: [Case<'_>; 11] = [
        ("another site", &mine.form, &[(COOKIE, cookie), (ORIGIN, "https://evil.example")]),
        ("another port", &mine.form, &[(COOKIE, cookie), (ORIGIN, foreign_port)]),
        ("no origin at all", &mine.form, &[(COOKIE, cookie)]),
        ("an opaque origin", &mine.form, &[(COOKIE, cookie), (ORIGIN, "null")]),
        ("cross-site", &mine.form, &[(COOKIE, cookie), (SITE, "cross-site")]),
        ("same-site", &mine.form, &[(COOKIE, cookie), (SITE, "same-site"), (ORIGIN, own)]),
        (
            "a name that points here",
            &mine.form,
            &[(COOKIE, cookie), (HOST, "evil.example"), (ORIGIN, "http://evil.example")],
        ),
        ("no token of a form", "", &[(COOKIE, cookie), (ORIGIN, own)]),
        ("another session's form", &other.form, &[(COOKIE, cookie), (ORIGIN, own)]),
        ("no cookie", &mine.form, &[(ORIGIN, own)]),
        ("a changed cookie", &mine.form, &[(COOKIE, &cookie.replacen("operator", "reader", 1)), (ORIGIN, own)]),
    ];
    for (case, form, headers) in cases {
        let fields = [&[("form", form)], &PAUSE[..]].concat();
        let answer = stage.post("/pause", &fields, headers).await?;
        assert!(matches!(answer.status.as_u16(), 403 | 421), "{case}: {} {}", answer.status, answer.body);
        assert_eq!(stage.changes().await?, 0, "{case}");
    }
    let answer = stage.act(&mine, "/pause", &PAUSE).await?;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (303, Some("/pause")), "{}", answer.body);
    assert_eq!(stage.changes().await?, 2, "the pause and its line in the trail");
    Ok(())
}

#[tokio::test]
async fn nothing_changes_by_another_method_than_post() -> Result<()> {
    let stage = Stage::start(&[]).await?;
    let Visit { cookie, form } = stage.visit("/pause").await?;
    let query = format!("/pause?form={form}&part=dispatch&do=pause");
    stage.get(&query, &[(COOKIE, &cookie)]).await?;
    for method in [Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
        let headers = [(COOKIE, &*cookie), (ORIGIN, &*stage.dashboard)];
        let body = Bytes::from(format!("form={form}&part=dispatch&do=pause"));
        let answer = http::send(method.clone(), &stage.at("/pause"), &headers, body).await?;
        assert_eq!(answer.status, 405, "{method}");
    }
    assert_eq!(stage.changes().await?, 0);
    let large = "x".repeat(100_000);
    let answer = stage.act(&Visit { cookie, form }, "/pause", &[("reason", &large)]).await?;
    assert_eq!(answer.status, 413);
    Ok(())
}

#[tokio::test]
async fn from_elsewhere_one_may_only_follow_a_link() -> Result<()> {
    let stage = Stage::start(&[]).await?;
    for (mode, dest, status) in
        [("no-cors", "image", 403), ("cors", "empty", 403), ("navigate", "iframe", 403), ("navigate", "document", 200)]
    {
        let headers = [(SITE, "cross-site"), (MODE, mode), (DEST, dest)];
        let answer = stage.get("/jobs?state=dead", &headers).await?;
        assert_eq!(answer.status, status, "{mode} {dest}");
        assert_eq!(answer.header("set-cookie"), None, "the one that is there is not put aside");
        if status == 200 {
            assert!(
                answer.body.contains("url=/jobs?state=dead") || answer.body.contains("url=&#x2f;jobs?state=dead"),
                "{}",
                answer.body
            );
        }
    }
    let own = stage.get("/jobs", &[(SITE, "same-origin"), (MODE, "navigate"), (DEST, "document")]).await?;
    assert!(own.status == 200 && own.header("set-cookie").is_some());
    Ok(())
}

#[tokio::test]
async fn every_answer_tells_the_browser_what_it_may_do() -> Result<()> {
    let stage = Stage::start(&[]).await?;
    for (path, headers) in
        [("/", vec![]), ("/nothing", vec![]), ("/assets/live.js", vec![]), ("/", vec![(HOST, "evil.example")])]
    {
        let answer = stage.get(path, &headers).await?;
        let policy = answer.header("content-security-policy").unwrap_or_default();
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "frame-ancestors 'none'",
            "form-action 'self'",
            "base-uri 'none'",
        ] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("referrer-policy"), Some("same-origin"));
        let inline =
            answer.body.contains("<style") || answer.body.contains(" style=") || answer.body.contains(" onclick=");
        assert!(!inline && !answer.body.contains("<script>"), "{path}: {}", answer.body);
    }
    let style = stage.get("/assets/style.css", &[]).await?;
    assert!(style.header("cache-control").unwrap_or_default().contains("immutable"));
    assert_eq!(stage.get("/", &[]).await?.header("cache-control"), Some("no-store"));
    Ok(())
}

#[tokio::test]
async fn elsewhere_than_on_loopback_a_token_is_needed_to_start() -> Result<()> {
    let databases = Databases::new().await?;
    let mail = tempfile::tempdir()?;
    let url = Mailbox::new(mail.path()).url();
    let launch = relay(&databases, &verification_keys(), "http://127.0.0.1:8080", &url).await?;
    let finished =
        launch.environment([("DASHBOARD_LISTEN", "0.0.0.0:0"), ("RELAY_LISTEN", "127.0.0.1:0")]).run().await?;
    assert_eq!(finished.code(), Some(2), "{finished:?}");
    assert!(
        finished.stderr.contains("DASHBOARD_TOKEN: is not set, and DASHBOARD_LISTEN is no loopback address. Give"),
        "{finished:?}"
    );
    Ok(())
}
