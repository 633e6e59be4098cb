//! The HTTP client of the export: one request, one connection, over the same TLS as everything else.
//!
//! The library calls it from a thread of its own; the work is done on the runtime. A collector that is away is reported
//! once, and once more when it is back.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{HOST, HeaderValue};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_rustls::TlsConnector;
use url::Url;

/// An export that takes longer is given up.
const LIMIT: Duration = Duration::from_secs(5);
/// The longest answer that is read.
const LONGEST_ANSWER: usize = 1 << 20;

/// See the module.
pub(super) struct Client {
    runtime: Handle,
    server: Arc<Server>,
    away: AtomicBool,
}

struct Server {
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
}

impl Client {
    /// For a collector. To be called within the runtime.
    pub(super) fn new(url: &Url) -> anyhow::Result<Self> {
        let tls = (url.scheme() == "https").then(tls_connector).transpose()?;
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().unwrap_or(4318);
        Ok(Self {
            runtime: Handle::current(),
            server: Arc::new(Server { host, port, tls }),
            away: AtomicBool::new(false),
        })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let server = self.server.clone();
        // Awaited on a thread that is none of the runtime's: there only the answer arrives.
        let sending = self.runtime.spawn(async move { tokio::time::timeout(LIMIT, server.send(request)).await });
        let answer: Result<Response<Bytes>, HttpError> = match sending.await {
            Ok(Ok(Ok(answer))) if answer.status().is_success() => Ok(answer),
            Ok(Ok(Ok(answer))) => Err(format!("the collector answers {}", answer.status()).into()),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_)) => Err("the collector does not answer".into()),
            Err(_) => Err("this process is stopping".into()),
        };
        match &answer {
            Ok(_) if self.away.swap(false, Ordering::Relaxed) => tracing::info!("traces are exported again"),
            Err(error) if !self.away.swap(true, Ordering::Relaxed) => {
                tracing::warn!(%error, "traces can't be exported and are dropped meanwhile; nothing else is affected");
            }
            _ => {}
        }
        answer
    }
}

impl Server {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
        match &self.tls {
            None => exchange(tcp, request).await,
            Some(tls) => exchange(tls.connect(ServerName::try_from(self.host.clone())?, tcp).await?, request).await,
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, HttpError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let (mut head, body) = request.into_parts();
    if let Some(authority) = head.uri.authority() {
        head.headers.insert(HOST, HeaderValue::from_str(authority.as_str())?);
    }
    // One server, asked directly: the target is the path alone.
    head.uri = head.uri.path().parse()?;
    let (head, body) = sender.send_request(Request::from_parts(head, Full::new(body))).await?.into_parts();
    let body = Limited::new(body, LONGEST_ANSWER).collect().await?.to_bytes();
    connection.abort();
    Ok(Response::from_parts(head, body))
}

fn tls_connector() -> anyhow::Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
