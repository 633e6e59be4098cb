//! What operating promises: only legal changes, each with its line in the audit trail, in one transaction; pauses that
//! every relay heeds; and the commands on top.

mod support;
mod change;
mod failures;
mod pauses;
mod commands;
mod events;
