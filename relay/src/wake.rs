//! Who is told that there is something to do. A wake-up is a hint: whoever misses one finds the work at its next poll.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shared::database_url::DatabaseUrl;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::postgres;
use crate::retry;

/// A bell: any number ring it, any number listen, and rings that nobody waited for are one ring.
#[derive(Clone, Debug)]
pub struct Bell {
    rung: Arc<watch::Sender<u64>>,
    connected: Arc<AtomicBool>,
}

impl Default for Bell {
    fn default() -> Self {
        Self { rung: Arc::new(watch::Sender::new(0)), connected: Arc::default() }
    }
}

impl Bell {
    /// Wakes whoever listens.
    pub fn ring(&self) {
        self.rung.send_modify(|rings| *rings += 1);
    }

    /// An ear for this bell; it has heard all rings up to now.
    pub fn ear(&self) -> watch::Receiver<u64> {
        self.rung.subscribe()
    }

    /// Whether the database's notifications ring this bell at the moment.
    pub fn connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }
}

/// The channel that writers of the outbox notify, in the application database.
pub const OUTBOX_CHANNEL: &str = "aftercommit_outbox";

/// How often a silent LISTEN session is asked whether it is still there.
const CHECK: Duration = Duration::from_secs(60);

/// Rings the bell at each notification on [`OUTBOX_CHANNEL`], over a connection of its own, until told to stop.
pub async fn listen_to_outbox(url: DatabaseUrl, name: String, bell: Bell, stop: CancellationToken) {
    let mut pace = retry::reconnect();
    while !stop.is_cancelled() {
        let heard = bell.clone();
        let listening = async {
            let client = postgres::application_listener(&url, &name, move |_| heard.ring()).await?;
            client.batch_execute(&format!("LISTEN {OUTBOX_CHANNEL}")).await?;
            bell.connected.store(true, Ordering::Relaxed);
            pace.reset();
            // What was notified while nobody listened.
            bell.ring();
            loop {
                tokio::time::sleep(CHECK).await;
                postgres::within(Duration::from_secs(10), client.simple_query("")).await?;
            }
        };
        let ended: Result<(), postgres::Error> = tokio::select! {
            ended = listening => ended,
            () = stop.cancelled() => return,
        };
        bell.connected.store(false, Ordering::Relaxed);
        if let Err(error) = ended {
            tracing::debug!(%error, "not listening; polling meanwhile");
        }
        tokio::select! {
            () = tokio::time::sleep(pace.next_delay()) => {}
            () = stop.cancelled() => {}
        }
    }
}
