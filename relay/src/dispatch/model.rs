//! Whole histories of one lane, drawn at random: transactions that overlap, failovers, restores, dumps and upgrades, and
//! relays that die, over the product's own arithmetic of windows, cursors and verdicts. No event that is there at the
//! end may be missing from what was dispatched.
//!
//! Each rule is left out as well, and events must then be lost, which shows both that the rule is needed and that this
//! model would notice. What it does not know: order, and what a database says of itself under load; the tests on
//! real clusters do.

mod database;

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use super::cursor::Cursor;
use super::history::{Verdict, judge};
use crate::outbox::window::{Snapshot, TransactionId, vouched};
use crate::outbox::{Answer, Evidence, Range, START, Witness};
use database::{Database, Row};

/// What keeps events from being lost, each to be left out once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// The row that vouches for a cursor must be there.
    Witness,
    /// So must the one that vouches for a checkpoint.
    CheckpointWitness,
    /// Another cluster is another history, though the rows be there.
    System,
    /// A cursor keeps no more of the upper snapshot than it has evidence for.
    Cut,
    /// A row with a foreign id vouches for what was given out when it came, and no more.
    Vouched,
    /// The greatest id that was seen is not the first that was not.
    Bound,
    /// Transactions that were in progress are looked at again.
    InProgress,
    /// Rows may share a position.
    TieBreak,
    /// A prepared transaction can be in progress again.
    Reopened,
}

const RULES: [Rule; 9] = [
    Rule::Witness,
    Rule::CheckpointWitness,
    Rule::System,
    Rule::Cut,
    Rule::Vouched,
    Rule::Bound,
    Rule::InProgress,
    Rule::TieBreak,
    Rule::Reopened,
];

struct Checkpoint {
    system: i64,
    seen: Snapshot,
    witness: Witness,
}

/// A relay with one lane: what it knows is the cursor; what it has done is what it dispatched.
struct Relay {
    without: Option<Rule>,
    cursor: Cursor,
    checkpoints: Vec<Checkpoint>,
    /// What was handed over beyond the cursor's evidence, for one run of one server.
    passed: Option<(u64, Snapshot)>,
    dispatched: BTreeSet<Uuid>,
}

impl Relay {
    fn new(without: Option<Rule>) -> Self {
        let cursor = Cursor {
            lane: 0,
            version: 0,
            identity: None,
            seen: Snapshot::NOTHING,
            witness: None,
            window: None,
            rebased_at: None,
        };
        Self { without, cursor, checkpoints: Vec::new(), passed: None, dispatched: BTreeSet::new() }
    }

