//! Mail: can the server be reached, encrypted and logged in to, and what does it offer? No mail is sent.

use super::Notes;
use crate::mail::{Email, Probe};

pub(super) async fn examine(email: &Email) -> Notes {
    let mut notes = Notes::new("mail");
    notes.ok("templates", "every template renders");
    match email.probe().await {
        Ok(Probe::Smtp(server)) => {
            notes.ok("connection", format!("{} says it is {:?}", server.address, server.name));
            match server.tls {
                Some(how) => notes.ok("tls", how),
                None => notes.note(
                    "tls",
                    "the connection is not encrypted",
                    "Mail is readable on its way; fine on this machine only",
                ),
            }
            match server.logged_in {
                true => notes.ok("auth", "logged in"),
                false => {
                    notes.note("auth", "no login is given", "Many servers want one: SMTP_URL=smtp://user:password@host")
                }
            }
            if !server.international {
                notes.note(
                    "smtputf8",
                    "it does not offer SMTPUTF8",
                    "Mail to addresses that are not ASCII ends as dead",
                );
            }
            notes.ok("features", server.features.join(", "));
        }
        Ok(Probe::Directory(path)) => notes.warning(
            "connection",
            format!("mail goes into the directory {path}, to nobody"),
            "Give a mail server in SMTP_URL, unless this is a machine for development",
        ),
        Err(error) => notes.problem(
            "connection",
            error,
            "Check SMTP_URL: host, port, TLS, user and password; delivery pauses meanwhile, and loses nothing",
        ),
    }
    if email.is_sandboxed() {
        notes.warning(
            "sandbox",
            "mail is sent to the recipients of MAIL_SANDBOX only; others get none",
            "Unset MAIL_SANDBOX, unless this is a staging system",
        );
    }
    notes
}
