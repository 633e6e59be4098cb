//! `relay replay`: handlers run again on chosen events. A person is asked before emails are sent anew.

mod args;
pub(super) mod text;

use shared::progress::Progress;
use shared::settings::Faults;
use shared::shutdown;
use shared::terminal::can_ask;
use tokio_util::sync::CancellationToken;

use super::answer::{Form, print, print_json};
use crate::databases::PATIENCE;
use crate::handlers::{self, Registry};
use crate::operate::audit::{self, Action};
use crate::operate::{By, Operator};
use crate::postgres::within;
use crate::replay::tally::Tally;
use crate::replay::{self, Plan, Session};

pub use args::Args;

pub(super) async fn run(args: Args, mut faults: Faults) -> u8 {
    let (form, yes) = (Form::of(args.json()), args.yes());
    let registry = handlers::registry(&mut faults);
    let settings = args.read(registry.as_ref().unwrap_or(&Registry::default()), &mut faults);
    if let Err(code) = form.check(faults) {
        return code;
    }
    let (Some(settings), Some(registry)) = (settings, registry) else { return super::EXIT_SETTINGS };
    let plan = &settings.plan;
    let asks = plan.again && !plan.dry_run && !yes;
    if asks && !can_ask() {
        return form
            .refuse("--again sends emails anew, and there is no terminal to ask at: give --yes", super::EXIT_SETTINGS);
    }
    let name = format!("aftercommit replay {}", std::process::id());
    let mut session = match Session::open(&settings.application, &settings.jobs, &name).await {
        Ok(session) => session,
        Err(error) => return failed(form, error),
    };
    if asks {
        // Until something is stored, an interrupt simply ends the process.
        match confirmed(&mut session, &registry, plan, form).await {
            Ok(Ok(())) => {}
            Ok(Err(code)) => return code,
            Err(error) => return failed(form, error),
        }
    }
    let stop = match shutdown::on_signals() {
        Ok(stop) => stop,
        Err(error) => return form.refuse(&format!("{error:#}"), 1),
    };
    let mut tally = Tally::default();
    let outcome = match plan.dry_run {
        true => work(&mut session, &registry, plan, &mut tally, &stop).await,
        false => audited(&mut session, &registry, plan, &mut tally, &stop).await,
    };
    match form {
        Form::Text if outcome.is_ok() || tally.events > 0 => print(&text::of(&tally, plan.dry_run)),
        Form::Json if outcome.is_ok() => print_json(&tally.to_json(plan.dry_run)),
        _ => {}
    }
    match outcome {
        Err(error) if form == Form::Json => {
            let code = if error.is_refusal() { super::EXIT_REFUSED } else { 1 };
            let mut answer = tally.to_json(plan.dry_run);
            answer["error"] = error.to_string().into();
            answer["exit_code"] = code.into();
            print_json(&answer);
            code
        }
        Err(error) => failed(form, error),
        Ok(()) => u8::from(!tally.is_complete()),
    }
}

fn failed(form: Form, error: replay::Error) -> u8 {
    form.refuse(&error.to_string(), if error.is_refusal() { super::EXIT_REFUSED } else { 1 })
}

/// Replays, with its row in the audit trail: there before the first event, and at its end with what was stored.
async fn audited(
    session: &mut Session,
    registry: &Registry,
    plan: &Plan,
    tally: &mut Tally,
    stop: &CancellationToken,
) -> Result<(), replay::Error> {
    let operator = Operator::of_this_process();
    let action = if plan.again { "replay anew" } else { "replay" };
    let by = By { operator: &operator, reason: None };
    let action = Action { by, action, filter: plan.to_json() };
    let row = within(PATIENCE, action.begin(session.jobs(), 0)).await?;
    let outcome = work(session, registry, plan, tally, stop).await;
    let ended = outcome.is_ok() && !tally.interrupted;
    let noted = within(PATIENCE, audit::add(session.jobs(), row, tally.stored(), ended)).await;
    outcome?;
    Ok(noted?)
}

async fn work(
    session: &mut Session,
    registry: &Registry,
    plan: &Plan,
    tally: &mut Tally,
    stop: &CancellationToken,
) -> Result<(), replay::Error> {
    let progress = Progress::new(if plan.dry_run { "events compared" } else { "events" }, None);
    replay::run(session, registry, plan, tally, stop, |tally| progress.at(tally.events)).await
}

/// Counts by a dry run what would be sent, and asks. `Err` inside is the exit code of a no.
async fn confirmed(
    session: &mut Session,
    registry: &Registry,
    plan: &Plan,
    form: Form,
) -> Result<Result<(), u8>, replay::Error> {
    let mut tally = Tally::default();
    let dry = Plan { dry_run: true, ..plan.clone() };
    work(session, registry, &dry, &mut tally, &CancellationToken::new()).await?;
    let (jobs, events) = (tally.stored(), tally.events);
    if jobs == 0 {
        return Ok(Ok(()));
    }
    let question = format!("This makes {jobs} jobs anew for {events} events. Go on?");
    Ok(form.confirm(false, &question, "--again sends emails anew").await)
}
