//! Connections: how they are made, used again, and let go.

use anyhow::Result;
use relay::deliver::Outcome;
use tests::skip::skip;
use tests::smtp_sink::{Rule, Step};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::*;

#[tokio::test]
async fn one_connection_carries_many_mails_but_not_endlessly_many() -> Result<()> {
    let sink = sink_or_skip!("one_connection_carries_many_mails");
    let client = client_with(&sink.url(), Options { mails_per_connection: 10, ..Options::default() });
    for mail in 1..=11 {
        assert_eq!(send(&client, ADA).await, Outcome::Succeeded, "{mail}");
    }
    assert_eq!(sink.accepted().await?.len(), 11);
    let events = connections_ended(&sink, 1).await?;
    assert_eq!((count(&events, "connected"), count(&events, "ehlo"), count(&events, "quit")), (2, 2, 1));
    assert_eq!(count(&events, "rset"), 0, "there was nothing to reset");
    Ok(())
}

#[tokio::test]
async fn mails_under_way_at_once_have_connections_of_their_own() -> Result<()> {
    let sink = sink_or_skip!("mails_under_way_at_once_have_connections_of_their_own");
    let client = client(&sink.url());
    sink.rule(Rule::at(Step::Dot).to("one@example.org").hold().times(1)).await?;
    let release = async {
        sink.wait_until_held(Step::Dot).await?;
        assert_eq!(send(&client, "two@example.org").await, Outcome::Succeeded);
        sink.release(Step::Dot).await
    };
    let (one, released) = tokio::join!(send(&client, "one@example.org"), release);
    released?;
    assert_eq!(one, Outcome::Succeeded);
    for _ in 0..4 {
        assert_eq!(send(&client, ADA).await, Outcome::Succeeded);
    }
    assert_eq!(count(&sink.events_by_now().await?, "connected"), 2);
    Ok(())
}

#[tokio::test]
async fn a_connection_that_the_server_closed_meanwhile_costs_nothing() -> Result<()> {
    let sink = sink_or_skip!("a_connection_that_the_server_closed_meanwhile_costs_nothing");
    let client = client(&sink.url());
    assert_eq!(send(&client, ADA).await, Outcome::Succeeded);
    for rule in [Rule::at(Step::Mail).reply("421 4.4.2 idle for too long"), Rule::at(Step::Mail).drop_connection()] {
        sink.rule(rule.times(1)).await?;
        assert_eq!(send(&client, ADA).await, Outcome::Succeeded);
    }
    assert_eq!(count(&sink.events_by_now().await?, "connected"), 3);

    sink.rule(Rule::at(Step::Mail).reply("421 4.3.2 going down")).await?;
    let Outcome::Away(reason) = send(&client, ADA).await else { panic!("not away") };
    assert_eq!(reason, "mail: 421 4.3.2 going down");
    assert_eq!(count(&sink.events_by_now().await?, "connected"), 4, "a new one was tried, once");
    Ok(())
}

#[tokio::test]
async fn a_refused_mail_is_forgotten_before_the_next() -> Result<()> {
    let sink = sink_or_skip!("a_refused_mail_is_forgotten_before_the_next");
    let client = client(&sink.url());
    sink.rule(Rule::at(Step::Rcpt).to("nobody@example.org").reply("550 5.1.1 unknown")).await?;
    sink.rule(Rule::at(Step::Dot).to("spam@example.org").reply("554 5.7.1 no")).await?;
    for to in ["nobody@example.org", "spam@example.org"] {
        assert!(matches!(send(&client, to).await, Outcome::Failed(_)), "{to}");
        assert_eq!(send(&client, ADA).await, Outcome::Succeeded, "after {to}");
    }
    let events = sink.events_by_now().await?;
    assert_eq!((count(&events, "connected"), count(&events, "rset")), (1, 2));
    assert!(sink.accepted().await?.iter().all(|mail| mail.recipients == [ADA]));

    // Servers cut off whoever is refused too often: not the one who comes next.
    for _ in 0..3 {
        assert!(matches!(send(&client, "nobody@example.org").await, Outcome::Failed(_)));
    }
    assert_eq!(send(&client, ADA).await, Outcome::Succeeded);
    assert_eq!(count(&sink.events_by_now().await?, "connected"), 2);
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_not_there_is_away() -> Result<()> {
    let nobody = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let outcome = send(&client(&format!("smtp://{nobody}")), ADA).await;
    assert_eq!(outcome, Outcome::Away("connect: can't connect (connection refused)".to_owned()));
    Ok(())
}

#[tokio::test]
async fn without_a_lease_no_server_is_asked() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let lost = Lease::new(ProcessLease::new(Duration::from_secs(60)));
    let client = client(&format!("smtp://{}", listener.local_addr()?));
    assert_eq!(client.send(&mail_to(ADA), &lost).await, Outcome::LeaseLost);
    assert!(futures_util::FutureExt::now_or_never(listener.accept()).is_none());
    Ok(())
}

#[tokio::test]
async fn servers_on_ipv6_are_reached() -> Result<()> {
    let Ok(listener) = TcpListener::bind("[::1]:0").await else {
        skip("servers_on_ipv6_are_reached", "there is no IPv6 on this machine");
        return Ok(());
    };
    let url = format!("smtp://{}", listener.local_addr()?);
    let server = tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await?;
        connection.write_all(b"421 4.3.2 on IPv6\r\n").await
    });
    assert_eq!(send(&client(&url), ADA).await, Outcome::Away("connect: 421 4.3.2 on IPv6".to_owned()));
    server.await??;
    Ok(())
}

#[tokio::test]
async fn the_relay_introduces_itself_by_a_full_name_or_its_address() -> Result<()> {
    let sink = sink_or_skip!("the_relay_introduces_itself");
    assert_eq!(send(&client(&sink.url()), ADA).await, Outcome::Succeeded);
    let ehlo = sink.wait_for("EHLO", |event| event.step == "ehlo").await?;
    let name = ehlo.argument.unwrap_or_default();
    assert!(name == "[127.0.0.1]" || (name.contains('.') && !name.starts_with('[')), "{name}");
    Ok(())
}
