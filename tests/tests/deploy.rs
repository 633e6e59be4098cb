//! The deployment files say what is so: their checkers accept them, they name no setting and no metric that is not there,
//! and what compose.yaml runs is run here, with the same commands and settings, as processes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::databases::project_folder;
use tests::http;
use tests::postgres::free_port;
use tests::process::{Launch, built_programs};
use tests::services::start;
use tests::skip::skip;
use tests::smtp_sink::SmtpSink;

fn file(path: &str) -> Result<String> {
    std::fs::read_to_string(project_folder().join(path)).with_context(|| path.to_owned())
}

fn files_in(folder: &str) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(project_folder().join(folder)).with_context(|| folder.to_owned())?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    Ok(paths)
}

/// The words of a text that are made of these characters.
fn words(text: &str, of: impl Fn(char) -> bool) -> impl Iterator<Item = &str> {
    text.split(move |c| !of(c)).filter(|word| !word.is_empty())
}

/// Runs a checker; `None` where it is not installed.
fn check(program: &str, arguments: &[&str], folder: &Path) -> Result<Option<String>> {
    match Command::new(program).args(arguments).current_dir(folder).output() {
        Ok(output) => {
            let said =
                format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            ensure!(output.status.success(), "{program} {arguments:?}:\n{said}");
            Ok(Some(said))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| program.to_owned()),
    }
}

/// Every expression of the dashboard.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(expression) = fields.get("expr").and_then(Value::as_str) {
                found.push(expression.to_owned());
            }
            fields.values().for_each(|value| expressions(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

fn dashboard() -> Result<Vec<String>> {
    let mut found = Vec::new();
    expressions(&serde_json::from_str(&file("relay/deploy/grafana/aftercommit.json")?)?, &mut found);
    ensure!(found.len() > 20, "{} expressions", found.len());
    Ok(found)
}

#[test]
fn every_metric_that_is_named_exists() -> Result<()> {
    let name = |c: char| c.is_ascii_lowercase() || c == '_';
    let relay = relay::metrics::TABLE.iter().map(|metric| metric.name.to_owned());
    // `api` is a program and no library: its table is read as text.
    let api = file("api/src/metrics.rs")?;
    let api = api.split('"').skip(1).step_by(2).filter(|text| text.starts_with("aftercommit_")).map(str::to_owned);
    let table: BTreeSet<String> = relay.chain(api).collect();
    ensure!(table.len() > 35, "{table:?}");
    let mut named = BTreeSet::new();
    let dashboard = dashboard()?.join("\n");
    let texts = ["prometheus/alerts.yml", "prometheus/alerts_test.yml", "kubernetes/scale.yaml", "README.md"];
    for text in texts.iter().map(|path| file(&format!("relay/deploy/{path}"))).chain([Ok(dashboard)]) {
        named.extend(words(&text?, name).filter(|word| word.starts_with("aftercommit_")).map(str::to_owned));
    }
    // Databases and roles are called so too.
    let others = ["aftercommit_owner", "aftercommit_api", "aftercommit_relay", "aftercommit_jobs", "aftercommit_app"];
    for metric in named.iter().filter(|name| !others.contains(&name.as_str())) {
        let base = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| metric.strip_suffix(suffix));
        let exists = table.contains(metric) || base.is_some_and(|base| table.contains(base));
        assert!(exists, "{metric} is in no table");
    }
    ensure!(named.len() > 25, "{named:?}");
    Ok(())
}

#[test]
fn prometheus_takes_rules_and_every_expression_of_the_dashboard() -> Result<()> {
    let folder = project_folder().join("relay/deploy/prometheus");
    if check("promtool", &["check", "rules", "alerts.yml"], &folder)?.is_none() {
        skip("prometheus_takes_rules_and_every_expression_of_the_dashboard", "promtool is not installed");
        return Ok(());
    }
    check("promtool", &["test", "rules", "alerts_test.yml"], &folder)?;
    check("promtool", &["check", "config", "--syntax-only", "scrape.yml"], &folder)?;

    let rules: Vec<Value> = dashboard()?
        .iter()
        .enumerate()
        .map(|(n, expression)| json!({"record": format!("e{n}"), "expr": expression.replace("$__rate_interval", "5m")}))
        .collect();
    let scratch = tempfile::tempdir()?;
    // JSON is YAML.
    let text = json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string();
    std::fs::write(scratch.path().join("dashboard.yml"), text)?;
    check("promtool", &["check", "rules", "dashboard.yml"], scratch.path())?;

    // Each alert is tested.
    let alerts = file("relay/deploy/prometheus/alerts.yml")?;
    let tests = file("relay/deploy/prometheus/alerts_test.yml")?;
    for alert in alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("alertname: {alert}")), "{alert} has no test");
    }
    Ok(())
}

