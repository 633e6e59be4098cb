//! Connecting and nothing else: what the doctor asks.

use std::time::Duration;

use lettre::transport::smtp::authentication::Mechanism;
use lettre::transport::smtp::commands::Quit;
use lettre::transport::smtp::extension::Extension;

use super::super::probe::Server;
use super::super::target::TlsMode;
use super::{Smtp, verdict};
use crate::deliver::Outcome;

/// Long enough for a server that is slow to answer; a person waits.
const PATIENCE: Duration = Duration::from_secs(20);

impl Smtp {
    /// Connects, encrypts, logs in, and says goodbye.
    ///
    /// # Errors
    /// How far it came, and what is in the way; no secret.
    pub async fn probe(&self) -> Result<Server, String> {
        let server = self.connector.server();
        let address = format!("{}:{}", server.host, server.port);
        let connecting = tokio::time::timeout(PATIENCE, self.connector.connect()).await;
        let connected = connecting.map_err(|_| format!("{address}: no answer within {} s", PATIENCE.as_secs()))?;
        let mut connection = connected.map_err(|(phase, trouble)| {
            let outcome = verdict::outcome(&self.outcomes, phase, &trouble);
            match outcome {
                Outcome::Away(error) => format!("{address}: {error}"),
                Outcome::Failed(failure) => format!("{address}: {}", failure.error),
                other => format!("{address}: {other:?}"),
            }
        })?;
        let info = &connection.server;
        let offers = |feature| info.supports_feature(feature);
        let features = [
            ("8BITMIME", offers(Extension::EightBitMime)),
            ("SMTPUTF8", offers(Extension::SmtpUtfEight)),
            ("STARTTLS", offers(Extension::StartTls)),
            ("AUTH PLAIN", info.supports_auth_mechanism(Mechanism::Plain)),
            ("AUTH LOGIN", info.supports_auth_mechanism(Mechanism::Login)),
        ];
        let found = Server {
            address,
            name: info.name().to_owned(),
            tls: match server.tls {
                TlsMode::None => None,
                TlsMode::StartTls => Some("STARTTLS, certificate verified"),
                TlsMode::Implicit => Some("TLS from the first byte, certificate verified"),
            },
            logged_in: server.login.is_some(),
            international: offers(Extension::SmtpUtfEight),
            features: features.into_iter().filter(|(_, offered)| *offered).map(|(name, _)| name).collect(),
        };
        // It was polite to connect; whether the goodbye is answered is of no interest.
        let _ = connection.wire.command(&Quit, 221, Duration::from_secs(2)).await;
        Ok(found)
    }
}
