//! `api prune`: deletes events whose time is up and that nobody needs any more.
//!
//! The relay may only read the outbox, so its owner prunes it. This is the one kind of command that is given both
//! databases: the jobs database says how far each lane has seen, and what is still open. An event goes when it is older
//! than the retention and below everything that its lane's cursor can still meet, and never while it
//!
//! - is a witness, of a cursor, of an open window or of a checkpoint: a lane without its witness would be taken for one
//!   whose history has moved, and one that lost its checkpoints' could only go back to the beginning;
//! - has an open dispatch failure, which a replay needs it for;
//! - has a job that is not finished.
//!
//! A lane without a cursor, or with one that points into another history than the database holds, keeps its rows.
//! Rows are deleted in small transactions, with as long a rest after each as it took, so that customers come first.

pub mod cursors;
pub mod outbox;
mod report;
pub mod statements;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use shared::migrate::standing::{Standing, sqlstate};
use shared::telemetry;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};
use time::OffsetDateTime;

use crate::config;
use crate::schema::SCHEMA;
use cursors::Cursor;
use outbox::{PAGE, Place};
pub use report::{Lane, Report};

/// The longest rest between two deletions.
const LONGEST_REST: Duration = Duration::from_secs(5);

/// Why nothing, or not everything, was pruned.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The schema is not what this build knows.
    #[error("the application database: {0}")]
    Schema(Standing),
    /// The server can't be written to.
    #[error("the application database is a standby; point DATABASE_URL at the primary")]
    Standby,
    /// The relay has not been there.
    #[error("the jobs database has no table of lanes or of retention; run `relay migrate`")]
    NoCursors,
    /// A role may not do it.
    #[error("the {0} database refuses: this role lacks rights there; run as the owner (aftercommit_owner)")]
    MissingRights(&'static str),
    /// The cursors point into another history.
    #[error(
        "the application database is not where the relay's cursors point to ({0}); nothing was deleted. Is it the right \
         server? If so, let a relay run until it has found its way, then prune again"
    )]
    OtherHistory(String),
    /// The aggregate has events that are still to be worked on.
    #[error(
        "{unseen} events are not dispatched yet, {open} have an open failure or an unfinished job; nothing was changed. \
         Let them end, or cancel their jobs, then run again"
    )]
    Busy {
        /// Not dispatched.
        unseen: usize,
        /// With something open.
        open: usize,
    },
    /// Anything else.
    #[error("the {0} database: {1}")]
    Database(&'static str, String),
}

impl PruneError {
    /// 3 when the state of a database refuses, 1 when the work failed.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Database(..)) { 1 } else { 3 }
    }

    /// What an error of one of the databases means. The server's DETAIL, which quotes rows, is not repeated.
    pub fn of(database: &'static str) -> impl Fn(sqlx::Error) -> Self {
        move |error| match sqlstate(&error).as_deref() {
            Some("42501") => Self::MissingRights(database),
            Some("42P01" | "3F000") if database == "jobs" => Self::NoCursors,
            Some("25006") => Self::Standby,
            Some(code) => Self::Database(database, format!("SQLSTATE {code}")),
            None => Self::Database(database, error.to_string()),
        }
    }
}

/// Runs the command.
pub async fn command(config: config::Prune) -> ExitCode {
    let pruned = run(&config).await;
    answer("api prune", config.json, pruned.map(|report| (report.to_json(), report.to_text())))
}

/// Prints what a command came to, as JSON or as text, or why it did not.
pub fn answer(command: &str, json: bool, outcome: Result<(Value, String), PruneError>) -> ExitCode {
    let (answer, code) = match outcome {
        Ok((value, _)) if json => (format!("{value:#}\n"), 0),
        Ok((_, text)) => (text, 0),
        Err(error) => {
            let (text, code) = (format!("{command}: {error}"), error.exit_code());
            if !json {
                telemetry::complain(&text);
                return ExitCode::from(code);
            }
            (format!("{:#}\n", json!({ "error": text, "exit_code": code })), code)
        }
    };
    // Whoever reads may have gone away.
    let _ = std::io::stdout().write_all(answer.as_bytes());
    ExitCode::from(code)
}

