//! The whole system on this machine, with one command: `cargo demo`, or `cargo demo -- --once`.
//!
//! Nothing is acted: PostgreSQL, `api` and `relay` are the real ones, and mail is delivered into a directory. It works
//! with nothing installed but Rust, as root and as an ordinary user, and leaves nothing behind.

mod screen;
mod system;
mod walk;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::screen::Screen;
use crate::system::System;

/// Starts PostgreSQL, both databases, api and relay on this machine, and captures the mail
#[derive(Parser)]
#[command(bin_name = "cargo demo --")]
struct Options {
    /// Register somebody, follow the link in the mail, show the path of the events, and exit
    #[arg(long)]
    once: bool,

    /// Keep databases, mail and keys for the next run, in .data or in DIRECTORY
    #[arg(long, value_name = "DIRECTORY", num_args = 0..=1, require_equals = true)]
    keep: Option<Option<PathBuf>>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let screen = Screen::new();
    match run(&options, &screen).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options, screen: &Screen) -> Result<()> {
    // Until the system is up, a signal simply ends this process, and its children notice.
    let system = System::start(options.keep.as_ref(), screen).await?;
    if options.once {
        walk::walk(&system, screen).await?;
    } else {
        system.invite(screen);
        tokio::select! {
            result = system.watch(screen) => result?,
            result = interrupted() => result?,
        }
    }
    system.stop(screen).await
}

/// Waits for Ctrl-C, or for whatever else asks a program to stop.
async fn interrupted() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
    Ok(())
}
