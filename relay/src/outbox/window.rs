//! The arithmetic of the snapshot window: which transactions lie between two snapshots, and how much of what was seen
//! a cursor may keep. Pure: the argument that it neither skips nor repeats is in this folder's `CORRECTNESS.md`.
//!
//! A snapshot is what PostgreSQL's `pg_current_snapshot()` returns: every transaction below `xmax` has finished, except
//! those listed in `xip`. The window from `seen` to `next` holds the transactions that are finished in `next` and were
//! not in `seen`. As a transaction finishes once, windows that follow each other neither skip nor repeat one, however
//! transactions overlap.

use std::fmt;

/// A PostgreSQL transaction id with its epoch (`xid8`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(pub u64);

impl TransactionId {
    /// The id given out after this one. The low 32 bits 0, 1 and 2 mean something else to PostgreSQL and are skipped
    /// at each wrap-around (`FullTransactionIdAdvance`), and a snapshot whose bounds have low bits 0 is refused by it.
    #[must_use]
    pub fn next(self) -> Self {
        let next = self.0 + 1;
        if (next & 0xffff_ffff) < 3 { Self((next & !0xffff_ffff) | 3) } else { Self(next) }
    }
}

/// Which transactions have finished: all below `xmax`, but for those in `xip`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    xmax: TransactionId,
    /// In progress; ascending, without repeats, all below `xmax`.
    xip: Vec<TransactionId>,
}

impl Snapshot {
    /// Above every transaction id that a row can bear: the window of everything reaches up to here.
    pub const END: TransactionId = TransactionId(i64::MAX as u64);

    /// The snapshot in which nothing has finished: `1:1:`.
    pub const NOTHING: Self = Self { xmax: TransactionId(1), xip: Vec::new() };

    /// A snapshot from its parts; `xip` may come in any order and hold ids that don't belong.
    pub fn new(xmax: TransactionId, mut xip: Vec<TransactionId>) -> Self {
        xip.retain(|id| *id < xmax);
        xip.sort_unstable();
        xip.dedup();
        Self { xmax, xip }
    }

    /// The first id that had not been given out, or not been seen finished.
    pub fn xmax(&self) -> TransactionId {
        self.xmax
    }

    /// The lowest id that may still be in progress: everything below has finished.
    pub fn xmin(&self) -> TransactionId {
        self.xip.first().copied().unwrap_or(self.xmax)
    }

    /// The ids below [`Self::xmax`] that were in progress, ascending.
    pub fn xip(&self) -> &[TransactionId] {
        &self.xip
    }

    /// Whether the transaction has finished, by commit or rollback.
    pub fn finished(&self, id: TransactionId) -> bool {
        id < self.xmax && self.xip.binary_search(&id).is_err()
    }

    /// Itself, unless its bound says it all: nothing below was in progress.
    #[must_use]
    pub fn with_gaps(self) -> Option<Self> {
        Some(self).filter(|snapshot| !snapshot.xip.is_empty())
    }

    /// The transactions that were in progress here and have finished in `next`: the part of the window that lies below
    /// this snapshot's `xmax`. All ids from `xmax` on that are finished in `next` are its other part.
    pub fn ended_in(&self, next: &Self) -> Vec<TransactionId> {
        self.xip.iter().copied().filter(|id| next.finished(*id)).collect()
    }

    /// The transactions that had finished here and are in progress in `next`. On one history there is none: only a
    /// prepared transaction whose commit was lost with an old primary can be both.
    pub fn reopened_in(&self, next: &Self) -> Vec<TransactionId> {
        next.xip.iter().copied().filter(|id| self.finished(*id)).collect()
    }

    /// The same snapshot with these transactions in progress.
    #[must_use]
    pub fn reopen(&self, ids: Vec<TransactionId>) -> Self {
        Self::new(self.xmax, [self.xip.clone(), ids].concat())
    }

    /// What a cursor at `self` may keep once the window up to `next` has been handed over: no more than it has evidence
    /// for. `vouched` is the greatest id that a row of the window [vouches](vouched) for; ids above it may be given out
    /// again after a failover.
    #[must_use]
    pub fn cut(&self, next: &Self, vouched: TransactionId) -> Self {
        let xmax = self.xmax.max(vouched.next());
        Self { xmax, xip: next.xip.iter().copied().filter(|id| *id < xmax).collect() }
    }
}

/// The transaction (or subtransaction) that put a row where it is, from the row's `xmin`: its low 32 bits, below `xmax`.
pub fn inserter(xmin: u32, xmax: TransactionId) -> TransactionId {
    let id = (xmax.0 & !0xffff_ffff) | u64::from(xmin);
    TransactionId(if id < xmax.0 { id } else { id.saturating_sub(1 << 32) })
}

/// Up to which id a row vouches that all had been given out, on any history that has this row. Normally the row's own
/// transaction id. A row that came by a dump or by replication bears an id of another history, and vouches only for
/// what had been given out when it was put here. (A row written under a savepoint was put here by a later id than its
/// own.)
pub fn vouched(transaction_id: TransactionId, inserter: TransactionId) -> TransactionId {
    transaction_id.min(inserter)
}

