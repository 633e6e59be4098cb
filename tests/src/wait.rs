//! Waiting for a condition with a deadline, instead of sleeping and hoping.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Enough for anything that should happen soon, also on a loaded machine.
pub const SOON: Duration = Duration::from_secs(30);

/// Asks `probe` again and again until it has an answer; an error, naming `what`, once [`SOON`] has passed.
pub async fn until<T>(what: &str, probe: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    until_within(SOON, what, probe).await
}

/// Asks `probe` again and again until it has an answer; an error, naming `what`, once `patience` has run out.
pub async fn until_within<T>(
    patience: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = probe().await? {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("waited {patience:?} in vain for {what}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
