//! One walk through the system, as a person and an operator would see it: register, read the mail, follow the link,
//! press the button, be welcomed. Then the path of each event, by the times that the databases hold.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::databases::{Databases, Role};
use tests::http::{self, Answer};
use tests::mailbox::Mail;
use tests::page::form_field;
use uuid::Uuid;

use crate::screen::{Screen, took};
use crate::system::System;

/// Walks through the system; an error if anything is not as promised.
pub async fn walk(system: &System, screen: &Screen) -> Result<()> {
    screen.heading("The walk");
    let api = &system.api.url;
    let suffix = Uuid::new_v4().simple().to_string();
    let email = format!("ada+{}@example.org", &suffix[..6]);

    let step = Instant::now();
    let body = json!({ "email": email, "display_name": "Ada Lovelace" });
    let registered = expect(http::post_json(&format!("{api}/v1/users"), &body).await?, 201)?;
    let user = format!("{api}{}", registered.header("Location").context("no Location")?);
    screen.item("register", &format!("POST /v1/users for {email} → 201"), &took(step.elapsed()));

    let mail = arrived(system, &email, 1, step, screen).await?;
    let link = mail.link()?;

    let step = Instant::now();
    let page = expect(http::get(link.as_str()).await?, 200)?;
    let token = form_field(&page.body, "token").context("the page has no button")?;
    ensure!(!is_verified(&user).await?, "following the link alone has verified the address");
    screen.item("link", "GET /verify-email → 200, a page with a button", &took(step.elapsed()));

    let step = Instant::now();
    expect(http::post_form(&format!("{api}/verify-email"), &[("token", &token)]).await?, 200)?;
    ensure!(is_verified(&user).await?, "pressing the button has not verified the address");
    screen.item("button", "POST /verify-email → 200, the address is verified", &took(step.elapsed()));

    arrived(system, &email, 2, step, screen).await?;
    let user_id = user.rsplit('/').next().unwrap_or_default();
    show_path(&system.databases, user_id, screen).await
}

fn expect(answer: Answer, status: u16) -> Result<Answer> {
    ensure!(answer.status == status, "{status} was expected, not {}: {}", answer.status, answer.body);
    Ok(answer)
}

async fn is_verified(user: &str) -> Result<bool> {
    let user = expect(http::get(user).await?, 200)?.json()?;
    user["email_verified"].as_bool().with_context(|| format!("no email_verified in {user}"))
}

async fn arrived(system: &System, email: &str, count: usize, since: Instant, screen: &Screen) -> Result<Mail> {
    let mut mails = system.mailbox.wait_for(email, count).await?;
    ensure!(mails.len() == count, "{} mails came where {count} were due", mails.len());
    let mail = mails.pop().context("a mail")?;
    screen.item("mail", &format!("\"{}\"", mail.subject), &took(since.elapsed()));
    Ok(mail)
}

/// Purpose: a user's events and when each was committed, in seconds.
const EVENTS: &str = "
SELECT event_id, event_type, aftercommit.lane(aggregate_id),
       to_char(committed AT TIME ZONE 'UTC', 'HH24:MI:SS.MS'), extract(epoch FROM committed)::float8
  FROM (SELECT *, coalesce(pg_xact_commit_timestamp(transaction_id::xid), occurred_at) AS committed
          FROM aftercommit.outbox) AS event
 WHERE aggregate_type = 'user' AND aggregate_id = $1
 ORDER BY position";

/// Purpose: an event's jobs, when each was stored by the dispatching transaction, and when it was delivered.
const JOBS: &str = "
SELECT handler, state, attempt::int, extract(epoch FROM created_at)::float8, extract(epoch FROM finished_at)::float8
  FROM aftercommit.jobs
 WHERE event_id = $1
 ORDER BY job_id";

async fn show_path(databases: &Databases, user_id: &str, screen: &Screen) -> Result<()> {
    screen.heading("The path of each event, by the databases' clock");
    let app = databases.app.connect(Role::Superuser).await?;
    let jobs = databases.jobs.connect(Role::Superuser).await?;
    for event in app.query(EVENTS, &[&user_id]).await? {
        let (id, name, lane): (Uuid, &str, i16) = (event.get(0), event.get(1), event.get(2));
        let (clock, committed): (&str, f64) = (event.get(3), event.get(4));
        let since = |time: f64| format!("+{:.1} ms", (time - committed) * 1000.0);
        screen.item("event", name, &format!("{id}"));
        screen.item("  commit", &format!("{clock} UTC"), "with the user, in one transaction of the app database");
        for job in jobs.query(JOBS, &[&id]).await? {
            let (handler, state, attempt): (&str, &str, i32) = (job.get(0), job.get(1), job.get(2));
            let finished: Option<f64> = job.get(4);
            ensure!(state == "succeeded", "the job of {handler} is {state}");
            screen.item("  dispatch", &since(job.get(3)), &format!("lane {lane}, handler {handler}"));
            screen.item("  job", "stored", "with the lane's cursor, in one transaction of the jobs database");
            screen.item("  delivery", &since(finished.context("finished")?), &format!("attempt {attempt}"));
        }
        screen.line("");
    }
    Ok(())
}