#[tokio::test]
async fn systemd_takes_the_units() -> Result<()> {
    let programs = built_programs(true).await?;
    let scratch = tempfile::tempdir()?;
    let mut names = Vec::new();
    for unit in files_in("relay/deploy/systemd")? {
        let name = unit.file_name().and_then(|name| name.to_str()).context("a name")?.to_owned();
        let text = std::fs::read_to_string(&unit)?.replace("/usr/local/bin", &programs.display().to_string());
        std::fs::write(scratch.path().join(&name), text)?;
        names.push(name);
    }
    ensure!(names.len() == 4, "{names:?}");
    let arguments: Vec<&str> = ["verify", "--man=no"].into_iter().chain(names.iter().map(String::as_str)).collect();
    match check("systemd-analyze", &arguments, scratch.path())? {
        Some(said) => assert_eq!(said, ""),
        None => skip("systemd_takes_the_units", "systemd-analyze is not installed"),
    }
    Ok(())
}

/// Every setting that a deployment file gives is one that the programs know.
#[tokio::test]
async fn every_setting_that_is_given_is_known() -> Result<()> {
    let mut help = String::new();
    for (program, arguments) in [("api", &["--help"][..]), ("api", &["prune", "--help"]), ("relay", &["run", "--help"])]
    {
        help.push_str(&Launch::built(program).await?.arguments(arguments.iter().copied()).run().await?.stdout);
    }
    let known: BTreeSet<&str> = help.split("[env: ").skip(1).filter_map(|rest| rest.split([']', '=']).next()).collect();
    ensure!(known.len() > 30, "{known:?}");

    let setting = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let is_one = |word: &&str| {
        let parts =
            ["_URL", "_URL_FILE", "_LISTEN", "_KEYS", "_KEYS_FILE", "_FORMAT", "_FROM", "_TOKEN_FILE", "_PROXIES"];
        parts.iter().any(|part| word.ends_with(part)) || word.ends_with("_ENDPOINT")
    };
    let mut paths = vec![project_folder().join("compose.yaml"), project_folder().join("Dockerfile")];
    for folder in ["relay/deploy/systemd", "relay/deploy/kubernetes"] {
        paths.extend(files_in(folder)?);
    }
    let mut seen = BTreeSet::new();
    for path in paths {
        let text = std::fs::read_to_string(&path)?;
        for word in words(&text, setting).filter(is_one) {
            assert!(known.contains(word), "{}: {word} is no setting", path.display());
            seen.insert(word.to_owned());
        }
    }
    ensure!(seen.len() >= 12, "{seen:?}");
    Ok(())
}

/// compose.yaml as JSON; `None` where there is no Python with PyYAML.
fn compose() -> Result<Option<Value>> {
    let script = "import json, sys, yaml; json.dump(yaml.safe_load(open('compose.yaml')), sys.stdout)";
    let output = Command::new("/usr/bin/python3").args(["-c", script]).current_dir(project_folder()).output();
    match output {
        Ok(output) if output.status.success() => Ok(Some(serde_json::from_slice(&output.stdout)?)),
        _ => Ok(None),
    }
}

/// What a service of compose.yaml is given, with `${NAME:-default}` as on a machine where nothing is set.
fn environment(compose: &Value, service: &str) -> Result<Vec<(String, String)>> {
    let given = compose["services"][service]["environment"].as_object().context("an environment")?;
    given.iter().map(|(name, value)| Ok((name.clone(), defaults(value.as_str().context("text")?)))).collect()
}

