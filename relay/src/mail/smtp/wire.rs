//! A connection as bytes: commands out, replies in, each within a bound of time and size.
//!
//! A command is sent only when nothing unread is there: a reply that came before its command would be taken for the
//! answer to it, and plaintext that came before the TLS handshake for something the server said inside.

use std::fmt::Display;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::reply::{LONGEST_REPLY, Parsed, Reply};
use super::verdict::Trouble;
use crate::metrics::record;

/// What a connection runs over: TCP, or TLS over it.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

const UNASKED: Trouble = Trouble::Protocol("replied before it was asked");

/// See the module.
pub(super) struct Wire<S> {
    stream: S,
    received: Vec<u8>,
}

impl<S: Stream> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, received: Vec::new() }
    }

    /// The stream, to be wrapped in TLS; refused if the server has said anything more.
    pub(super) async fn into_stream(mut self) -> Result<S, Trouble> {
        self.nothing_unread().await?;
        if !self.received.is_empty() {
            return Err(Trouble::Protocol("spoke between its answer to STARTTLS and the handshake"));
        }
        Ok(self.stream)
    }

    /// Sends a command and waits for the wanted reply; any other is trouble.
    pub(super) async fn command(
        &mut self,
        command: &(impl Display + Sync),
        wanted: u16,
        limit: Duration,
    ) -> Result<Reply, Trouble> {
        self.ask(command, &[wanted], limit).await
    }

    /// The same, with several replies that are wanted.
    pub(super) async fn ask(
        &mut self,
        command: &(impl Display + Sync),
        wanted: &[u16],
        limit: Duration,
    ) -> Result<Reply, Trouble> {
        self.nothing_unread().await?;
        if !self.received.is_empty() {
            // What came unasked may be the server's goodbye; a yes to what was not said yet is none.
            return match self.accept(wanted, limit).await {
                Err(Trouble::Reply(reply)) if reply.code() == 421 => Err(Trouble::Reply(reply)),
                Err(trouble @ Trouble::Lost(_)) => Err(trouble),
                _ => Err(UNASKED),
            };
        }
        let text = command.to_string();
        // One line, whatever the arguments are: the grammar's types see to that, and this to them.
        if text.trim_end_matches("\r\n").contains(['\r', '\n', '\0']) {
            return Err(Trouble::Protocol("can't be sent a command of two lines"));
        }
        self.write(text.as_bytes(), limit).await?;
        self.accept(wanted, limit).await
    }

    /// Waits for a reply, which is trouble if it is not the wanted one; 250 stands for all codes that say yes.
    pub(super) async fn reply(&mut self, wanted: u16, limit: Duration) -> Result<Reply, Trouble> {
        self.accept(&[wanted], limit).await
    }

    async fn accept(&mut self, wanted: &[u16], limit: Duration) -> Result<Reply, Trouble> {
        let reply = within(limit, self.read_reply()).await?;
        record::smtp_reply(reply.code());
        match reply.code() {
            code if wanted.contains(&code) => Ok(reply),
            200..=299 if wanted.contains(&250) => Ok(reply),
            400..=599 => Err(Trouble::Reply(reply)),
            _ if wanted.is_empty() => Err(UNASKED),
            _ => Err(Trouble::Protocol("gave a reply that does not belong here")),
        }
    }

    /// Writes a mail, with the dots at the beginning of lines doubled. Its lines end in CRLF, the last one too.
    pub(super) async fn write_body(&mut self, mail: &[u8], limit: Duration) -> Result<(), Trouble> {
        self.not_answered_yet(limit).await?;
        self.write(&stuff_dots(mail), limit).await
    }

    /// Fails if the server has said anything: before the final dot there is nothing to say yes to, and a no is one.
    pub(super) async fn not_answered_yet(&mut self, limit: Duration) -> Result<(), Trouble> {
        self.nothing_unread().await?;
        if self.received.is_empty() {
            return Ok(());
        }
        self.accept(&[], limit).await.map(drop)
    }

    /// Writes the final dot. Ask [`Wire::not_answered_yet`] first.
    pub(super) async fn write_dot(&mut self, limit: Duration) -> Result<(), Trouble> {
        self.write(b".\r\n", limit).await
    }

    async fn write(&mut self, bytes: &[u8], limit: Duration) -> Result<(), Trouble> {
        within(limit, async {
            self.stream.write_all(bytes).await.map_err(lost)?;
            self.stream.flush().await.map_err(lost)
        })
        .await
    }

    async fn read_reply(&mut self) -> Result<Reply, Trouble> {
        loop {
            match Reply::parse(&self.received) {
                Parsed::Whole(reply, length) => {
                    self.received.drain(..length);
                    return Ok(reply);
                }
                Parsed::Garbage => return Err(Trouble::Protocol("said something that is no reply")),
                Parsed::Incomplete => {}
            }
            let mut chunk = [0; 4096];
            let count = self.stream.read(&mut chunk).await.map_err(lost)?;
            if count == 0 {
                return Err(Trouble::Lost("the server closed the connection".to_owned()));
            }
            self.received.extend_from_slice(&chunk[..count]);
        }
    }

    /// Takes what is there to be read, without waiting; a connection that is over shows here.
    async fn nothing_unread(&mut self) -> Result<(), Trouble> {
        let mut chunk = [0; 4096];
        while self.received.len() < LONGEST_REPLY {
            let mut buffer = ReadBuf::new(&mut chunk);
            let read = poll_fn(|cx| match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(result) => Poll::Ready(Some(result)),
                Poll::Pending => Poll::Ready(None),
            });
            match read.await {
                None => return Ok(()),
                Some(Err(error)) => return Err(lost(error)),
                Some(Ok(())) if buffer.filled().is_empty() && self.received.is_empty() => {
                    return Err(Trouble::Lost("the server closed the connection".to_owned()));
                }
                Some(Ok(())) if buffer.filled().is_empty() => return Ok(()),
                Some(Ok(())) => self.received.extend_from_slice(buffer.filled()),
            }
        }
        Ok(())
    }
}

