//! A TCP forwarder: an address that stays while the server behind it changes, as a virtual IP's does.
//!
//! New connections go to where it points at that moment. What it does not do: it knows nothing of PostgreSQL, and it
//! never moves a connection from one server to another.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;

/// A forwarder from a port of its own to another on this machine; gone when dropped.
#[derive(Debug)]
pub struct Forwarder {
    port: u16,
    behind: Arc<Mutex<Behind>>,
    acceptor: JoinHandle<()>,
}

#[derive(Debug)]
struct Behind {
    port: u16,
    connections: Vec<AbortHandle>,
    /// Stops what is carried on the connections that are there.
    frozen: CancellationToken,
}

impl Forwarder {
    /// Forwards to a port from now on.
    pub async fn to(port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let own = listener.local_addr()?.port();
        let behind = Arc::new(Mutex::new(Behind { port, connections: Vec::new(), frozen: CancellationToken::new() }));
        let acceptor = tokio::spawn(accept(listener, behind.clone()));
        Ok(Self { port: own, behind, acceptor })
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sends new connections to another port; those that are there stay.
    pub fn turn_to(&self, port: u16) {
        lock(&self.behind).port = port;
    }

    /// Lets every connection stay and carries nothing on it any more, as a firewall that forgot it. New ones are as ever.
    pub fn freeze(&self) {
        std::mem::take(&mut lock(&self.behind).frozen).cancel();
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        lock(&self.behind).connections.drain(..).for_each(|connection| connection.abort());
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.acceptor.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, behind: Arc<Mutex<Behind>>) {
    while let Ok((near, _)) = listener.accept().await {
        let mut guard = lock(&behind);
        let task = tokio::spawn(forward(near, guard.port, guard.frozen.clone()));
        guard.connections.retain(|connection| !connection.is_finished());
        guard.connections.push(task.abort_handle());
    }
}

/// A connection, until either side ends it. A server that does not answer is a connection that closes at once.
async fn forward(mut near: TcpStream, port: u16, frozen: CancellationToken) {
    let Ok(mut far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
    // Small messages must not wait for each other; if it cannot be set they wait a little.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    tokio::select! {
        // How it ended is seen at both ends.
        _ = copy_bidirectional(&mut near, &mut far) => {}
        () = frozen.cancelled() => std::future::pending().await,
    }
}

fn lock(behind: &Mutex<Behind>) -> MutexGuard<'_, Behind> {
    behind.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A server that says its name to each connection and then holds it open.
    async fn server(name: &'static [u8]) -> Result<u16> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.write_all(name).await.unwrap();
                held.push(stream);
            }
        });
        Ok(port)
    }

    async fn name_behind(forwarder: &Forwarder) -> Result<(TcpStream, String)> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, forwarder.port())).await?;
        let mut name = [0; 3];
        stream.read_exact(&mut name).await?;
        Ok((stream, String::from_utf8(name.to_vec())?))
    }

    #[tokio::test]
    async fn new_connections_go_to_where_it_points_and_old_ones_stay_until_cut() -> Result<()> {
        let (one, two) = (server(b"one").await?, server(b"two").await?);
        let forwarder = Forwarder::to(one).await?;
        let (mut old, name) = name_behind(&forwarder).await?;
        assert_eq!(name, "one");
        forwarder.turn_to(two);
        let (_new, name) = name_behind(&forwarder).await?;
        assert_eq!(name, "two");
        assert!(old.try_read(&mut [0; 1]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
        forwarder.cut();
        // End of file or reset, either is an end.
        assert!(matches!(old.read(&mut [0; 1]).await, Ok(0) | Err(_)));
        Ok(())
    }
}
