//! Support for the tests and the demo: real servers, real processes, real mail.
//!
//! Nothing here imitates a part of the system. PostgreSQL is PostgreSQL, `api` and `relay` are the built binaries, and
//! mail goes through an SMTP server or into a directory. What the scenarios promise stands in `tests/tests`.

pub mod leash;
pub mod broom;
pub mod postgres;
pub mod databases;
pub mod copies;
pub mod forwarder;
pub mod pooler;
pub mod http;
pub mod page;
pub mod browser;
pub mod axe;
pub mod process;
pub mod services;
pub mod dispatcher;
pub mod mailbox;
pub mod smtp_sink;
pub mod fast_sink;
pub mod collector;
pub mod certificate;
pub mod skip;
pub mod clock;
pub mod wait;
pub mod measure;