/// Doubles the dots at the beginning of lines. Only CRLF ends a line, which the mail was checked for.
fn stuff_dots(mail: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(mail.len() + 64);
    let mut at_line_start = true;
    for byte in mail {
        if at_line_start && *byte == b'.' {
            out.push(b'.');
        }
        out.push(*byte);
        at_line_start = *byte == b'\n';
    }
    out
}

pub(super) fn lost(error: std::io::Error) -> Trouble {
    Trouble::Lost(format!("the connection broke ({})", error.kind()))
}

/// Gives a step its bound.
pub(super) async fn within<T>(limit: Duration, step: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    tokio::time::timeout(limit, step).await.unwrap_or(Err(Trouble::Timeout(limit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(200);

    #[test]
    fn dots_are_doubled_at_the_beginning_of_lines() {
        assert_eq!(stuff_dots(b".a\r\n.\r\nb.\r\n..\r\n"), b"..a\r\n..\r\nb.\r\n...\r\n");
    }

    #[tokio::test]
    async fn a_reply_before_its_command_is_never_its_answer() {
        let (client, mut server) = tokio::io::duplex(1 << 20);
        let mut wire = Wire::new(client);
        server.write_all(b"250 ok\r\n").await.unwrap();
        assert_eq!(wire.command(&"NOOP\r\n", 250, LIMIT).await, Err(Trouble::Protocol("replied before it was asked")));
        server.write_all(b"421 bye\r\n").await.unwrap();
        let Err(Trouble::Reply(reply)) = wire.command(&"NOOP\r\n", 250, LIMIT).await else { panic!() };
        assert_eq!(reply.code(), 421);
    }

    #[tokio::test]
    async fn a_stream_with_anything_unread_gets_no_handshake() {
        let (client, mut server) = tokio::io::duplex(1 << 20);
        let mut wire = Wire::new(client);
        server.write_all(b"220 go ahead\r\n250 injected\r\n").await.unwrap();
        assert_eq!(wire.reply(220, LIMIT).await.map(|reply| reply.code()), Ok(220));
        assert!(matches!(wire.into_stream().await, Err(Trouble::Protocol(_))));
    }

    #[tokio::test]
    async fn time_and_memory_are_bounded() {
        let (client, mut server) = tokio::io::duplex(1 << 20);
        let mut wire = Wire::new(client);
        assert_eq!(wire.command(&"NOOP\r\n", 250, LIMIT).await, Err(Trouble::Timeout(LIMIT)));
        server.write_all(&[b'2'; 10_000]).await.unwrap();
        assert_eq!(wire.reply(250, LIMIT).await, Err(Trouble::Protocol("said something that is no reply")));
        drop(server);
        let mut wire = Wire::new(tokio::io::duplex(1).0);
        assert!(matches!(wire.command(&"NOOP\r\n", 250, LIMIT).await, Err(Trouble::Lost(_))));
        assert!(wire.command(&"NOOP\r\nQUIT\r\n", 250, LIMIT).await.is_err());
    }

    #[tokio::test]
    async fn a_wrong_yes_is_no_yes() {
        let (client, mut server) = tokio::io::duplex(1 << 20);
        let mut wire = Wire::new(client);
        server.write_all(b"250 ok\r\n354 go\r\n251 forwarded\r\n").await.unwrap();
        assert!(matches!(wire.reply(354, LIMIT).await, Err(Trouble::Protocol(_))));
        assert!(matches!(wire.reply(250, LIMIT).await, Err(Trouble::Protocol(_))));
        assert!(wire.reply(250, LIMIT).await.is_ok());
    }
}
