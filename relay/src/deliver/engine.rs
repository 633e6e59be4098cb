//! The engine: what a delivering process has in hand, and one step of its work.
//!
//! A step takes what has ended, begins what can begin, and makes one round of statements: settlements and claims in one
//! go, and now and then a renewal or a look at the other processes. It is driven by `super::run`, which owns connections
//! and waits. If a statement fails nothing is lost: what was to be written stays here until it is.

mod tries;
mod round;
mod standing;

use std::time::{Duration, Instant};

use super::Context;
use super::alone::Alone;
use super::line::Line;
use super::work::Work;
use crate::jobs::claim;
use crate::jobs::doubt::Desk;
use crate::jobs::lease::Boot;
use crate::jobs::process::{self, Identity};
use crate::jobs::rescue::Observer;
use crate::jobs::session::Session;
use crate::jobs::settle::Settlement;
use crate::postgres::Error;

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Something was done; there may be more.
    Worked,
    /// Nothing to do for so long, unless somebody rings or a try ends.
    Idle(Duration),
    /// Stopped, with nothing left in hand.
    Done,
}

pub(super) struct Engine<'a> {
    context: &'a Context,
    identity: Identity,
    lines: Vec<Line>,
    work: Work,
    unsettled: Vec<Settlement>,
    doubts: Desk,
    alone: Alone,
    observer: Observer,
    next_look: Instant,
    /// Until then, claims may turn up whose answer was lost with a connection.
    strays_until: Instant,
    next_unknown: Instant,
    renewed: Option<Boot>,
    unknown_kinds: Vec<String>,
    closing: Closing,
}

/// How far a stopping process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    No,
    /// Tries may end by themselves until then.
    Until(Instant),
    /// Tries were cut off.
    CutOff,
}

impl<'a> Engine<'a> {
    pub(super) fn new(context: &'a Context) -> Self {
        let (settings, now) = (&context.settings, Instant::now());
        Self {
            context,
            identity: Identity::new(settings.lease),
            lines: context
                .kinds
                .0
                .iter()
                .map(|(kind, limits)| Line::new(kind.clone(), limits, settings, now))
                .collect(),
            work: Work::default(),
            unsettled: Vec::new(),
            doubts: Desk::default(),
            alone: Alone::default(),
            observer: Observer::new(settings.lease),
            next_look: now,
            strays_until: now,
            next_unknown: now,
            renewed: None,
            unknown_kinds: Vec::new(),
            closing: Closing::No,
        }
    }

    /// Claims nothing more; hands back what has not begun, and lets the rest end within the grace.
    pub(super) fn close(&mut self) {
        if !self.is_closing() {
            self.closing = Closing::Until(Instant::now() + self.context.settings.grace);
            (0..self.lines.len()).for_each(|line| self.hand_back_queue(line, None));
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing != Closing::No
    }

    pub(super) fn holds_nothing(&self) -> bool {
        self.held() == 0
    }

    /// There may be new jobs.
    pub(super) fn wake(&mut self) {
        let now = Instant::now();
        self.lines.iter_mut().for_each(|line| line.wake(now));
    }

    /// Waits until a try ends, or asks for a mark in its row.
    pub(super) async fn try_stirs(&mut self) {
        tokio::select! {
            () = self.work.wait() => {}
            () = self.doubts.asked() => {}
        }
    }

    /// The connection is gone: whatever was seen of other processes proves nothing any more.
    pub(super) fn disconnected(&mut self) {
        self.observer.forget();
    }

    pub(super) async fn step(&mut self, session: &Session) -> Result<Step, Error> {
        let mut worked = self.take_ended();
        self.cut_off_when_late();
        self.heed_pauses();
        self.begin_tries();

        if self.held() > 0 && self.renewed.is_none_or(|at| Boot::now().since(at) >= self.context.settings.lease / 3) {
            self.renew(session).await?;
        }
        if self.next_look <= Instant::now() {
            self.look(session).await?;
        }
        worked |= self.doubts.serve(session).await?;
        worked |= self.settle_and_claim(session).await?;
        self.begin_tries();
        worked |= !self.unsettled.is_empty();
        self.lines.iter().for_each(Line::show);

        if self.is_closing() && self.held() == 0 {
            process::leave(session, self.identity.id).await?;
            return Ok(Step::Done);
        }
        Ok(if worked { Step::Worked } else { Step::Idle(self.until_due()) })
    }

    /// Claims that this process answers for: waiting, under way, or ended and not yet written down.
    fn held(&self) -> usize {
        self.unsettled.len() + self.work.len() + self.lines.iter().map(|line| line.queue.len()).sum::<usize>()
    }

    async fn look_ahead(&mut self, session: &Session, line: usize) -> Result<(), Error> {
        let ahead = claim::look_ahead(session, self.identity.id, self.lines[line].kind.name()).await?;
        self.lines[line].ahead(&ahead, Instant::now());
        if !ahead.registered {
            self.start_anew(session).await?;
        }
        Ok(())
    }

    fn until_due(&mut self) -> Duration {
        let now = Instant::now();
        let lease = self.context.settings.lease;
        let mut pauses = vec![self.next_look.saturating_duration_since(now)];
        if self.held() > 0 {
            pauses.push(self.renewed.map_or(Duration::ZERO, |at| (lease / 3).saturating_sub(Boot::now().since(at))));
        }
        match (self.closing, self.alone) {
            (Closing::Until(cut_off), _) => pauses.push(cut_off.saturating_duration_since(now)),
            (Closing::No, Alone::No { not_before }) => {
                pauses.extend(self.lines.iter_mut().filter_map(|line| line.until_due(now)));
                let turn = not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
                pauses
                    .extend(self.lines.iter().filter_map(|line| line.until_suspect(now)).map(|pause| pause.max(turn)));
            }
            (Closing::No | Closing::CutOff, _) => {}
        }
        pauses.into_iter().min().unwrap_or_default()
    }
}
