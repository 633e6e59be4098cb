//! Which relay dispatches which lane.
//!
//! Each dispatching worker holds, on the very session that commits its jobs and cursors, a shared advisory lock that
//! makes it a member and an exclusive one per lane. So membership and lanes end with the session: at once when the
//! process dies, within [`SESSION_LEASE`](crate::postgres::SESSION_LEASE) when it is frozen or cut off. There is no
//! table, and nothing is written while idle. The locks are only for fairness: what keeps two relays from dispatching the
//! same events is the version that every commit of a cursor names.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

/// How many lanes there are. Baked into the outbox's `lane` column.
pub const LANES: i16 = 16;

/// The class of this product's advisory locks (`aftc`); the object is 0 for membership and lane + 1 for a lane.
pub const LOCK_CLASS: i32 = 0x6166_7463;

/// `join`: makes the session a member.
const JOIN: &str = "SELECT pg_advisory_lock_shared($1, 0)";

/// `locks`: every member and every lane that is held, by backend, and each lane's version.
const LOCKS: &str = "
    SELECT pid, pid = pg_backend_pid(), objid::bigint - 1, NULL::bigint
      FROM pg_locks
     WHERE locktype = 'advisory'
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND classid  = $1::bigint::oid
       AND objsubid = 2
       AND granted
     UNION ALL
    SELECT NULL, NULL, lane::bigint, version
      FROM lane_cursors";

/// `take`: tries to lock some lanes.
const TAKE: &str = "SELECT lane, pg_try_advisory_lock($1, lane + 1) FROM unnest($2::integer[]) AS lane";

/// `release`: unlocks some lanes.
const RELEASE: &str = "SELECT pg_advisory_unlock($1, lane + 1) FROM unnest($2::integer[]) AS lane";

/// How many lanes are this member's: sixteen among all, and one more for the first of what is left over.
pub fn share(members: usize, rank: usize) -> usize {
    let lanes = LANES as usize;
    match members {
        0 => lanes,
        _ => lanes / members + usize::from(rank < lanes % members),
    }
}

/// Makes the session a member of those who share the lanes.
///
/// # Errors
/// Whatever PostgreSQL says.
pub async fn join(client: &Client) -> Result<(), tokio_postgres::Error> {
    client.execute(JOIN, &[&LOCK_CLASS]).await.map(drop)
}

/// The lanes that are held, each with the version of its cursor: one that is not as it was remembered was moved by another.
pub type Held = BTreeMap<i16, i64>;

/// Gives back what is above this member's share, and takes what is free up to it. Returns the lanes held. To be called
/// while no commit is under way.
///
/// # Errors
/// Whatever PostgreSQL says.
pub async fn balance(client: &Client) -> Result<Held, tokio_postgres::Error> {
    let mut members = BTreeSet::new();
    let mut taken = BTreeSet::new();
    let mut held = BTreeSet::new();
    let mut versions = BTreeMap::new();
    let mut me = 0;
    for row in client.query(LOCKS, &[&i64::from(LOCK_CLASS)]).await? {
        let Ok(lane) = i16::try_from(row.try_get::<_, i64>(2)?) else { continue };
        let Some(pid) = row.try_get::<_, Option<i32>>(0)? else {
            versions.insert(lane, row.try_get(3)?);
            continue;
        };
        let mine = row.try_get(1)?;
        if mine {
            me = pid;
        }
        match lane {
            -1 => drop(members.insert(pid)),
            0..LANES => {
                taken.insert(lane);
                if mine {
                    held.insert(lane);
                }
            }
            _ => {}
        }
    }
    let rank = members.iter().take_while(|pid| **pid != me).count();
    let share = share(members.len(), rank);

    let surplus: Vec<i32> = held.iter().skip(share).map(|lane| i32::from(*lane)).collect();
    if !surplus.is_empty() {
        client.execute(RELEASE, &[&LOCK_CLASS, &surplus]).await?;
        held = held.into_iter().take(share).collect();
    }
    let wanted = share.saturating_sub(held.len());
    // Members begin at different lanes, so that they seldom reach for the same one.
    let start = (rank * 5) as i16;
    let free: Vec<i32> = (0..LANES)
        .map(|n| (n + start) % LANES)
        .filter(|lane| !taken.contains(lane))
        .take(wanted)
        .map(i32::from)
        .collect();
    if !free.is_empty() {
        for row in client.query(TAKE, &[&LOCK_CLASS, &free]).await? {
            if row.try_get(1)? {
                held.extend(i16::try_from(row.try_get::<_, i32>(0)?));
            }
        }
    }
    Ok(held.into_iter().filter_map(|lane| Some((lane, *versions.get(&lane)?))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_the_lanes_evenly() {
        for members in 1..=40 {
            let shares: Vec<_> = (0..members).map(|rank| share(members, rank)).collect();
            assert_eq!(shares.iter().sum::<usize>(), 16, "{members} members");
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
    }
}
