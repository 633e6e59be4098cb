//! What the dashboard promises: it shows what is there, changes what it is told to and writes down who did, keeps out
//! whoever does not belong, and can be used by everybody.

mod support;
mod guards;
mod login;
mod pages;
mod watching;
mod browser;
mod accessible;
