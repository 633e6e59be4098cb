//! What both programs promise a person at a shell, and a script: help with examples, exit codes that are written down,
//! completions, manual pages, colour where it is wanted, and errors as JSON where JSON was asked for.

use anyhow::{Context as _, Result};
use serde_json::Value;
use tests::databases::{Databases, Role};
use tests::process::{Finished, Launch};

async fn run(program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Finished> {
    let launch = Launch::built(program).await?.environment(environment.iter().copied());
    launch.arguments(arguments.iter().copied()).run().await
}

/// Each command of `relay` that does something.
const COMMANDS: [&str; 16] = [
    "run",
    "status",
    "replay",
    "verify",
    "mail preview",
    "doctor",
    "events list",
    "events show",
    "events tail",
    "jobs list",
    "jobs retry",
    "jobs cancel",
    "jobs pause",
    "failures list",
    "failures retry",
    "audit",
];

#[tokio::test]
async fn help_has_examples_and_exit_codes() -> Result<()> {
    for program in ["api", "relay"] {
        let help = run(program, &["--help"], &[]).await?.success()?.stdout;
        assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
        let codes = run(program, &["exit-codes"], &[]).await?.success()?.stdout;
        assert!(codes.contains("3  refused by the state of a database"), "{codes}");
        let help = run(program, &["help", "exit-codes"], &[]).await?.success()?.stdout;
        assert!(help.contains("3  refused by the state of a database"), "{help}");
    }
    for group in ["events", "jobs", "failures"] {
        let help = run("relay", &[group, "--help"], &[]).await?.success()?.stdout;
        assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{help}");
    }
    for command in COMMANDS {
        let arguments: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let help = run("relay", &arguments, &[]).await?.success()?.stdout;
        assert!(help.starts_with(|c: char| c.is_ascii_uppercase()) && help.contains("Usage: relay"), "{help}");
    }
    Ok(())
}

#[tokio::test]
async fn shells_get_completions_that_they_can_read() -> Result<()> {
    for program in ["api", "relay"] {
        for shell in ["bash", "zsh", "fish"] {
            let script = run(program, &["completions", shell], &[]).await?.success()?.stdout;
            assert!(script.contains(program) && script.contains("migrate"), "{shell}: {script}");
            if shell == "bash" {
                let mut file = tempfile::NamedTempFile::new()?;
                std::io::Write::write_all(&mut file, script.as_bytes())?;
                let path = file.path().to_string_lossy().into_owned();
                Launch::new("bash", "bash").arguments(["-n", &path]).run().await?.success()?;
            }
        }
        let unknown = run(program, &["completions", "tcsh"], &[]).await?;
        assert!(unknown.code() == Some(2) && unknown.stderr.contains("zsh"), "{unknown:?}");
    }
    Ok(())
}

#[tokio::test]
async fn each_command_has_a_manual_page() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for program in ["api", "relay"] {
        let out = folder.path().join(program).to_string_lossy().into_owned();
        run(program, &["man", "--out", &out], &[]).await?.success()?;
    }
    for page in ["api/api.1", "api/api-migrate.1", "relay/relay.1", "relay/relay-jobs-retry.1", "relay/relay-doctor.1"]
    {
        let text = std::fs::read_to_string(folder.path().join(page)).with_context(|| page.to_owned())?;
        assert!(text.contains(".SH SYNOPSIS") && text.contains(".TH"), "{page}: {text}");
    }
    let taken = folder.path().join("relay/relay.1").to_string_lossy().into_owned();
    let refused = run("relay", &["man", "--out", &taken], &[]).await?;
    assert!(refused.code() == Some(1) && refused.stderr.contains("can't be written to"), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn colour_is_used_where_it_is_wanted() -> Result<()> {
    let databases = Databases::new().await?;
    let (app, jobs) = (databases.app.url(Role::Relay), databases.jobs.url(Role::Jobs));
    let urls = [("DATABASE_URL", &*app), ("JOBS_DATABASE_URL", &*jobs)];
    let doctor = async |arguments: &[&str], more: &[(&str, &str)]| -> Result<String> {
        let arguments = [&["doctor"], arguments].concat();
        Ok(run("relay", &arguments, &[&urls, more].concat()).await?.stdout)
    };
    let always = doctor(&["--color", "always"], &[("NO_COLOR", "1")]).await?;
    assert!(always.contains("\x1b[1m\x1b[31mproblem") || always.contains("\x1b[31m"), "{always}");
    for (arguments, more) in [
        (&[][..], &[][..]),
        (&["--color", "never"], &[("CLICOLOR_FORCE", "1")]),
        (&["--color", "auto"], &[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")]),
    ] {
        let plain = doctor(arguments, more).await?;
        assert!(plain.contains("problem") && !plain.contains('\x1b'), "{arguments:?} {more:?}: {plain}");
    }
    Ok(())
}

#[tokio::test]
async fn what_was_meant_is_suggested_and_errors_are_json_where_that_was_asked_for() -> Result<()> {
    for (arguments, words) in [
        (&["statsu"][..], "'status'"),
        (&["jobs", "retyr"], "'retry'"),
        (&["jobs", "list", "--stat", "dead"], "'--state'"),
        (&["jobs", "list", "--state", "deda"], "'dead'"),
    ] {
        let text = run("relay", arguments, &[]).await?;
        assert!(text.code() == Some(2) && text.stderr.contains(words) && text.stdout.is_empty(), "{text:?}");
        let json = run("relay", &[arguments, &["--json"]].concat(), &[]).await?;
        let answer: Value = serde_json::from_str(&json.stdout).with_context(|| format!("{json:?}"))?;
        assert_eq!((json.code(), &answer["exit_code"]), (Some(2), &2.into()));
        assert!(answer["error"].as_str().unwrap_or_default().contains(words), "{answer}");
    }
    for arguments in [&["status"][..], &["jobs", "list"], &["failures", "list"], &["events", "list"], &["audit"]] {
        let json = run("relay", &[arguments, &["--json"]].concat(), &[]).await?;
        let answer: Value = serde_json::from_str(&json.stdout).with_context(|| format!("{json:?}"))?;
        assert_eq!((json.code(), &answer["exit_code"]), (Some(2), &2.into()), "{arguments:?}");
        assert!(answer["error"].as_str().unwrap_or_default().contains("_URL: is not set"), "{answer}");
        assert!(json.stderr.is_empty(), "{json:?}");
    }
    Ok(())
}
