//! What the SMTP server of the tests promises: it records each step and misbehaves exactly as told.

use anyhow::{Context as _, Result};
use tests::certificate::Certificate;
use tests::process::Launch;
use tests::skip::skip;
use tests::smtp_sink::{Accepted, Options, Rule, SmtpSink, Step, python};
use tests::wait::until;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

const BODY: &str = "Message-ID: <one@example.org>\r\nSubject: hi\r\n\r\n..dot\r\nend\r\n.\r\n";

/// An SMTP client that says what the test wants said.
struct Dialogue(BufReader<TcpStream>);

impl Dialogue {
    async fn open(sink: &SmtpSink) -> Result<Self> {
        let mut dialogue = Self(BufReader::new(TcpStream::connect(("127.0.0.1", sink.port())).await?));
        assert!(dialogue.hear().await?.starts_with("220"));
        Ok(dialogue)
    }

    /// Opens a session that has come to the answer to DATA.
    async fn up_to_data(sink: &SmtpSink, recipient: &str) -> Result<Self> {
        let mut dialogue = Self::open(sink).await?;
        assert!(dialogue.say("EHLO client.example\r\n").await?.starts_with("250"));
        assert_eq!(dialogue.say("MAIL FROM:<a@example.org>\r\n").await?, "250 OK");
        assert_eq!(dialogue.say(&format!("RCPT TO:<{recipient}>\r\n")).await?, "250 OK");
        Ok(dialogue)
    }

    async fn tell(&mut self, text: &str) -> Result<()> {
        Ok(self.0.get_mut().write_all(text.as_bytes()).await?)
    }

    /// The last line of the next reply; nothing once the server has gone.
    async fn hear(&mut self) -> Result<String> {
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).await? == 0 {
                return Ok(String::new());
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line.trim_end().to_owned());
            }
        }
    }

    async fn say(&mut self, text: &str) -> Result<String> {
        self.tell(text).await?;
        self.hear().await
    }
}

async fn only_mail(sink: &SmtpSink) -> Result<Accepted> {
    until("the mail", async || {
        let mut accepted = sink.accepted().await?;
        assert!(accepted.len() <= 1);
        Ok(accepted.pop())
    })
    .await
}

#[tokio::test]
async fn a_mail_is_taken_and_each_step_is_written_down() -> Result<()> {
    let Some(sink) = SmtpSink::start_or_skip("a_mail_is_taken_and_each_step_is_written_down").await else {
        return Ok(());
    };
    let mut dialogue = Dialogue::up_to_data(&sink, "b@example.org").await?;
    assert!(dialogue.say("DATA\r\n").await?.starts_with("354"));
    assert_eq!(dialogue.say(BODY).await?, "250 OK");
    assert!(dialogue.say("QUIT\r\n").await?.starts_with("221"));

    let accepted = only_mail(&sink).await?;
    assert_eq!(accepted.recipients, ["b@example.org"]);
    assert!(accepted.answered);
    assert_eq!(accepted.mail.message_id, "one@example.org");
    assert_eq!(accepted.mail.raw, b"Message-ID: <one@example.org>\r\nSubject: hi\r\n\r\n.dot\r\nend\r\n");
    sink.wait_for("the end of the session", |event| event.step == "lost").await?;
    let steps: Vec<String> =
        sink.events_by_now().await?.into_iter().map(|event| event.step).filter(|step| step != "reply").collect();
    let expected = ["listening", "connected", "ehlo", "mail", "rcpt", "data", "body", "dot", "verdict", "quit", "lost"];
    assert_eq!(steps, expected);
    Ok(())
}

