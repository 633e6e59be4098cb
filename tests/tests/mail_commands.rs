//! `relay mail`: templates are looked at before anybody gets one.

use anyhow::{Context as _, Result};
use serde_json::Value;
use tests::mailbox::Mail;
use tests::process::{Finished, Launch};

async fn relay(arguments: &[&str]) -> Result<Finished> {
    Launch::built("relay").await?.arguments(["mail"]).arguments(arguments.iter().copied()).run().await
}

#[tokio::test]
async fn a_mail_is_rendered_with_sample_data_in_each_form() -> Result<()> {
    let text = relay(&["preview", "welcome", "--public-url", "https://accounts.example.net"]).await?;
    assert_eq!(text.status.code(), Some(0), "{}", text.stderr);
    assert!(
        text.stdout.starts_with("Subject: Welcome to accounts.example.net\n\nHello Ada Lovelace,"),
        "{}",
        text.stdout
    );
    let html = relay(&["preview", "verify_email", "--format", "html", "--locale", "de-AT"]).await?.stdout;
    assert!(html.starts_with("<!DOCTYPE html>\n<html lang=\"en\">") && html.contains("verify-email?token="), "{html}");
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("mail.eml");
    let written = relay(&["preview", "welcome", "--format", "source", "--out", &out.display().to_string()]).await?;
    assert_eq!((written.status.code(), written.stdout.as_str()), (Some(0), ""));
    let mail = Mail::parse(&std::fs::read(&out)?)?;
    assert_eq!(
        (mail.to.as_slice(), mail.text.contains("Hello Ada Lovelace")),
        (&["ada@example.org".to_owned()][..], true)
    );
    let json: Value = serde_json::from_str(&relay(&["preview", "welcome", "--json"]).await?.stdout)?;
    assert_eq!((&json["template"], &json["locale"]), (&"welcome".into(), &"en".into()));
    Ok(())
}

#[tokio::test]
async fn templates_of_a_directory_are_listed_and_rendered_and_their_faults_told() -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::create_dir(folder.path().join("de"))?;
    for (file, text) in [
        ("de/welcome.subject.txt", "Willkommen bei {{ site }}"),
        ("de/welcome.txt", "Hallo {{ name }}"),
        ("de/welcome.html", "{% extends locale ~ '/layout.html' %}{% block content %}Hallo {{ name }}{% endblock %}"),
        ("welcome.json", "{\"in_doubt\": \"hold\"}"),
    ] {
        std::fs::write(folder.path().join(file), text)?;
    }
    let directory = folder.path().to_str().context("a path")?;
    let listed = relay(&["list", "--json", "--mail-templates", directory]).await?;
    let mails: Value = serde_json::from_str(&listed.stdout).context(listed.stderr)?;
    assert_eq!(mails.as_array().map(Vec::len), Some(3));
    assert_eq!(
        (&mails[2]["template"], &mails[2]["locales"][0], &mails[2]["in_doubt"]),
        (&"welcome".into(), &"de".into(), &"hold".into())
    );
    let preview = relay(&["preview", "welcome", "--locale", "de-AT", "--mail-templates", directory]).await?;
    assert!(preview.stdout.starts_with("Subject: Willkommen bei example.com\n\nHallo Ada"), "{}", preview.stdout);

    std::fs::write(folder.path().join("de/welcome.txt"), "Hallo\n{{ nmae }}")?;
    let broken = relay(&["list", "--mail-templates", directory]).await?;
    assert_eq!(broken.status.code(), Some(2));
    assert!(
        broken.stderr.contains("MAIL_TEMPLATES: template de/welcome.txt:2:4: undefined value in `nmae`"),
        "{}",
        broken.stderr
    );
    let unknown = relay(&["preview", "welcom"]).await?;
    assert_eq!(unknown.status.code(), Some(2));
    assert!(unknown.stderr.contains("known are already_registered, verify_email, welcome"), "{}", unknown.stderr);
    Ok(())
}
