//! Where things stand: lag, backlog, lanes, relays, jobs and failures, as the two databases tell it.
//!
//! Everything is counted from indexes and up to a bound, so that asking costs little however much is there, and each
//! number says whether it is exact. Either database may be away: the other half is told all the same. Nothing here
//! writes, and no relay is asked.

pub mod count;
pub mod dispatch;
pub mod jobs;
mod json;
mod text;

use std::collections::BTreeMap;

use shared::database_url::DatabaseUrl;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::databases::{self, Error};
use crate::dispatch::cursor::{self, Cursor};
use crate::dispatch::history::{Verdict, judge};
use crate::dispatch::lane::Trouble;
use crate::dispatch::lanes::LANES;
use crate::operate::pauses::{self, Pause};
use crate::outbox::backlog::{BOUND, Progress};
use crate::outbox::window::Snapshot;
use crate::outbox::{self, Identity, Question};
use count::Count;

/// Both halves.
#[derive(Debug)]
pub struct Status {
    /// What the application database tells.
    pub application: Result<Application, Error>,
    /// What the jobs database tells.
    pub jobs: Result<Jobs, Error>,
}

/// What the application database tells.
#[derive(Debug)]
pub struct Application {
    /// Which history it is.
    pub identity: Identity,
    /// What waits in each lane; unknown while the jobs database, and so the cursors, are away.
    pub lanes: Option<BTreeMap<i16, LaneBacklog>>,
}

/// What waits in a lane.
#[derive(Debug)]
pub struct LaneBacklog {
    /// How many events.
    pub waiting: Count,
    /// The oldest of them, and the seconds since it happened.
    pub oldest: Option<(Uuid, f64)>,
    /// Why the lane is not dispatched, as far as it can be told from here.
    pub trouble: Option<Trouble>,
}

/// What the jobs database tells.
#[derive(Debug)]
pub struct Jobs {
    /// How far each lane has come.
    pub cursors: Vec<Cursor>,
    /// Who holds which lane.
    pub holders: BTreeMap<i16, dispatch::Holder>,
    /// The relays that are connected.
    pub relays: Vec<dispatch::Relay>,
    /// Sessions that share the lanes.
    pub dispatching: u64,
    /// Processes on record as delivering. One that was killed stays until its jobs are taken over.
    pub delivering: u64,
    /// Jobs by kind and state.
    pub jobs: jobs::Counts,
    /// Open dispatch failures by handler.
    pub failures: dispatch::Failures,
    /// What is paused by hand.
    pub pauses: Vec<Pause>,
}

impl Status {
    /// Whether both databases answered, and nothing waits in either.
    pub fn is_at_rest(&self) -> bool {
        let backlog = self.application.as_ref().ok().and_then(Application::backlog);
        let due = self.jobs.as_ref().is_ok_and(|jobs| jobs.jobs.due.values().all(|due| due.count == Count::ZERO));
        backlog == Some(Count::ZERO) && due
    }
}

impl Application {
    /// Events that wait in all lanes.
    pub fn backlog(&self) -> Option<Count> {
        Some(self.lanes.as_ref()?.values().map(|lane| lane.waiting).sum())
    }

    /// The age of the oldest event that waits, in seconds: 0 when none does, none when it is unknown.
    pub fn lag(&self) -> Option<f64> {
        self.lanes.as_ref()?;
        Some(self.oldest().map_or(0.0, |(_, _, age)| age.max(0.0)))
    }

    /// The lane, event and age in seconds of the oldest event that is not dispatched yet.
    pub fn oldest(&self) -> Option<(i16, Uuid, f64)> {
        let lanes = self.lanes.as_ref()?.iter();
        lanes.filter_map(|(lane, of)| of.oldest.map(|(id, age)| (*lane, id, age))).max_by(|a, b| a.2.total_cmp(&b.2))
    }
}

impl Status {
    /// The reasons why a half is missing.
    pub fn errors(&self) -> impl Iterator<Item = &Error> {
        self.application.as_ref().err().into_iter().chain(self.jobs.as_ref().err())
    }

    /// For people.
    pub fn to_text(&self) -> String {
        text::of(self)
    }

    /// For programs.
    pub fn to_json(&self) -> serde_json::Value {
        json::of(self)
    }
}

/// Asks both databases.
pub async fn ask(application: &DatabaseUrl, jobs: &DatabaseUrl, name: &str) -> Status {
    let (application, jobs) = tokio::join!(databases::application(application, name), async {
        let client = databases::jobs(jobs, name).await?;
        ask_jobs(&client).await
    });
    let application = match application {
        Ok(client) => ask_application(&client, jobs.as_ref().ok().map(|jobs| jobs.cursors.as_slice())).await,
        Err(error) => Err(error),
    };
    Status { application, jobs }
}

/// What the jobs database tells.
///
/// # Errors
/// When it is away.
pub(crate) async fn ask_jobs(client: &Client) -> Result<Jobs, Error> {
    let lanes: Vec<i16> = (0..LANES).collect();
    let cursors = crate::postgres::within(databases::PATIENCE, cursor::load(client, &lanes)).await?;
    let (members, holders) = dispatch::locks(client).await?;
    Ok(Jobs {
        cursors,
        holders,
        relays: dispatch::relays(client).await?,
        dispatching: members,
        delivering: dispatch::processes(client).await?,
        jobs: jobs::count(client).await?,
        failures: dispatch::failures(client).await?,
        pauses: pauses::list(client).await?,
    })
}

/// What the application database tells, given how far each lane has come.
///
/// # Errors
/// When it is away or refuses; a transaction may be open then.
pub(crate) async fn ask_application(client: &Client, cursors: Option<&[Cursor]>) -> Result<Application, Error> {
    let questions: Vec<Question<'_>> = cursors.into_iter().flatten().map(question).collect();
    let (reading, look) = outbox::look(client, &questions).await?;
    let Some(cursors) = cursors else {
        reading.end().await?;
        return Ok(Application { identity: look.server.identity, lanes: None });
    };
    let progress: Vec<Progress<'_>> = cursors.iter().map(progress).collect();
    let backlogs = reading.backlog(&progress).await?;
    reading.end().await?;
    let lane = |backlog: &outbox::backlog::Backlog| {
        let cursor = cursors.iter().find(|cursor| cursor.lane == backlog.lane)?;
        let answer = look.lanes.iter().find(|answer| answer.lane == backlog.lane)?;
        let trouble = match judge(cursor, look.server.identity, &look.next, answer) {
            Verdict::Same | Verdict::WindowGone | Verdict::Promoted => None,
            Verdict::Behind(misled) => Some(Trouble::Misled(misled)),
            Verdict::Moved(how) => Some(Trouble::Moved(how)),
        };
        Some((
            backlog.lane,
            LaneBacklog { waiting: Count::bounded(backlog.waiting, BOUND), oldest: backlog.oldest, trouble },
        ))
    };
    Ok(Application { identity: look.server.identity, lanes: Some(backlogs.iter().filter_map(lane).collect()) })
}

fn question(cursor: &Cursor) -> Question<'_> {
    Question {
        lane: cursor.lane,
        seen: &cursor.seen,
        witness: cursor.witness,
        next_witness: cursor.window.as_ref().map(|window| window.witness),
    }
}

fn progress(cursor: &Cursor) -> Progress<'_> {
    let window = cursor.window.as_ref().map(|window| -> (&Snapshot, (i64, Uuid)) { (&window.next, window.after) });
    Progress { lane: cursor.lane, seen: &cursor.seen, window }
}
