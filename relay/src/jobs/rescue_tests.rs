use super::*;
use proptest::prelude::*;

const LEASE: Duration = Duration::from_secs(8);

fn row(counter: i64, holds: bool) -> Seen {
    Seen { process: Uuid::from_u128(1), counter, lease: Duration::from_secs(1), holds }
}

/// Looks at these times (in milliseconds), each taking 10 ms; says at which look the process was taken for dead.
fn dead_at(looks: &[(u64, Seen)]) -> Option<u64> {
    let start = Instant::now();
    let mut observer = Observer::new(LEASE);
    looks.iter().find_map(|(at, seen)| {
        let sent = start + Duration::from_millis(*at);
        let dead = observer.observe(sent, sent + Duration::from_millis(10), &[*seen]);
        (!dead.is_empty()).then_some(*at)
    })
}

#[test]
fn a_counter_that_stands_still_for_a_whole_lease_is_a_dead_process() {
    let looks: Vec<_> = (0..20).map(|n| (n * 2_000, row(7, true))).collect();
    assert_eq!(dead_at(&looks), Some(10_000), "the first look at or after the answer to the first one plus the lease");
}

#[test]
fn a_counter_that_moves_is_a_living_process() {
    let looks: Vec<_> = (0..60).map(|n| (n * 2_000, row((n / 3) as i64, true))).collect();
    assert_eq!(dead_at(&looks), None);
}

#[test]
fn a_process_with_a_longer_lease_gets_it() {
    let patient = Seen { lease: LEASE * 3, ..row(7, true) };
    let looks: Vec<_> = (0..20).map(|n| (n * 2_000, patient)).collect();
    assert_eq!(dead_at(&looks), Some(26_000));
}

#[test]
fn who_holds_nothing_is_in_no_hurry() {
    let looks: Vec<_> = (0..2_000).map(|n| (n * 2_000, row(7, false))).collect();
    assert_eq!(dead_at(&looks), Some(3_602_000));
}

#[test]
fn a_pause_between_looks_starts_the_watch_anew() {
    let mut looks: Vec<_> = (0..4).map(|n| (n * 2_000, row(7, true))).collect();
    looks.extend((0..10).map(|n| (60_000 + n * 2_000, row(7, true))));
    assert_eq!(dead_at(&looks), Some(70_000));
}

#[test]
fn a_look_that_takes_long_starts_the_watch_anew() {
    let (start, mut observer) = (Instant::now(), Observer::new(LEASE));
    let at = |ms| start + Duration::from_millis(ms);
    // The third is answered at 30 s: from then on, whoever lives has a whole lease to say so.
    for (sent, answered) in
        [(0, 1), (2_000, 2_001), (4_000, 30_000), (31_000, 31_001), (35_000, 35_001), (37_999, 38_000)]
    {
        assert!(observer.observe(at(sent), at(answered), &[row(7, true)]).is_empty(), "at {sent}");
    }
    assert_eq!(observer.observe(at(38_001), at(38_002), &[row(7, true)]).len(), 1);
    observer.forget();
    assert!(observer.observe(at(39_000), at(39_001), &[row(7, true)]).is_empty());
}

proptest! {
    /// The heart of it. A process renews when it can, and stops using its lease on time; a watcher looks now and
    /// then; the database comes and goes for both. However these fall, nobody is taken for dead while it still
    /// believes in its lease.
    #[test]
    fn nobody_is_rescued_while_holding_the_lease(
        renewals in proptest::collection::vec((1..6_000u64, 0..3_000u64), 1..40),
        looks in proptest::collection::vec((1..4_000u64, 0..3_000u64), 1..60),
    ) {
        // A renewal: pause, then sent, then applied (`delay` later). It believes from `sent`; the counter moves when
        // it is applied.
        let (mut at, mut applied, mut believes_until) = (0, vec![], vec![]);
        for (pause, delay) in renewals {
            at += pause;
            applied.push(at + delay);
            believes_until.push(at + 8_000);
            at += delay;
        }
        let counter_at = |time: u64| applied.iter().filter(|t| **t <= time).count();
        let start = Instant::now();
        let mut observer = Observer::new(LEASE);
        let mut now = 0;
        for (pause, took) in looks {
            now += pause;
            // The answer is as of some moment between asking and answering; the earliest is the hardest.
            let counter = counter_at(now);
            let (sent, answered) = (start + Duration::from_millis(now), start + Duration::from_millis(now + took));
            let dead = observer.observe(sent, answered, &[row(counter as i64, true)]);
            // The statement itself checks the counter once more when it runs, at `answered` or later.
            if !dead.is_empty() && counter_at(now + took) == counter && counter > 0 {
                prop_assert!(now + took >= believes_until[counter - 1], "rescued at {now}, believes until {}", believes_until[counter - 1]);
            }
            now += took;
        }
    }
}
