//! 2a. Handlers: named pure functions from an event to the jobs it asks for.
//!
//! [`register_all`] is the one table of what happens after which event. A handler is synchronous and does no I/O and
//! reads no clock: that is what makes dispatch fast, dry runs exact and every replay harmless. Its name is durable: it is
//! part of its jobs' ids.

mod users;

use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use shared::envelope::Envelope;
use shared::event::{DecodeError, Event};
use shared::redact::redact;
use shared::settings::Faults;

use crate::jobs::{Job, Unfit};

/// What happens after which event.
///
/// # Errors
/// When two handlers share a name, or a name is not one.
pub fn register_all() -> Result<Registry, RegistryError> {
    let mut registry = Registry::default();
    registry.on("send_verification_email", users::send_verification_email)?;
    registry.on("resend_verification_email", users::resend_verification_email)?;
    registry.on("send_welcome_email", users::send_welcome_email)?;
    registry.on("send_already_registered_email", users::send_already_registered_email)?;
    Ok(registry)
}

/// The same for a command that starts: what is wrong with the table is one of its faults.
pub fn registry(faults: &mut Faults) -> Option<Registry> {
    let registry = register_all();
    registry.map_err(|error| faults.push("handlers", error.to_string(), "Change it in the table of handlers")).ok()
}

/// The most jobs that one handler may ask for after one event.
pub const MAX_JOBS: usize = 1_000;

type Run = Box<dyn Fn(&Envelope) -> Result<Vec<Job>, HandlerError> + Send + Sync>;

/// The handlers, by the type of the event they are for.
#[derive(Default)]
pub struct Registry {
    names: Vec<&'static str>,
    by_type: BTreeMap<&'static str, Vec<(&'static str, Run)>>,
}

/// What one handler made of an event.
#[derive(Debug)]
pub struct Handled {
    /// The handler.
    pub handler: &'static str,
    /// The jobs it asks for, or why it could not.
    pub outcome: Result<Vec<Job>, HandlerError>,
}

