//! The plans of the statements that run often, pinned: each walks an index, whatever the statistics say.

use anyhow::Result;
use relay::jobs::{claim, doubt, process, rate, rescue, session, settle};
use tests::databases::{Databases, Role};

/// Explains a prepared statement as the relay's session would run it.
async fn plan(client: &tokio_postgres::Client, statement: &str, arguments: &str) -> Result<String> {
    client.batch_execute(&format!("PREPARE statement AS {statement}")).await?;
    let rows = client.query(&format!("EXPLAIN (COSTS off) EXECUTE statement({arguments})"), &[]).await?;
    client.batch_execute("DEALLOCATE statement").await?;
    Ok(rows.iter().map(|row| row.get::<_, String>(0) + "\n").collect())
}

const NOBODY: &str = "'00000000-0000-0000-0000-000000000001'";

#[tokio::test]
async fn every_frequent_statement_walks_an_index() -> Result<()> {
    let databases = Databases::new().await?;
    let client = databases.jobs.connect(Role::Jobs).await?;
    client.batch_execute("SET search_path = aftercommit").await?;
    client.batch_execute(session::SETTINGS).await?;
    let id = NOBODY;
    let ids = format!("ARRAY[{NOBODY}]::uuid[]");
    let statements = [
        (claim::CLAIM, format!("{id}, 'email', '-infinity', {id}, 500, {ids}, '{{1}}', {ids}")),
        (claim::CLAIM_SUSPECT, format!("{id}, 'email', '-infinity', {id}, 1")),
        (claim::NEXT_DUE, format!("{id}, 'email'")),
        (claim::UNKNOWN_KINDS, "'{email}'".to_owned()),
        (process::RENEW, id.to_owned()),
        (process::HELD, id.to_owned()),
        (rescue::RESCUE, format!("{id}, 1, 5")),
        (settle::SUCCEEDED, format!("{ids}, '{{1}}', {ids}")),
        (settle::UNTRIED, format!("{ids}, '{{1}}', {ids}, '{{dead}}', '{{x}}', '{{1}}'")),
        (
            settle::FAILED,
            format!(
                "{ids}, '{{1}}', {ids}, '{{dead}}', '{{1}}', '{{1}}', '{{dead}}', '{{x}}', '{{1}}', '{{x}}', '{{x}}', '{{x}}', '{{1}}'"
            ),
        ),
        (rate::DRAW, "'email', 1, 1, 1".to_owned()),
        (doubt::MARK, format!("{ids}, '{{1}}', {ids}")),
        (settle::FIND_FENCED, format!("{ids}, '{{1}}'")),
    ];
    // Empty and never analysed; then large, nearly all of it finished, and analysed; then analysed and stale.
    for state in ["nothing", "succeeded", "available"] {
        if state != "nothing" {
            let finished = if state == "succeeded" { "now()" } else { "NULL" };
            let fill = databases.jobs.connect(Role::Superuser).await?;
            fill.batch_execute(&format!(
                "INSERT INTO aftercommit.jobs (job_id, event_id, handler, name, kind, args, occurred_at, state, finished_at,
                     max_attempts, retry_initial, retry_multiplier, retry_max_interval, retry_jitter)
                 SELECT gen_random_uuid(), gen_random_uuid(), 'handler', 'email', 'email', '{{}}', now(), '{state}', {finished},
                     5, 1, 2, 60, 0.5
                 FROM generate_series(1, 20000);
                 ANALYZE aftercommit.jobs"
            ))
            .await?;
        }
        for (statement, arguments) in &statements {
            let plan = plan(&client, statement, arguments).await?;
            assert!(!plan.contains("Seq Scan"), "{state}: {statement}\n{plan}");
            assert!(!plan.contains("Hash"), "{state}: {statement}\n{plan}");
            assert!(!plan.contains("Merge"), "{state}: {statement}\n{plan}");
            // By the index of what is running, a settlement would look at all of it for each job.
            let is_settlement =
                [claim::CLAIM, settle::SUCCEEDED, settle::UNTRIED, settle::FAILED, doubt::MARK].contains(statement);
            assert!(!is_settlement || !plan.contains("jobs_claimed"), "{state}: {statement}\n{plan}");
        }
        let plan = plan(&client, claim::CLAIM, &statements[0].1).await?;
        assert!(plan.contains("using jobs_ready") && plan.contains("Tid Scan on jobs"), "{plan}");
        assert!(!plan.contains("Sort"), "{plan}");
        let bounds = plan.lines().find(|line| line.contains("Index Cond") && line.contains("ROW(run_at, job_id)"));
        assert!(bounds.is_some_and(|line| line.contains("kind =") && line.contains("run_at <= now()")), "{plan}");
    }
    Ok(())
}
