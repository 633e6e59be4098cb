//! What pages show: every one in good and in bad times, searches, and numbers that are those of the databases.

use anyhow::{Context as _, Result};
use tests::databases::Role;
use tests::page::form_field;
use tests::wait::until;
use uuid::Uuid;

use crate::support::Stage;

/// The ids that a page links to, in order, each once.
fn linked(page: &str, path: &str) -> Vec<Uuid> {
    let mut ids = Vec::new();
    for rest in page.split(&format!("href=\"/{path}/")).skip(1) {
        if let Some(id) = rest.get(..36).and_then(|id| id.parse().ok())
            && !ids.contains(&id)
        {
            ids.push(id);
        }
    }
    ids
}

#[tokio::test]
async fn every_page_is_made_in_good_times_and_bad() -> Result<()> {
    let stage = Stage::start(&[]).await?;
    let event = stage.register("ada@example.org").await?;
    stage.mailbox.wait_for("ada@example.org", 1).await?;
    let job = linked(&stage.get("/jobs", &[]).await?.body, "jobs")[0];
    let mut paths =
        vec!["/", "/events", "/jobs", "/jobs?state=dead", "/failures", "/replay", "/pause", "/audit", "/mailbox"];
    let own = [
        format!("/events/{event}"),
        format!("/jobs/{job}"),
        format!("/jobs/{job}/mail"),
        format!("/mailbox/{job}"),
        format!("/change?do=retry&id={job}"),
        format!("/replay?id={event}"),
    ];
    paths.extend(own.iter().map(String::as_str));
    for path in &paths {
        let answer = stage.get(path, &[]).await?;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert!(answer.body.contains("</html>") && answer.body.contains("id=\"main\""), "{path}: {}", answer.body);
        assert!(!answer.body.contains("<i>Lovelace"), "{path}: a name is markup");
    }
    for (path, status) in [
        ("/events?from=soon", 400),
        ("/jobs?id=7", 400),
        ("/jobs?state=lost", 400),
        ("/events?id=7", 400),
        ("/change?do=delete", 400),
        ("/events/7", 404),
        ("/jobs/0190f7a2-5d2c-7cc0-8b4e-0f6f2c9f4c11", 404),
        ("/events/0190f7a2-5d2c-7cc0-8b4e-0f6f2c9f4c11", 404),
        ("/replay/0190f7a2-5d2c-7cc0-8b4e-0f6f2c9f4c11", 404),
        ("/mailbox/..%2f..%2fetc%2fpasswd", 404),
        ("/no/such/page", 404),
    ] {
        let answer = stage.get(path, &[]).await?;
        assert!(
            answer.status == status && answer.body.contains("</html>"),
            "{path}: {} {}",
            answer.status,
            answer.body
        );
    }

    // Without a database there is a page that says so.
    let control = stage.jobs().await?;
    control.batch_execute("DROP TABLE aftercommit.operator_actions").await?;
    let answer = stage.get("/audit", &[]).await?;
    assert!(answer.status == 503 && answer.body.contains("jobs database"), "{}", answer.body);
    let log = stage.relay.process.output();
    assert!(!log.contains("can't be made") && !log.contains("ada@example.org"), "{log}");
    Ok(())
}

#[tokio::test]
async fn an_event_is_told_from_commit_to_mail() -> Result<()> {
    let stage = Stage::start(&[]).await?;
    let event = stage.register("ada@example.org").await?;
    stage.mailbox.wait_for("ada@example.org", 1).await?;
    let page = until("the end of the journey", async || {
        let page = stage.get(&format!("/events/{event}"), &[]).await?.body;
        Ok(page.contains("/mail\">the mail").then_some(page))
    })
    .await?;
    let order =
        ["Committed", "send_verification_email</strong> asked for a job", "succeeded", "the mail</a> was handed"];
    let places: Vec<usize> =
        order.iter().map(|step| page.find(step).with_context(|| format!("{step} in {page}"))).collect::<Result<_>>()?;
    assert!(places.is_sorted(), "{places:?}");
    assert!(page.contains("0af7651916cd43dd8448eb211c80319c"), "its trace id");

    let job = linked(&page, "jobs")[0];
    let mail = stage.get(&format!("/jobs/{job}/mail"), &[]).await?.body;
    assert!(mail.contains("ada@example.org") && mail.contains("sandbox"), "{mail}");
    let sent = stage.mailbox.wait_for("ada@example.org", 1).await?.remove(0);
    let token = sent.link()?.query().context("a token")?.to_owned();
    let html = stage.get(&format!("/jobs/{job}/mail/html"), &[]).await?;
    for shown in [&mail, &html.body] {
        assert!(!shown.contains(token.trim_start_matches("token=")), "a preview would confirm the address");
    }
    let policy = html.header("content-security-policy").context("a policy")?;
    assert!(policy.starts_with("sandbox; default-src 'none'") && !policy.contains("script-src"), "{policy}");
    assert!(html.body.contains("Confirm"), "{}", html.body);
    Ok(())
}

