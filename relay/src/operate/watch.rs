//! What this process knows of the pauses: told by notifications, asked for again now and then.
//!
//! One task follows them on a session of its own, which costs a statement every `CHECK`. Until they are known for the
//! first time everything counts as paused: a relay that starts into a pause must not begin with a burst.

use std::sync::Arc;
use std::time::Duration;

use shared::database_url::DatabaseUrl;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::pauses::{self, CHANNEL, Part, Pause};
use crate::databases;
use crate::health::Health;
use crate::postgres::{self, within};
use crate::retry;
use crate::wake::Bell;

/// How often the pauses are asked for when no notification came, which may have been lost.
const CHECK: Duration = Duration::from_secs(20);

/// The pauses as this process knows them.
#[derive(Clone, Debug)]
pub struct Pauses(Arc<watch::Sender<Option<Vec<Pause>>>>);

/// Nothing is paused, and that is known.
impl Default for Pauses {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Some(Vec::new()))))
    }
}

impl Pauses {
    /// Not known yet.
    pub fn unknown() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    /// Whether dispatch is to begin nothing.
    pub fn dispatch(&self) -> bool {
        self.any(|part| *part == Part::Dispatch)
    }

    /// Whether delivery of a kind is to begin nothing.
    pub fn delivery(&self, kind: &str) -> bool {
        self.any(|part| matches!(part, Part::Delivery(of) if of.as_deref().is_none_or(|of| of == kind)))
    }

    fn any(&self, is_meant: impl Fn(&Part) -> bool) -> bool {
        self.0.borrow().as_ref().is_none_or(|pauses| pauses.iter().any(|pause| is_meant(&pause.part)))
    }

    /// Waits with this until something is paused or resumed.
    pub fn ear(&self) -> watch::Receiver<Option<Vec<Pause>>> {
        self.0.subscribe()
    }

    /// Takes note of what is paused. Returns whether that is news.
    pub fn set(&self, pauses: Vec<Pause>) -> bool {
        self.0.send_if_modified(|known| {
            let news = known.as_ref() != Some(&pauses);
            *known = Some(pauses);
            news
        })
    }
}

/// What following the pauses takes.
pub struct Context {
    /// The jobs database.
    pub jobs: DatabaseUrl,
    /// What this process calls itself to PostgreSQL.
    pub name: String,
    /// Where what is known goes.
    pub pauses: Pauses,
    /// Rung at each change, so that delivery looks.
    pub jobs_bell: Bell,
    /// Where pauses are told.
    pub health: Health,
}

/// Follows the pauses until told to stop.
pub async fn follow(context: Context, stop: CancellationToken) {
    let mut pace = retry::reconnect();
    while !stop.is_cancelled() {
        let ended = tokio::select! {
            ended = session(&context, &mut pace) => ended,
            () = stop.cancelled() => return,
        };
        // The parts that work on this database say loudly what is wrong with it.
        if let Err(error) = ended {
            tracing::debug!(%error, "what is paused is not known; asking again");
        }
        tokio::select! {
            () = tokio::time::sleep(pace.next_delay()) => {}
            () = stop.cancelled() => {}
        }
    }
}

async fn session(context: &Context, pace: &mut retry::Reconnect) -> Result<(), postgres::Error> {
    let told = Bell::default();
    let mut ear = told.ear();
    let client = postgres::jobs_listener(&context.jobs, &context.name, move |_| told.ring()).await?;
    within(databases::PATIENCE, client.batch_execute(&format!("LISTEN {CHANNEL}"))).await?;
    loop {
        take_note(context, pauses::list(&client).await?);
        pace.reset();
        tokio::select! {
            _ = ear.changed() => {}
            () = tokio::time::sleep(CHECK) => {}
        }
    }
}

fn take_note(context: &Context, found: Vec<Pause>) {
    let known = context.pauses.ear().borrow().clone().unwrap_or_default();
    for pause in found.iter().filter(|pause| !known.contains(pause)) {
        tracing::warn!(part = %pause.part, "{pause}");
        context.health.paused(&pause.part.to_string(), pause.to_string());
    }
    for pause in known.iter().filter(|pause| !found.iter().any(|other| other.part == pause.part)) {
        tracing::info!(part = %pause.part, "{} was resumed", pause.part);
        context.health.resumed(&pause.part.to_string());
    }
    if context.pauses.set(found) {
        context.jobs_bell.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause(part: Part) -> Pause {
        Pause { part, paused_at: None, paused_by: "ada".to_owned(), reason: None }
    }

    #[test]
    fn what_is_not_known_is_paused() {
        let pauses = Pauses::unknown();
        assert!(pauses.dispatch() && pauses.delivery("email"));
        assert!(pauses.set(vec![]) && !pauses.set(vec![]));
        assert!(!pauses.dispatch() && !pauses.delivery("email"));
    }

    #[test]
    fn one_kind_or_every_kind_is_paused() {
        let pauses = Pauses::default();
        pauses.set(vec![pause(Part::Delivery(Some("email".to_owned())))]);
        assert!(pauses.delivery("email") && !pauses.delivery("webhook") && !pauses.dispatch());
        pauses.set(vec![pause(Part::Delivery(None))]);
        assert!(pauses.delivery("email") && pauses.delivery("webhook") && !pauses.dispatch());
    }
}
