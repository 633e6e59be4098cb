//! `relay events tail`: events as they become visible, with what becomes of them.

use std::time::Duration;

use clap::Args as ClapArgs;
use shared::database_url::DatabaseUrl;
use shared::settings::Faults;
use shared::shutdown;
use shared::telemetry::complain;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::args::FilterArgs;
use super::follow::Follow;
use crate::cli::answer::Form;
use crate::cli::jobs::{connect, refuse};
use crate::config::{ApplicationDatabaseArgs, JobsDatabaseArgs};
use crate::databases;
use crate::events::tail::Tail;
use crate::outbox::page::Filter;
use crate::wake::{Bell, listen_to_outbox};

/// How often the outbox is looked at when no notification came.
const POLL: Duration = Duration::from_secs(1);
/// How often results are asked for while some are awaited.
const RESULTS: Duration = Duration::from_millis(250);

/// Which, and for how long.
#[derive(ClapArgs, Clone, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    filter: FilterArgs,
    /// End after so many events, once it is known what became of them [default: until interrupted]
    #[arg(long, short = 'n', value_name = "NUMBER")]
    count: Option<usize>,
    /// Only the events, not what becomes of them; needs no jobs database
    #[arg(long)]
    events_only: bool,
    /// Answer in JSON, one object a line, errors too
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    application: ApplicationDatabaseArgs,
    #[command(flatten)]
    jobs: JobsDatabaseArgs,
}

pub(super) async fn run(args: Args, mut faults: Faults) -> u8 {
    let form = Form::of(args.json);
    let filter = args.filter.read(&mut faults);
    let application = args.application.read(&mut faults);
    let jobs = if args.events_only { None } else { Some(args.jobs.read(&mut faults)) };
    if let Err(code) = form.check(faults) {
        return code;
    }
    let (Some(application), Some(jobs)) = (application, jobs.map_or(Some(None), |jobs| jobs.map(Some))) else {
        return crate::cli::EXIT_SETTINGS;
    };
    let stop = match shutdown::on_signals() {
        Ok(stop) => stop,
        Err(error) => return form.refuse(&format!("{error:#}"), 1),
    };
    let jobs = match jobs {
        None => None,
        Some(url) => match connect(form, &url).await {
            Ok(client) => Some(client),
            Err(code) => return code,
        },
    };
    match follow(form, &application, jobs.as_ref(), &filter, args.count, &stop).await {
        Ok(()) => 0,
        Err(error) => refuse(form, &error),
    }
}

async fn follow(
    form: Form,
    url: &DatabaseUrl,
    jobs: Option<&Client>,
    filter: &Filter,
    count: Option<usize>,
    stop: &CancellationToken,
) -> Result<(), databases::Error> {
    let application = databases::application(url, &super::name()).await?;
    let bell = Bell::default();
    let mut ear = bell.ear();
    let listener = tokio::spawn(listen_to_outbox(url.clone(), super::name(), bell, stop.clone()));
    let mut tail = Tail::from_now(&application).await?;
    let mut shown = Follow::new(form, jobs.is_some());
    complain("following the outbox; press Ctrl-C to end");
    while !stop.is_cancelled() {
        // A stop does not wait for an answer.
        let news = tokio::select! {
            news = tail.news(&application) => news?,
            () = stop.cancelled() => break,
        };
        if news.moved {
            complain(
                "the database's history moved (a failover, a restore): what was committed around now may be missing",
            );
        }
        for row in news.rows.iter().filter(|row| matches(filter, row)) {
            if count.is_none_or(|count| shown.events() < count) {
                shown.event(row);
            }
        }
        if let Some(jobs) = jobs {
            shown.results(jobs).await?;
        }
        let done = count.is_some_and(|count| shown.events() >= count) && shown.awaits_nothing();
        if done {
            break;
        }
        let pause = if shown.awaits_nothing() { POLL } else { RESULTS };
        tokio::select! {
            _ = ear.changed() => {}
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
    listener.abort();
    Ok(())
}

fn matches(filter: &Filter, row: &crate::outbox::OutboxRow) -> bool {
    let of = &row.envelope;
    let aggregate = || format!("{}/{}", of.aggregate_type, of.aggregate_id);
    filter.aggregate.as_ref().is_none_or(|wanted| *wanted == aggregate())
        && filter.types.as_ref().is_none_or(|types| types.contains(&of.event_type))
}
