//! The relay: reads the outbox after commit, runs the registered handlers, stores the jobs they return, and delivers
//! them. Modules are in the order in which an event meets them.

pub mod cli;
pub mod config;
pub mod http;
pub mod schema;

pub mod postgres;
pub mod retry;
pub mod wake;
pub mod health;

pub mod metrics;

pub mod outbox;
pub mod dispatch;
pub mod handlers;
pub mod jobs;
pub mod deliver;
pub mod mail;
pub mod databases;
pub mod text;
pub mod replay;
pub mod verify;
pub mod upkeep;
pub mod status;
pub mod operate;
pub mod doctor;
pub mod events;
pub mod dashboard;