/// Why a handler did not handle an event. Its text is stored: it holds no values of the event.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// The event could not be read.
    #[error("{} {}", .0, redact(&std::error::Error::source(.0).map(ToString::to_string).unwrap_or_default()))]
    Decode(#[from] DecodeError),
    /// A job's arguments could not be written.
    #[error("a job's arguments cannot be written as JSON: {}", redact(&.0.to_string()))]
    Arguments(#[from] serde_json::Error),
    /// The handler said no.
    #[error("{}", redact(.0))]
    Failed(String),
    /// The handler panicked.
    #[error("the handler panicked: {}", redact(.0))]
    Panicked(String),
    /// More jobs than [`MAX_JOBS`].
    #[error("the handler asked for {0} jobs; at most {MAX_JOBS} are taken")]
    TooManyJobs(usize),
    /// Two jobs of one handler and event would have the same id.
    #[error("the handler asked for two jobs named {0:?}")]
    SameName(String),
    /// A job whose row would be refused.
    #[error("the handler asked for a job that cannot be stored: {0}")]
    Unfit(#[from] Unfit),
}

/// Why a handler was not registered.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RegistryError {
    /// Names are durable, so each is one handler's.
    #[error("two handlers are registered as {0:?}; each needs a name of its own")]
    SameName(&'static str),
    /// The name goes into ids, logs and metrics.
    #[error("{0:?} is no name for a handler; it takes 1 to 100 of a-z, 0-9 and _")]
    Name(&'static str),
}

impl Registry {
    /// Registers a handler for the events of one type.
    ///
    /// # Errors
    /// When the name is taken, or is none.
    pub fn on<E: Event + 'static>(
        &mut self,
        name: &'static str,
        handler: impl Fn(&Envelope<E>) -> Result<Vec<Job>, HandlerError> + Send + Sync + 'static,
    ) -> Result<(), RegistryError> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if name.is_empty() || name.len() > 100 || !name.chars().all(fits) {
            return Err(RegistryError::Name(name));
        }
        if self.names.contains(&name) {
            return Err(RegistryError::SameName(name));
        }
        self.names.push(name);
        let run: Run = Box::new(move |envelope| handler(&envelope.decode()?));
        self.by_type.entry(E::TYPE).or_default().push((name, run));
        Ok(())
    }

    /// Runs every handler of the event's type; one that fails or panics does not keep the others from running. Nothing
    /// for a type that no handler is for.
    pub fn publish(&self, envelope: &Envelope) -> Vec<Handled> {
        self.publish_to(envelope, |_| true).collect()
    }

    /// The same, for the handlers that are wanted, one after the other as they are asked for. Nothing
    /// for an event that was blanked.
    pub fn publish_to(&self, envelope: &Envelope, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = Handled> {
        let handlers = self.by_type.get(envelope.event_type.as_str()).filter(|_| !envelope.is_erased());
        let handlers = handlers.map(Vec::as_slice).unwrap_or_default();
        let wanted = handlers.iter().filter(move |(handler, _)| wanted(handler));
        wanted.map(|(handler, run)| Handled { handler, outcome: run_one(run, envelope) })
    }

    /// Forgets every handler.
    pub fn clear(&mut self) {
        self.names.clear();
        self.by_type.clear();
    }

    /// The names, in the order of registration.
    pub fn names(&self) -> &[&'static str] {
        &self.names
    }

    /// Every handler with the type of the events it is for.
    pub fn table(&self) -> impl Iterator<Item = (&'static str, &'static str)> + '_ {
        self.by_type.iter().flat_map(|(event_type, handlers)| handlers.iter().map(|(name, _)| (*event_type, *name)))
    }

    /// The registry's own word for a type of events; none when no handler is for it.
    pub fn known_type(&self, event_type: &str) -> Option<&'static str> {
        self.by_type.get_key_value(event_type).map(|(known, _)| *known)
    }

    /// Whether any handler is for events of this type.
    pub fn knows(&self, event_type: &str) -> bool {
        self.by_type.contains_key(event_type)
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Registry").field(&self.names).finish()
    }
}

fn run_one(run: &Run, envelope: &Envelope) -> Result<Vec<Job>, HandlerError> {
    // A handler is a pure function: there is no state that a panic could have left half changed.
    let jobs = catch_unwind(AssertUnwindSafe(|| run(envelope)))
        .unwrap_or_else(|panic| Err(HandlerError::Panicked(panic_message(panic.as_ref()))))?;
    if jobs.len() > MAX_JOBS {
        return Err(HandlerError::TooManyJobs(jobs.len()));
    }
    // One row that is refused would refuse its whole batch, again and again.
    jobs.iter().try_for_each(Job::check)?;
    if jobs.len() > 1 {
        let mut names = HashSet::with_capacity(jobs.len());
        if let Some(job) = jobs.iter().find(|job| !names.insert(&*job.name)) {
            return Err(HandlerError::SameName(job.name.to_string()));
        }
    }
    Ok(jobs)
}

