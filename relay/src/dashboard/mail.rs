//! The mail of a job, as it is sent.

use std::sync::Arc;

use minijinja::{Value, context};
use poem::http::{StatusCode, header};
use poem::web::{Data, Path};
use poem::{Response, handler};
use uuid::Uuid;

use super::pages::{Problem, id_of};
use super::view::Page;
use super::{App, guard};
use crate::mail::KIND;
use crate::mail::preview::Preview;
use crate::operate::job;

/// What the HTML of a mail may do in its frame: show itself, with the styles that it brings. No script, no load from
/// anywhere, no form, no way out.
const FRAME_POLICY: &str = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; \
                            base-uri 'none'; form-action 'none'";

/// The page.
///
/// # Errors
/// When there is no such job, it is no mail, or the jobs database is away.
pub async fn page(app: &App, job_id: Uuid) -> Result<Page, Problem> {
    let (state, made) = preview(app, job_id).await?;
    let subject = made.as_ref().map(|mail| mail.header("Subject").to_owned()).unwrap_or_default();
    Ok(Page {
        title: if subject.is_empty() { "Mail".to_owned() } else { subject },
        section: "/jobs",
        template: "mail.html",
        values: context! {
            job_id => job_id.to_string(),
            job_state => state,
            error => made.as_ref().err(),
            mail => made.as_ref().ok().map(values),
            frame => format!("/jobs/{job_id}/mail/html"),
            links => Vec::<String>::new(),
            captured => false,
        },
    })
}

/// A mail for the template.
pub fn values(mail: &Preview) -> Value {
    context! { headers => mail.headers.clone(), text => mail.text.as_str(), has_html => !mail.html.trim().is_empty(), size => mail.size }
}

async fn preview(app: &App, job_id: Uuid) -> Result<(&'static str, Result<Preview, String>), Problem> {
    let connection = app.store.jobs().await?;
    let found = job::show(connection.client(), job_id).await?;
    connection.give_back();
    let Some(job) = found else { return Err(Problem::NotFound(format!("There is no job {job_id}."))) };
    if job.row.kind != KIND {
        return Err(Problem::NotFound(format!("Job {job_id} is of kind {}, which is no mail.", job.row.kind)));
    }
    let made = match job.occurred_at {
        Some(occurred_at) => app.email.preview(job_id, &job.args, occurred_at),
        None => Err("occurred_at is outside of the years that a mail can bear".to_owned()),
    };
    Ok((job.row.state_name(), made))
}

/// `GET /jobs/:id/mail/html`: the HTML alone, for the frame.
#[handler]
pub async fn html_part(app: Data<&Arc<App>>, Path(id): Path<String>) -> Response {
    let Ok(job_id) = id_of(&id) else { return guard::empty(StatusCode::NOT_FOUND) };
    match preview(&app, job_id).await {
        Ok((_, Ok(mail))) => framed(mail.html),
        Ok((_, Err(_))) | Err(Problem::NotFound(_)) => guard::empty(StatusCode::NOT_FOUND),
        Err(_) => guard::empty(StatusCode::SERVICE_UNAVAILABLE),
    }
}

/// The HTML of a mail, locked in.
pub fn framed(html: String) -> Response {
    Response::builder()
        .content_type("text/html; charset=utf-8")
        .header(header::CONTENT_SECURITY_POLICY, FRAME_POLICY)
        .header(header::X_FRAME_OPTIONS, "SAMEORIGIN")
        .body(html)
}
