//! Coming in and going out.

#![expect(clippy::result_large_err, reason = "a refusal is a whole answer, and is rare")]

use std::time::Duration;

use poem::http::{StatusCode, Uri, header};
use poem::web::Data;
use poem::{IntoResponse, Request, Response, handler};
use std::sync::Arc;
use time::OffsetDateTime;

use super::guard::{self, Fields};
use super::query::Query;
use super::session::{LASTS, Role};
use super::view::Message;
use super::{App, see_other};

/// The cookie's name, which differs by port: browsers don't tell the ports of a host apart. The second one is bound
/// to TLS by its prefix, and the only one that is taken elsewhere than on this machine.
pub fn cookie_names(app: &App, host: &str) -> Vec<String> {
    let port = app.settings.listen.port();
    let mut names = vec![format!("__Host-aftercommit-{port}")];
    if guard::is_loopback(host) {
        names.push(format!("aftercommit-{port}"));
    }
    names
}

/// The header that sets a session's cookie.
pub fn cookie(app: &App, host: &str, secure: bool, value: &str) -> String {
    let names = cookie_names(app, host);
    let (name, flag) = match (secure, names.get(1)) {
        (false, Some(plain)) => (plain, ""),
        _ => (&names[0], "; Secure"),
    };
    let age = if value.is_empty() { 0 } else { LASTS };
    format!("{name}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{flag}")
}

/// What a token lets its bearer do; a wrong one is counted.
pub fn check(app: &App, request: &Request, token: &str) -> Result<Role, Response> {
    let (address, now) = guard::sender(request);
    let mut attempts = app.attempts();
    if let Some(wait) = attempts.refuses(address, now) {
        return Err(too_many(app, wait));
    }
    app.door.role_of(token).ok_or_else(|| {
        attempts.wrong(address, now);
        app.refuse(StatusCode::UNAUTHORIZED, Message::WRONG_TOKEN)
    })
}

fn too_many(app: &App, wait: Duration) -> Response {
    let seconds = wait.as_secs().max(1).to_string();
    app.refuse(StatusCode::TOO_MANY_REQUESTS, Message::TOO_MANY)
        .with_header(header::RETRY_AFTER, seconds)
        .into_response()
}

/// To the form, and back to where they wanted to go.
pub fn send_there(wanted: &Uri) -> Response {
    let wanted = wanted.path_and_query().map_or("/", |path| path.as_str());
    let next: String = url::form_urlencoded::byte_serialize(wanted.as_bytes()).collect();
    see_other(&format!("/login?next={next}"))
}

/// A page that goes on to itself, so that the strict cookie comes along.
pub fn go_on(app: &App, wanted: &Uri) -> Response {
    let wanted = local(wanted.path_and_query().map_or("/", |path| path.as_str()));
    app.view.bare("go_on.html", minijinja::context! { title => "Go on", next => wanted }).into_response()
}

/// `GET /login`
#[handler]
pub fn form(app: Data<&Arc<App>>, request: &Request) -> Response {
    if !app.door.asks_for_a_token() {
        return see_other("/");
    }
    let query = Query::parse(request.uri().query().unwrap_or_default());
    page(&app, StatusCode::OK, query.get("next"), "")
}

/// `POST /login`
#[handler]
pub fn enter(app: Data<&Arc<App>>, request: &Request, fields: Data<&Fields>) -> Response {
    let host = request.header(header::HOST).unwrap_or_default();
    let secure = request.header(header::ORIGIN).is_some_and(|origin| origin.starts_with("https://"));
    if !secure && !guard::is_loopback(host) {
        return page(
            &app,
            StatusCode::BAD_REQUEST,
            fields.get("next"),
            "A token is taken over https only. Reach the dashboard by a proxy that ends TLS, or by a tunnel to this machine's loopback address.",
        );
    }
    let role = match check(&app, request, fields.get("token")) {
        Ok(role) => role,
        Err(refused) if refused.status() == StatusCode::UNAUTHORIZED => {
            return page(&app, StatusCode::UNAUTHORIZED, fields.get("next"), "That is no token of this dashboard.");
        }
        Err(refused) => return refused,
    };
    let session = app.door.begin(role, fields.get("name"), OffsetDateTime::now_utc().unix_timestamp());
    tracing::info!(role = role.as_str(), "somebody came into the dashboard");
    let cookie = cookie(&app, host, secure, &app.door.seal(&session));
    see_other(local(fields.get("next"))).with_header(header::SET_COOKIE, cookie).into_response()
}

/// `POST /logout`
#[handler]
pub fn leave(app: Data<&Arc<App>>, request: &Request) -> Response {
    let host = request.header(header::HOST).unwrap_or_default();
    let secure = request.header(header::ORIGIN).is_some_and(|origin| origin.starts_with("https://"));
    see_other("/").with_header(header::SET_COOKIE, cookie(&app, host, secure, "")).into_response()
}

fn page(app: &App, status: StatusCode, next: &str, problem: &str) -> Response {
    let values = minijinja::context! { title => "Log in", next => local(next), problem };
    app.view.bare("login.html", values).with_status(status).into_response()
}

/// A path on this very server, or its front page.
fn local(path: &str) -> &str {
    let fits = path.starts_with('/')
        && !path.starts_with("//")
        && !path.contains('\\')
        && !path.contains(|c: char| c.is_control());
    if fits { path } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::local;

    #[test]
    fn nobody_is_sent_elsewhere() {
        for path in ["/", "/jobs?state=dead", "/a//b"] {
            assert_eq!(local(path), path);
        }
        for path in ["", "https://evil.example", "//evil.example", "/\\evil.example", "jobs", "/\r\nX: y"] {
            assert_eq!(local(path), "/", "{path:?}");
        }
    }
}
