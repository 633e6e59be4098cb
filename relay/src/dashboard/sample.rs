//! How things stand, asked of both databases once for everybody who looks within the same moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::App;
use crate::databases::Error;
use crate::operate::pauses::{self, Pause};
use crate::postgres::within;
use crate::status::{self, Status};

/// How long an answer is good.
const GOOD_FOR: Duration = Duration::from_millis(1_500);

/// `moves`: how many lanes were put back in the last day because history had moved, when last, and why.
const MOVES: &str = "
    SELECT count(*), extract(epoch FROM max(moved_at))::float8, (array_agg(reason ORDER BY moved_at DESC))[1],
           coalesce(sum(ghosts_delivered), 0)::bigint
      FROM history_moves
     WHERE moved_at > now() - interval '1 day'";

/// Both databases at one moment.
#[derive(Debug)]
pub struct Sample {
    /// Lag, backlog, lanes, relays, jobs and failures.
    pub status: Status,
    /// What is paused; nothing is known of it without the jobs database.
    pub pauses: Vec<Pause>,
    /// What happened to the application database's history in the last day.
    pub moves: Option<Moves>,
}

/// Cursors that were put back.
#[derive(Clone, Debug)]
pub struct Moves {
    /// How many.
    pub lanes: i64,
    /// When last, in seconds since 1970.
    pub last: f64,
    /// Why.
    pub reason: String,
    /// Jobs of lost events that were done or under way.
    pub ghosts_delivered: i64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Samples(Mutex<Option<(Instant, Arc<Sample>)>>);

impl Samples {
    /// The newest, or a new one.
    pub async fn now(&self, app: &App) -> Arc<Sample> {
        // Whoever comes meanwhile waits here, and takes what the first one got.
        let mut last = self.0.lock().await;
        if let Some((at, sample)) = last.as_ref()
            && at.elapsed() < GOOD_FOR
        {
            return sample.clone();
        }
        let sample = Arc::new(take(app).await);
        *last = Some((Instant::now(), sample.clone()));
        sample
    }
}

async fn take(app: &App) -> Sample {
    let mut beside = (Vec::new(), None);
    let jobs = async {
        let connection = app.store.jobs().await?;
        let jobs = status::ask_jobs(connection.client()).await?;
        beside = (pauses::list(connection.client()).await?, moves(connection.client()).await?);
        connection.give_back();
        Ok::<_, Error>(jobs)
    }
    .await;
    let application = async {
        let connection = app.store.application().await?;
        let cursors = jobs.as_ref().ok().map(|jobs| jobs.cursors.as_slice());
        let application = status::ask_application(connection.client(), cursors).await?;
        connection.give_back();
        Ok::<_, Error>(application)
    }
    .await;
    let (pauses, moves) = beside;
    Sample { status: Status { application, jobs }, pauses, moves }
}

async fn moves(client: &tokio_postgres::Client) -> Result<Option<Moves>, Error> {
    let row = within(super::store::PATIENCE, client.query_one(MOVES, &[])).await?;
    let read = || {
        let Some(last) = row.try_get(1)? else { return Ok(None) };
        Ok(Some(Moves { lanes: row.try_get(0)?, last, reason: row.try_get(2)?, ghosts_delivered: row.try_get(3)? }))
    };
    Ok(read().map_err(crate::postgres::Error::Postgres)?)
}
