//! Relays in this process, and a kind that does what its jobs say.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use relay::deliver::{self, ClaimedJob, Failure, Kind, Kinds, Lease, Outcome, Settings};
use relay::health::Health;
use relay::wake::Bell;
use tests::databases::{Databases, Role};
use tests::dispatcher::url;
use tests::wait::until;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// As short as it may be for the machine that tests run on.
pub const LEASE: Duration = Duration::from_secs(2);

/// Does what the `args` of its jobs say.
pub struct Planted {
    /// What the kind needs is away.
    pub away: AtomicBool,
    /// Lets one try on that waits.
    pub gate: Semaphore,
    /// Tries that passed their point of no return.
    pub begun: AtomicUsize,
}

#[async_trait::async_trait]
impl Kind for Planted {
    fn name(&self) -> &'static str {
        "planted"
    }

    fn concurrency(&self) -> usize {
        8
    }

    async fn perform(&self, job: &ClaimedJob, lease: &Lease) -> Outcome {
        for step in job.args.trim_matches('"').split(' ') {
            match step {
                "mark" => match lease.doubt_from_here().await {
                    Ok(()) => {}
                    Err(lost) => return lost.into(),
                },
                "begin" => match lease.begin() {
                    Ok(()) => drop(self.begun.fetch_add(1, Ordering::SeqCst)),
                    Err(lost) => return lost.into(),
                },
                "wait" => self.gate.acquire().await.expect("open").forget(),
                "hang" => std::future::pending().await,
                "panic" => panic!("planted"),
                "lose" => return Outcome::Failed(Failure::in_doubt("the answer was lost")),
                "fail" => return Outcome::Failed(Failure::transient("not now")),
                "unread" => return Outcome::Failed(Failure { reached: false, ..Failure::transient("can't be read") }),
                "refuse" => return Outcome::Failed(Failure::permanent("never")),
                "need" if self.away.load(Ordering::SeqCst) => {
                    return Outcome::Away("the service is away".to_owned());
                }
                _ => {}
            }
        }
        Outcome::Succeeded
    }
}

/// A jobs database, and a kind.
pub struct Stage {
    pub databases: Databases,
    pub client: Client,
    pub kind: Arc<Planted>,
}

/// A job as its row has it.
#[derive(Debug, PartialEq)]
pub struct Row {
    pub state: String,
    pub attempt: i16,
    pub crash_count: i16,
    pub in_doubt: bool,
    pub last_error: Option<String>,
}

/// A relay in this process. Killed when dropped.
pub struct Relay {
    task: JoinHandle<()>,
    stop: CancellationToken,
    pub health: Health,
}

impl Relay {
    /// Tells it to stop, and waits until it has.
    pub async fn stop(mut self) -> Result<()> {
        self.stop.cancel();
        Ok((&mut self.task).await?)
    }

    /// Kills it, and waits until it is gone.
    pub async fn kill(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stage {
    pub async fn set() -> Result<Self> {
        let databases = Databases::new().await?;
        let client = databases.jobs.connect(Role::Superuser).await?;
        Ok(Self {
            databases,
            client,
            kind: Arc::new(Planted { away: false.into(), gate: Semaphore::new(0), begun: 0.into() }),
        })
    }

    pub fn relay(&self) -> Result<Relay> {
        self.relay_with(Settings::default(), vec![self.kind.clone()])
    }

    pub fn relay_with(&self, settings: Settings, all: Vec<Arc<dyn Kind>>) -> Result<Relay> {
        let mut kinds = Kinds::default();
        for kind in all {
            kinds.on(kind)?;
        }
        self.relay_of(settings, kinds)
    }

    pub fn relay_of(&self, settings: Settings, kinds: Kinds) -> Result<Relay> {
        let (stop, health) = (CancellationToken::new(), Health::default());
        let context = deliver::Context {
            jobs: url(&self.databases.jobs.url(Role::Jobs))?,
            name: format!("aftercommit relay test {}", Uuid::new_v4()),
            kinds,
            settings: Settings { lease: LEASE, poll: Duration::from_millis(500), ..settings },
            bell: Bell::default(),
            pauses: relay::operate::watch::Pauses::default(),
            health: health.clone(),
        };
        let token = stop.clone();
        let task = tokio::spawn(async move { deliver::run(&context, &token).await });
        Ok(Relay { task, stop, health })
    }

    /// A job that does these steps.
    pub async fn job(&self, steps: &str) -> Result<Uuid> {
        self.row("planted", steps, "run_at = now()").await
    }

    /// The same of any kind; `columns` are set before it is due, and its time among them.
    pub async fn row(&self, kind: &str, steps: &str, columns: &str) -> Result<Uuid> {
        let job_id = Uuid::now_v7();
        // Noticed by no relay before it is whole.
        self.client
            .batch_execute(&format!(
                "INSERT INTO aftercommit.jobs (job_id, event_id, handler, name, kind, args, occurred_at, run_at,
                     max_attempts, retry_initial, retry_multiplier, retry_max_interval, retry_jitter)
                 VALUES ('{job_id}', '{job_id}', 'handler', 'job', '{kind}', '\"{steps}\"', now(), 'infinity',
                     5, 0.1, 2, 60, 0);
                 UPDATE aftercommit.jobs SET {columns} WHERE job_id = '{job_id}';
                 NOTIFY aftercommit_jobs"
            ))
            .await?;
        Ok(job_id)
    }

    /// How a job stands.
    pub async fn look(&self, job_id: Uuid) -> Result<Row> {
        let sql = "SELECT state, attempt, crash_count, in_doubt, last_error FROM aftercommit.jobs WHERE job_id = $1";
        let row = self.client.query_one(sql, &[&job_id]).await?;
        Ok(Row {
            state: row.get(0),
            attempt: row.get(1),
            crash_count: row.get(2),
            in_doubt: row.get(3),
            last_error: row.get(4),
        })
    }

    /// Waits until a job is in a state.
    pub async fn wait_for(&self, job_id: Uuid, state: &str) -> Result<Row> {
        let what = format!("the job to be {state}");
        let found = until(&what, async || Ok(Some(self.look(job_id).await?).filter(|row| row.state == state)));
        match found.await {
            Ok(row) => Ok(row),
            Err(error) => Err(error).context(format!("{:?}", self.look(job_id).await)),
        }
    }

    /// A job's history: attempt, outcome, error.
    pub async fn attempts(&self, job_id: Uuid) -> Result<Vec<(i16, String, String)>> {
        let sql = "SELECT attempt, outcome, error FROM aftercommit.job_attempts WHERE job_id = $1 ORDER BY claim";
        let rows = self.client.query(sql, &[&job_id]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
    }

    /// How many rows a query over the schema counts.
    pub async fn count(&self, of: &str) -> Result<i64> {
        Ok(self.client.query_one(&format!("SELECT count(*) FROM aftercommit.{of}"), &[]).await?.get(0))
    }
}