    fn needs(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    /// What the first statement of a reading transaction would find.
    fn answer(&self, database: &Database) -> Answer {
        let witness = self.cursor.witness;
        let next_witness = self.cursor.window.as_ref().map(|window| window.witness);
        Answer {
            lane: 0,
            witness_holds: !self.needs(Rule::Witness) || witness.is_some_and(|witness| database.has(&witness)),
            next_witness_holds: next_witness.is_some_and(|witness| database.has(&witness)),
            waiting: 0,
            any: !database.rows.is_empty(),
        }
    }

    /// Looks, and hands over up to `limit` rows; `dies` before it has committed them.
    fn poll(&mut self, database: &mut Database, limit: usize, dies: bool) {
        let next = database.snapshot();
        let mut identity = database.identity;
        match self.cursor.identity {
            Some(known) if !self.needs(Rule::System) => identity.system_identifier = known.system_identifier,
            _ => {}
        }
        match judge(&self.cursor, identity, &next, &self.answer(database)) {
            Verdict::Same => {}
            Verdict::WindowGone => {
                self.cursor.window = None;
                self.call_off(database);
            }
            Verdict::Promoted => self.call_off(database),
            Verdict::Behind(_) => return,
            Verdict::Moved(_) => {
                self.put_back(database, &next);
                self.call_off(database);
            }
        }
        self.cursor.identity = Some(identity);
        if self.passed.as_ref().is_some_and(|(run, _)| *run != database.run) {
            self.passed = None;
        }
        let before = (self.cursor.clone(), self.passed.take());
        let events = self.read(database, next, before.1.as_ref().map(|(_, seen)| seen.clone()), limit);
        if dies {
            self.cursor = before.0;
            return;
        }
        database.noticed();
        self.dispatched.extend(events);
        if let (Some(witness), None) = (self.cursor.witness, &self.cursor.window)
            && self.cursor.version % 2 == 0
        {
            let seen = self.cursor.seen.clone();
            self.checkpoints.push(Checkpoint { system: identity.system_identifier, seen, witness });
        }
        self.cursor.version += 1;
    }

    /// What `relay accept-history` does.
    fn accept(&mut self) {
        if let Some(identity) = &mut self.cursor.identity {
            identity.timeline = 0;
        }
    }

    /// Ghosts: what was dispatched and is gone counts for nothing.
    fn call_off(&mut self, database: &Database) {
        self.dispatched.retain(|event| database.rows.contains_key(event));
    }

    fn put_back(&mut self, database: &Database, next: &Snapshot) {
        let needs = self.needs(Rule::CheckpointWitness);
        let holds = |kept: &Checkpoint| {
            kept.system == database.identity.system_identifier
                && kept.seen.xmax() <= next.xmax()
                && (!needs || database.has(&kept.witness))
        };
        let held = self.checkpoints.iter().rposition(holds);
        self.checkpoints.truncate(held.map_or(0, |index| index + 1));
        let to = self.checkpoints.last();
        self.cursor.seen = to.map_or(Snapshot::NOTHING, |kept| kept.seen.clone());
        self.cursor.witness = to.map(|kept| kept.witness);
        self.cursor.window = None;
    }

    /// The next rows of the window, and the cursor moved over them.
    fn read(&mut self, database: &Database, now: Snapshot, passed: Option<Snapshot>, limit: usize) -> Vec<Uuid> {
        if self.needs(Rule::Reopened) {
            let reopened = self.cursor.seen.reopened_in(&now);
            self.cursor.seen = self.cursor.seen.reopen(reopened);
        }
        let xmax = now.xmax();
        let (next, everything, after) = match &self.cursor.window {
            Some(window) => (window.next.clone(), window.everything, window.after),
            None => (now, self.cursor.is_nowhere(), START),
        };
        let seen = match (&self.cursor.window, passed) {
            (None, Some(passed)) => passed,
            _ => self.cursor.seen.clone(),
        };
        let range = Range { lane: 0, seen: &seen, next: &next, everything, after, xmax };
        let all = self.rows(database, &range);
        let rows: Vec<&Row> = all.iter().take(limit).copied().collect();
        let finished = all.len() <= limit;

        let window = self.cursor.window.clone().or_else(|| {
            let strongest = rows.iter().copied().max_by_key(|row| self.evidence(row).vouched);
            let own = Range { everything: false, ..range.clone() };
            let greatest = |rows: Vec<&Row>| rows.into_iter().max_by_key(|row| row.id).map(|row| self.evidence(row));
            let evidence = match finished {
                true => strongest.map(|row| self.evidence(row)),
                false => greatest(self.rows(database, &own)).or_else(|| greatest(all.clone())),
            };
            evidence.map(|evidence| self.cursor.open(next.clone(), everything, evidence, after))
        });
        let events: Vec<Uuid> = rows.iter().map(|row| row.event_id).collect();
        let last = rows.last().map(|row| (row.position, row.event_id));
        let Some(mut window) = window else { return events };
        window.after = last.unwrap_or(window.after);
        match self.without {
            Some(Rule::Cut) => window.seen = next.clone(),
            Some(Rule::Bound) => {
                let low = window.seen.xmax().next();
                window.seen = Snapshot::new(low, next.xip().to_vec());
            }
            _ => {}
        }
        let before = self.cursor.seen.clone();
        if finished {
            self.cursor = self.cursor.close(window);
            if self.cursor.seen == before {
                self.passed = Some((database.run, next));
            }
        } else {
            self.cursor.window = Some(window);
        }
        events
    }

    fn evidence(&self, row: &Row) -> Evidence {
        let witness = Witness { event_id: row.event_id, transaction_id: row.id, position: row.position };
        let vouched = if self.needs(Rule::Vouched) { vouched(row.id, row.inserter) } else { row.id };
        Evidence { witness, vouched }
    }

    /// What the statement that reads a window would find, in order.
    fn rows<'d>(&self, database: &'d Database, range: &Range<'_>) -> Vec<&'d Row> {
        let (low, high, upper, ended) = range.bounds();
        let ended: &[TransactionId] = if self.needs(Rule::InProgress) { &ended } else { &[] };
        let begun = |id: TransactionId| id >= low && id < high && upper.finished(id);
        let after = |row: &Row| match self.needs(Rule::TieBreak) {
            true => (row.position, row.event_id) > range.after,
            false => row.position > range.after.0,
        };
        let belongs =
            |row: &&Row| (begun(row.id) || ended.contains(&row.id)) && range.takes(row.inserter) && after(row);
        let mut rows: Vec<&Row> = database.rows.values().filter(belongs).collect();
        rows.sort_by_key(|row| (row.position, row.event_id));
        rows
    }
}

#[derive(Debug, Default)]
struct Tally {
    histories: usize,
    moves: usize,
    events: usize,
    lost: usize,
}

/// One history: how many events that are there at its end were never dispatched.
fn history(seed: u64, without: Option<Rule>, tally: &mut Tally) {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut database = Database::new();
    let mut relay = Relay::new(without);
    let mut moves = 0;
    for _ in 0..dice.random_range(10..120) {
        let open: Vec<TransactionId> = database.open.keys().copied().collect();
        let one = (!open.is_empty()).then(|| open[dice.random_range(0..open.len().max(1))]);
        match (dice.random_range(0..1000), one) {
            (0..230, _) => database.begin(),
            (230..480, Some(id)) => database.insert(id, dice.random_bool(0.15), Uuid::from_u128(dice.random())),
            (480..500, Some(id)) => database.prepare(id),
            (500..670, Some(id)) => database.commit(id),
            (670..710, Some(id)) => database.roll_back(id),
            (710..945, _) => relay.poll(&mut database, *pick(&mut dice, &[1, 2, 99]), false),
            (945..955, _) => relay.poll(&mut database, *pick(&mut dice, &[1, 2, 99]), true),
            // A new process, and perhaps a person who accepted whatever answers.
            (955..958, _) => {
                relay.passed = None;
                relay.accept();
            }
            (958..1000, _) if moves < 4 => {
                moves += 1;
                database = moved(&mut dice, &database);
            }
            _ => {}
        }
    }
    // The end: whoever was in the way has accepted what is, and all of it is committed and looked at.
    relay.accept();
    relay.poll(&mut database, 99, false);
    for id in database.open.keys().copied().collect::<Vec<_>>() {
        database.commit(id);
    }
    // A row whose foreign id was that of a transaction in progress waits for the counter to pass it.
    while database.rows.values().any(|row| row.id >= database.next) {
        database.begin();
        database.commit(TransactionId(database.next.0 - 1));
    }
    for _ in 0..60 {
        relay.poll(&mut database, 99, false);
    }
    tally.histories += 1;
    tally.moves += moves;
    tally.events += database.rows.len();
    tally.lost += database.rows.keys().filter(|event| !relay.dispatched.contains(event)).count();
}

/// Another server in the place of the one before.
fn moved(dice: &mut StdRng, database: &Database) -> Database {
    let kept = database.log.len().saturating_sub(*pick(dice, &[0, 0, 1, 2, 3, 5, 8, 12]));
    match dice.random_range(0..10) {
        0..4 => database.fail_over(kept),
        4..6 => database.restore(kept),
        6..7 => database.upgrade(),
        _ => {
            let next = database.next;
            let counter = *pick(dice, &[50, 90, next.0.saturating_sub(5), next.0 + 3]);
            let position = *pick(dice, &[1, database.position]);
            database.load_dump(TransactionId(counter), position)
        }
    }
}

fn pick<'a, T>(dice: &mut StdRng, from: &'a [T]) -> &'a T {
    &from[dice.random_range(0..from.len())]
}

fn run(without: Option<Rule>, histories: u64) -> Tally {
    let mut tally = Tally::default();
    for seed in 0..histories {
        history(seed, without, &mut tally);
        match without {
            None => assert_eq!(tally.lost, 0, "seed {seed}"),
            Some(_) if tally.lost > 0 => break,
            Some(_) => {}
        }
    }
    tally
}

#[test]
fn nothing_is_lost_through_any_history() {
    let tally = run(None, 4_000);
    assert!(tally.moves > tally.histories && tally.events > tally.histories);
}

#[test]
fn events_are_lost_without_any_one_of_the_rules() {
    for rule in RULES {
        let tally = run(Some(rule), 10_000);
        assert!(tally.lost > 0, "{rule:?} is not needed, or not tried");
    }
}
