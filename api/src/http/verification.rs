//! The page behind the link in the verification email.
//!
//! Mail scanners follow links, so GET shows a button and changes nothing; the button's POST consumes the token.

use std::sync::Arc;

use poem::http::{HeaderMap, StatusCode, header};
use poem::web::{Data, Form, Query};
use poem::{IntoResponse, Request, Response, handler};
use serde::Deserialize;
use shared::token::TokenError;
use time::OffsetDateTime;

use super::problem::Refusal;
use super::{App, client};
use crate::commands::request_verification::request_verification_by_token;
use crate::commands::verify_email::{Outcome, verify_email};

/// Of the link, and of the buttons.
#[derive(Deserialize)]
pub struct Token {
    #[serde(default)]
    token: String,
}

/// `GET /verify-email`: the button. Whether the token is good is not told before it is pressed.
#[handler]
pub fn show(Query(Token { token }): Query<Token>) -> Response {
    let button = button("/verify-email", &token, "Verify my address");
    page(
        StatusCode::OK,
        "Verify your address",
        &format!("<p>Press the button to verify your email address.</p>{button}"),
    )
}

/// `POST /verify-email`: consumes the token.
#[handler]
pub async fn consume(request: &Request, app: Data<&Arc<App>>, form: poem::Result<Form<Token>>) -> Response {
    if is_foreign(request.headers(), &app) {
        return foreign();
    }
    let Ok(Form(Token { token })) = form else { return invalid() };
    match verify_email(&app.context(request), &app.config.keys, &token).await {
        Ok(Outcome::Verified) => {
            page(StatusCode::OK, "Address verified", "<p>Thank you: your email address is verified.</p>")
        }
        Ok(Outcome::AlreadyVerified) => page(
            StatusCode::OK,
            "Already verified",
            "<p>Your email address is already verified. There is nothing to do.</p>",
        ),
        Ok(Outcome::Expired) => {
            let button = button("/verify-email/again", &token, "Send a new link");
            let text = format!("<p>This link is too old. A new one can be sent to the same address.</p>{button}");
            page(StatusCode::GONE, "Link expired", &text)
        }
        Ok(Outcome::Invalid) => invalid(),
        Err(error) => Refusal::from(error).into_response(),
    }
}

/// `POST /verify-email/again`: a new link, for whoever holds one whose time is over.
#[handler]
pub async fn again(request: &Request, app: Data<&Arc<App>>, form: poem::Result<Form<Token>>) -> Response {
    if is_foreign(request.headers(), &app) {
        return foreign();
    }
    let Ok(Form(Token { token })) = form else { return invalid() };
    let keys = &app.config.keys;
    let checked = match keys.check(&token, OffsetDateTime::now_utc()) {
        Ok(checked) | Err(TokenError::Expired(checked)) => checked,
        Err(TokenError::Invalid) => return invalid(),
    };
    let network = client::network(request, &app.config.trusted_proxies);
    match request_verification_by_token(&app.context(request), &app.config.limits, &network, keys, &checked).await {
        Ok(()) => {
            page(StatusCode::OK, "On its way", "<p>If your address is not verified yet, a new link is on its way.</p>")
        }
        Err(error) => Refusal::from(error).into_response(),
    }
}

/// Whether another site's page sent the request. Browsers say so themselves; what says nothing is no browser.
fn is_foreign(headers: &HeaderMap, app: &App) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let site = text("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none"));
    let origin = text("origin").is_some_and(|origin| origin != app.config.public_url.origin());
    site || origin
}

fn foreign() -> Response {
    page(StatusCode::FORBIDDEN, "Not from here", "<p>This request came from another site and was not carried out.</p>")
}

fn invalid() -> Response {
    page(
        StatusCode::BAD_REQUEST,
        "Link not valid",
        "<p>This link is not valid, or was made for another address. Check that it was copied whole.</p>",
    )
}

fn button(action: &str, token: &str, label: &str) -> String {
    // Tokens are base64url; whatever else was sent is not shown again.
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let token: String = token.chars().filter(|c| plain(*c)).take(2048).collect();
    format!(
        r#"<form method="post" action="{action}"><input type="hidden" name="token" value="{token}"><button>{label}</button></form>"#
    )
}

/// The style of the pages, served from its own address because the policy allows no other.
pub const STYLE: &str = "
:root { color-scheme: light dark; font-family: system-ui, sans-serif; line-height: 1.5 }
body { margin: 15vh auto 0; max-width: 30rem; padding: 0 1.25rem }
h1 { font-size: 1.4rem }
button { font: inherit; padding: .7rem 1.2rem; border: 0; border-radius: .4rem; background: #1f5fd0; color: #fff; cursor: pointer }
button:focus-visible { outline: 3px solid #7aa7ff; outline-offset: 2px }
";

/// `GET /style.css`
#[handler]
pub fn style() -> Response {
    Response::builder()
        .content_type("text/css; charset=utf-8")
        .header(header::CACHE_CONTROL, "max-age=3600")
        .body(STYLE)
}

fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <link rel=\"stylesheet\" href=\"/style.css\"></head><body><main><h1>{title}</h1>{body}</main></body></html>"
    );
    Response::builder()
        .status(status)
        .content_type("text/html; charset=utf-8")
        .header(header::CACHE_CONTROL, "no-store")
        .header(
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        )
        .body(html)
}