#[tokio::test]
async fn rules_hold_for_their_step_recipient_and_count() -> Result<()> {
    let Some(sink) = SmtpSink::start_or_skip("rules_hold_for_their_step_recipient_and_count").await else {
        return Ok(());
    };
    sink.rule(Rule::at(Step::Rcpt).to("full@example.org").reply("452 4.2.2 full").times(1)).await?;
    sink.rule(Rule::at(Step::Dot).to("b@example.org").reply("554 5.6.0 no")).await?;
    let mut dialogue = Dialogue::open(&sink).await?;
    dialogue.say("EHLO client.example\r\n").await?;
    dialogue.say("MAIL FROM:<a@example.org>\r\n").await?;
    assert_eq!(dialogue.say("RCPT TO:<full@example.org>\r\n").await?, "452 4.2.2 full");
    assert_eq!(dialogue.say("RCPT TO:<full@example.org>\r\n").await?, "250 OK");
    dialogue.say("DATA\r\n").await?;
    assert_eq!(dialogue.say(BODY).await?, "250 OK");

    for answer in ["554 5.6.0 no", "250 OK"] {
        let mut dialogue = Dialogue::up_to_data(&sink, "b@example.org").await?;
        dialogue.say("DATA\r\n").await?;
        assert_eq!(dialogue.say(BODY).await?, answer);
        sink.forget_rules().await?;
    }
    assert_eq!(sink.accepted().await?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn the_354_and_the_last_answer_can_be_held_back() -> Result<()> {
    let Some(sink) = SmtpSink::start_or_skip("the_354_and_the_last_answer_can_be_held_back").await else {
        return Ok(());
    };
    sink.rule(Rule::at(Step::Data).hold().times(1)).await?;
    sink.rule(Rule::at(Step::Dot).hold().times(1)).await?;
    let mut dialogue = Dialogue::up_to_data(&sink, "b@example.org").await?;
    dialogue.tell("DATA\r\n").await?;
    sink.wait_until_held(Step::Data).await?;
    let replies = sink.events_by_now().await?.into_iter().filter_map(|event| event.reply);
    assert_eq!(replies.filter(|reply| reply.starts_with("354")).count(), 0);
    sink.release(Step::Data).await?;
    assert!(dialogue.hear().await?.starts_with("354"));
    dialogue.tell(BODY).await?;
    sink.wait_until_held(Step::Dot).await?;
    assert!(sink.accepted().await?.is_empty());
    sink.release(Step::Dot).await?;
    assert_eq!(dialogue.hear().await?, "250 OK");
    assert!(only_mail(&sink).await?.answered);
    Ok(())
}

#[tokio::test]
async fn a_client_that_leaves_after_the_dot_has_its_mail_accepted_unheard() -> Result<()> {
    let Some(sink) = SmtpSink::start_or_skip("a_client_that_leaves_after_the_dot").await else {
        return Ok(());
    };
    sink.rule(Rule::at(Step::Dot).hold()).await?;
    let mut dialogue = Dialogue::up_to_data(&sink, "b@example.org").await?;
    dialogue.say("DATA\r\n").await?;
    dialogue.tell(BODY).await?;
    sink.wait_until_held(Step::Dot).await?;
    drop(dialogue);
    assert!(!only_mail(&sink).await?.answered);
    Ok(())
}

#[tokio::test]
async fn connections_are_dropped_where_it_was_told() -> Result<()> {
    let Some(sink) = SmtpSink::start_or_skip("connections_are_dropped_where_it_was_told").await else {
        return Ok(());
    };
    for step in [Step::Body, Step::Dot] {
        sink.rule(Rule::at(step).drop_connection().times(1)).await?;
        let mut dialogue = Dialogue::up_to_data(&sink, "b@example.org").await?;
        dialogue.say("DATA\r\n").await?;
        dialogue.tell(BODY).await?;
        assert_eq!(dialogue.hear().await.unwrap_or_default(), "");
    }
    assert!(sink.accepted().await?.is_empty());
    let dots = sink.events_by_now().await?.iter().filter(|event| event.step == "dot").count();
    assert_eq!(dots, 1, "only the second was dropped after its dot");
    Ok(())
}

#[tokio::test]
async fn only_a_lax_server_ends_data_at_a_bare_line_feed() -> Result<()> {
    let Some(sink) = SmtpSink::start_or_skip("only_a_lax_server_ends_data_at_a_bare_line_feed").await else {
        return Ok(());
    };
    let smuggled = "Message-ID: <a@b>\r\n\r\nx\n.\nRSET\r\n";
    let mut dialogue = Dialogue::up_to_data(&sink, "b@example.org").await?;
    dialogue.say("DATA\r\n").await?;
    assert_eq!(dialogue.say(&format!("{smuggled}.\r\n")).await?, "250 OK");
    let content = only_mail(&sink).await?.mail.raw;
    assert_eq!(String::from_utf8(content).context("text")?, "Message-ID: <a@b>\r\n\r\nx\n.\nRSET\r\n");

    sink.end_data_at(&["strict", "lf"]).await?;
    let mut dialogue = Dialogue::up_to_data(&sink, "b@example.org").await?;
    dialogue.say("DATA\r\n").await?;
    assert_eq!(dialogue.say(smuggled).await?, "250 OK");
    sink.wait_for("the smuggled command", |event| event.step == "rset").await?;
    Ok(())
}

/// What Python's own SMTP client needs to say: an encrypted session, a login, a mail.
const CLIENT: &str = r#"
import smtplib, ssl, sys
mode, port, authority, password = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
if mode == "implicit":
    client = smtplib.SMTP_SSL("127.0.0.1", int(port), context=context)
else:
    client = smtplib.SMTP("127.0.0.1", int(port))
    client.starttls(context=context)
client.login("ada", password)
client.sendmail("a@example.org", ["b@example.org"], "Message-ID: <tls@example.org>\r\n\r\nhi\r\n")
client.quit()
"#;

#[tokio::test]
async fn sessions_can_be_encrypted_and_want_a_login() -> Result<()> {
    let Some(python) = python() else {
        skip("sessions_can_be_encrypted_and_want_a_login", "no Python with aiosmtpd (Debian: python3-aiosmtpd)");
        return Ok(());
    };
    if !Certificate::can_be_made() {
        skip("sessions_can_be_encrypted_and_want_a_login", "openssl is not installed");
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let made = Certificate::for_host(directory.path(), "127.0.0.1")?;
    for mode in ["starttls", "implicit"] {
        let tls = Some((mode, made.certificate.as_path(), made.key.as_path()));
        let options = Options { port: None, tls, login: Some("ada:right") };
        let sink = SmtpSink::start(&python, &options).await?;
        let authority = made.certificate.to_str().context("a path")?;
        for (password, taken) in [("wrong", false), ("right", true)] {
            let client = Launch::new("client", &python).arguments(["-c", CLIENT, mode, &sink.port().to_string()]);
            let finished = client.arguments([authority, password]).run().await?;
            assert_eq!(finished.status.success(), taken, "{mode} {password}: {}", finished.stderr);
        }
        assert_eq!(only_mail(&sink).await?.mail.message_id, "tls@example.org");
    }
    Ok(())
}
