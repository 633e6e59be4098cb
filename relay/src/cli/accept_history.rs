//! `relay accept-history`: a person says that the server on a lower timeline is the right one.
//!
//! A server that answers from a lower timeline than one already followed is an old primary that was not shut down, or a
//! copy older than the last promotion that was put back on purpose. They look the same, so lanes wait; this command lets
//! them go on. What was lost with the newer timeline is then found out as after any other move of history.

use clap::Args as ClapArgs;
use shared::settings::Faults;
use shared::telemetry::complain;

use super::answer::{Form, print};
use crate::config::JobsDatabaseArgs;
use crate::databases;
use crate::postgres::within;

/// How to be sure.
#[derive(ClapArgs, Clone, Debug)]
#[command(after_help = "Stop the other server first: while both answer, lanes would follow whichever they reach.\n\n\
    Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 refused by the state of the database.")]
pub struct Args {
    /// Don't ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    jobs: JobsDatabaseArgs,
}

/// `accept_history`: forgets which timelines were followed, and keeps everything else. The version moves as with any
/// other change of a cursor, so that a relay that is at work loads it anew.
const ACCEPT: &str = "
    UPDATE lane_cursors
       SET timeline = 0,
           version  = version + 1
     WHERE timeline > 0";

pub(super) async fn run(args: Args, mut faults: Faults) -> u8 {
    let jobs = args.jobs.read(&mut faults);
    if let Err(code) = super::check(faults) {
        return code;
    }
    let Some(jobs) = jobs else { return super::EXIT_SETTINGS };
    let question = "Is the server with the newer timeline stopped for good?";
    let refusal = "the other server has to be stopped for good before";
    if let Err(code) = Form::Text.confirm(args.yes, question, refusal).await {
        return code;
    }
    let accepted = async {
        let client = databases::jobs(&jobs, "aftercommit accept-history").await?;
        Ok::<_, databases::Error>(within(databases::PATIENCE, client.execute(ACCEPT, &[])).await?)
    };
    match accepted.await {
        Ok(lanes) => {
            print(&format!("accepted: {lanes} lanes follow whichever timeline answers next\n"));
            0
        }
        Err(error) => {
            complain(&error.to_string());
            if error.is_refusal() { super::EXIT_REFUSED } else { 1 }
        }
    }
}
