//! What every request passes before any page is made.
//!
//! Loopback is no protection: any page in the operator's browser can send requests to it, and a name that its owner
//! points at 127.0.0.1 makes such a page "same-origin". So the host must be one that we are known by, a change must
//! come from our own page and carry the token of one of its forms, and only navigation may come from elsewhere.

#![expect(clippy::result_large_err, reason = "a refusal is a whole answer, and is rare")]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use poem::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use poem::{Body, IntoResponse, Request, Response};
use time::OffsetDateTime;

use super::App;
use super::login;
use super::session::{Role, Session};
use super::view::Message;

/// The most that a form of ours could hold.
const LARGEST_FORM: usize = 64 << 10;
/// How long a form may take to arrive.
const FORM_PATIENCE: Duration = Duration::from_secs(10);

/// What a page may do in a browser: nothing but show itself, its own style, script and frames.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; \
                      frame-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Who sent a request.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// Their session.
    pub session: Session,
    /// The cookie to be set, when they had none.
    cookie: Option<String>,
}

/// The fields of a form whose token was checked.
#[derive(Clone, Debug, Default)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// A field's value; empty when it is not there.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(field, _)| field == name).map(|(_, value)| value.trim()).unwrap_or_default()
    }

    /// All fields but the form's token.
    pub fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter(|(name, _)| name != "form").map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Lets a request through, with who sent it and the form it brings, or answers it.
pub async fn admit(app: &App, request: &mut Request) -> Result<(), Response> {
    let host = known_host(app, request)?;
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    from_our_own_page(app, request.headers(), &host, changes)?;
    let path = request.uri().path().to_owned();
    if path.starts_with("/assets/") {
        return Ok(());
    }
    if changes {
        let fields = form(app, request).await?;
        request.extensions_mut().insert(fields);
    }
    if path == "/login" {
        return Ok(());
    }
    let visitor = visitor(app, request, &host)?;
    if changes {
        let fields = request.extensions().get::<Fields>().cloned().unwrap_or_default();
        let by_bearer = bearer(request.headers()).is_some();
        // A bearer token is sent by no browser on its own.
        if !by_bearer && !app.door.is_form_of(&visitor.session, fields.get("form")) {
            return Err(app.refuse(StatusCode::FORBIDDEN, Message::STALE_FORM));
        }
        if visitor.session.role != Role::Operator && path != "/logout" {
            return Err(app.refuse(StatusCode::FORBIDDEN, Message::READ_ONLY));
        }
    }
    request.extensions_mut().insert(visitor);
    Ok(())
}

