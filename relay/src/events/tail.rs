//! Following the outbox live.
//!
//! A reader with a cursor of its own, in memory: two snapshots, and the window between them, as dispatch does it. So it
//! shows each event once, however transactions overlap, and none is skipped while it follows. When the database's
//! history moves under it (a failover, a restore), it says so and goes on from where the new history stands.

use tokio_postgres::Client;

use crate::dispatch::lanes::LANES;
use crate::outbox::window::Snapshot;
use crate::outbox::{self, Error, Identity, OutboxRow, Question, Range, START, Slice, Stretch, Way};

/// Rows asked for at a time.
const ROWS: usize = 1_000;

/// Where a follower stands.
#[derive(Debug)]
pub struct Tail {
    seen: Snapshot,
    identity: Identity,
}

/// What a look brought.
#[derive(Debug)]
pub struct News {
    /// Events that became visible since the last look, in the order of their positions.
    pub rows: Vec<OutboxRow>,
    /// The history that was followed is gone: what was committed around that time may be missing here.
    pub moved: bool,
}

impl Tail {
    /// From now on.
    ///
    /// # Errors
    /// When the application database is away, or must not be read from.
    pub async fn from_now(application: &Client) -> Result<Self, Error> {
        let look = outbox::glance(application, &[]).await?;
        Ok(Self { seen: look.next, identity: look.server.identity })
    }

    /// What is new.
    ///
    /// # Errors
    /// When the application database is away, or must not be read from. Then nothing was taken: ask again, over another
    /// connection.
    pub async fn news(&mut self, application: &Client) -> Result<News, Error> {
        let question = |lane| Question { lane, seen: &self.seen, witness: None, next_witness: None };
        let questions: Vec<Question<'_>> = (0..LANES).map(question).collect();
        let (reading, look) = outbox::look(application, &questions).await?;
        if look.server.identity != self.identity || look.next.xmax() < self.seen.xmax() {
            reading.end().await?;
            *self = Self { seen: look.next, identity: look.server.identity };
            return Ok(News { rows: Vec::new(), moved: true });
        }
        let mut rows = Vec::new();
        for answer in look.lanes.iter().filter(|answer| answer.waiting > 0) {
            let mut range = Range {
                lane: answer.lane,
                seen: &self.seen,
                next: &look.next,
                everything: false,
                after: START,
                xmax: look.next.xmax(),
            };
            loop {
                let stretch = Stretch { range: range.clone(), slice: Slice::all(ROWS), limit: ROWS };
                let Some(read) = reading.rows(&[stretch], range.xmax, Way::InOrder).await?.pop() else { break };
                rows.extend(read.rows);
                match read.last {
                    Some(last) if !read.whole => range.after = last,
                    _ => break,
                }
            }
        }
        reading.end().await?;
        rows.sort_by_key(|row| row.envelope.position);
        self.seen = look.next;
        Ok(News { rows, moved: false })
    }
}
