//! Making a connection: TCP, TLS, EHLO, AUTH. Whatever goes wrong here is about the server, never about a mail.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::commands::{Auth, Ehlo, Starttls};
use lettre::transport::smtp::extension::{ClientId, Extension, ServerInfo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::super::target::{SmtpServer, TlsMode};
use super::options::Timeouts;
use super::outcomes::Phase;
use super::reply::Reply;
use super::verdict::Trouble;
use super::wire::{Stream, Wire, lost, within};

/// A connection that mail can be sent on.
pub(super) struct Connection {
    pub(super) wire: Wire<Box<dyn Stream>>,
    /// What the server can do.
    pub(super) server: ServerInfo,
    pub(super) limits: Timeouts,
    /// A transaction was begun and not ended.
    pub(super) dirty: bool,
    /// Mails sent on it.
    pub(super) mails: u32,
    /// Mails refused on it.
    pub(super) refused: u32,
    /// When it was last used.
    pub(super) used: Instant,
}

#[cfg(test)]
impl Connection {
    /// A connection that was made over this stream.
    pub(super) fn for_tests(stream: impl Stream + 'static) -> Self {
        let (server, limits, used) = (ServerInfo::default(), Timeouts::default(), Instant::now());
        Self { wire: boxed(stream), server, limits, dirty: false, mails: 0, refused: 0, used }
    }
}

/// How to connect.
pub(super) struct Connector {
    server: SmtpServer,
    tls: TlsConnector,
    /// This machine's name, if it has one that a mail server would take.
    name: Option<ClientId>,
    limits: Timeouts,
}

type Failed = (Phase, Trouble);

impl Connector {
    pub(super) fn new(server: SmtpServer, limits: Timeouts) -> Result<Self, String> {
        Ok(Self { tls: tls_connector(&server)?, server, name: full_name(ClientId::default()), limits })
    }

    /// Whom it connects to.
    pub(super) fn server(&self) -> &SmtpServer {
        &self.server
    }

    /// Connects, encrypts and logs in.
    pub(super) async fn connect(&self) -> Result<Connection, Failed> {
        let limit = self.limits.command;
        let tcp = within(self.limits.connect, self.tcp()).await.map_err(at(Phase::Connect))?;
        let hello = &self.hello(&tcp);
        let (mut wire, server) = match self.server.tls {
            TlsMode::None => {
                let mut wire = boxed(tcp);
                wire.reply(220, limit).await.map_err(at(Phase::Connect))?;
                let server = self.ehlo(&mut wire, hello).await?;
                (wire, server)
            }
            TlsMode::Implicit => {
                let mut wire = self.handshake(tcp).await?;
                wire.reply(220, limit).await.map_err(at(Phase::Connect))?;
                let server = self.ehlo(&mut wire, hello).await?;
                (wire, server)
            }
            TlsMode::StartTls => {
                let mut plain = Wire::new(tcp);
                plain.reply(220, limit).await.map_err(at(Phase::Connect))?;
                let offered = self.ehlo(&mut plain, hello).await?;
                if !offered.supports_feature(Extension::StartTls) {
                    return Err((Phase::Tls, Trouble::Protocol("does not offer STARTTLS")));
                }
                plain.command(&Starttls, 220, limit).await.map_err(at(Phase::Tls))?;
                let tcp = plain.into_stream().await.map_err(at(Phase::Tls))?;
                let mut wire = self.handshake(tcp).await?;
                // What was offered before the handshake may have been anybody's offer.
                let server = self.ehlo(&mut wire, hello).await?;
                (wire, server)
            }
        };
        self.log_in(&mut wire, &server).await.map_err(at(Phase::Auth))?;
        Ok(Connection { wire, server, limits: self.limits, dirty: false, mails: 0, refused: 0, used: Instant::now() })
    }

    async fn tcp(&self) -> Result<TcpStream, Trouble> {
        let addresses = tokio::net::lookup_host((self.server.host.as_str(), self.server.port))
            .await
            .map_err(|error| Trouble::Lost(format!("the server's name can't be resolved ({})", error.kind())))?;
        let addresses: Vec<_> = addresses.collect();
        // One address that swallows everything, such as IPv6 on half a network, must leave time for the next.
        let share = self.limits.connect / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let mut last = Trouble::Lost("the server's name has no address".to_owned());
        for address in addresses {
            let connecting = async {
                let stream = TcpStream::connect(address).await;
                stream.map_err(|error| Trouble::Lost(format!("can't connect ({})", error.kind())))
            };
            match within(share, connecting).await {
                Ok(stream) => {
                    // Without it each mail waits for a delayed acknowledgement.
                    stream.set_nodelay(true).map_err(lost)?;
                    return Ok(stream);
                }
                Err(trouble) => last = trouble,
            }
        }
        Err(last)
    }

    /// How this machine introduces itself: by its full name, else by the address that the server sees.
    fn hello(&self, tcp: &TcpStream) -> Ehlo {
        let address = || match tcp.local_addr().map(|address| address.ip().to_canonical()) {
            Ok(IpAddr::V4(ip)) => ClientId::Ipv4(ip),
            Ok(IpAddr::V6(ip)) => ClientId::Ipv6(ip),
            Err(_) => ClientId::Ipv4(Ipv4Addr::LOCALHOST),
        };
        Ehlo::new(self.name.clone().unwrap_or_else(address))
    }

    async fn handshake(&self, tcp: TcpStream) -> Result<Wire<Box<dyn Stream>>, Failed> {
        let name = ServerName::try_from(self.server.host.clone())
            .map_err(|_| (Phase::Tls, Trouble::Protocol("has a name that no certificate can be for")))?;
        let handshake = async {
            let stream = self.tls.connect(name, tcp).await;
            // What rustls says is of certificates and protocols, for people.
            stream.map_err(|error| Trouble::Lost(format!("no encrypted connection: {error}")))
        };
        Ok(boxed(within(self.limits.connect, handshake).await.map_err(at(Phase::Tls))?))
    }

    async fn ehlo<S: Stream>(&self, wire: &mut Wire<S>, hello: &Ehlo) -> Result<ServerInfo, Failed> {
        let reply = wire.command(hello, 250, self.limits.command).await.map_err(at(Phase::Ehlo))?;
        ServerInfo::from_response(&reply.in_capitals())
            .map_err(|_| (Phase::Ehlo, Trouble::Protocol("has a reply to EHLO that can't be read")))
    }

    /// Settings that would send a password unencrypted to another machine have been refused at start.
    async fn log_in<S: Stream>(&self, wire: &mut Wire<S>, server: &ServerInfo) -> Result<(), Trouble> {
        let Some((user, password)) = &self.server.login else { return Ok(()) };
        let credentials = Credentials::new(user.clone(), password.expose().to_owned());
        let mechanism = server
            .get_auth_mechanism(DEFAULT_MECHANISMS)
            .ok_or(Trouble::Protocol("offers no way to log in that is known here"))?;
        let unreadable = |_| Trouble::Protocol("asks for something that is not known here");
        let mut auth = Auth::new(mechanism, credentials.clone(), None).map_err(unreadable)?;
        for _ in 0..4 {
            match self.auth_step(wire, &auth).await? {
                reply if reply.code() == 334 => {
                    auth = Auth::new_from_response(mechanism, credentials.clone(), reply.response())
                        .map_err(unreadable)?;
                }
                _ => return Ok(()),
            }
        }
        Err(Trouble::Protocol("asks without end when one logs in"))
    }

    async fn auth_step<S: Stream>(&self, wire: &mut Wire<S>, auth: &Auth) -> Result<Reply, Trouble> {
        wire.ask(auth, &[235, 334], self.limits.command).await
    }
}

/// A name with a domain and nothing but what names are made of; others are refused by many servers.
fn full_name(name: ClientId) -> Option<ClientId> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    match &name {
        ClientId::Domain(text) if text.trim_matches('.').contains('.') && text.chars().all(plain) => Some(name),
        _ => None,
    }
}

fn at(phase: Phase) -> impl Fn(Trouble) -> Failed {
    move |trouble| (phase, trouble)
}

fn boxed(stream: impl Stream + 'static) -> Wire<Box<dyn Stream>> {
    Wire::new(Box::new(stream))
}

fn tls_connector(server: &SmtpServer) -> Result<TlsConnector, String> {
    let mut roots = rustls::RootCertStore::empty();
    match &server.ca {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())? {
                let certificate = certificate.map_err(|error| error.to_string())?;
                roots.add(certificate).map_err(|error| error.to_string())?;
            }
        }
    }
    if roots.is_empty() {
        return Err("the file holds no certificate".to_owned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_full_names_are_told() {
        let told = |name: &str| full_name(ClientId::Domain(name.to_owned())).is_some();
        for name in ["relay.example.com", "r-1.example.com"] {
            assert!(told(name), "{name}");
        }
        for name in ["", "relay", "relay.", "my relay.example.com", "a.b\r\nRSET", "rel\u{e9}.example.com"] {
            assert!(!told(name), "{name}");
        }
    }
}
