//! What must hold after any move of history, judged from the two databases and from what the writers know, by nobody's
//! word: each event that is left has each handler's job once, first dispatched in its aggregate's order, and what was
//! dispatched of events that are gone was called off, or counted where it had been delivered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Result;
use relay::handlers::Registry;
use relay::jobs::Job;
use shared::envelope::Envelope;
use tests::copies;
use tests::databases::{Database, DatabaseServer, Databases, Kind, Role};
use tests::dispatcher::{Counted, Dispatcher};
use uuid::Uuid;

use crate::writers::{Ledger, Writers};

const HANDLERS: [&str; 2] = ["count", "echo"];

/// Two handlers, each with a job per event that nobody delivers.
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    for handler in HANDLERS {
        registry
            .on(handler, |event: &Envelope<Counted>| Ok(vec![Job::new("job", "nobody", &event.payload)?]))
            .expect("two names");
    }
    registry
}

/// Keeps the order in which jobs are stored, as the relay cannot know or change, and refuses to undo a delivery.
const WATCH: &str = "
    CREATE SCHEMA watch;
    CREATE TABLE watch.stored (
        place    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        job_id   uuid NOT NULL,
        event_id uuid NOT NULL,
        handler  text NOT NULL
    );
    CREATE FUNCTION watch.keep() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
    BEGIN
        IF TG_OP = 'INSERT' THEN
            INSERT INTO watch.stored (job_id, event_id, handler) VALUES (NEW.job_id, NEW.event_id, NEW.handler);
        ELSIF TG_OP = 'DELETE' OR OLD.state IN ('succeeded', 'dead', 'expired') THEN
            RAISE 'a finished job was touched: % of event %', OLD.job_id, OLD.event_id;
        END IF;
        RETURN NULL;
    END
    $$;
    CREATE TRIGGER watch AFTER INSERT OR UPDATE OR DELETE ON aftercommit.jobs
        FOR EACH ROW EXECUTE FUNCTION watch.keep();";

/// One case: its jobs database, which outlives the clusters that the outbox moves through, and what its writers know.
pub struct Case {
    name: &'static str,
    pub jobs: Database,
    pub ledger: Ledger,
}

impl Case {
    pub async fn begin(name: &'static str) -> Result<Self> {
        let jobs = DatabaseServer::shared().await?.create(Kind::Jobs).await?;
        jobs.connect(Role::Superuser).await?.batch_execute(WATCH).await?;
        Ok(Self { name, jobs, ledger: Ledger::default() })
    }

    /// The pair with the outbox on a server.
    pub fn databases(&self, server: &Arc<DatabaseServer>) -> Databases {
        Databases { app: copies::app(server), jobs: self.jobs.clone() }
    }

    /// A relay that connects anew.
    pub async fn relay(&self, server: &Arc<DatabaseServer>) -> Result<Dispatcher> {
        Dispatcher::new(&self.databases(server), registry()).await
    }

    /// Delivers both jobs of every second event.
    pub async fn deliver_some(&self) -> Result<u64> {
        let client = self.jobs.connect(Role::Superuser).await?;
        let delivered = client
            .execute(
                "UPDATE aftercommit.jobs
                    SET state = 'succeeded', attempt = 1, finished_at = now()
                  WHERE state = 'available' AND job_id IN (SELECT job_id FROM watch.stored WHERE (place - 1) % 4 < 2)",
                &[],
            )
            .await?;
        assert!(delivered > 0, "nothing was there to deliver");
        Ok(delivered)
    }

    /// A relay that connects anew goes through what it finds, new events flow, and all is as promised.
    pub async fn finish(mut self, server: &Arc<DatabaseServer>) -> Result<Findings> {
        let mut relay = self.relay(server).await?;
        relay.drain().await?;
        let mut writers = Writers::on(&copies::app(server)).await?;
        writers.burst(&mut self.ledger, 40).await?;
        relay.drain().await?;
        let findings = self.audit(server).await?;
        assert_eq!(findings.out_of_order(), 0);
        findings.assert_ghosts_counted();
        Ok(findings)
    }

    /// Judges, and says in a line what was there.
    pub async fn audit(&self, server: &Arc<DatabaseServer>) -> Result<Findings> {
        let findings = Findings::gather(self, server).await?;
        println!("{}: {}", self.name, findings.summary(self));
        findings.judge(self.name);
        Ok(findings)
    }
}

#[derive(Clone, Debug)]
pub struct Row {
    pub number: i64,
    pub aggregate: String,
    pub transaction_id: String,
    pub position: i64,
}

/// The outbox of a server, by event.
pub async fn outbox(server: &Arc<DatabaseServer>) -> Result<BTreeMap<Uuid, Row>> {
    let client = copies::app(server).connect(Role::Superuser).await?;
    let rows = client
        .query(
            "SELECT event_id, (payload ->> 'number')::bigint, aggregate_id, transaction_id::text, position
               FROM aftercommit.outbox",
            &[],
        )
        .await?;
    let row = |r: &tokio_postgres::Row| Row {
        number: r.get(1),
        aggregate: r.get(2),
        transaction_id: r.get(3),
        position: r.get(4),
    };
    Ok(rows.iter().map(|r| (r.get(0), row(r))).collect())
}

struct JobRow {
    event_id: Uuid,
    handler: String,
    state: String,
    last_error: Option<String>,
}

impl JobRow {
    fn is_called_off(&self) -> bool {
        self.state == "cancelled" && self.last_error.as_deref().is_some_and(|error| error.starts_with("ghost"))
    }
}

