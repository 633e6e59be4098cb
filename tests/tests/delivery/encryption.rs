//! Encryption and login: never less than asked for.

use std::path::Path;

use anyhow::Result;
use tests::certificate::Certificate;
use tests::skip::skip;
use tests::smtp_sink::{Options, SmtpSink, python};
use tests::wait::until;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use crate::support::Stage;

const TO: &str = "ada@example.org";

/// A stage, a certificate and its folder; `None` where something is missing.
async fn set(test: &str) -> Result<Option<(Stage, Certificate, tempfile::TempDir)>> {
    if !Certificate::can_be_made() {
        skip(test, "openssl is not installed");
        return Ok(None);
    }
    let Some(stage) = Stage::set(test).await? else { return Ok(None) };
    let directory = tempfile::tempdir()?;
    let certificate = Certificate::for_host(directory.path(), "127.0.0.1")?;
    Ok(Some((stage, certificate, directory)))
}

async fn encrypted(mode: &str, made: &Certificate) -> Result<SmtpSink> {
    let tls = Some((mode, made.certificate.as_path(), made.key.as_path()));
    SmtpSink::start(&python().expect("it was there"), &Options { port: None, tls, login: Some("ada:right") }).await
}

fn url(scheme: &str, login: &str, port: u16, ca: &Path) -> String {
    format!("{scheme}://{login}@127.0.0.1:{port}/?tls=required&ca={}", ca.display())
}

#[tokio::test]
async fn mail_goes_encrypted_and_logged_in_by_either_way() -> Result<()> {
    let Some((mut stage, made, _directory)) = set("mail_goes_encrypted_and_logged_in_by_either_way").await? else {
        return Ok(());
    };
    for (mode, scheme) in [("starttls", "smtp"), ("implicit", "smtps")] {
        stage.sink = encrypted(mode, &made).await?;
        let job = stage.job(TO).await?;
        let relay = stage.relay_to(&url(scheme, "ada:right", stage.sink.port(), &made.certificate), &[]).await?;
        stage.wait_for(job, "succeeded").await?;
        assert_eq!(stage.sink.wait_for_mails(TO, 1).await?.len(), 1);
        relay.process.terminate().await?;
        assert!(!relay.process.output().contains("right"));
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_not_the_one_asked_for_gets_nothing_and_no_attempt_is_spent() -> Result<()> {
    let test = "a_server_that_is_not_the_one_asked_for_gets_nothing_and_no_attempt_is_spent";
    let Some((mut stage, made, directory)) = set(test).await? else { return Ok(()) };
    let elsewhere = directory.path().join("elsewhere");
    std::fs::create_dir(&elsewhere)?;
    let other = Certificate::for_host(&elsewhere, "mail.example.org")?;
    let plain = SmtpSink::start(&python().expect("it was there"), &Options::default()).await?;
    let job = stage.job(TO).await?;

    stage.sink = encrypted("starttls", &made).await?;
    let misnamed = encrypted("starttls", &other).await?;
    for (to, reason) in [
        (url("smtp", "ada:wrong", stage.sink.port(), &made.certificate), "auth: 535"),
        // Its own certificate, but of no authority that is trusted; then trusted, but for another name.
        (url("smtp", "ada:right", stage.sink.port(), &other.certificate), "tls: no encrypted connection"),
        (url("smtp", "ada:right", misnamed.port(), &other.certificate), "tls: no encrypted connection"),
        (url("smtp", "ada:right", plain.port(), &made.certificate), "does not offer STARTTLS"),
    ] {
        let relay = stage.relay_to(&to, &[]).await?;
        until(reason, async || {
            let row = stage.look(job).await?;
            Ok(row.last_error.is_some_and(|error| error.contains(reason)).then_some(()))
        })
        .await?;
        relay.process.terminate().await?;
        let row = stage.look(job).await?;
        assert_eq!((row.state.as_str(), row.attempt), ("available", 0));
        assert!(!relay.process.output().contains("right"));
    }
    for sink in [&stage.sink, &misnamed, &plain] {
        assert!(!sink.events_by_now().await?.iter().any(|event| event.step == "mail" || event.step == "rcpt"));
    }
    Ok(())
}

/// Whoever sits on the wire says more than the answer to STARTTLS, for the client to take as said inside.
#[tokio::test]
async fn what_is_said_before_the_handshake_is_never_taken_as_said_inside() -> Result<()> {
    let test = "what_is_said_before_the_handshake_is_never_taken_as_said_inside";
    let Some((stage, made, _directory)) = set(test).await? else { return Ok(()) };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let injector = tokio::spawn(async move {
        let mut heard = vec![];
        loop {
            let (stream, _) = listener.accept().await?;
            let mut stream = BufReader::new(stream);
            stream.get_mut().write_all(b"220 injector\r\n").await?;
            for answer in ["250-injector\r\n250 STARTTLS\r\n", "220 go ahead\r\n250-injected\r\n250 AUTH PLAIN\r\n"] {
                let mut line = String::new();
                stream.read_line(&mut line).await?;
                heard.push(line);
                stream.get_mut().write_all(answer.as_bytes()).await?;
            }
            let mut after = vec![];
            let _ = stream.read_until(b'\n', &mut after).await;
            if after.starts_with(b"EHLO") || after.starts_with(b"AUTH") {
                return anyhow::Ok(heard);
            }
        }
    });
    let job = stage.job(TO).await?;
    let relay = stage.relay_to(&url("smtp", "ada:right", port, &made.certificate), &[]).await?;
    relay.process.line_with("delivery pauses").await?;
    until("the reason", async || {
        let error = stage.look(job).await?.last_error.unwrap_or_default();
        Ok((error.contains("STARTTLS") || error.contains("no encrypted connection")).then_some(()))
    })
    .await?;
    assert!(!injector.is_finished(), "the client went on in the clear");
    injector.abort();
    Ok(())
}

#[tokio::test]
async fn lax_servers_do_not_find_an_end_within_a_mail() -> Result<()> {
    let Some(stage) = Stage::set("lax_servers_do_not_find_an_end_within_a_mail").await? else { return Ok(()) };
    stage.sink.end_data_at(&["lf", "cr"]).await?;
    // No row can hold a name with a line break past the check of arguments; dots alone may not end it either.
    let args = serde_json::json!({ "template": "welcome", "to": TO, "name": ".", "user_id": uuid::Uuid::nil() });
    let job = stage.row("email", &args.to_string(), crate::support::Policy::default(), "").await?;
    let _relay = stage.relay(&[]).await?;
    stage.wait_for(job, "succeeded").await?;
    let accepted = stage.sink.accepted().await?;
    assert_eq!(accepted.len(), 1);
    assert!(accepted[0].mail.raw.trim_ascii_end().ends_with(b"--"), "the whole mail came through");
    Ok(())
}
