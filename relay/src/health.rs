//! What each part of the relay last said of itself, for readiness.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The parts and what keeps each from working, if anything does.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<BTreeMap<String, Option<String>>>>);

impl Health {
    /// A part works.
    pub fn well(&self, part: &str) {
        self.set(part, None);
    }

    /// A part does not work, and why. Returns whether that is news.
    pub fn ill(&self, part: &str, reason: impl Into<String>) -> bool {
        self.set(part, Some(reason.into()))
    }

    /// Every part in alphabetical order, with what is wrong.
    pub fn parts(&self) -> BTreeMap<String, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, part: &str, reason: Option<String>) -> bool {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.insert(part.to_owned(), reason.clone()) != Some(reason)
    }
}
