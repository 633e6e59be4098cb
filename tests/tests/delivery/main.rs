//! What delivery promises: jobs are tried as their policy says, each attempt is in the row, and whatever dies or is away
//! meanwhile, mail is sent once, or twice only where nobody can know.
//!
//! Jobs are put straight into the jobs table; who asked for them is no business of delivery's.

mod support;
mod attempts;
mod away;
mod clocks;
mod crashes;
mod encryption;
mod faults;
mod hold;
mod leases;
mod plans;
mod recipients;
mod replies;
mod rows_by_hand;
mod volume;
