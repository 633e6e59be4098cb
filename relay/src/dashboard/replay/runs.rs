//! Replays under way and those that were, in this process's memory; one works at a time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::json;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::super::App;
use super::super::pages::Problem;
use super::super::query::Query;
use crate::databases::PATIENCE;
use crate::operate::audit::{self, Action};
use crate::operate::{By, Operator};
use crate::postgres::within;
use crate::replay::tally::Tally;
use crate::replay::{self, Error, Plan, Session};

/// Runs that are remembered.
const KEPT: usize = 20;

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The dry run is under way.
    Trying,
    /// The dry run has ended: it can be confirmed.
    Tried,
    /// It is being done.
    Doing,
    /// It was done.
    Done,
    /// It came to an error; what was stored before stays.
    Failed,
}

impl Stage {
    /// For templates.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trying => "trying",
            Self::Tried => "tried",
            Self::Doing => "doing",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    /// Whether something is under way.
    pub const fn runs(self) -> bool {
        matches!(self, Self::Trying | Self::Doing)
    }
}

/// How a run stands.
#[derive(Clone, Debug)]
pub struct State {
    /// How far it is.
    pub stage: Stage,
    /// Whether somebody confirmed it.
    pub confirmed: bool,
    /// What would be done.
    pub dry: Tally,
    /// What was done.
    pub real: Tally,
    /// Why it failed.
    pub error: Option<String>,
}

/// A replay, from its dry run to its end.
#[derive(Debug)]
pub struct Run {
    /// Its id, in its page's path.
    pub id: Uuid,
    /// When its dry run began.
    pub began_at: OffsetDateTime,
    /// The form that it was asked for by.
    pub query: Query,
    /// What is replayed.
    pub plan: Plan,
    stop: CancellationToken,
    state: Mutex<State>,
}

impl Run {
    /// How it stands.
    pub fn state(&self) -> State {
        self.lock().clone()
    }

    /// Ends what is under way, soon.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Runs(Mutex<VecDeque<Arc<Run>>>);

impl Runs {
    /// All that are remembered, the newest first.
    pub fn all(&self) -> Vec<Arc<Run>> {
        self.lock().iter().cloned().collect()
    }

    /// One of them.
    pub fn find(&self, id: Uuid) -> Option<Arc<Run>> {
        self.lock().iter().find(|run| run.id == id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Run>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn busy() -> Problem {
    Problem::Refused("Another replay is under way in this relay. Wait for it, or stop it.".to_owned())
}

/// Begins with a dry run. Returns the run's id.
///
/// # Errors
/// When another one is under way.
pub fn dry(app: &Arc<App>, query: Query, plan: Plan) -> Result<Uuid, Problem> {
    let mut runs = app.replays.lock();
    if runs.iter().any(|run| run.lock().stage.runs()) {
        return Err(busy());
    }
    let state =
        State { stage: Stage::Trying, confirmed: false, dry: Tally::default(), real: Tally::default(), error: None };
    let run = Arc::new(Run {
        id: Uuid::new_v4(),
        began_at: OffsetDateTime::now_utc(),
        query,
        plan,
        stop: app.stop.child_token(),
        state: Mutex::new(state),
    });
    runs.truncate(KEPT - 1);
    runs.push_front(run.clone());
    let (app, id) = (app.clone(), run.id);
    tokio::spawn(async move {
        let tried = async {
            let mut session = Session::open(&app.application, &app.jobs, "aftercommit dashboard").await?;
            let mut tally = Tally::default();
            let progress = |tally: &Tally| run.lock().dry = tally.clone();
            let ended = replay::run(&mut session, &app.registry, &run.plan, &mut tally, &run.stop, progress).await;
            run.lock().dry = tally;
            ended
        };
        end(&run, tried.await, Stage::Tried);
    });
    Ok(id)
}

/// Does what the dry run showed.
///
/// # Errors
/// When there is nothing to confirm, or another one is under way.
pub fn real(app: &Arc<App>, run: &Arc<Run>, operator: Operator, reason: Option<String>) -> Result<(), Problem> {
    // Held until this one is marked, so that two confirmations can't both find nobody at work.
    let runs = app.replays.lock();
    if runs.iter().any(|run| run.lock().stage.runs()) {
        return Err(busy());
    }
    {
        let mut state = run.lock();
        if state.stage != Stage::Tried || run.stop.is_cancelled() {
            return Err(Problem::Refused("This replay was confirmed or stopped already. Begin a new one.".to_owned()));
        }
        state.stage = Stage::Doing;
        state.confirmed = true;
    }
    drop(runs);
    let (app, run) = (app.clone(), run.clone());
    tokio::spawn(async move {
        let done = do_it(&app, &run, &operator, reason.as_deref()).await;
        end(&run, done, Stage::Done);
    });
    Ok(())
}

async fn do_it(app: &App, run: &Run, operator: &Operator, reason: Option<&str>) -> Result<(), Error> {
    let plan = Plan { dry_run: false, ..run.plan.clone() };
    let filter: serde_json::Map<_, _> =
        super::chosen(&plan).into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    let name = if plan.again { "replay again" } else { "replay" };
    let action = Action { by: By { operator, reason }, action: name, filter: json!(filter) };
    let mut session = Session::open(&app.application, &app.jobs, "aftercommit dashboard").await?;
    // Written down before anything is done; what was done is added, however it ends.
    let action_id = within(PATIENCE, action.begin(session.jobs(), 0)).await?;
    let mut tally = Tally::default();
    let progress = |tally: &Tally| run.lock().real = tally.clone();
    let ended = replay::run(&mut session, &app.registry, &plan, &mut tally, &run.stop, progress).await;
    let stored = tally.stored();
    let whole = ended.is_ok() && !tally.interrupted;
    run.lock().real = tally;
    let added = within(PATIENCE, audit::add(session.jobs(), action_id, stored, whole)).await;
    ended?;
    Ok(added?)
}

fn end(run: &Run, ended: Result<(), Error>, stage: Stage) {
    let mut state = run.lock();
    match ended {
        Ok(()) => state.stage = stage,
        Err(error) => {
            state.stage = Stage::Failed;
            state.error = Some(error.to_string());
        }
    }
}
