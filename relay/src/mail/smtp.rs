//! SMTP: one mail over one connection, each step by itself, so that it is known how far a failed one came.
//!
//! The library's grammar (commands, replies, AUTH) is used, its connection is not: that one keeps what it read before the
//! TLS handshake, reads lines of any length, takes a reply that came before its command, and does not ask between 354
//! and the body. Here the lease is asked right before the body and once more right before the final dot; a relay that
//! was frozen in between sends no dot.
//!
//! Not done: pipelining, several recipients in one transaction.

pub mod options;
mod wire;
mod connect;
mod pool;
mod reply;
pub mod outcomes;
mod verdict;
mod probe;

use lettre::transport::smtp::commands::{Data, Mail as MailFrom, Rcpt, Rset};
use lettre::transport::smtp::extension::{Extension, MailBodyParameter, MailParameter};
use shared::trace::step;

use super::message::Mail;
use super::target::SmtpServer;
use crate::deliver::{Lease, Outcome};
use crate::metrics::record;
use connect::{Connection, Connector};
use options::Options;
use outcomes::{Outcomes, Phase};
use pool::Pool;
use verdict::Trouble;

/// A mail server, with connections that are used again.
pub struct Smtp {
    connector: Connector,
    pool: Pool,
    outcomes: Outcomes,
}

/// Why a mail was not sent.
enum Stop {
    /// The lease ended; nothing was sent.
    LeaseLost,
    /// Something went wrong at a step.
    Trouble(Phase, Trouble),
}

impl Smtp {
    /// Prepares for a server; connects to nothing yet.
    ///
    /// # Errors
    /// When the certificate authorities can't be used.
    pub fn new(server: SmtpServer, options: Options) -> Result<Self, String> {
        let Options { timeouts, mails_per_connection, idle, outcomes } = options;
        let pool = Pool::new(idle, mails_per_connection);
        Ok(Self { connector: Connector::new(server, timeouts)?, pool, outcomes })
    }

    /// Sends a mail.
    pub async fn send(&self, mail: &Mail, lease: &Lease) -> Outcome {
        if let Err(lost) = lease.check() {
            return lost.into();
        }
        while let Some(mut connection) = self.pool.take() {
            match transact(&mut connection, mail, lease).await {
                // The server had enough of this connection while it lay idle: that says nothing of the mail.
                Err(Stop::Trouble(Phase::Mail | Phase::OwnMail, trouble)) if trouble.may_be_stale() => {}
                result => return self.conclude(connection, result),
            }
        }
        let connected = step("smtp connect", self.connector.connect()).await;
        record::smtp_connection(connected.is_ok());
        match connected {
            Ok(mut connection) => {
                let result = transact(&mut connection, mail, lease).await;
                self.conclude(connection, result)
            }
            Err((phase, trouble)) => verdict::outcome(&self.outcomes, phase, &trouble),
        }
    }

    fn conclude(&self, mut connection: Connection, result: Result<(), Stop>) -> Outcome {
        match result {
            Ok(()) => {
                self.pool.put(connection);
                Outcome::Succeeded
            }
            Err(Stop::LeaseLost) => Outcome::LeaseLost,
            Err(Stop::Trouble(phase, trouble)) => {
                // Within the text, whatever is said next would be taken for text.
                if phase != Phase::Body && trouble.leaves_connection_usable() {
                    connection.refused += 1;
                    self.pool.put(connection);
                }
                verdict::outcome(&self.outcomes, phase, &trouble)
            }
        }
    }
}

/// One mail on a connection. Unless it returns a reply, the connection must not be used again: dropped without a dot, the
/// server forgets the mail.
async fn transact(connection: &mut Connection, mail: &Mail, lease: &Lease) -> Result<(), Stop> {
    let at = |phase| move |trouble| Stop::Trouble(phase, trouble);
    let limits = connection.limits;

    // The bodies are encoded: only an international address makes a mail more than ASCII.
    let (mut parameters, mut phase) = (vec![], Phase::Mail);
    if !mail.bytes.is_ascii() || !AsRef::<str>::as_ref(&mail.recipient).is_ascii() {
        if !connection.server.supports_feature(Extension::SmtpUtfEight) {
            return Err(at(Phase::OwnMail)(Trouble::NoInternationalAddresses));
        }
        parameters.push(MailParameter::SmtpUtfEight);
        if connection.server.supports_feature(Extension::EightBitMime) {
            parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        phase = Phase::OwnMail;
    }
    if std::mem::take(&mut connection.dirty) {
        connection.wire.command(&Rset, 250, limits.command).await.map_err(at(Phase::Mail))?;
    }
    connection.dirty = true;
    let sender = MailFrom::new(Some(mail.sender.clone()), parameters);
    step("smtp mail", connection.wire.command(&sender, 250, limits.command)).await.map_err(at(phase))?;

    let recipient = Rcpt::new(mail.recipient.clone(), vec![]);
    step("smtp rcpt", connection.wire.command(&recipient, 250, limits.command)).await.map_err(at(Phase::Rcpt))?;
    if mail.hold {
        // Before the server could have it: so a relay that is killed from here on leaves the doubt in the row.
        lease.doubt_from_here().await.map_err(|_| Stop::LeaseLost)?;
    }
    step("smtp data", connection.wire.command(&Data, 354, limits.data)).await.map_err(at(Phase::Data))?;

    lease.check().map_err(|_| Stop::LeaseLost)?;
    step("smtp body", connection.wire.write_body(&mail.bytes, limits.body)).await.map_err(at(Phase::Body))?;
    connection.wire.not_answered_yet(limits.command).await.map_err(at(Phase::Body))?;
    lease.begin().map_err(|_| Stop::LeaseLost)?;
    connection.wire.write_dot(limits.body).await.map_err(at(Phase::Dot))?;
    step("smtp dot", connection.wire.reply(250, limits.dot)).await.map_err(at(Phase::Dot))?;
    connection.dirty = false;
    connection.mails += 1;
    Ok(())
}
