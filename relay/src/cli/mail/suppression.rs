//! `relay mail suppress`, `unsuppress` and `suppressed`.

use clap::Args as ClapArgs;
use serde_json::{Value, json};
use shared::email_address::EmailAddress;
use shared::settings::Faults;
use time::format_description::well_known::Rfc3339;
use tokio_postgres::Client;

use super::super::answer::{Form, print, print_json};
use super::super::{EXIT_REFUSED, EXIT_SETTINGS};
use crate::config::JobsDatabaseArgs;
use crate::databases;
use crate::operate::suppressions::{self, Suppression};
use crate::operate::{By, Operator, Slice};

#[derive(ClapArgs, Clone, Debug)]
pub(super) struct SuppressArgs {
    /// The address
    address: String,
    /// Why: it is what the mail's jobs will say
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    common: Common,
}

#[derive(ClapArgs, Clone, Debug)]
pub(super) struct UnsuppressArgs {
    /// The address
    address: String,
    /// Why: for the audit trail
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(ClapArgs, Clone, Debug)]
pub(super) struct SuppressedArgs {
    /// Only this address
    address: Option<String>,
    /// The most that are listed
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000), value_name = "NUMBER")]
    limit: u16,
    /// Go on behind this address
    #[arg(long, value_name = "ADDRESS")]
    after: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(ClapArgs, Clone, Debug)]
struct Common {
    /// Answer in JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    jobs: JobsDatabaseArgs,
}

impl Common {
    async fn connect(self, mut faults: Faults) -> Result<(Form, Client), u8> {
        let form = Form::of(self.json);
        let url = self.jobs.read(&mut faults);
        form.check(faults)?;
        let Some(url) = url else { return Err(EXIT_SETTINGS) };
        let name = format!("aftercommit mail {}", std::process::id());
        match databases::jobs(&url, &name).await {
            Ok(client) => Ok((form, client)),
            Err(error) if error.is_refusal() => Err(form.refuse(&error.to_string(), EXIT_REFUSED)),
            Err(error) => Err(form.refuse(&error.to_string(), 1)),
        }
    }
}

fn read_address(text: &str, faults: &mut Faults) -> Option<EmailAddress> {
    let address = EmailAddress::parse(text);
    address.map_err(|error| faults.push("ADDRESS", error.to_string(), "Correct it")).ok()
}

pub(super) async fn suppress(args: SuppressArgs, faults: Faults) -> u8 {
    let SuppressArgs { address, reason, common } = args;
    change(&address, common, faults, async |client, address, operator| {
        let by = By { operator: &operator, reason: Some(&reason) };
        let changed = suppressions::suppress(client, address, &reason, by).await?;
        Ok(("suppressed", changed, if changed { "gets no more mail" } else { "is on the list already" }))
    })
    .await
}

pub(super) async fn unsuppress(args: UnsuppressArgs, faults: Faults) -> u8 {
    let UnsuppressArgs { address, reason, common } = args;
    change(&address, common, faults, async |client, address, operator| {
        let by = By { operator: &operator, reason: reason.as_deref() };
        let changed = suppressions::unsuppress(client, address, by).await?;
        Ok(("unsuppressed", changed, if changed { "gets mail again" } else { "is not on the list" }))
    })
    .await
}

/// Makes one change and says what became of it.
async fn change(
    address: &str,
    common: Common,
    mut faults: Faults,
    make: impl AsyncFnOnce(
        &mut Client,
        &EmailAddress,
        Operator,
    ) -> Result<(&'static str, bool, &'static str), crate::postgres::Error>,
) -> u8 {
    let address = read_address(address, &mut faults);
    let (form, mut client) = match common.connect(faults).await {
        Ok(connected) => connected,
        Err(code) => return code,
    };
    let Some(address) = address else { return EXIT_SETTINGS };
    match make(&mut client, &address, Operator::of_this_process()).await {
        Ok((done, changed, text)) => {
            match form {
                Form::Json => print_json(&json!({ "address": address.key(), done: changed })),
                Form::Text => print(&format!("{} {text}\n", address.key())),
            }
            0
        }
        Err(error) => form.refuse(&error.to_string(), 1),
    }
}

pub(super) async fn suppressed(args: SuppressedArgs, mut faults: Faults) -> u8 {
    let one = args.address.as_deref().map(|address| read_address(address, &mut faults));
    let (form, client) = match args.common.connect(faults).await {
        Ok(connected) => connected,
        Err(code) => return code,
    };
    let found = match one.flatten() {
        Some(address) => suppressions::find(&client, &address).await.map(Vec::from_iter),
        None => suppressions::list(&client, Slice { after: args.after, limit: i64::from(args.limit) }).await,
    };
    let found = match found {
        Ok(found) => found,
        Err(error) => return form.refuse(&error.to_string(), 1),
    };
    match form {
        Form::Json => print_json(&found.iter().map(to_json).collect::<Vec<_>>().into()),
        Form::Text if found.is_empty() => print("no such address is on the suppression list\n"),
        Form::Text => {
            for line in &found {
                let Suppression { address, reason, source, .. } = line;
                print(&format!("{}  {address}  {source}: {reason}\n", since(line).unwrap_or_default()));
            }
            if found.len() == usize::from(args.limit) {
                let last = found.last().map_or("", |line| &line.address);
                print(&format!("there may be more: --after {last}\n"));
            }
        }
    }
    0
}

fn to_json(line: &Suppression) -> Value {
    let Suppression { address, reason, source, .. } = line;
    json!({ "address": address, "reason": reason, "source": source, "suppressed_at": since(line) })
}

fn since(line: &Suppression) -> Option<String> {
    let second = line.suppressed_at?.replace_nanosecond(0).ok()?;
    second.format(&Rfc3339).ok()
}