async fn run(config: &config::Prune) -> Result<Report, PruneError> {
    let (mut app, mut jobs) = connect(&config.databases).await?;
    let cursors = cursors::load(&mut jobs).await?;
    outbox::same_history(&mut app, &cursors).await?;
    // By the clock of the database that the events are in, cut to the second for people.
    let before = outbox::now(&mut app).await? - config.retention;
    let before = before.replace_nanosecond(0).unwrap_or(before);

    let dry_run = config.dry_run;
    let mut lanes = Vec::new();
    let mut total = 0;
    for cursor in cursors {
        let old = outbox::count(&mut app, &cursor, before).await?;
        total += old;
        lanes.push((cursor, old));
    }
    if !dry_run && total > 0 {
        cursors::note(&mut jobs, before).await?;
    }
    let bar = bar(total);
    let mut report = Report { dry_run, before, lanes: Vec::new() };
    for (cursor, old) in lanes {
        let mut lane = Lane { lane: cursor.lane, old, ..Lane::default() };
        prune(&mut app, &mut jobs, &cursor, before, dry_run, &bar, &mut lane).await?;
        report.lanes.push(lane);
    }
    bar.finish_and_clear();
    Ok(report)
}

/// Connects to both databases, as their owner.
pub async fn connect(databases: &config::Databases) -> Result<(PgConnection, PgConnection), PruneError> {
    const NAME: &str = "aftercommit api prune";
    let options = databases.application.connect_options(NAME);
    let mut app = PgConnection::connect_with(&options).await.map_err(PruneError::of("application"))?;
    match Standing::ask(&SCHEMA, &mut app).await.map_err(PruneError::of("application"))? {
        Standing::Fits => {}
        other => return Err(PruneError::Schema(other)),
    }
    let options = databases.jobs.connect_options(NAME);
    let mut jobs = PgConnection::connect_with(&options).await.map_err(PruneError::of("jobs"))?;
    // Everything here goes by index, whatever the statistics are of.
    for (connection, database) in [(&mut app, "application"), (&mut jobs, "jobs")] {
        connection.execute(statements::SETTINGS).await.map_err(PruneError::of(database))?;
    }
    Ok((app, jobs))
}

/// Goes through a lane from its oldest transaction on, and ends with the first page of which nothing is old.
async fn prune(
    app: &mut PgConnection,
    jobs: &mut PgConnection,
    cursor: &Cursor,
    before: OffsetDateTime,
    dry_run: bool,
    bar: &ProgressBar,
    lane: &mut Lane,
) -> Result<(), PruneError> {
    let mut after = Place::START;
    loop {
        let began = Instant::now();
        let rows = outbox::page(app, cursor, &after, before).await?;
        let old: Vec<_> = rows.iter().filter(|row| row.old).map(|row| row.event_id).collect();
        let (witnesses, old): (Vec<_>, Vec<_>) = old.into_iter().partition(|id| cursor.witnesses.contains(id));
        let needed = cursors::needed(jobs, &old).await?;
        let (open, free): (Vec<_>, Vec<_>) = old.into_iter().partition(|id| needed.contains(id));
        lane.kept_as_witness += witnesses.len() as u64;
        lane.kept_as_open += open.len() as u64;
        lane.pruned += match dry_run {
            true => free.len() as u64,
            false => outbox::delete(app, &free).await?,
        };
        bar.inc((witnesses.len() + open.len() + free.len()) as u64);
        let any = witnesses.len() + open.len() + free.len() > 0;
        match rows.last() {
            Some(last) if rows.len() == PAGE && any => after = last.place.clone(),
            _ => return Ok(()),
        }
        if !dry_run {
            tokio::time::sleep(began.elapsed().min(LONGEST_REST)).await;
        }
    }
}

/// A bar on a terminal, nothing elsewhere.
fn bar(total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} events, {eta} left");
    let bar = ProgressBar::new(total);
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}
