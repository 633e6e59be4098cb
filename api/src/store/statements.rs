//! The statements that write: each makes a change and stores the event that tells of it, in one round trip.
//!
//! The rule of the outbox is that the aggregate's row is locked first and the event inserted then. Here both are one
//! statement: the insert selects from the change, so it runs after it, and not at all when the change found no row.
//!
//! This file uses nothing else of the program, so that the benchmarks measure these very statements.

use std::time::Duration;

/// Purpose: wakes relays. What a crash loses of it is found by polling, so it does not wait for the disk; for this statement
/// only, as a pooler may lend the session to a registration next.
pub const NOTIFY: &str = "SELECT pg_notify('aftercommit_outbox', ''), set_config('synchronous_commit', 'off', true)";
/// Between two of [`NOTIFY`]: each is a transaction of the server, and under load would be a large share of its work.
pub const NOTIFY_PAUSE: Duration = Duration::from_millis(1);

/// Purpose: opens the transaction.
pub const BEGIN: &str = "BEGIN";

/// Stores an event for the row that a change before it, `changed`, has returned: `$1` to `$7` are the event's columns.
/// Answers the transaction's id, which tells the fate of a COMMIT without answer. What is answered must be on disk: the role
/// has synchronous_commit on, and nothing here turns it off for longer than its own transaction.
macro_rules! insert_event {
    () => {
        "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, event_version, payload, metadata)
         SELECT $1, $2, $3, $4, $5, $6::json, $7::json
           FROM changed
         RETURNING pg_current_xact_id()::text"
    };
}

/// A statement that makes a change and stores its event. The change must return one row when it happened.
macro_rules! with_event {
    ($($change:tt)+) => {
        concat!("WITH changed AS (", $($change)+, ") ", insert_event!())
    };
}

/// The user's row, from this source.
macro_rules! insert_user {
    ($source:literal) => {
        concat!(
            "INSERT INTO aftercommit.users (user_id, email, email_key, display_name) ",
            $source,
            " ON CONFLICT (email_key) DO NOTHING
             RETURNING user_id"
        )
    };
}

/// Takes one permit of a subject, which costs so many seconds of an allowance of so many. No row comes back when none is
/// left.
macro_rules! take_permit {
    ($subject:literal, $cost:literal, $allowance:literal, $condition:literal) => {
        concat!(
            "INSERT INTO aftercommit.request_limits AS r (subject, full_at)
             SELECT ",
            $subject,
            ", now() + make_interval(secs => ",
            $cost,
            ") ",
            $condition,
            "
             ON CONFLICT (subject) DO UPDATE
                SET full_at = greatest(r.full_at, now()) + make_interval(secs => ",
            $cost,
            ")
              WHERE greatest(r.full_at, now()) + make_interval(secs => ",
            $cost,
            ")
                 <= now() + make_interval(secs => ",
            $allowance,
            ")
             RETURNING true"
        )
    };
}

/// Purpose: takes one permit of a subject ($1), which costs $2 seconds of an allowance of $3 seconds. A crash may forget it,
/// so its commit waits for no disk.
pub const TAKE_PERMIT: &str =
    take_permit!("$1", "$2", "$3", "WHERE set_config('synchronous_commit', 'off', true) IS NOT NULL");

/// Purpose: opens an account with its event. No row comes back when the address has one already; that is no error,
/// because the server would log an error together with the address.
pub const INSERT_USER: &str = with_event!(insert_user!("VALUES ($8, $9, $10, $11)"));

/// Purpose: the same if a permit can be taken, `$12` to `$14` as [`TAKE_PERMIT`] has them. Answers whether it was, and whether
/// the account was opened.
pub const INSERT_USER_IF_PERMITTED: &str = concat!(
    "WITH permit AS (",
    take_permit!("$12", "$13", "$14", ""),
    "), changed AS (",
    insert_user!("SELECT $8, $9, $10, $11 FROM permit"),
    "), stored AS (",
    insert_event!(),
    ") SELECT EXISTS (SELECT FROM permit), EXISTS (SELECT FROM stored)"
);

/// The account without its event: what the outbox is measured against, and nothing else.
#[allow(dead_code, reason = "for `cargo bench-write`")]
pub const INSERT_USER_ALONE: &str = insert_user!("VALUES ($1, $2, $3, $4)");

/// Purpose: marks the address as verified, with the event that tells so.
pub const UPDATE_VERIFIED: &str = with_event!(
    "UPDATE aftercommit.users
        SET email_verified_at = now()
      WHERE user_id = $8
     RETURNING user_id"
);

/// Purpose: stores an event of a user whose row is not written here; it was locked when it was loaded, or is new.
pub const APPEND: &str = with_event!("SELECT user_id FROM aftercommit.users WHERE user_id = $8");