fn defaults(text: &str) -> String {
    let Some((before, rest)) = text.split_once("${") else { return text.to_owned() };
    let (variable, after) = rest.split_once('}').unwrap_or((rest, ""));
    let default = variable.split_once(":-").map_or("", |(_, default)| default);
    format!("{before}{default}{}", defaults(after))
}

fn command(words: &Value) -> Result<Vec<String>> {
    let words = words.as_array().context("a command")?;
    Ok(words.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

#[tokio::test]
async fn what_compose_runs_runs() -> Result<()> {
    let test = "what_compose_runs_runs";
    let Some(compose) = compose()? else {
        skip(test, "there is no /usr/bin/python3 with PyYAML");
        return Ok(());
    };
    let Some(sink) = SmtpSink::start_or_skip(test).await else { return Ok(()) };
    // A bare cluster: roles, passwords and databases are the files' to make.
    let server = tests::postgres::Cluster::builder().start().await?;
    let superuser = url::Url::parse(&server.superuser_url("postgres"))?;
    let (host, port) = (superuser.host_str().context("a host")?.to_owned(), server.port().to_string());
    let here = |(name, value): (String, String)| {
        let value = match name.as_str() {
            "PGHOST" => host.clone(),
            "PGPASSWORD" => server.superuser_password().to_owned(),
            _ => value.replace("@postgres:5432/", &format!("@{host}:{port}/")).replace(
                "smtp://mail:1025?tls=none",
                &format!("{}{}", sink.url(), if sink.url().contains('?') { "" } else { "?tls=none" }),
            ),
        };
        (name, value)
    };
    let settings = |service: &str| -> Result<Vec<(String, String)>> {
        Ok(environment(&compose, service)?.into_iter().map(here).collect())
    };
    let script =
        project_folder().join(command(&compose["services"]["databases"]["command"])?[0].trim_start_matches('/'));
    let roles = project_folder().join("migrations/roles.sql").display().to_string();
    let made = settings("databases")?;
    // Twice, as each start does it.
    for _ in 0..2 {
        Launch::new("databases.sh", "/bin/sh")
            .arguments([&script])
            .environment(made.iter().map(|(name, value)| (name.as_str(), value.as_str())))
            .environment([("PGPORT", port.as_str()), ("ROLES_SQL", roles.as_str())])
            .run()
            .await?
            .success()?;
    }
    for service in ["migrate-app", "migrate-jobs"] {
        let words = command(&compose["services"][service]["command"])?;
        let given = settings(service)?;
        let given = given.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let migrated = Launch::built(&words[0]).await?.arguments(&words[1..]).environment(given).run().await?;
        migrated.success().with_context(|| service.to_owned())?;
    }
    let mut services = Vec::new();
    for (service, listen) in [("api", "API_LISTEN"), ("relay", "RELAY_LISTEN")] {
        let words = command(&compose["services"][service]["command"])?;
        let given = settings(service)?;
        let given: Vec<(&str, &str)> = given.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let metrics = format!("127.0.0.1:{}", free_port()?);
        let launch = Launch::built(&words[0]).await?.arguments(&words[1..]).environment(given.iter().copied());
        let launch = launch.environment([("API_METRICS_LISTEN", metrics.as_str())]);
        // Its own PUBLIC_URL and addresses follow the port that is free here.
        let running = start(launch, listen, &[("LOG_FORMAT", "json")]).await?.ready().await?;
        let probe = command(&compose["services"][service]["healthcheck"]["test"])?;
        let address = running.url.trim_start_matches("http://").to_owned();
        let asked = Launch::built(&probe[1]).await?.arguments(&probe[2..]).environment([(listen, address.as_str())]);
        asked.run().await?.success().with_context(|| format!("{probe:?}"))?;
        services.push(running);
    }
    let person = json!({ "email": "ada@example.org", "display_name": "Ada" });
    let answer = http::post_json(&format!("{}/v1/users", services[0].url), &person).await?;
    assert_eq!(answer.status, 201, "{}", answer.body);
    sink.wait_for_mails("ada@example.org", 1).await?;
    Ok(())
}

#[test]
fn defaults_are_taken_where_nothing_is_set() {
    assert_eq!(defaults("a${B:-c}d${E}f"), "acdf");
}
