//! An HTTP client for tests and the demo: one request, one connection, one answer read whole.
//!
//! It follows no redirects and repeats nothing: what a test asserts is what the server said.

use std::time::Duration;

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use url::Url;

const PATIENCE: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, as text.
    pub body: String,
}

impl Answer {
    /// A header's value, if it is there and readable.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.body)
            .with_context(|| format!("{} with a body that is no JSON: {}", self.status, self.body))
    }
}

/// GET.
pub async fn get(url: &str) -> Result<Answer> {
    send(Method::GET, url, &[], Bytes::new()).await
}

/// POST of a JSON document.
pub async fn post_json(url: &str, body: &serde_json::Value) -> Result<Answer> {
    send(Method::POST, url, &[(CONTENT_TYPE, "application/json")], body.to_string().into()).await
}

/// POST of a form, as a page's button does it.
pub async fn post_form(url: &str, fields: &[(&str, &str)]) -> Result<Answer> {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    send(Method::POST, url, &[(CONTENT_TYPE, "application/x-www-form-urlencoded")], body.into()).await
}

/// Any request.
pub async fn send(method: Method, url: &str, headers: &[(HeaderName, &str)], body: Bytes) -> Result<Answer> {
    let url = Url::parse(url).with_context(|| format!("{url:?} is no URL"))?;
    let exchange = exchange(method, &url, headers, body);
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .context("no answer in time")
        .flatten()
        .with_context(|| url.to_string())
}

async fn exchange(method: Method, url: &Url, headers: &[(HeaderName, &str)], body: Bytes) -> Result<Answer> {
    let host = url.host_str().context("no host")?;
    let port = url.port_or_known_default().context("no port")?;
    let stream = TcpStream::connect((host, port)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);

    let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let mut request = Request::builder().method(method).uri(target);
    if headers.iter().all(|(name, _)| name != HOST) {
        request = request.header(HOST, format!("{host}:{port}"));
    }
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    let (parts, body) = sender.send_request(request.body(Full::new(body))?).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    connection.abort();
    Ok(Answer { status: parts.status, headers: parts.headers, body: String::from_utf8_lossy(&body).into_owned() })
}
