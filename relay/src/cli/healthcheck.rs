//! `relay healthcheck`: whether the relay on this machine is ready, for containers without a shell.

use clap::Args as ClapArgs;
use shared::healthcheck::{Question, ask};
use shared::settings::Faults;
use shared::telemetry::complain;

use super::answer::print;
use crate::config;

/// What to ask, and where.
#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// Only ask whether it answers (/livez), not whether it works (/readyz)
    #[arg(long)]
    live: bool,
    /// Where it listens [default: 127.0.0.1:9090]
    #[arg(long, env = "RELAY_LISTEN", value_name = "ADDRESS")]
    relay_listen: Option<String>,
}

pub(super) fn run(args: Args, mut faults: Faults) -> u8 {
    let listen = config::listen(args.relay_listen, &mut faults);
    if let Err(code) = super::check(faults) {
        return code;
    }
    match ask(listen, if args.live { Question::Live } else { Question::Ready }) {
        Ok(answer) => {
            print(&format!("{answer}\n"));
            0
        }
        Err(problem) => {
            complain(&problem);
            1
        }
    }
}
