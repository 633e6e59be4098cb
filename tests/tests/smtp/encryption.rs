//! TLS and AUTH: nothing goes unencrypted that should not, and no password goes to somebody else.

use std::path::Path;

use anyhow::Result;
use relay::deliver::Outcome;
use tests::certificate::Certificate;
use tests::skip::skip;
use tests::smtp_sink::{Options, Rule, SmtpSink, Step, python};

use super::*;

/// A server that wants TLS and a login, with a certificate for a host; none, with a line that says so, where a tool is
/// missing.
async fn encrypted(test: &str, mode: &str, directory: &Path, host: &str) -> Result<Option<(SmtpSink, String)>> {
    let Some(python) = python() else {
        skip(test, "no Python with aiosmtpd (Debian: python3-aiosmtpd)");
        return Ok(None);
    };
    if !Certificate::can_be_made() {
        skip(test, "openssl is not installed");
        return Ok(None);
    }
    let made = Certificate::for_host(directory, host)?;
    let tls = Some((mode, made.certificate.as_path(), made.key.as_path()));
    let sink = SmtpSink::start(&python, &Options { port: None, tls, login: Some("ada:right") }).await?;
    Ok(Some((sink, made.certificate.display().to_string())))
}

fn url(mode: &str, password: &str, port: u16, more: &str) -> String {
    match mode {
        "implicit" => format!("smtps://ada:{password}@127.0.0.1:{port}?{more}"),
        _ => format!("smtp://ada:{password}@127.0.0.1:{port}?tls=required&{more}"),
    }
}

fn away(outcome: Outcome) -> String {
    match outcome {
        Outcome::Away(reason) => reason,
        other => panic!("{other:?}"),
    }
}

/// No step of a mail or a login was taken.
fn nothing_was_told(events: &[Event]) -> bool {
    ["auth", "mail", "rcpt", "data"].iter().all(|step| count(events, step) == 0)
}

