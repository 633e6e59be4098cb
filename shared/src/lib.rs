//! The contract between the two binaries, and what both need to run. No HTTP but the question whether a service is well,
//! and no SQL but the bookkeeping of migrations.

mod allocator;
pub mod envelope;
pub mod event;
pub mod email_address;
pub mod display_name;
pub mod characters;
pub mod token;
pub mod public_url;
pub mod settings;
pub mod database_url;
pub mod migrate;
pub mod telemetry;
pub mod metrics;
pub mod terminal;
pub mod progress;
pub mod trace;
pub mod manual;
pub mod shutdown;
pub mod healthcheck;
pub mod redact;
