//! An embedded PostgreSQL: found or fetched, set up, started, and gone when we are gone.
//!
//! `Cluster::builder().start()` is all that the demo and most tests need. The parts are public, because tests of
//! failover and restore build on them: a [`Site`] is a directory with binaries and an owner, [`Site::run`] runs any
//! PostgreSQL tool in it, and [`Cluster::open`] starts a server on whatever data such a tool has put there.
//!
//! Servers listen on a loopback port and want a password (scram); there is no Unix socket. As root they run as an
//! unprivileged user, because PostgreSQL refuses root. What this does not do: it never touches a server that it did
//! not start, and it never installs anything when a usable installation is there.

mod account;
mod binaries;
mod cluster;
mod fetch;
mod setup;
mod site;

pub use account::Account;
pub use binaries::{Binaries, MINIMUM_MAJOR, Version};
pub use cluster::{Cluster, SUPERUSER, Stop, connect, free_port};
pub use setup::Builder;
pub use site::{Site, durable_home};
