//! Writers, and what they know: which events were committed, in which order per aggregate.
//!
//! A burst is always the same sequence of statements. On two servers with the same counters it therefore takes the same
//! transaction ids and the same positions, for the same aggregates: all that differs are the event ids, as after a move
//! of history that a trusting cursor does not notice.

use std::collections::BTreeSet;

use anyhow::Result;
use tests::databases::{Database, Role};
use tests::dispatcher::write_event;
use tokio_postgres::Client;
use uuid::Uuid;

/// An event whose commit was answered.
#[derive(Clone, Debug)]
pub struct Written {
    pub event_id: Uuid,
    pub number: i64,
}

/// Every event whose commit was answered, on any server, in the order of the answers.
#[derive(Debug, Default)]
pub struct Ledger {
    pub events: Vec<Written>,
    next: i64,
}

impl Ledger {
    /// Where it ends now.
    pub fn mark(&self) -> usize {
        self.events.len()
    }

    /// The events between two marks.
    pub fn between(&self, from: usize, to: usize) -> BTreeSet<Uuid> {
        self.events[from..to].iter().map(|written| written.event_id).collect()
    }

    /// Writes an event in the session's transaction; it is to be added once that has committed.
    pub async fn write(&mut self, client: &Client, aggregate: &str) -> Result<Written> {
        self.next += 1;
        let number = self.next;
        Ok(Written { event_id: write_event(client, aggregate, number).await?, number })
    }

    /// Writes an event in a transaction of its own.
    pub async fn commit(&mut self, client: &Client, aggregate: &str) -> Result<Uuid> {
        let written = self.write(client, aggregate).await?;
        let event_id = written.event_id;
        self.events.push(written);
        Ok(event_id)
    }

    /// Writes many events for some aggregates in turn, in transactions of a few hundred.
    pub async fn bulk(&mut self, client: &Client, aggregates: &[&str], each: usize) -> Result<()> {
        let events: Vec<_> = (0..each * aggregates.len())
            .map(|index| {
                self.next += 1;
                let written = Written { event_id: Uuid::now_v7(), number: self.next };
                (written, aggregates[index % aggregates.len()])
            })
            .collect();
        for chunk in events.chunks(300) {
            let ids: Vec<_> = chunk.iter().map(|(written, _)| written.event_id).collect();
            let aggregates: Vec<_> = chunk.iter().map(|(_, aggregate)| *aggregate).collect();
            let numbers: Vec<_> = chunk.iter().map(|(written, _)| written.number).collect();
            client.execute(BULK, &[&ids, &aggregates, &numbers]).await?;
            self.events.extend(chunk.iter().map(|(written, _)| written.clone()));
        }
        Ok(())
    }
}

const BULK: &str = "
    INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)
    SELECT event_id, 'counter', aggregate, 'counter.counted', jsonb_build_object('number', number)
      FROM unnest($1::uuid[], $2::text[], $3::bigint[]) WITH ORDINALITY AS event (event_id, aggregate, number, place)
     ORDER BY place";

/// Sessions of writers on one server. Each aggregate has one writer at a time, as the writer's one rule makes sure.
pub struct Writers {
    pub main: Client,
    early: Client,
    long: Client,
    hanging: Client,
    /// What the hanging transaction has written.
    open: Vec<Written>,
}

impl Writers {
    pub async fn on(app: &Database) -> Result<Self> {
        let session = || app.connect(Role::Owner);
        let (main, early, long, hanging) = tokio::try_join!(session(), session(), session(), session())?;
        Ok(Self { main, early, long, hanging, open: Vec::new() })
    }

    /// Writes about as many events as told: to a hot aggregate and to cold ones, while transactions overlap. One took
    /// its id at the start and writes at the end, one lasts from start to end, one is rolled back, and one stays open:
    /// the next burst commits it, unless the server is gone by then.
    pub async fn burst(&mut self, ledger: &mut Ledger, events: usize) -> Result<()> {
        if !self.open.is_empty() {
            self.hanging.batch_execute("COMMIT").await?;
            ledger.events.append(&mut self.open);
        }
        self.early.batch_execute("BEGIN; SELECT pg_current_xact_id()").await?;
        self.long.batch_execute("BEGIN").await?;
        let first = ledger.write(&self.long, "long").await?;
        self.hanging.batch_execute("BEGIN").await?;
        self.open.push(ledger.write(&self.hanging, "hanging").await?);
        let half = events / 2;
        for index in 0..half {
            ledger.commit(&self.main, &aggregate(index)).await?;
        }

        // The position is above all so far, the transaction id below them.
        self.early.batch_execute("SAVEPOINT one").await?;
        let written = ledger.write(&self.early, "hot").await?;
        self.early.batch_execute("RELEASE one; COMMIT").await?;
        ledger.events.push(written);
        self.main.batch_execute("BEGIN").await?;
        ledger.write(&self.main, "hot").await?;
        self.main.batch_execute("ROLLBACK").await?;

        for index in half..events {
            ledger.commit(&self.main, &aggregate(index)).await?;
        }
        let last = ledger.write(&self.long, "long").await?;
        self.long.batch_execute("COMMIT").await?;
        ledger.events.extend([first, last]);
        Ok(())
    }
}

fn aggregate(index: usize) -> String {
    if index.is_multiple_of(3) { "hot".to_owned() } else { format!("cold-{}", index % 37) }
}
