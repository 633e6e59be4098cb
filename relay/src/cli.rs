//! The command line: one file per command.

mod answer;
mod when;
pub mod accept_history;
pub mod audit;
pub mod doctor;
pub mod events;
pub mod failures;
pub mod healthcheck;
pub mod mail;
pub mod jobs;
pub mod migrate;
pub mod replay;
pub mod run;
pub mod status;
pub mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use shared::manual::{self, Shell};
use shared::settings::Faults;
use shared::telemetry::{self, complain};
use shared::terminal::{Color, print};

use crate::config::{JobsDatabaseArgs, LoggingArgs};

/// Settings were wrong or missing.
const EXIT_SETTINGS: u8 = 2;
/// The state of a database refuses the work.
const EXIT_REFUSED: u8 = 3;

/// The relay of a transactional outbox: events after commit, in order, as jobs with retries.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "Examples:\n  \
        relay run                                   the service, with its settings in the environment\n  \
        relay doctor                                is everything around it as it must be?\n  \
        relay status                                lag, backlog, lanes, jobs\n  \
        relay events tail                           follow the outbox live\n  \
        relay jobs list --state dead --from 24h     what did not get through\n  \
        relay replay --from 24h --dry-run           what would be stored, and what is there\n\n\
        Exit codes: 0 done, 1 failed or incomplete, 2 wrong usage or settings, 3 refused by the state of things; \
        see `relay exit-codes`."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    logging: LoggingArgs,
    /// When to use colour; NO_COLOR is heeded too
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN", help_heading = "Output")]
    color: Color,
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
    /// Look at the outbox, at one event's way, and follow what comes
    Events(Box<events::Args>),
    /// Look at jobs, retry and cancel them, pause and resume their delivery
    Jobs(Box<jobs::Args>),
    /// Look at events that a handler could not take, try them again, give them up
    Failures(Box<failures::Args>),
    /// Check databases, roles, mail server and settings, and say what to do about what is found
    Doctor(Box<doctor::Args>),
    /// Print what people changed by hand
    Audit(audit::Args),
    /// Follow a server on a lower timeline than one already followed
    AcceptHistory(accept_history::Args),
    /// Print the completions for a shell, such as: relay completions bash > /etc/bash_completion.d/relay
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write a manual page for each command
    Man {
        /// The directory, made if need be
        #[arg(long, value_name = "DIRECTORY")]
        out: PathBuf,
    },
    /// Print what the exit codes mean
    #[command(long_about = manual::EXIT_CODES)]
    ExitCodes,
}

/// Reads the command line, does what it says, and returns the exit code: 0 done, 1 failed while working, 2 wrong usage or
/// settings, 3 refused by the state of things.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return manual::usage(&error, std::env::args_os()).into(),
    };
    cli.color.apply();
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
            Command::Events(args) => events::run(*args, faults).await,
            Command::Jobs(args) => jobs::run(*args, faults).await,
            Command::Failures(args) => failures::run(*args, faults).await,
            Command::Doctor(args) => doctor::run(*args, faults).await,
            Command::Audit(args) => audit::run(args, faults).await,
            Command::AcceptHistory(args) => accept_history::run(args, faults).await,
            Command::Completions { shell } => {
                manual::completions(Cli::command(), shell);
                0
            }
            Command::Man { out } => manual::write(Cli::command(), &out),
            Command::ExitCodes => {
                print(manual::EXIT_CODES);
                0
            }
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
