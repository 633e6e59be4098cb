//! The command line: one file per command.

mod answer;
mod when;
pub mod accept_history;
pub mod audit;
pub mod failures;
pub mod healthcheck;
pub mod mail;
pub mod jobs;
pub mod migrate;
pub mod replay;
pub mod run;
pub mod status;
pub mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shared::settings::Faults;
use shared::telemetry::{self, complain};

use crate::config::{JobsDatabaseArgs, LoggingArgs};

/// Settings were wrong or missing.
const EXIT_SETTINGS: u8 = 2;
/// The state of a database refuses the work.
const EXIT_REFUSED: u8 = 3;

/// The relay of a transactional outbox: events after commit, in order, as jobs with retries.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    logging: LoggingArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Dispatch events and deliver jobs until told to stop (the default)
    Run(Box<run::Args>),
    /// Bring the jobs database's schema up to date
    Migrate(JobsDatabaseArgs),
    /// Ask the relay on this machine whether it is ready
    Healthcheck(healthcheck::Args),
    /// Print lag, backlog, lanes, jobs and failures
    Status(status::Args),
    /// Run handlers again on chosen events: repair what is missing, or send anew
    Replay(Box<replay::Args>),
    /// Check that each event has its jobs, and each job its event
    Verify(verify::Args),
    /// Look at what mail says
    Mail(mail::Args),
    /// Look at jobs, retry and cancel them, pause and resume their delivery
    Jobs(Box<jobs::Args>),
    /// Look at events that a handler could not take, try them again, give them up
    Failures(Box<failures::Args>),
    /// Print what people changed by hand
    Audit(audit::Args),
    /// Follow a server on a lower timeline than one already followed
    AcceptHistory(accept_history::Args),
}

/// Reads the command line, does what it says, and returns the exit code: 0 done, 1 failed while working, 2 wrong usage or
/// settings, 3 refused by the state of things.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // Without a command the flags are those of `run`, which all come from the environment then.
    let command = cli.command.unwrap_or_else(|| match Cli::parse_from(["relay", "run"]).command {
        Some(run) => run,
        None => unreachable!("the command was given"),
    });
    let mut faults = Faults::new();
    let logging = cli.logging.read(&mut faults);
    telemetry::init(&logging);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("can't start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        match command {
            Command::Run(args) => run::run(*args, faults).await,
            Command::Migrate(args) => migrate::run(args, faults).await,
            Command::Healthcheck(args) => healthcheck::run(args, faults),
            Command::Status(args) => status::run(args, faults).await,
            Command::Replay(args) => replay::run(*args, faults).await,
            Command::Verify(args) => verify::run(args, faults).await,
            Command::Mail(args) => mail::run(args, faults).await,
            Command::Jobs(args) => jobs::run(*args, faults).await,
            Command::Failures(args) => failures::run(*args, faults).await,
            Command::Audit(args) => audit::run(args, faults).await,
            Command::AcceptHistory(args) => accept_history::run(args, faults).await,
        }
    });
    ExitCode::from(code)
}

/// Prints the faults of the settings, if there are any.
fn check(faults: Faults) -> Result<(), u8> {
    faults.finish().map_err(|faults| {
        complain(&faults.to_string());
        EXIT_SETTINGS
    })
}

/// Prints why a command ended, with all causes on one line.
fn failed(error: &anyhow::Error) -> u8 {
    complain(&format!("{error:#}"));
    1
}
