//! What an application database is to a lane: rows, transactions that hand out ids and positions, and a log of which a
//! standby or a backup has the first part.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::outbox::window::{Snapshot, TransactionId};
use crate::outbox::{Identity, Witness};

/// A committed row, or one of an open transaction.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub event_id: Uuid,
    pub position: i64,
    /// The transaction that wrote it, where it was written.
    pub id: TransactionId,
    /// What put it into this database.
    pub inserter: TransactionId,
}

/// What the log holds.
#[derive(Clone, Copy, Debug)]
pub enum Record {
    /// Positions up to here may have been given out.
    Positions(i64),
    Insert(Row),
    Prepare(TransactionId),
    Commit(TransactionId),
    RollBack(TransactionId),
    /// From here on another timeline.
    Promotion,
}

/// Where the log begins.
#[derive(Clone, Debug)]
struct Start {
    identity: Identity,
    next: TransactionId,
    position: i64,
    rows: BTreeMap<Uuid, Row>,
}

#[derive(Clone, Debug)]
pub struct Database {
    start: Start,
    pub identity: Identity,
    /// Which run of which server.
    pub run: u64,
    pub next: TransactionId,
    pub position: i64,
    logged: i64,
    pub open: BTreeMap<TransactionId, Vec<Row>>,
    prepared: Vec<TransactionId>,
    /// Prepared, committed on a history that is gone, and not yet seen in progress again: not committed before it is.
    unnoticed: Vec<TransactionId>,
    pub rows: BTreeMap<Uuid, Row>,
    pub log: Vec<Record>,
}

impl Database {
    pub fn new() -> Self {
        let identity = Identity { system_identifier: 1, timeline: 1 };
        Self::at(Start { identity, next: TransactionId(100), position: 1, rows: BTreeMap::new() }, 1)
    }

    fn at(start: Start, run: u64) -> Self {
        Self {
            identity: start.identity,
            run,
            next: start.next,
            position: start.position,
            logged: start.position - 1,
            open: BTreeMap::new(),
            prepared: Vec::new(),
            unnoticed: Vec::new(),
            rows: start.rows.clone(),
            log: Vec::new(),
            start,
        }
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.next, self.open.keys().copied().collect())
    }

    pub fn has(&self, witness: &Witness) -> bool {
        let row = self.rows.get(&witness.event_id);
        row.is_some_and(|row| row.id == witness.transaction_id && row.position == witness.position)
    }

    fn give_out(&mut self) -> TransactionId {
        let id = self.next;
        self.next = id.next();
        id
    }

    pub fn begin(&mut self) {
        let id = self.give_out();
        self.open.insert(id, Vec::new());
    }

    /// Writes an event, perhaps under a savepoint, which takes an id of its own.
    pub fn insert(&mut self, id: TransactionId, savepoint: bool, event_id: Uuid) {
        if self.prepared.contains(&id) {
            return;
        }
        let inserter = if savepoint { self.give_out() } else { id };
        let position = self.position;
        self.position += 1;
        if position > self.logged {
            self.logged = position + 4;
            self.log.push(Record::Positions(self.logged));
        }
        let row = Row { event_id, position, id, inserter };
        self.open.entry(id).or_default().push(row);
        self.log.push(Record::Insert(row));
    }

    pub fn prepare(&mut self, id: TransactionId) {
        if !self.prepared.contains(&id) {
            self.prepared.push(id);
            self.log.push(Record::Prepare(id));
        }
    }

    pub fn commit(&mut self, id: TransactionId) {
        if self.unnoticed.contains(&id) {
            return;
        }
        self.prepared.retain(|prepared| *prepared != id);
        let rows = self.open.remove(&id).unwrap_or_default();
        self.rows.extend(rows.into_iter().map(|row| (row.event_id, row)));
        self.log.push(Record::Commit(id));
    }

    pub fn roll_back(&mut self, id: TransactionId) {
        self.open.remove(&id);
        self.prepared.retain(|prepared| *prepared != id);
        self.log.push(Record::RollBack(id));
    }

    /// A relay has seen what is in progress.
    pub fn noticed(&mut self) {
        self.unnoticed.clear();
    }

    /// The server that has only the first part of the log.
    pub fn restore(&self, kept: usize) -> Self {
        let mut new = Self::at(self.start.clone(), self.run + 1);
        let mut pending: BTreeMap<TransactionId, Vec<Row>> = BTreeMap::new();
        for record in &self.log[..kept] {
            let id = match *record {
                Record::Positions(logged) => {
                    new.logged = logged;
                    None
                }
                Record::Insert(row) => {
                    pending.entry(row.id).or_default().push(row);
                    Some(row.inserter.max(row.id))
                }
                Record::Prepare(id) => {
                    new.prepared.push(id);
                    Some(id)
                }
                Record::Commit(id) => {
                    new.prepared.retain(|prepared| *prepared != id);
                    let rows = pending.remove(&id).unwrap_or_default();
                    new.rows.extend(rows.into_iter().map(|row| (row.event_id, row)));
                    Some(id)
                }
                Record::RollBack(id) => {
                    new.prepared.retain(|prepared| *prepared != id);
                    pending.remove(&id);
                    Some(id)
                }
                Record::Promotion => {
                    new.identity.timeline += 1;
                    None
                }
            };
            new.next = id.map_or(new.next, |id| new.next.max(id.next()));
        }
        new.position = new.logged + 1;
        new.unnoticed = new.prepared.clone();
        new.open = new.prepared.iter().map(|id| (*id, pending.remove(id).unwrap_or_default())).collect();
        new.log = self.log[..kept].to_vec();
        new
    }

    /// The same, promoted.
    pub fn fail_over(&self, kept: usize) -> Self {
        let mut new = self.restore(kept);
        new.identity.timeline += 1;
        new.log.push(Record::Promotion);
        new
    }

    /// Another cluster with the same rows, ids and counters.
    pub fn upgrade(&self) -> Self {
        let identity = Identity { system_identifier: self.identity.system_identifier + 1, timeline: 1 };
        let rows = self.rows.clone();
        Self::at(Start { identity, next: self.next, position: self.position, rows }, self.run + 1)
    }

    /// Another cluster with the rows alone, put there by one transaction.
    pub fn load_dump(&self, counter: TransactionId, position: i64) -> Self {
        let identity = Identity { system_identifier: self.identity.system_identifier + 1, timeline: 1 };
        let loaded = |(event_id, row): (&Uuid, &Row)| (*event_id, Row { inserter: counter, ..*row });
        let rows = self.rows.iter().map(loaded).collect();
        Self::at(Start { identity, next: counter.next(), position, rows }, self.run + 1)
    }
}
