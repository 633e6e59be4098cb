//! The journey: somebody registers over HTTP and ends as a verified user with two mails, through the real binaries, a
//! real PostgreSQL with the real roles, and a real SMTP server.

use anyhow::{Context as _, Result};
use serde_json::json;
use tests::databases::{Databases, Role};
use tests::http;
use tests::page::form_field;
use tests::services::{start_api, start_relay, verification_keys};
use tests::smtp_sink::SmtpSink;

const EMAIL: &str = "ada.lovelace@example.org";
const NAME: &str = "Ada <b>Lovelace</b>";

#[tokio::test]
async fn a_registration_ends_as_a_verified_user_with_two_mails() -> Result<()> {
    let Some(sink) = SmtpSink::start_or_skip("a_registration_ends_as_a_verified_user_with_two_mails").await else {
        return Ok(());
    };
    let databases = Databases::new().await?;
    let keys = verification_keys();
    let api = start_api(&databases, &keys, &[]).await?.ready().await?;
    let relay = start_relay(&databases, &keys, &api.url, &sink.url(), &[]).await?.ready().await?;
    let handlers = relay.process.line_with("event_handlers_registered").await?;
    for handler in ["send_verification_email", "resend_verification_email", "send_welcome_email"] {
        assert!(handlers.contains(handler), "{handlers}");
    }

    let registered =
        http::post_json(&format!("{}/v1/users", api.url), &json!({ "email": EMAIL, "display_name": NAME })).await?;
    assert_eq!(registered.status, 201, "{}", registered.body);
    let user = format!("{}{}", api.url, registered.header("Location").context("Location")?);
    assert!(!is_verified(&user).await?);

    let verification = sink.wait_for_mails(EMAIL, 1).await?.remove(0);
    assert_eq!(verification.recipients, [EMAIL]);
    assert_eq!(verification.mail.to, [EMAIL]);
    assert!(!verification.mail.message_id.is_empty());
    assert!(verification.mail.text.contains(NAME), "{}", verification.mail.text);
    assert!(!verification.mail.html.contains("<b>Lovelace"), "the name is markup: {}", verification.mail.html);
    let link = verification.mail.link()?;
    assert!(link.as_str().starts_with(&api.url), "{link}");

    let page = http::get(link.as_str()).await?;
    assert_eq!(page.status, 200, "{}", page.body);
    let token = form_field(&page.body, "token").context("a button")?;
    assert!(!is_verified(&user).await?, "following the link alone must change nothing");

    let button = format!("{}/verify-email", api.url);
    for press in 1..=2 {
        let pressed = http::post_form(&button, &[("token", &token)]).await?;
        assert_eq!(pressed.status, 200, "press {press}: {}", pressed.body);
        assert!(is_verified(&user).await?);
    }

    let welcome = sink.wait_for_mails(EMAIL, 2).await?.remove(1);
    assert_ne!(welcome.mail.message_id, verification.mail.message_id);
    assert_ne!(welcome.mail.subject, verification.mail.subject);

    // Each part stops when it is asked to; what they leave behind is exactly one journey.
    assert_eq!(relay.process.terminate().await?.code(), Some(0));
    assert_eq!(api.process.terminate().await?.code(), Some(0));
    assert_eq!(sink.accepted().await?.len(), 2);
    let events = databases.app.connect(Role::Superuser).await?;
    let events = events.query("SELECT event_type FROM aftercommit.outbox ORDER BY position", &[]).await?;
    let events: Vec<String> = events.iter().map(|row| row.get(0)).collect();
    assert_eq!(events, ["user.registered", "user.email_verified"]);
    let jobs = databases.jobs.connect(Role::Superuser).await?;
    let jobs = jobs.query("SELECT handler, state, attempt FROM aftercommit.jobs ORDER BY job_id", &[]).await?;
    let jobs: Vec<(String, String, i16)> = jobs.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let succeeded = |handler: &str| (handler.to_owned(), "succeeded".to_owned(), 1);
    assert_eq!(jobs, [succeeded("send_verification_email"), succeeded("send_welcome_email")]);

    // Neither log knows who registered, or holds what would verify them.
    for log in [api.process.output(), relay.process.output()] {
        for secret in [EMAIL, "Lovelace", &token, keys.split(':').nth(1).context("a key")?] {
            assert!(!log.contains(secret), "a log line holds {secret:?}");
        }
    }
    Ok(())
}

async fn is_verified(user: &str) -> Result<bool> {
    let answer = http::get(user).await?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()?["email_verified"].as_bool().context("email_verified")
}
