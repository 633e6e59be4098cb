//! What the engine of delivery promises, whatever a kind does: relays here run in this process, on a real database, with
//! a kind that does what its jobs say. A relay that is dropped is, to the database, one that was killed.

mod support;
mod doubt;
mod breaker;
mod limits;
mod transitions;
