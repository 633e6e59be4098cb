//! Random lives of jobs: relays that come, are killed and told to stop, sessions that are cut, a service that comes and
//! goes, people who retry and cancel. Whatever happens, no row takes a step that is not in the table of legal
//! transitions, and every step out of `running` carries the claim of the step into it.
//!
//! A trigger of the test's own, which the product does not know of, writes down each step.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use relay::deliver::Settings;
use relay::jobs::JobState;
use relay::operate::change::{Change, change};
use relay::operate::{By, JobFilter, Operator};
use tests::databases::Role;
use tests::wait::until;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{Relay, Stage};

const TRIGGER: &str = "
    CREATE TABLE aftercommit.steps (
        step bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        job_id uuid, before text, after text,
        claim_before bigint, claim_after bigint, process_before uuid, process_after uuid
    );
    CREATE FUNCTION aftercommit.note_step() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        INSERT INTO aftercommit.steps (job_id, before, after, claim_before, claim_after, process_before, process_after)
        VALUES (NEW.job_id, OLD.state, NEW.state, OLD.claim, NEW.claim, OLD.claimed_by, NEW.claimed_by);
        RETURN NULL;
    END
    $$;
    CREATE TRIGGER note_step AFTER UPDATE ON aftercommit.jobs FOR EACH ROW
        WHEN ((OLD.state, OLD.claim, OLD.claimed_by) IS DISTINCT FROM (NEW.state, NEW.claim, NEW.claimed_by))
        EXECUTE FUNCTION aftercommit.note_step()";

/// What jobs do; most end well, some never do by themselves.
const LIVES: [&str; 11] =
    ["", "", "", "need", "fail", "refuse", "panic", "begin lose", "mark begin lose", "begin hang", "mark begin hang"];

#[tokio::test(flavor = "multi_thread")]
async fn no_row_ever_leaves_the_table_of_legal_transitions() -> Result<()> {
    let seed = rand::random();
    live(seed).await.with_context(|| format!("seed {seed}"))
}

async fn live(seed: u64) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let stage = Stage::set().await?;
    stage.client.batch_execute(TRIGGER).await?;
    let mut person = stage.databases.jobs.connect(Role::Jobs).await?;
    person.batch_execute("SET search_path = aftercommit").await?;
    // Leases so short that the killed are found within the test, and batches so small that claims mix.
    let settings = Settings { batch: 7, grace: Duration::from_millis(200), ..Settings::default() };
    let start = || stage.relay_with(settings, vec![stage.kind.clone()]);
    let mut relays: Vec<Relay> = vec![start()?, start()?];
    let mut done = BTreeMap::<&str, usize>::new();

    let end = Instant::now() + Duration::from_secs(8);
    while Instant::now() < end {
        let act =
            *["add", "add", "add", "kill", "stop", "start", "start", "cut", "away", "back", "back", "retry", "cancel"]
                .choose(&mut random)
                .context("an act")?;
        *done.entry(act).or_default() += 1;
        match act {
            "add" => {
                let life = *LIVES.choose(&mut random).context("a life")?;
                let late = random.random_bool(0.1);
                let columns = format!("run_at = now(), expires_at = {}", if late { "now()" } else { "NULL" });
                for _ in 0..random.random_range(1..6) {
                    stage.row("planted", life, &columns).await?;
                }
            }
            "kill" if !relays.is_empty() => relays.swap_remove(random.random_range(0..relays.len())).kill().await,
            "stop" if !relays.is_empty() => relays.swap_remove(random.random_range(0..relays.len())).stop().await?,
            "start" if relays.len() < 3 => relays.push(start()?),
            "cut" => cut_sessions(&stage.client).await?,
            "away" => stage.kind.away.store(true, Ordering::SeqCst),
            "back" => stage.kind.away.store(false, Ordering::SeqCst),
            "retry" => by_hand(&mut person, Change::Retry).await?,
            "cancel" if random.random_bool(0.3) => by_hand(&mut person, Change::Cancel).await?,
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..60))).await;
    }

    // From here on everything works, and what hung does not hang again.
    stage.kind.away.store(false, Ordering::SeqCst);
    stage.client.execute("UPDATE aftercommit.jobs SET args = '\"\"' WHERE args::text LIKE '%hang%'", &[]).await?;
    for relay in relays {
        relay.kill().await;
    }
    let last = start()?;
    until("the end of every job", async || {
        let open = "jobs WHERE state IN ('available', 'running', 'retrying')";
        Ok((stage.count(open).await? == 0).then_some(()))
    })
    .await?;
    last.stop().await?;
    ensure!(stage.count("jobs WHERE state = 'running'").await? == 0, "a claim was left");
    let steps = check(&stage.client).await?;
    eprintln!("{steps:?} after {done:?}");
    Ok(())
}

async fn cut_sessions(client: &Client) -> Result<()> {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE application_name LIKE 'aftercommit relay test%' AND datname = current_database()";
    client.execute(sql, &[]).await?;
    Ok(())
}

async fn by_hand(person: &mut Client, what: Change) -> Result<()> {
    let operator = Operator { name: "ada".to_owned(), via: "cli" };
    let by = By { operator: &operator, reason: None };
    let filter = JobFilter::default();
    match change(person, what, &filter, by, &CancellationToken::new(), |_| {}).await {
        // A person who waits for a row that relays wait for may be the one who loses.
        Err(error) if error.to_string().contains("40P01") => Ok(()),
        other => other.map(|_| ()).map_err(Into::into),
    }
}

/// Goes through all steps. Returns how often each transition was taken.
async fn check(client: &Client) -> Result<BTreeMap<String, usize>> {
    let state = |text: &str| JobState::ALL.into_iter().find(|state| state.as_str() == text).context("a state");
    let mut taken = BTreeMap::new();
    let mut running = HashMap::<Uuid, (i64, Uuid)>::new();
    let rows = client
        .query(
            "SELECT job_id, before, after, claim_before, claim_after, process_before, process_after
             FROM aftercommit.steps ORDER BY step",
            &[],
        )
        .await?;
    for row in rows {
        let (job, before, after): (Uuid, &str, &str) = (row.get(0), row.get(1), row.get(2));
        let (claim_before, claim_after): (i64, i64) = (row.get(3), row.get(4));
        let step = format!("{before} -> {after}");
        ensure!(state(before)?.may_become(state(after)?), "{job}: {step} is not legal");
        if before == "running" {
            let held = Some((claim_before, row.get(5)));
            ensure!(running.remove(&job) == held, "{job}: {step} on a claim that was not the last one");
        }
        if after == "running" {
            ensure!(claim_after == claim_before + 1, "{job}: a claim has a number of its own");
            running.insert(job, (claim_after, row.get(6)));
        } else {
            ensure!(claim_after == claim_before, "{job}: only a claim changes the number");
        }
        *taken.entry(step).or_default() += 1;
    }
    ensure!(running.is_empty(), "left running: {running:?}");
    let taken_often = ["available -> running", "running -> succeeded", "running -> retrying", "running -> dead"];
    for step in taken_often {
        ensure!(taken.contains_key(step), "{step} was never taken: {taken:?}");
    }
    Ok(taken)
}
