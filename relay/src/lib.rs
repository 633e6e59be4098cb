//! The relay: reads the outbox after commit, runs the registered handlers, stores the jobs they return, and delivers
//! them. Modules are in the order in which an event meets them.

pub mod retry;

pub mod jobs;