/// What a panic was called with, where it is text.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::value::to_raw_value;
    use shared::envelope::Head;
    use shared::event::user::{UserEmailVerified, UserRegistered};
    use uuid::Uuid;

    use super::*;

    fn envelope(event_type: &str, version: i32, payload: serde_json::Value) -> Envelope {
        let head = Head {
            event_id: Uuid::nil(),
            position: 1,
            lane: 0,
            aggregate_type: "user".into(),
            aggregate_id: "1".into(),
            event_type: event_type.into(),
            event_version: version,
            metadata: to_raw_value(&serde_json::json!({})).unwrap(),
            occurred_at: time::OffsetDateTime::UNIX_EPOCH,
        };
        Envelope { head: head.into(), payload: to_raw_value(&payload).unwrap() }
    }

    fn registered() -> Envelope {
        let payload = serde_json::json!({"user_id": Uuid::nil(), "email": "ann@example.org", "display_name": "Ann"});
        envelope("user.registered", 1, payload)
    }

    fn job(name: &str) -> Job {
        Job::new(name.to_owned(), "none", &()).unwrap()
    }

    #[test]
    fn each_handler_of_the_type_runs_whatever_becomes_of_the_others() {
        let mut registry = Registry::default();
        registry.on("panics", |_: &Envelope<UserRegistered>| panic!("oh no, ann@example.org")).unwrap();
        registry.on("fails", |_: &Envelope<UserRegistered>| Err(HandlerError::Failed("no".into()))).unwrap();
        registry.on("works", |event: &Envelope<UserRegistered>| Ok(vec![job(&event.payload.display_name)])).unwrap();
        registry.on("other", |_: &Envelope<UserEmailVerified>| Ok(vec![job("x")])).unwrap();

        let handled = registry.publish(&registered());
        let shown: Vec<_> = handled
            .iter()
            .map(|h| (h.handler, h.outcome.as_ref().map(|jobs| jobs[0].name.to_string()).map_err(ToString::to_string)))
            .collect();
        assert_eq!(
            shown,
            [
                ("panics", Err("the handler panicked: oh no, …@…".to_owned())),
                ("fails", Err("no".to_owned())),
                ("works", Ok("Ann".to_owned())),
            ]
        );

        registry.clear();
        assert!(registry.publish(&registered()).is_empty());
        assert!(registry.names().is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_a_failure_that_quotes_no_value() {
        let mut registry = Registry::default();
        registry.on("reads", |_: &Envelope<UserRegistered>| Ok(vec![])).unwrap();
        let error = |envelope| registry.publish(&envelope)[0].outcome.as_ref().unwrap_err().to_string();
        assert!(error(envelope("user.registered", 9, serde_json::json!({}))).contains("version 9 is not known"));
        let odd = error(envelope("user.registered", 1, serde_json::json!({"user_id": "ann secret"})));
        assert!(odd.contains("cannot be read") && !odd.contains("secret"), "{odd}");
        assert!(error(envelope("user.registered", 1, serde_json::Value::Null)).contains("cannot be read"));
    }

    #[test]
    fn jobs_that_could_not_be_stored_are_failures() {
        let mut registry = Registry::default();
        registry
            .on("many", |_: &Envelope<UserRegistered>| Ok((0..10_000).map(|n| job(&n.to_string())).collect()))
            .unwrap();
        registry.on("twice", |_: &Envelope<UserRegistered>| Ok(vec![job("a"), job("a")])).unwrap();
        registry.on("unnamed", |_: &Envelope<UserRegistered>| Ok(vec![job("")])).unwrap();
        registry.on("nul", |_: &Envelope<UserRegistered>| Ok(vec![Job::new("a", "none", &"a\0")?])).unwrap();
        let handled = registry.publish(&registered());
        assert!(matches!(handled[0].outcome, Err(HandlerError::TooManyJobs(10_000))));
        assert!(matches!(handled[1].outcome, Err(HandlerError::SameName(_))));
        assert!(matches!(handled[2].outcome, Err(HandlerError::Unfit(Unfit::Name))));
        assert!(matches!(handled[3].outcome, Err(HandlerError::Unfit(Unfit::Args))));
    }

    #[test]
    fn names_are_unique_and_plain() {
        let mut registry = Registry::default();
        let handler = |_: &Envelope<UserRegistered>| Ok(vec![]);
        registry.on("a", handler).unwrap();
        assert_eq!(registry.on("a", handler), Err(RegistryError::SameName("a")));
        assert_eq!(registry.on("", handler), Err(RegistryError::Name("")));
        assert_eq!(registry.on("Send it", handler), Err(RegistryError::Name("Send it")));
    }

    #[test]
    fn the_table_registers() {
        let registry = register_all().unwrap();
        assert_eq!(
            registry.names(),
            [
                "send_verification_email",
                "resend_verification_email",
                "send_welcome_email",
                "send_already_registered_email"
            ]
        );
    }
}
