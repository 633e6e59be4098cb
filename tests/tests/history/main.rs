//! What is promised when the application database's history moves: nothing that is left is lost, no job is there twice,
//! jobs of events that are gone are called off or counted, and nobody has to do anything.
//!
//! Real clusters throughout: standbys, copies, backups, dumps. Each case prints what it saw (`--nocapture`).

mod audit;
mod writers;

mod failover;
mod restore;
mod rebuild;
mod misled;
mod jobs_database;
