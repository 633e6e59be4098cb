//! The captured mail of a development system, where mail goes to a directory instead of a server.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use minijinja::{Value, context};
use poem::http::StatusCode;
use poem::web::Data;
use poem::{Response, handler};
use uuid::Uuid;

use super::pages::{Problem, id_of};
use super::view::Page;
use super::{App, guard, mail};
use crate::mail::preview::Preview;

/// Mails that are listed.
const MOST: usize = 100;

/// The page.
///
/// # Errors
/// When mail does not go to a directory, or it can't be read.
pub async fn page(app: &App) -> Result<Page, Problem> {
    let directory = directory(app)?;
    let mut files = files(directory).await.map_err(|error| unreadable(&error))?;
    files.sort_by_key(|file| std::cmp::Reverse(*file));
    let total = files.len();
    files.truncate(MOST);
    let mut mails: Vec<Value> = Vec::new();
    for (at, job_id) in files {
        // One that went meanwhile is not shown.
        let Ok(bytes) = read(directory, job_id).await else { continue };
        let mail = Preview::of(&bytes);
        let at = at.duration_since(SystemTime::UNIX_EPOCH).map(|age| age.as_secs_f64()).ok();
        mails.push(
            context! { job_id => job_id.to_string(), at, to => mail.header("To"), subject => mail.header("Subject") },
        );
    }
    Ok(Page {
        title: "Mailbox".to_owned(),
        section: "/mailbox",
        template: "mailbox.html",
        values: context! { mails, total, directory => directory.display().to_string() },
    })
}

/// One captured mail.
///
/// # Errors
/// When there is none of that id.
pub async fn mail_page(app: &App, job_id: Uuid) -> Result<Page, Problem> {
    let bytes = read(directory(app)?, job_id).await.map_err(|_| none(job_id))?;
    let mail = Preview::of(&bytes);
    Ok(Page {
        title: mail.header("Subject").to_owned(),
        section: "/mailbox",
        template: "mail.html",
        values: context! {
            job_id => job_id.to_string(),
            job_state => "succeeded",
            error => (),
            mail => mail::values(&mail),
            frame => format!("/mailbox/{job_id}/html"),
            links => links(&mail.text),
            captured => true,
        },
    })
}

/// `GET /mailbox/:id/html`
#[handler]
pub async fn html_part(app: Data<&Arc<App>>, poem::web::Path(id): poem::web::Path<String>) -> Response {
    let (Ok(job_id), Ok(directory)) = (id_of(&id), directory(&app)) else { return guard::empty(StatusCode::NOT_FOUND) };
    match read(directory, job_id).await {
        Ok(bytes) => mail::framed(Preview::of(&bytes).html),
        Err(_) => guard::empty(StatusCode::NOT_FOUND),
    }
}

fn directory(app: &App) -> Result<&Path, Problem> {
    let there = app.email.mailbox();
    there.ok_or_else(|| {
        Problem::NotFound(
            "Mail goes to a server here. It is captured where SMTP_URL names a directory (file:///…).".to_owned(),
        )
    })
}

fn unreadable(error: &std::io::Error) -> Problem {
    Problem::Away(format!("the mailbox directory can't be read ({})", error.kind()))
}

fn none(job_id: Uuid) -> Problem {
    Problem::NotFound(format!("There is no mail of job {job_id} in the mailbox."))
}

/// The mails there are: a file is named by its job, and any other name is a file that is still being written.
async fn files(directory: &Path) -> std::io::Result<Vec<(SystemTime, Uuid)>> {
    let mut entries = tokio::fs::read_dir(directory).await?;
    let mut files = Vec::new();
    while let Some(entry) = entries.next_entry().await? {
        let name = entry.file_name();
        let job_id = name.to_str().and_then(|name| name.strip_suffix(".eml")?.parse().ok());
        if let (Some(job_id), Ok(metadata)) = (job_id, entry.metadata().await) {
            files.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), job_id));
        }
    }
    Ok(files)
}

async fn read(directory: &Path, job_id: Uuid) -> std::io::Result<Vec<u8>> {
    tokio::fs::read(directory.join(format!("{job_id}.eml"))).await
}

fn links(text: &str) -> Vec<String> {
    let words = text.split(|c: char| c.is_whitespace() || "<>\"".contains(c));
    words.filter(|word| word.starts_with("http://") || word.starts_with("https://")).map(str::to_owned).collect()
}