#[tokio::test]
async fn mail_goes_encrypted_and_after_a_login() -> Result<()> {
    for mode in ["starttls", "implicit"] {
        let directory = tempfile::tempdir()?;
        let sink = encrypted("mail_goes_encrypted_and_after_a_login", mode, directory.path(), "127.0.0.1").await?;
        let Some((sink, ca)) = sink else { return Ok(()) };
        let ca = format!("ca={ca}");

        let reason = away(send(&client(&url(mode, "wrong", sink.port(), &ca)), ADA).await);
        assert_eq!(reason, "auth: 535 5.7.8", "{mode}");
        assert!(sink.accepted().await?.is_empty());

        let client = client(&url(mode, "right", sink.port(), &ca));
        for _ in 0..2 {
            assert_eq!(send(&client, ADA).await, Outcome::Succeeded, "{mode}");
        }
        assert_eq!(sink.accepted().await?.len(), 2);
        let events = sink.events_by_now().await?;
        assert_eq!((count(&events, "connected"), count(&events, "auth")), (2, 2), "{mode}");
        let before_tls = if mode == "starttls" { 2 } else { 0 };
        assert_eq!(count(&events, "starttls"), before_tls);
        assert_eq!(count(&events, "ehlo"), 2 + before_tls, "what was offered before TLS is asked again inside");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_not_who_it_should_be_is_told_nothing() -> Result<()> {
    for mode in ["starttls", "implicit"] {
        let directory = tempfile::tempdir()?;
        let test = "a_server_that_is_not_who_it_should_be_is_told_nothing";
        let Some((sink, ca)) = encrypted(test, mode, directory.path(), "other.example").await? else { return Ok(()) };
        let reason = away(send(&client(&url(mode, "right", sink.port(), &format!("ca={ca}"))), ADA).await);
        assert!(reason.starts_with("tls: no encrypted connection: invalid peer certificate"), "{reason}");
        let reason = away(send(&client(&url(mode, "right", sink.port(), "")), ADA).await);
        assert!(reason.contains("UnknownIssuer"), "{reason}");
        assert!(nothing_was_told(&sink.events_by_now().await?));
    }
    Ok(())
}

#[tokio::test]
async fn one_logs_in_by_whichever_way_is_offered() -> Result<()> {
    let Some(python) = python() else {
        skip("one_logs_in_by_whichever_way_is_offered", "no Python with aiosmtpd (Debian: python3-aiosmtpd)");
        return Ok(());
    };
    let sink = SmtpSink::start(&python, &Options { login: Some("ada:right"), ..Options::default() }).await?;
    let url = format!("smtp://ada:right@127.0.0.1:{}", sink.port());
    for (excluded, way) in [("PLAIN", "LOGIN"), ("LOGIN", "PLAIN")] {
        sink.offer_no_login_by(&[excluded]).await?;
        assert_eq!(send(&client(&url), ADA).await, Outcome::Succeeded, "{way}");
        let mut ways = sink.events_by_now().await?.into_iter().filter(|event| event.step == "auth");
        assert_eq!(ways.next_back().and_then(|auth| auth.argument).as_deref(), Some(way));
    }
    sink.offer_no_login_by(&["PLAIN", "LOGIN"]).await?;
    let reason = away(send(&client(&url), ADA).await);
    assert_eq!(reason, "auth: the server offers no way to log in that is known here");
    Ok(())
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_none() -> Result<()> {
    if !Certificate::can_be_made() {
        skip("a_certificate_that_has_expired_is_none", "openssl is not installed");
        return Ok(());
    }
    let Some(python) = python() else {
        skip("a_certificate_that_has_expired_is_none", "no Python with aiosmtpd (Debian: python3-aiosmtpd)");
        return Ok(());
    };
    for mode in ["starttls", "implicit"] {
        let directory = tempfile::tempdir()?;
        let made = Certificate::expired(directory.path(), "127.0.0.1")?;
        let tls = Some((mode, made.certificate.as_path(), made.key.as_path()));
        let sink = SmtpSink::start(&python, &Options { tls, login: Some("ada:right"), ..Options::default() }).await?;
        let ca = format!("ca={}", made.certificate.display());
        let reason = away(send(&client(&url(mode, "right", sink.port(), &ca)), ADA).await);
        assert!(reason.starts_with("tls: no encrypted connection") && reason.contains("expired"), "{mode}: {reason}");
        assert!(nothing_was_told(&sink.events_by_now().await?));
    }
    Ok(())
}

#[tokio::test]
async fn a_server_without_starttls_gets_no_mail() -> Result<()> {
    let sink = sink_or_skip!("a_server_without_starttls_gets_no_mail");
    let reason = away(send(&client(&format!("{}?tls=required", sink.url())), ADA).await);
    assert_eq!(reason, "tls: the server does not offer STARTTLS");
    let reason = away(send(&client(&url("starttls", "right", sink.port(), "")), ADA).await);
    assert_eq!(reason, "tls: the server does not offer STARTTLS");
    assert!(nothing_was_told(&sink.events_by_now().await?));
    Ok(())
}

#[tokio::test]
async fn starttls_that_is_taken_back_or_spoken_into_gets_no_mail() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let test = "starttls_that_is_taken_back_or_spoken_into_gets_no_mail";
    let Some((sink, ca)) = encrypted(test, "starttls", directory.path(), "127.0.0.1").await? else { return Ok(()) };
    let url = url("starttls", "right", sink.port(), &format!("ca={ca}"));
    for (reply, expected) in [
        ("454 4.7.0 not now", "tls: 454 4.7.0 not now"),
        ("250 never mind", "tls: the server gave a reply that does not belong here"),
        ("220 go\r\n250-evil.example\r\n250 AUTH PLAIN", "tls: the server spoke between its answer to STARTTLS"),
        // The server goes on in plain words where the handshake should be.
        ("220 go", "tls: no"),
    ] {
        sink.rule(Rule::at(Step::Starttls).reply(reply).times(1)).await?;
        let reason = away(send(&hasty_client(&url, 5), ADA).await);
        assert!(reason.starts_with(expected), "{reply}: {reason}");
    }
    assert!(nothing_was_told(&sink.events_by_now().await?));
    assert_eq!(send(&client(&url), ADA).await, Outcome::Succeeded);
    Ok(())
}

#[tokio::test]
async fn a_password_is_kept_to_ourselves_when_the_server_quotes_it() -> Result<()> {
    let Some(python) = python() else {
        skip("a_password_is_kept_to_ourselves", "no Python with aiosmtpd (Debian: python3-aiosmtpd)");
        return Ok(());
    };
    let sink = SmtpSink::start(&python, &Options { login: Some("ada:right"), ..Options::default() }).await?;
    let url = format!("smtp://ada:right@127.0.0.1:{}", sink.port());
    sink.rule(Rule::at(Step::Auth).reply("500 5.5.2 what is AUTH PLAIN AGFkYQByaWdodA==?").times(1)).await?;
    assert_eq!(away(send(&client(&url), ADA).await), "auth: 500 5.5.2");
    // On this machine a login needs no encryption.
    assert_eq!(send(&client(&url), ADA).await, Outcome::Succeeded);
    Ok(())
}
