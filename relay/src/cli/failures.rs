//! `relay failures`: events that a handler could not take. Look at them, try them again, give them up.

mod args;
mod list;
mod retry;
mod dismiss;

use clap::{Args as ClapArgs, Subcommand};
use shared::settings::Faults;

/// What to do with failed dispatches.
#[derive(ClapArgs, Clone, Debug)]
#[command(
    after_help = "A failed dispatch is an event and the handler that could not take it. Each start of a relay tries \
    the open ones once, for only new code can cure a handler.\n\n\
    Examples:\n  \
    relay failures list --handler send_welcome_email\n  \
    relay failures retry --from 24h\n  \
    relay failures dismiss --type invoice.paid --reason 'sent by hand'\n\n\
    Exit codes: 0 done, 1 failed or incomplete (also when a handler failed again), 2 wrong usage or settings, \
    3 refused by the state of a database."
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// List failed dispatches, the newest events first
    #[command(visible_alias = "ls")]
    List(list::Args),
    /// Run their handlers again, in this build
    Retry(retry::Args),
    /// Give them up: they are open no longer, and no relay tries them
    Dismiss(dismiss::Args),
}

pub(super) async fn run(args: Args, faults: Faults) -> u8 {
    match args.command {
        Command::List(args) => list::run(args, faults).await,
        Command::Retry(args) => retry::run(args, faults).await,
        Command::Dismiss(args) => dismiss::run(args, faults).await,
    }
}
