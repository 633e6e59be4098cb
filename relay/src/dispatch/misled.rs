//! Whether the server that a worker reached is the one to read from, asked before it takes lanes from others.
//!
//! A stale address leads to a standby, or to an old primary that still answers. Such a worker holds no lanes: those that
//! reach the right server dispatch meanwhile, and it joins them by itself once its address leads there.

use tokio_postgres::Client;

use super::Error;
use super::cursor::Cursor;
use super::history::{Verdict, judge};
use crate::outbox;

/// The server is on a lower timeline than one that was followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the server is on timeline {found}, and timeline {known} was already followed: an old primary, or an old copy. \
     No lanes are taken while it answers; if it is the right one, run `relay accept-history`"
)]
pub struct Misled {
    /// The timeline already followed.
    pub known: i32,
    /// The timeline that answered.
    pub found: i32,
}

/// Looks at the outbox once for all lanes.
///
/// # Errors
/// [`Error::Misled`], or why the outbox can't be read there.
pub async fn check(application: &Client, cursors: &[Cursor]) -> Result<(), Error> {
    let questions: Vec<_> = cursors.iter().map(Cursor::question).collect();
    let look = outbox::glance(application, &questions).await?;
    let misled = |answer: &outbox::Answer| {
        let cursor = cursors.iter().find(|cursor| cursor.lane == answer.lane)?;
        match judge(cursor, look.server.identity, &look.next, answer) {
            Verdict::Behind(misled) => Some(misled),
            _ => None,
        }
    };
    look.lanes.iter().find_map(misled).map_or(Ok(()), |misled| Err(Error::Misled(misled)))
}
