//! `relay jobs`: look at jobs, retry and cancel them, pause and resume their delivery.

mod args;
mod bulk;
pub(super) mod list;
mod pause;
mod show;

use clap::{Args as ClapArgs, Subcommand};
use shared::database_url::DatabaseUrl;
use shared::settings::Faults;
use tokio_postgres::Client;

use super::answer::Form;
use crate::databases;
use crate::operate::change::Change;

/// What to do with jobs.
#[derive(ClapArgs, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    relay jobs list --state dead --from 24h\n  \
    relay jobs show 0190f7a2-5d2c-8cc0-8b4e-0f6f2c9f4c11\n  \
    relay jobs retry --state dead --error 'connection refused' --reason 'the provider is back'\n  \
    relay jobs cancel --kind email --template welcome --state available --yes\n  \
    relay jobs pause --kind email --reason 'the provider asked for it'\n\n\
    Exit codes: 0 done, 1 failed or interrupted, 2 wrong usage or settings, 3 refused by the state of the database \
    or of a job.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// List jobs, the newest events' first
    #[command(visible_alias = "ls")]
    List(list::Args),
    /// Show one job with its tries
    Show(show::Args),
    /// Try jobs again that are dead, cancelled or expired, with all attempts anew; bring forward those that wait
    Retry(bulk::Args),
    /// Call off jobs that wait, and give up dead ones
    Cancel(bulk::Args),
    /// Pause delivery, or dispatch, on every relay, until it is resumed
    Pause(pause::Args),
    /// Let delivery, or dispatch, go on
    Resume(pause::Args),
}

pub(super) async fn run(args: Args, faults: Faults) -> u8 {
    match args.command {
        Command::List(args) => list::run(args, faults).await,
        Command::Show(args) => show::run(args, faults).await,
        Command::Retry(args) => bulk::run(Change::Retry, args, faults).await,
        Command::Cancel(args) => bulk::run(Change::Cancel, args, faults).await,
        Command::Pause(args) => pause::run(true, args, faults).await,
        Command::Resume(args) => pause::run(false, args, faults).await,
    }
}

/// A session on the jobs database, or the exit code.
pub(super) async fn connect(form: Form, jobs: &DatabaseUrl) -> Result<Client, u8> {
    let name = format!("aftercommit operator {}", std::process::id());
    databases::jobs(jobs, &name).await.map_err(|error| refuse(form, &error))
}

pub(super) fn refuse(form: Form, error: &databases::Error) -> u8 {
    form.refuse(&error.to_string(), if error.is_refusal() { super::EXIT_REFUSED } else { 1 })
}

/// The jobs database failed in the middle of something.
pub(super) fn failed(form: Form, error: crate::postgres::Error) -> u8 {
    refuse(form, &databases::Error::from(error))
}
