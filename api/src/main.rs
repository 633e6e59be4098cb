//! `api`: people register, read and verify accounts over HTTP.
//!
//! Modules are in the order in which a request meets them. Each change is one unit of work: the aggregate's row and
//! its events are written in one transaction, and nothing else is: emails, and whatever else follows from an event,
//! are the relay's business, which this binary knows nothing about but a wake-up call.

mod config;
mod serve;
mod http;
mod trace;
mod commands;
mod domain;
mod unit_of_work;
mod store;
mod database;
mod schema;
mod prune;
mod erase;
mod readiness;
mod wake;
mod metrics;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use shared::healthcheck::{Question, ask};
use shared::manual;
use shared::telemetry;

use config::{Cli, Command};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return manual::usage(&error, std::env::args_os()).into(),
    };
    cli.color.apply();
    let outcome = match cli.command {
        None | Some(Command::Serve) => config::Serve::read(cli.settings).map(|config| Mode::Serve(Box::new(config))),
        Some(Command::Migrate) => config::Migrate::read(cli.settings).map(Mode::Migrate),
        Some(Command::Prune(args)) => config::Prune::read(args, cli.settings).map(Mode::Prune),
        Some(Command::Erase(args)) => config::Erase::read(args, cli.settings).map(Mode::Erase),
        Some(Command::Healthcheck) => match config::healthcheck(cli.settings) {
            Ok(listen) => return healthcheck(listen),
            Err(faults) => Err(faults),
        },
        Some(Command::Completions { shell }) => {
            manual::completions(Cli::command(), shell);
            return ExitCode::SUCCESS;
        }
        Some(Command::Man { out }) => return manual::write(Cli::command(), &out).into(),
        Some(Command::ExitCodes) => {
            shared::terminal::print(manual::EXIT_CODES);
            return ExitCode::SUCCESS;
        }
    };
    let mode = match outcome {
        Ok(mode) => mode,
        Err(faults) => {
            telemetry::complain(&faults.to_string());
            return ExitCode::from(2);
        }
    };
    telemetry::init(mode.logging());
    shared::settings::warn_about_unknown_variables(config::VARIABLES);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            telemetry::complain(&format!("can't start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = match mode {
        Mode::Serve(config) => runtime.block_on(serve::serve(*config)),
        Mode::Migrate(config) => runtime.block_on(schema::migrate(config)),
        Mode::Prune(config) => runtime.block_on(prune::command(config)),
        Mode::Erase(config) => runtime.block_on(erase::command(config)),
    };
    // Whatever still runs after its grace is not waited for.
    runtime.shutdown_background();
    code
}

enum Mode {
    Serve(Box<config::Serve>),
    Migrate(config::Migrate),
    Prune(config::Prune),
    Erase(config::Erase),
}

impl Mode {
    fn logging(&self) -> &telemetry::Logging {
        match self {
            Self::Serve(config) => &config.logging,
            Self::Migrate(config) => &config.logging,
            Self::Prune(config) => &config.logging,
            Self::Erase(config) => &config.logging,
        }
    }
}

fn healthcheck(listen: std::net::SocketAddr) -> ExitCode {
    match ask(listen, Question::Ready) {
        Ok(_) => ExitCode::SUCCESS,
        Err(problem) => {
            telemetry::complain(&problem);
            ExitCode::FAILURE
        }
    }
}