/// What every answer says, whatever it is.
pub fn dress(response: &mut Response, visitor: Option<&Visitor>) {
    let headers = response.headers_mut();
    let mut set = |name: header::HeaderName, value: &'static str| {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    };
    set(header::CONTENT_SECURITY_POLICY, POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    // Not "no-referrer": browsers then send the origin of our own forms as "null".
    set(header::REFERRER_POLICY, "same-origin");
    set(header::CACHE_CONTROL, "no-store");
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    set(header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    if let Some(cookie) = visitor.and_then(|visitor| visitor.cookie.as_deref())
        && let Ok(cookie) = HeaderValue::from_str(cookie)
    {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}

/// The host that was asked for, without its port, if it is one of ours.
fn known_host(app: &App, request: &Request) -> Result<String, Response> {
    let mut named = request.headers().get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or_default());
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let host = match (named.next(), authority) {
        (Some(host), None) => host,
        (None, Some(authority)) => authority,
        (Some(host), Some(authority)) if host == authority => host,
        _ => "",
    };
    let name = without_port(host);
    let only_one = named.next().is_none();
    let listens_here_only = app.settings.listen.ip().is_loopback();
    let known = match name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        // An address is nobody's name: a page can't be served from it by another server.
        Ok(address) => address.is_loopback() || !listens_here_only,
        Err(_) => name == "localhost" || app.settings.hosts.contains(&name),
    };
    if known && only_one {
        Ok(host.to_ascii_lowercase())
    } else {
        Err(app.refuse(StatusCode::MISDIRECTED_REQUEST, Message::HOST))
    }
}

fn without_port(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.to_ascii_lowercase()
}

/// Whether a host, as asked for, is this machine: there, cookies need no TLS.
pub fn is_loopback(host: &str) -> bool {
    let name = without_port(host);
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Whether the page that a request comes from may send it. Browsers tell; what tells nothing is no browser, or one
/// too old to be trusted with changes.
fn from_our_own_page(app: &App, headers: &HeaderMap, host: &str, changes: bool) -> Result<(), Response> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let (site, origin) = (text("sec-fetch-site"), text("origin"));
    let foreign_site = site.is_some_and(|site| !matches!(site, "same-origin" | "none"));
    let our_origin = |origin: &str| origin.split_once("://").is_some_and(|(_, authority)| authority == host);
    let ours = if changes {
        let told = site.is_some() || origin.is_some() || bearer(headers).is_some();
        told && !foreign_site && origin.is_none_or(our_origin)
    } else {
        let navigates = text("sec-fetch-mode") == Some("navigate") && text("sec-fetch-dest") == Some("document");
        !foreign_site || navigates
    };
    if ours { Ok(()) } else { Err(app.refuse(StatusCode::FORBIDDEN, Message::FOREIGN)) }
}

async fn form(app: &App, request: &mut Request) -> Result<Fields, Response> {
    let body = request.take_body().into_bytes_limit(LARGEST_FORM);
    match tokio::time::timeout(FORM_PATIENCE, body).await {
        Ok(Ok(bytes)) => Ok(Fields(url::form_urlencoded::parse(&bytes).into_owned().collect())),
        Ok(Err(_)) => Err(app.refuse(StatusCode::PAYLOAD_TOO_LARGE, Message::LARGE_FORM)),
        Err(_) => Err(app.refuse(StatusCode::REQUEST_TIMEOUT, Message::SLOW_FORM)),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Who it is: by bearer token, by cookie, or anybody where no token is asked for.
fn visitor(app: &App, request: &Request, host: &str) -> Result<Visitor, Response> {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    if let Some(token) = bearer(request.headers()).filter(|_| app.door.asks_for_a_token()) {
        let role = login::check(app, request, token)?;
        return Ok(Visitor { session: app.door.begin(role, "bearer token", now), cookie: None });
    }
    let names = login::cookie_names(app, host);
    let cookies = request.headers().get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut cookies = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let session = cookies
        .find_map(|(name, value)| names.iter().any(|known| known == name).then(|| app.door.open(value, now)).flatten());
    if let Some(session) = session {
        return Ok(Visitor { session, cookie: None });
    }
    if request.headers().get("sec-fetch-site").is_some_and(|site| site == "cross-site" || site == "same-site") {
        // A strict cookie does not come along with a link from elsewhere. Our own page, going on to itself, brings it.
        return Err(login::go_on(app, request.uri()));
    }
    if !app.door.asks_for_a_token() {
        let session = app.door.begin(Role::Operator, "", now);
        let cookie = login::cookie(app, host, false, &app.door.seal(&session));
        return Ok(Visitor { session, cookie: Some(cookie) });
    }
    if *request.method() == Method::GET && request.uri().path() != "/live" {
        return Err(login::send_there(request.uri()));
    }
    Err(app
        .refuse(StatusCode::UNAUTHORIZED, Message::NOBODY)
        .with_header(header::WWW_AUTHENTICATE, "Bearer realm=\"aftercommit relay\"")
        .into_response())
}

/// An instant and the address at the other end, for counting attempts.
pub fn sender(request: &Request) -> (IpAddr, Instant) {
    let address = request.remote_addr().as_socket_addr().map_or(IpAddr::from([0, 0, 0, 0]), |address| address.ip());
    (address, Instant::now())
}

/// For answers without a body of their own.
pub fn empty(status: StatusCode) -> Response {
    Response::builder().status(status).body(Body::empty())
}