#[tokio::test]
async fn events_are_found_and_paged_by_filters_in_the_url() -> Result<()> {
    let stage = Stage::start(&[("JOB_QUEUE_ENABLED", "false")]).await?;
    let writer = stage.databases.app.connect(Role::Owner).await?;
    writer
        .batch_execute(
            "INSERT INTO aftercommit.outbox (event_id, aggregate_type, aggregate_id, event_type, payload, occurred_at)
             SELECT gen_random_uuid(), CASE WHEN n % 2 = 0 THEN 'user' ELSE 'order' END, (n % 7)::text,
                    CASE WHEN n % 3 = 0 THEN 'a.happened' ELSE 'b.happened' END, '{}', now() - n * interval '1 minute'
               FROM generate_series(0, 119) AS n",
        )
        .await?;
    let expected = async |condition: &str| -> Result<Vec<Uuid>> {
        let sql = format!(
            "SELECT event_id FROM aftercommit.outbox WHERE {condition} ORDER BY transaction_id DESC, position DESC"
        );
        Ok(writer.query(&sql, &[]).await?.iter().map(|row| row.get(0)).collect())
    };
    for (query, condition) in [
        ("", "true"),
        ("type=a.happened", "event_type = 'a.happened'"),
        ("aggregate=order", "aggregate_type = 'order'"),
        ("aggregate=user/4", "aggregate_type = 'user' AND aggregate_id = '4'"),
        (
            "aggregate=user/4&type=a.happened",
            "aggregate_type = 'user' AND aggregate_id = '4' AND event_type = 'a.happened'",
        ),
        ("from=30m&to=10m30s", "false"),
        ("from=1830s", "occurred_at > now() - interval '1830 s'"),
        ("to=1830s&aggregate=order", "occurred_at < now() - interval '1830 s' AND aggregate_type = 'order'"),
        ("type=none", "false"),
    ] {
        if query.contains("10m30s") {
            assert_eq!(stage.get(&format!("/events?{query}"), &[]).await?.status, 400, "a span has one unit");
            continue;
        }
        let (mut found, mut at) = (Vec::new(), format!("/events?{query}"));
        loop {
            let page = stage.get(&at, &[]).await?.body;
            let list = page.split("id=\"list\"").nth(1).context("a list")?.to_owned();
            let new = linked(&list, "events");
            assert!(new.len() <= 50 && new.iter().all(|id| !found.contains(id)), "{query}");
            found.extend(new);
            let Some((_, next)) = list.split_once("rel=\"next\" href=\"") else { break };
            at = next.split('"').next().unwrap_or_default().replace("&amp;", "&").replace("&#x2f;", "/");
        }
        assert_eq!(found, expected(condition).await?, "{query}");
    }
    let one = expected("true").await?[100];
    let page = stage.get(&format!("/events?id={one}"), &[]).await?.body;
    assert_eq!(linked(&page, "events"), [one]);
    assert_eq!(form_field(&page, "id").as_deref(), Some(&*one.to_string()), "the filter is in its field again");
    let page = stage.get(&format!("/events/{one}"), &[]).await?.body;
    assert!(page.contains("It waits for dispatch"), "{page}");
    Ok(())
}

#[tokio::test]
async fn problems_come_first() -> Result<()> {
    let stage = Stage::start(&[]).await?;
    until("a quiet overview", async || Ok(stage.get("/", &[]).await?.body.contains("No problems").then_some(())))
        .await?;
    let jobs = stage.jobs().await?;
    jobs.batch_execute(
        "INSERT INTO aftercommit.dispatch_failures (event_id, handler, lane, aggregate_type, aggregate_id, event_type, error)
         VALUES (gen_random_uuid(), 'gone', 0, 'user', '1', 'user.registered', 'planted <b>');
         INSERT INTO aftercommit.jobs (job_id, event_id, handler, name, kind, args, occurred_at, state, max_attempts, attempt,
                                       finished_at, last_error, retry_initial, retry_multiplier, retry_max_interval, retry_jitter)
         SELECT gen_random_uuid(), gen_random_uuid(), 'h', 'n', 'email', '{}', now(), 'dead', 5, 5, now(), 'planted', 5, 3, 900, 0.25
           FROM generate_series(1, 3)",
    )
    .await?;
    let overview = until("the problems", async || {
        let page = stage.get("/", &[]).await?.body;
        Ok((page.contains("3 dead jobs") && page.contains("1 failed dispatch")).then_some(page))
    })
    .await?;
    assert!(overview.find("3 dead jobs") < overview.find("id=\"figures\""), "problems first");
    let dead = stage.get("/jobs?state=dead", &[]).await?.body;
    assert_eq!(linked(&dead, "jobs").len(), 3);
    let failures = stage.get("/failures", &[]).await?.body;
    assert!(failures.contains("planted &lt;b&gt;") && failures.contains("not in this relay"), "{failures}");
    // Their mail can't be made, and the page says why.
    let mail = stage.get(&format!("/jobs/{}/mail", linked(&dead, "jobs")[0]), &[]).await?.body;
    assert!(mail.contains("can’t be made") && mail.contains("missing field"), "{mail}");
    Ok(())
}
