//! The smallest SMTP server that a client can speak to: it takes every mail, and notes when its final dot came in.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

type Received = Arc<Mutex<HashMap<String, Instant>>>;

/// The server, with what came in by recipient.
pub struct Sink {
    port: u16,
    received: Received,
}

impl Sink {
    /// Listens.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let received = Received::default();
        let noted = received.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, noted.clone()));
            }
        });
        Ok(Self { port, received })
    }

    /// As `SMTP_URL` has it.
    pub fn url(&self) -> String {
        format!("smtp://127.0.0.1:{}", self.port)
    }

    /// How many came in since they were taken.
    pub fn count(&self) -> usize {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What came in since the last time.
    pub fn take(&self) -> HashMap<String, Instant> {
        std::mem::take(&mut *self.received.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn serve(stream: TcpStream, received: Received) -> Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(b"220 sink\r\n").await?;
    let (mut recipient, mut in_text) = (String::new(), false);
    while let Some(line) = lines.next_line().await? {
        if in_text {
            if line == "." {
                let now = Instant::now();
                received.lock().unwrap_or_else(PoisonError::into_inner).insert(std::mem::take(&mut recipient), now);
                in_text = false;
                write.write_all(b"250 taken\r\n").await?;
            }
            continue;
        }
        let verb: String = line.chars().take(4).collect::<String>().to_ascii_uppercase();
        let reply: &[u8] = match verb.as_str() {
            "EHLO" => b"250-sink\r\n250 8BITMIME\r\n",
            "RCPT" => {
                let address = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
                recipient = address.map(|(address, _)| address.to_owned()).unwrap_or_default();
                b"250 ok\r\n"
            }
            "DATA" => {
                in_text = true;
                b"354 go on\r\n"
            }
            "QUIT" => {
                write.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            _ => b"250 ok\r\n",
        };
        write.write_all(reply).await?;
    }
    Ok(())
}
