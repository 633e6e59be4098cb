//! The statements that write: each makes a change and stores the event that tells of it, in one round trip.
//!
//! The rule of the outbox is that the aggregate's row is locked first and the event inserted then. Here both are one
//! statement: the insert selects from the change, so it runs after it, and not at all when the change found no row.
//!
//! This file uses nothing else of the program, so that `cargo bench-write` measures these very statements.

/// Purpose: opens the transaction.
pub const BEGIN: &str = "BEGIN";

/// A statement that makes a change and stores its event: `$1` to `$7` are the event's columns. The change must return one
/// row when it happened. Answers the transaction's id, which tells the fate of a COMMIT without answer.
///
/// It also sees to two things for the transaction's end, which would cost more as statements of their own: what is
/// answered must be on disk, whatever the server's default; and a transaction whose client was lost ends soon, so that the
/// fate of its COMMIT can be told.
macro_rules! with_event {
    ($($change:tt)+) => {
        concat!(
            "WITH changed AS (",
            $($change)+,
            ") INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, event_version, payload, metadata)
               SELECT $1, $2, $3, $4, $5, $6, $7
                 FROM changed
                WHERE set_config('synchronous_commit', 'on', true) IS NOT NULL
                  AND set_config('idle_in_transaction_session_timeout', '5s', true) IS NOT NULL
               RETURNING pg_current_xact_id()::text"
        )
    };
}

/// The user's row, from these parameters.
macro_rules! insert_user {
    ($parameters:literal) => {
        concat!(
            "INSERT INTO aftercommit.users (user_id, email, email_key, display_name)
             VALUES (",
            $parameters,
            ")
             ON CONFLICT (email_key) DO NOTHING
             RETURNING user_id"
        )
    };
}

/// Purpose: opens an account with its event. No row comes back when the address has one already; that is no error,
/// because the server would log an error together with the address.
pub const INSERT_USER: &str = with_event!(insert_user!("$8, $9, $10, $11"));

/// The same without the event: what the outbox is measured against, and nothing else.
#[allow(dead_code, reason = "for `cargo bench-write`")]
pub const INSERT_USER_ALONE: &str = insert_user!("$1, $2, $3, $4");

/// Purpose: marks the address as verified, with the event that tells so.
pub const UPDATE_VERIFIED: &str = with_event!(
    "UPDATE aftercommit.users
        SET email_verified_at = now()
      WHERE user_id = $8
     RETURNING user_id"
);

/// Purpose: stores an event of a user whose row is not written here; it was locked when it was loaded, or is new.
pub const APPEND: &str = with_event!("SELECT user_id FROM aftercommit.users WHERE user_id = $8");