/// A row of `history_moves`.
#[derive(Clone, Debug)]
pub struct Move {
    pub reason: String,
    pub from_everything: bool,
    cancelled: i64,
    delivered: i64,
}

/// What was found in both databases.
pub struct Findings {
    /// The outbox as it is now.
    pub survivors: BTreeMap<Uuid, Row>,
    /// Events that were committed and are gone.
    pub lost: BTreeSet<Uuid>,
    /// Events that were dispatched and are gone.
    pub ghosts: BTreeSet<Uuid>,
    /// Every time that a lane was put back.
    pub moves: Vec<Move>,
    jobs: Vec<JobRow>,
    /// Event and handler, in the order of storage.
    stored: Vec<(Uuid, String)>,
}

impl Findings {
    async fn gather(case: &Case, server: &Arc<DatabaseServer>) -> Result<Self> {
        let survivors = outbox(server).await?;
        let client = case.jobs.connect(Role::Superuser).await?;
        let jobs = client.query("SELECT event_id, handler, state, last_error FROM aftercommit.jobs", &[]).await?;
        let jobs: Vec<_> = jobs
            .iter()
            .map(|r| JobRow { event_id: r.get(0), handler: r.get(1), state: r.get(2), last_error: r.get(3) })
            .collect();
        let stored = client.query("SELECT event_id, handler FROM watch.stored ORDER BY place", &[]).await?;
        let moves = "SELECT reason, back_to IS NULL, ghosts_cancelled, ghosts_delivered
                       FROM aftercommit.history_moves
                      ORDER BY moved_at, lane";
        let moves = client.query(moves, &[]).await?;
        let moves = moves.iter().map(|r| Move {
            reason: r.get(0),
            from_everything: r.get(1),
            cancelled: r.get(2),
            delivered: r.get(3),
        });
        let gone = |event: &Uuid| !survivors.contains_key(event);
        Ok(Self {
            lost: case.ledger.events.iter().map(|written| written.event_id).filter(gone).collect(),
            ghosts: jobs.iter().map(|job| job.event_id).filter(gone).collect(),
            moves: moves.collect(),
            stored: stored.iter().map(|r| (r.get(0), r.get(1))).collect(),
            survivors,
            jobs,
        })
    }

    fn summary(&self, case: &Case) -> String {
        let everything = self.moves.iter().filter(|moved| moved.from_everything).count();
        let reasons: BTreeSet<_> = self.moves.iter().map(|moved| moved.reason.as_str()).collect();
        format!(
            "{} events committed, {} lost, {} left; {} ghosts; {} jobs, {} called off; lanes put back {}, {everything} \
             of them to the start {reasons:?}",
            case.ledger.events.len(),
            self.lost.len(),
            self.survivors.len(),
            self.ghosts.len(),
            self.jobs.len(),
            self.jobs.iter().filter(|job| job.is_called_off()).count(),
            self.moves.len(),
        )
    }

    fn judge(&self, case: &str) {
        for handler in HANDLERS {
            let jobs: Vec<_> = self.jobs.iter().filter(|job| job.handler == handler).collect();
            let of: BTreeSet<_> = jobs.iter().map(|job| job.event_id).collect();
            assert_eq!(of.len(), jobs.len(), "{case}: {handler} has an event twice");
            let without: Vec<_> = self.survivors.iter().filter(|(event, _)| !of.contains(event)).collect();
            assert!(without.is_empty(), "{case}: {handler} lost {} events: {without:?}", without.len());
            for job in jobs.iter().filter(|job| self.survivors.contains_key(&job.event_id)) {
                let row = &self.survivors[&job.event_id];
                assert!(!job.is_called_off(), "{case}: the job of an event that is there was called off: {row:?}");
            }
        }
        let ghosts: Vec<_> = self.jobs.iter().filter(|job| self.ghosts.contains(&job.event_id)).collect();
        let haunting: Vec<_> = ghosts
            .iter()
            .filter(|job| job.state != "succeeded" && !job.is_called_off())
            .map(|job| (job.event_id, job.state.as_str()))
            .collect();
        assert!(haunting.is_empty(), "{case}: ghosts that were not called off: {haunting:?}");
    }

    /// The relay counted just the ghosts that there are.
    pub fn assert_ghosts_counted(&self) {
        let count = |delivered: bool| {
            let ghosts = self.jobs.iter().filter(|job| self.ghosts.contains(&job.event_id));
            ghosts.filter(|job| (job.state == "succeeded") == delivered).count() as i64
        };
        let told = |of: fn(&Move) -> i64| self.moves.iter().map(of).sum::<i64>();
        assert_eq!(told(|moved| moved.cancelled), count(false), "ghosts called off");
        assert_eq!(told(|moved| moved.delivered), count(true), "ghosts that had been delivered");
    }

    /// How often a handler saw a later event of an aggregate first, among the events that are left.
    pub fn out_of_order(&self) -> usize {
        let mut last: BTreeMap<(&str, &str), i64> = BTreeMap::new();
        let mut inversions = 0;
        let mut seen = BTreeSet::new();
        for (event, handler) in &self.stored {
            let Some(row) = self.survivors.get(event) else { continue };
            if !seen.insert((event, handler)) {
                continue;
            }
            let highest = last.entry((handler, &row.aggregate)).or_insert(i64::MIN);
            inversions += usize::from(row.number < *highest);
            *highest = row.number.max(*highest);
        }
        inversions
    }
}
