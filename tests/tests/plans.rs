//! The plans of the statements that run often, pinned: by index, without a scan of the table, without parallel workers,
//! under custom and generic plans, before and after the table's statistics know of its rows.

use anyhow::{Result, ensure};
use relay::outbox::evidence::WITNESS;
use relay::outbox::look::{LOOK, LOOK_PLAIN};
use relay::outbox::plan::{PLAN, PLAN_SINGLE};
use relay::outbox::rows::{READ, READ_SINGLE, READ_WHOLE};
use tests::databases::{Databases, Role};
use tokio_postgres::Client;

/// A statement with its parameters' types and, as SQL, values of each: an idle moment, and a backlog.
struct Pinned {
    name: &'static str,
    sql: &'static str,
    types: &'static str,
    values: [String; 2],
    /// The most rows that its sorts may take, as the planner sees it; none: no sort.
    sorts: bool,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outbox_is_read_by_index_whatever_the_planner_knows() -> Result<()> {
    let databases = Databases::new().await?;
    let owner = databases.app.connect(Role::Superuser).await?;
    let relay = databases.app.connect(Role::Relay).await?;
    // As a relay's transaction is set up.
    relay
        .batch_execute("SET max_parallel_workers_per_gather = 0; SET enable_seqscan = off; SET enable_sort = off; SET jit = off; SET row_security = off")
        .await?;
    for round in ["a small table", "a large one, unknown", "a large one, analyzed", "one that was analyzed empty"] {
        match round {
            "a small table" => fill(&owner, 10).await?,
            "a large one, unknown" => {
                // Autovacuum would make it known.
                owner.batch_execute("ALTER TABLE aftercommit.outbox SET (autovacuum_enabled = off)").await?;
                fill(&owner, 60_000).await?;
            }
            "a large one, analyzed" => owner.batch_execute("VACUUM ANALYZE aftercommit.outbox").await?,
            _ => {
                owner.batch_execute("TRUNCATE aftercommit.outbox; ANALYZE aftercommit.outbox").await?;
                fill(&owner, 60_000).await?;
            }
        }
        for statement in pinned(&owner).await? {
            for mode in ["force_custom_plan", "force_generic_plan"] {
                for values in &statement.values {
                    let plan = explain(&relay, &statement, mode, values).await?;
                    let case = format!("{} with {mode} on {round}, {values}:\n{plan}", statement.name);
                    ensure!(!plan.contains("Seq Scan on outbox"), "a scan of the table: {case}");
                    ensure!(!plan.contains("Parallel") && !plan.contains("Gather"), "parallel workers: {case}");
                    ensure!(plan.contains("outbox_window"), "not by the window's index: {case}");
                    ensure!(statement.sorts || !plan.contains("Sort"), "a sort: {case}");
                    let steps_back = statement.name != "witness" || plan.contains("Index Scan Backward");
                    ensure!(steps_back, "through the whole window: {case}");
                }
            }
        }
    }
    Ok(())
}

async fn fill(owner: &Client, rows: i64) -> Result<()> {
    owner
        .execute(
            "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)
             SELECT gen_random_uuid(), 'counter', (n % 100)::text, 'counter.counted', jsonb_build_object('number', n)
               FROM generate_series(1, $1::bigint) AS n",
            &[&rows],
        )
        .await?;
    Ok(())
}

async fn pinned(owner: &Client) -> Result<[Pinned; 8]> {
    let now: String = owner.query_one("SELECT pg_current_snapshot()::text", &[]).await?.get(0);
    let xmax: String = owner.query_one("SELECT pg_snapshot_xmax(pg_current_snapshot())::text", &[]).await?.get(0);
    let window = |low: &str| format!("3::smallint, '{low}'::xid8, '{xmax}'::xid8, '{now}', '{{}}'");
    let both = |rest: &str| [format!("{}{rest}", window(&xmax)), format!("{}{rest}", window("1"))];
    let lanes = |seen: &str| {
        let nothing = |kind: &str| format!("array_fill(NULL::{kind}, ARRAY[2])");
        let witness = format!("{}, {}, {}", nothing("uuid"), nothing("xid8"), nothing("bigint"));
        format!("ARRAY[3, 4]::smallint[], ARRAY['{seen}', '{seen}']::pg_snapshot[], {witness}, {witness}, 1001")
    };
    let stretches = |low: &str| {
        let of = |kind: &str, value: &str| format!("array_fill('{value}'::{kind}, ARRAY[2])");
        [
            "ARRAY[3, 4]::smallint[]".to_owned(),
            of("xid8", low),
            of("xid8", &xmax),
            of("pg_snapshot", &now),
            of("pg_snapshot", &format!("{xmax}:{xmax}:")),
            of("bigint", "0"),
            of("uuid", "00000000-0000-0000-0000-000000000000"),
            of("bigint", "9223372036854775807"),
            of("bigint", "1000"),
        ]
        .join(", ")
    };
    let piece = |low: &str| format!("3::smallint, '{low}', 0, '{xmax}', '{now}', 0, 1000, 4096");
    let read = |name, sql, sorts| Pinned {
        name,
        sql,
        types: "smallint[], xid8[], xid8[], pg_snapshot[], pg_snapshot[], bigint[], uuid[], bigint[], bigint[]",
        values: [stretches(&xmax), stretches("1")],
        sorts,
    };
    let look = |name, sql| Pinned {
        name,
        sql,
        types: "smallint[], pg_snapshot[], uuid[], xid8[], bigint[], uuid[], xid8[], bigint[], bigint",
        values: [lanes(&now), lanes("1:1:")],
        sorts: false,
    };
    Ok([
        look("look", LOOK),
        look("look_plain", LOOK_PLAIN),
        read("read", READ, true),
        read("read_whole", READ_WHOLE, false),
        read("read_single", READ_SINGLE, true),
        Pinned {
            name: "witness",
            sql: WITNESS,
            types: "smallint, xid8, xid8, pg_snapshot, xid8[]",
            values: both(""),
            sorts: true,
        },
        Pinned {
            name: "plan",
            sql: PLAN,
            types: "smallint, xid8, bigint, xid8, pg_snapshot, bigint, bigint, bigint",
            values: [piece(&xmax), piece("1")],
            sorts: false,
        },
        Pinned {
            name: "plan_single",
            sql: PLAN_SINGLE,
            types: "smallint, xid8[], bigint, bigint",
            values: ["3::smallint, '{}', 0, 1000".to_owned(), format!("3::smallint, '{{{xmax}}}', 0, 1000")],
            sorts: false,
        },
    ])
}

async fn explain(client: &Client, statement: &Pinned, mode: &str, values: &str) -> Result<String> {
    let Pinned { sql, types, .. } = statement;
    client
        .batch_execute(&format!("SET plan_cache_mode = {mode}; DEALLOCATE ALL; PREPARE pinned ({types}) AS {sql}"))
        .await?;
    let rows = client.query(&format!("EXPLAIN EXECUTE pinned ({values})"), &[]).await?;
    Ok(rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n"))
}