impl fmt::Display for Snapshot {
    /// As PostgreSQL writes it: `xmin:xmax:xip,xip`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin().0, self.xmax.0)?;
        for (index, id) in self.xip.iter().enumerate() {
            write!(f, "{}{}", if index == 0 { "" } else { "," }, id.0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn id(value: u64) -> TransactionId {
        TransactionId(value)
    }

    #[test]
    fn the_id_after_a_wrap_around_is_one_that_postgresql_gives_out() {
        assert_eq!(id(5).next(), id(6));
        assert_eq!(id(0xffff_ffff).next(), id(0x1_0000_0003));
        assert_eq!(id(0x1_ffff_ffff).next(), id(0x2_0000_0003));
    }

    #[test]
    fn snapshots_are_written_as_postgresql_writes_them() {
        assert_eq!(Snapshot::NOTHING.to_string(), "1:1:");
        assert_eq!(Snapshot::new(id(20), vec![id(14), id(10), id(14), id(25)]).to_string(), "10:20:10,14");
    }

    #[test]
    fn a_prepared_transaction_whose_commit_was_lost_is_in_progress_again() {
        let seen = Snapshot::new(id(20), vec![id(14)]);
        let next = Snapshot::new(id(30), vec![id(11), id(14), id(25)]);
        assert_eq!(seen.reopened_in(&next), [id(11)]);
        let reopened = seen.reopen(seen.reopened_in(&next));
        assert_eq!(reopened, Snapshot::new(id(20), vec![id(11), id(14)]));
        assert_eq!(reopened.ended_in(&Snapshot::new(id(30), vec![])), [id(11), id(14)]);
    }

    #[test]
    fn a_row_vouches_for_no_more_than_was_given_out_when_it_came() {
        let epoch = 1 << 32;
        assert_eq!(inserter(700, id(1000)), id(700));
        assert_eq!(inserter(700, id(epoch + 1000)), id(epoch + 700));
        assert_eq!(inserter(5000, id(epoch + 1000)), id(5000));
        assert_eq!(inserter(2000, id(1000)), id(0), "from no history that this can be");
        assert_eq!(vouched(id(900), id(905)), id(900), "written under a savepoint");
        assert_eq!(vouched(id(90_000), id(740)), id(740), "loaded from a dump");
    }

    /// What a naive reader that remembers every transaction would do, against the window that remembers two snapshots.
    #[derive(Clone, Debug)]
    enum Step {
        Begin,
        Finish { index: usize, commit: bool },
        Read,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => Just(Step::Begin),
            3 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(index, commit)| Step::Finish { index, commit }),
            2 => Just(Step::Read),
        ];
        prop::collection::vec(step, 0..120)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Each committed transaction is read once, in the first window that can hold it, by a cursor that is cut after
        /// each window; and a window holds just what a reader with a perfect memory would read.
        #[test]
        fn windows_hold_each_transaction_once(steps in steps(), first in 3..1000u64) {
            let mut next_id = id(first);
            let mut open: Vec<TransactionId> = Vec::new();
            let mut committed: BTreeSet<TransactionId> = BTreeSet::new();
            let mut naive_seen: BTreeSet<TransactionId> = BTreeSet::new();
            let mut seen = Snapshot::NOTHING;

            for step in steps.into_iter().chain([Step::Read]) {
                match step {
                    Step::Begin => {
                        open.push(next_id);
                        next_id = next_id.next();
                    }
                    Step::Finish { index, commit } if !open.is_empty() => {
                        let finished = open.swap_remove(index % open.len());
                        if commit {
                            committed.insert(finished);
                        }
                    }
                    Step::Finish { .. } => {}
                    Step::Read => {
                        let next = Snapshot::new(next_id, open.clone());
                        let ended = seen.ended_in(&next);
                        let window: BTreeSet<_> = committed
                            .iter()
                            .copied()
                            .filter(|t| next.finished(*t) && (*t >= seen.xmax() || ended.contains(t)))
                            .collect();
                        let naive: BTreeSet<_> = committed.difference(&naive_seen).copied().collect();
                        prop_assert_eq!(&window, &naive);
                        naive_seen.extend(&window);
                        if let Some(witness) = window.iter().next_back() {
                            let cut = seen.cut(&next, *witness);
                            prop_assert!(cut.xmax() >= seen.xmax(), "a cursor never goes back by itself");
                            prop_assert!(cut.xmax() == seen.xmax() || cut.xmax() == witness.next());
                            for t in &committed {
                                prop_assert!(cut.finished(*t), "what was read stays read");
                            }
                            for t in &open {
                                prop_assert!(!cut.finished(*t), "what is open stays to be read");
                            }
                            seen = cut;
                        }
                    }
                }
            }
        }
    }
}
