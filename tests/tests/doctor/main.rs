//! What the doctor promises: nothing to say on a healthy set-up; on a broken one, each thing that is wrong, with what to
//! do; and the rest when one side is away.

mod support;
mod healthy;
mod databases;
mod flow;
mod mail;
