//! Following a page: what changes arrives, few may watch at once, and nobody keeps the relay from stopping.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::wait::until;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::Stage;

/// A stream of events, as a browser holds it.
struct Watch {
    stream: TcpStream,
    heard: String,
}

impl Watch {
    async fn open(stage: &Stage, view: &str) -> Result<Self> {
        let host = stage.dashboard.trim_start_matches("http://");
        let mut stream = TcpStream::connect(host).await?;
        stream.write_all(format!("GET /live?view={view} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
        Ok(Self { stream, heard: String::new() })
    }

    /// Waits for a text; an error when the stream ends before.
    async fn hear(&mut self, text: &str) -> Result<()> {
        let mut buffer = vec![0; 64 << 10];
        while !self.heard.contains(text) {
            let read = tokio::time::timeout(Duration::from_secs(30), self.stream.read(&mut buffer)).await;
            let read = read.with_context(|| format!("no {text:?} in {}", self.heard))??;
            ensure!(read > 0, "the stream ended without {text:?}: {}", self.heard);
            self.heard.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
        Ok(())
    }
}

#[tokio::test]
async fn what_changes_arrives() -> Result<()> {
    let stage = Stage::start(&[]).await?;
    let mut watch = Watch::open(&stage, "/jobs").await?;
    watch.hear("There are no jobs yet").await?;
    ensure!(watch.heard.contains("text/event-stream") && watch.heard.contains("event: page"), "{}", watch.heard);
    stage.register("ada@example.org").await?;
    watch.hear("send_verification_email").await?;
    let mut lost = Watch::open(&stage, "/jobs?state=lost").await?;
    lost.hear("event: problem").await
}

#[tokio::test]
async fn few_may_watch_and_all_are_let_go_at_the_end() -> Result<()> {
    let stage = Stage::start(&[]).await?;
    let mut watches = Vec::new();
    for _ in 0..relay::dashboard::live::MOST {
        let mut watch = Watch::open(&stage, "/pause").await?;
        watch.hear("event: page").await?;
        watches.push(watch);
    }
    let refused = stage.get("/live?view=/pause", &[]).await?;
    assert!(refused.status == 503 && refused.header("retry-after").is_some(), "{}", refused.status);
    watches.pop();
    until("room for another", async || {
        let mut watch = Watch::open(&stage, "/pause").await?;
        watch.hear("HTTP/1.1").await?;
        Ok(watch.heard.contains("200 OK").then_some(()))
    })
    .await?;

    let status = stage.relay.process.terminate().await?;
    ensure!(status.success(), "{status}");
    let mut rest = Vec::new();
    watches[0].stream.read_to_end(&mut rest).await?;
    Ok(())
}
