//! The SQL of `api`, one home per table. Nothing here begins or ends a transaction.

pub mod statements;
pub mod users;
pub mod outbox;
pub mod limits;
