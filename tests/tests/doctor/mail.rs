//! Mail servers that can't be used, or should not be.

use anyhow::Result;
use tests::databases::Databases;
use tests::smtp_sink::{Rule, SmtpSink, Step};

use crate::support::doctor;

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_server_that_refuses_is_told_with_the_step() -> Result<()> {
    let Some(sink) = SmtpSink::start_or_skip("a_mail_server_that_refuses_is_told_with_the_step").await else {
        return Ok(());
    };
    let databases = Databases::new().await?;
    let url = sink.url();
    sink.rule(Rule::at(Step::Ehlo).reply("421 4.3.2 not now")).await?;
    let report = doctor(&databases, &[("SMTP_URL", &url)], &[]).await?;
    report.expect("mail", "connection", "problem", "421");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_that_reaches_nobody_is_told() -> Result<()> {
    let databases = Databases::new().await?;
    let directory = tempfile::tempdir()?;
    let url = format!("file://{}", directory.path().display());
    let report = doctor(&databases, &[("SMTP_URL", &url), ("MAIL_SANDBOX", "*@example.org")], &[]).await?;
    report.expect("mail", "connection", "warning", "to nobody");
    report.expect("mail", "sandbox", "warning", "MAIL_SANDBOX");
    assert!(!report.json.to_string().contains("@example.org"));
    assert_eq!(std::fs::read_dir(directory.path())?.count(), 0, "nothing is left there");
    Ok(())
}
