//! How fast events become jobs, beside two measures from the same run: a textbook relay, and PostgreSQL's own limit.
//!
//! Everything works on the same freshly filled outbox with the product's rows (decoded envelope, real handler, real
//! job), on one server with fsync and synchronous commits on. Absolute figures move from machine to machine: the ratios
//! are what counts. Run it by `cargo bench-dispatch`.
//!
//! - ours_1, ours_2: this relay with one and two workers, from the first look until nothing is left.
//! - textbook: SKIP LOCKED 500, the same handlers, one INSERT, then an UPDATE that marks the events dispatched.
//! - limit_1, limit_2: the same job rows from memory by a bare INSERT in chunks of 1,000, on one and two connections.
//! - held: ours_1 while another transaction holds its snapshot open in the application database.
//!
//! `cargo bench-dispatch -- --backlog 10000000` is another measurement: a large backlog worked off by the real relay.

mod backlog;
mod contenders;
mod rows;

use std::sync::Arc;

use anyhow::Result;
use clap::Parser;
use tests::databases::{Database, DatabaseServer, Databases, Kind, Role};
use tests::measure::{self, median};

/// How fast events become jobs, beside a textbook relay and PostgreSQL's own limit
#[derive(Parser)]
#[command(bin_name = "cargo bench-dispatch --")]
struct Options {
    /// Events in the outbox
    #[arg(long, default_value_t = 200_000)]
    events: i64,

    /// How often each contender runs; the median of its figures is printed
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// Only these contenders: ours_1, limit_1, ours_2, limit_2, textbook, held
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,

    /// Instead: the relay itself works off so many waiting events, and is killed half-way
    #[arg(long, value_name = "EVENTS")]
    backlog: Option<i64>,

    /// Dispatching workers of that relay
    #[arg(long, default_value_t = 2, requires = "backlog")]
    workers: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Options { events, rounds, only, backlog, workers } = Options::parse();
    let server = DatabaseServer::start(measure::server()).await?;
    if let Some(events) = backlog {
        println!("{}", backlog::run(&server, events, workers).await?);
        return Ok(());
    }
    let app = server.create(Kind::App).await?;
    eprintln!("filling the outbox with {events} events");
    fill(&app, events).await?;
    let jobs = contenders::all_jobs(&app).await?;

    let names = ["ours_1", "limit_1", "ours_2", "limit_2", "textbook", "held"];
    let mut rates = names.map(|_| Vec::new());
    for round in 1..=rounds {
        for (name, rates) in names.iter().zip(&mut rates) {
            if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
                continue;
            }
            // Each begins with an empty jobs database, and with nothing left to be written of what was before.
            let databases = Databases { app: app.clone(), jobs: server.create(Kind::Jobs).await? };
            let superuser = app.connect(Role::Superuser).await?;
            superuser.batch_execute("CHECKPOINT").await?;
            let seconds = match *name {
                "ours_1" => contenders::ours(&databases, 1, events).await?,
                "ours_2" => contenders::ours(&databases, 2, events).await?,
                "limit_1" => contenders::limit(&databases, 1, jobs).await?,
                "limit_2" => contenders::limit(&databases, 2, jobs).await?,
                "textbook" => contenders::textbook(&databases, events).await?,
                _ => {
                    let _holder = hold_snapshot(&app).await?;
                    contenders::ours(&databases, 1, events).await?
                }
            };
            superuser.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", databases.jobs.name())).await?;
            let rate = events as f64 / seconds;
            eprintln!("round {round}: {name} {rate:.0}/s");
            rates.push(rate);
        }
    }
    let [ours_1, limit_1, ours_2, limit_2, textbook, held] = rates.map(median);
    println!(
        "dispatch: events={events} ours_1={ours_1:.0}/s ours_2={ours_2:.0}/s textbook={textbook:.0}/s \
         limit_1={limit_1:.0}/s limit_2={limit_2:.0}/s ratio_textbook={:.2} ratio_limit={:.2} ratio_held={:.2}",
        ours_1 / textbook,
        ours_2 / limit_2,
        held / ours_1,
    );
    Ok(())
}

/// Registrations of as many users: four writers at a time, five events a transaction.
async fn fill(app: &Database, events: i64) -> Result<()> {
    const WRITERS: i64 = 4;
    let app = Arc::new(app.clone());
    let writers = (0..WRITERS).map(|writer| {
        let app = app.clone();
        tokio::spawn(async move {
            let client = app.connect(Role::Owner).await?;
            // A COMMIT after every fifth event, without waiting for the disk: how it was written does not matter here.
            client.batch_execute("SET synchronous_commit = off").await?;
            client
                .batch_execute(&format!(
                    "DO $$
                     BEGIN
                         FOR n IN {writer}..{last} BY {WRITERS} LOOP
                             INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload,
                                                             metadata, durable_at_commit)
                             SELECT aftercommit.bench_uuid_v7(), 'user', id::text, 'user.registered',
                                    jsonb_build_object('user_id', id, 'email', 'user' || n || '@example.org',
                                                       'display_name', 'User ' || n),
                                    jsonb_build_object('traceparent', '00-' || md5(n::text) || '-00f067aa0ba902b7-01'),
                                    true
                               FROM gen_random_uuid() AS id;
                             IF n % 20 < {WRITERS} THEN
                                 COMMIT;
                             END IF;
                         END LOOP;
                     END
                     $$",
                    last = events - 1,
                ))
                .await?;
            Ok::<_, anyhow::Error>(())
        })
    });
    let client = app.connect(Role::Superuser).await?;
    client.batch_execute(UUID_V7).await?;
    for writer in writers.collect::<Vec<_>>() {
        writer.await??;
    }
    client.batch_execute("VACUUM ANALYZE aftercommit.outbox").await?;
    client.batch_execute("CHECKPOINT").await?;
    Ok(())
}

/// Time-ordered ids as writers make them.
const UUID_V7: &str = "
    CREATE FUNCTION aftercommit.bench_uuid_v7() RETURNS uuid LANGUAGE sql VOLATILE AS $$
        SELECT (lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0')
                || '7' || substr(md5(random()::text), 1, 3) || 'a' || substr(md5(random()::text), 1, 15))::uuid
    $$;
    GRANT EXECUTE ON FUNCTION aftercommit.bench_uuid_v7() TO PUBLIC";

async fn hold_snapshot(app: &Database) -> Result<tokio_postgres::Client> {
    let client = app.connect(Role::Owner).await?;
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id()").await?;
    Ok(client)
}
