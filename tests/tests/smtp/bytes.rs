//! What arrives: the very mail, whatever is in it and however lax the server.

use anyhow::Result;
use relay::deliver::Outcome;
use tests::smtp_sink::{Rule, Step};

use super::*;

/// Text that ends a mail, on one server or another, unless it is encoded.
const ENDS: &str = ".\n..\n.x\n\r\n.\r\na\n.\nb\r.\rc\n.\r\nd\r.\r\nRSET\r\n";

#[tokio::test]
async fn no_text_ends_a_mail_on_any_server() -> Result<()> {
    let sink = sink_or_skip!("no_text_ends_a_mail_on_any_server");
    let client = client(&sink.url());
    for lax in [&["strict"][..], &["strict", "lf"], &["strict", "cr"], &["strict", "lf", "cr"]] {
        sink.end_data_at(lax).await?;
        let mail = mail_saying(ADA, &format!("before\r\n{ENDS}after\r\n"));
        assert_eq!(client.send(&mail, &held()).await, Outcome::Succeeded);
        let accepted = sink.accepted().await?.pop().expect("a mail");
        assert!(accepted.mail.raw == mail.bytes, "{lax:?}: {}", String::from_utf8_lossy(&accepted.mail.raw));
        assert_eq!(accepted.mail.message_id, format!("{}@example.com", mail.id));
        assert!(accepted.mail.text.contains("after"), "{lax:?}");
        let events = sink.events_by_now().await?;
        assert_eq!((count(&events, "behind"), count(&events, "rset")), (0, 0), "{lax:?}");
    }
    Ok(())
}

#[tokio::test]
async fn text_arrives_as_it_was_meant() -> Result<()> {
    let sink = sink_or_skip!("text_arrives_as_it_was_meant");
    let text = format!("Zoë Ångström, 王小明 👩‍👩‍👧‍👦 = \t \n.\n..\n{}\n", "long ".repeat(400));
    let mail = mail_saying(ADA, &text);
    assert_eq!(client(&sink.url()).send(&mail, &held()).await, Outcome::Succeeded);
    let arrived = sink.accepted().await?.pop().expect("a mail").mail;
    assert_eq!(arrived.text.replace("\r\n", "\n"), text);
    assert_eq!((arrived.from.as_str(), arrived.to.as_slice()), ("no-reply@example.com", &[ADA.to_owned()][..]));
    assert_eq!(arrived.date, "2026-01-02T12:00:00Z");
    assert_eq!(arrived.header("Auto-Submitted").as_deref(), Some("auto-generated"));
    Ok(())
}

#[tokio::test]
async fn international_addresses_arrive_where_they_are_understood() -> Result<()> {
    let sink = sink_or_skip!("international_addresses_arrive_where_they_are_understood");
    let client = client(&sink.url());
    for (to, recipient, parameters) in [
        ("Ada@Bücher.example", "Ada@xn--bcher-kva.example", ""),
        ("用户@例え.jp", "用户@xn--r8jz45g.jp", " SMTPUTF8 BODY=8BITMIME"),
    ] {
        assert_eq!(send(&client, to).await, Outcome::Succeeded, "{to}");
        let accepted = sink.accepted().await?.pop().expect("a mail");
        assert_eq!(accepted.recipients, [recipient]);
        assert_eq!(accepted.mail.to, [recipient]);
        let mut mails = sink.events_by_now().await?.into_iter().filter(|event| event.step == "mail");
        let said = mails.next_back().and_then(|mail| mail.argument).unwrap_or_default();
        assert_eq!(said, format!("FROM:<no-reply@example.com>{parameters}"));
    }
    Ok(())
}

#[tokio::test]
async fn an_international_address_that_no_server_takes_is_that_mails_end_and_no_others() -> Result<()> {
    let sink = sink_or_skip!("an_international_address_that_no_server_takes");
    sink.rule(Rule::at(Step::Ehlo).reply("250 sink.example").times(1)).await?;
    let Outcome::Failed(failure) = send(&client(&sink.url()), "用户@example.org").await else { panic!("no failure") };
    assert_eq!((failure.meaning, failure.phase), (relay::deliver::Meaning::Permanent, Some("mail")));
    assert_eq!(failure.error, "mail: the address needs SMTPUTF8, which the server does not offer");

    // A server that breaks at such an address breaks for this mail only.
    sink.rule(Rule::at(Step::Mail).drop_connection().times(1)).await?;
    assert!(matches!(send(&client(&sink.url()), "用户@example.org").await, Outcome::Failed(_)));
    Ok(())
}
