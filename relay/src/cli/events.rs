//! `relay events`: look at the outbox, at one event's way, and follow what comes.

mod args;
mod list;
mod show;
mod tail;
mod follow;

use clap::{Args as ClapArgs, Subcommand};
use shared::database_url::DatabaseUrl;
use shared::settings::Faults;
use tokio_postgres::Client;

use super::answer::Form;
use super::jobs::refuse;
use crate::databases;

/// What to look at.
#[derive(ClapArgs, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    relay events list --type user.registered --from 1h\n  \
    relay events show 0190f7a2-5d2c-7cc0-8b4e-0f6f2c9f4c11\n  \
    relay events tail --aggregate user/42\n  \
    relay events tail --json | jq .job\n\n\
    Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 refused by the state of a database.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// List events in the outbox, the newest first
    #[command(visible_alias = "ls")]
    List(list::Args),
    /// Show one event with its handlers' failures, its jobs and their tries
    Show(show::Args),
    /// Follow the outbox live, with what handlers and deliveries make of each event
    #[command(visible_alias = "follow")]
    Tail(tail::Args),
}

pub(super) async fn run(args: Args, faults: Faults) -> u8 {
    match args.command {
        Command::List(args) => list::run(args, faults).await,
        Command::Show(args) => show::run(args, faults).await,
        Command::Tail(args) => tail::run(args, faults).await,
    }
}

fn name() -> String {
    format!("aftercommit operator {}", std::process::id())
}

/// A session on the application database, or the exit code.
async fn application(form: Form, url: &DatabaseUrl) -> Result<Client, u8> {
    databases::application(url, &name()).await.map_err(|error| refuse(form, &error))
}
