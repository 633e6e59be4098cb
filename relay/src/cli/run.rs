//! `relay run`: dispatch and delivery, until told to stop.

use std::sync::Arc;

use clap::Args as ClapArgs;
use shared::database_url::DatabaseUrl;
use shared::settings::{self, Faults};
use shared::shutdown;
use shared::trace::export;
use tokio_util::sync::CancellationToken;

use crate::config::dashboard::DashboardArgs;
use crate::config::delivery::{DeliveryArgs, MailArgs};
use crate::config::limits::LimitArgs;
use crate::config::upkeep::UpkeepArgs;
use crate::config::{ApplicationDatabaseArgs, JobsDatabaseArgs, Service, ServiceArgs, VARIABLES};
use crate::health::Health;
use crate::mail::Email;
use crate::mail::suppression::Suppressions;
use crate::metrics::history::History;
use crate::metrics::sampled::Sampler;
use crate::operate::watch::{self, Pauses};
use crate::wake::{Bell, listen_to_outbox};
use crate::{dashboard, deliver, dispatch, handlers, http, metrics, upkeep};

/// Everything that the service is told at start.
#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    application: ApplicationDatabaseArgs,
    #[command(flatten)]
    jobs: JobsDatabaseArgs,
    #[command(flatten)]
    service: ServiceArgs,
    #[command(flatten)]
    mail: MailArgs,
    #[command(flatten)]
    delivery: DeliveryArgs,
    #[command(flatten)]
    dashboard: DashboardArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    upkeep: UpkeepArgs,
}

/// The same, read.
struct Settings {
    application: DatabaseUrl,
    jobs: DatabaseUrl,
    service: Service,
    email: Arc<Email>,
    delivery: deliver::Settings,
    dashboard: Option<dashboard::Settings>,
    limits: deliver::Limits,
    upkeep: upkeep::Settings,
}

impl Args {
    /// What can be told of the surroundings, whatever is wrong with the rest.
    pub(super) fn parts(self, faults: &mut Faults) -> (Option<DatabaseUrl>, Option<DatabaseUrl>, Option<Arc<Email>>) {
        self.service.read(faults);
        self.delivery.read(faults);
        self.limits.read(faults);
        self.upkeep.read(faults);
        (self.application.read(faults), self.jobs.read(faults), self.mail.read(faults))
    }

    fn read(self, faults: &mut Faults) -> Option<Settings> {
        let application = self.application.read(faults);
        let jobs = self.jobs.read(faults);
        let service = self.service.read(faults);
        let email = self.mail.read(faults);
        let delivery = self.delivery.read(faults);
        let dashboard = self.dashboard.read(faults);
        let limits = self.limits.read(faults);
        let upkeep = self.upkeep.read(faults);
        Some(Settings {
            application: application?,
            jobs: jobs?,
            service,
            email: email?,
            delivery,
            dashboard,
            limits,
            upkeep,
        })
    }
}

pub(super) async fn run(args: Args, mut faults: Faults) -> u8 {
    let settings = args.read(&mut faults);
    let registry = handlers::registry(&mut faults);
    if let Err(code) = super::check(faults) {
        return code;
    }
    let (Some(settings), Some(registry)) = (settings, registry) else { return super::EXIT_SETTINGS };
    settings::warn_about_unknown_variables(VARIABLES);
    let traces = match export::start("relay", env!("CARGO_PKG_VERSION"), settings.service.traces.as_ref()) {
        Ok(traces) => traces,
        Err(error) => return super::failed(&error),
    };
    let ended = service(settings, registry).await;
    traces.stop().await;
    match ended {
        Ok(()) => 0,
        Err(error) => super::failed(&error),
    }
}

async fn service(settings: Settings, registry: handlers::Registry) -> anyhow::Result<()> {
    let stop = shutdown::on_signals()?;
    let health = Health::default();
    let Service { job_queue_enabled, listen, dispatch_workers, .. } = settings.service;

    // A part that ends before it is told to takes the others with it.
    let server = tokio::spawn(with_stop(stop.clone(), http::serve(listen, health.clone(), stop.clone())));
    let mut kinds = deliver::Kinds::default();
    kinds.on_limited(settings.email.clone(), settings.limits)?;
    metrics::install(&registry, &kinds.names(), job_queue_enabled)?;
    let history = History::default();
    let dashboard = match settings.dashboard {
        None => None,
        Some(shown) => Some(dashboard::Context {
            settings: shown,
            application: settings.application.clone(),
            jobs: settings.jobs.clone(),
            registry: handlers::register_all()?,
            email: settings.email.clone(),
            health: health.clone(),
            history: history.clone(),
        }),
    };
    let dashboard =
        dashboard.map(|context| tokio::spawn(with_stop(stop.clone(), dashboard::serve(context, stop.clone()))));
    let served = async {
        server.await??;
        if let Some(dashboard) = dashboard {
            dashboard.await??;
        }
        anyhow::Ok(())
    };
    if !job_queue_enabled {
        tracing::warn!("paused: JOB_QUEUE_ENABLED is false; events wait in the outbox");
        health.paused("relay", "paused by JOB_QUEUE_ENABLED");
        return served.await;
    }
    settings.email.announce();
    settings
        .email
        .consult(Suppressions::new(settings.jobs.clone(), format!("aftercommit mail {}", std::process::id())));
    tracing::info!(handlers = registry.names().join(", "), "event_handlers_registered");

    let name = format!("aftercommit relay {}", std::process::id());
    let outbox_bell = Bell::default();
    let jobs_bell = Bell::default();
    let listener = listen_to_outbox(settings.application.clone(), name.clone(), outbox_bell.clone(), stop.clone());
    let listener = tokio::spawn(listener);
    let pauses = Pauses::unknown();
    let following = watch::Context {
        jobs: settings.jobs.clone(),
        name: name.clone(),
        pauses: pauses.clone(),
        jobs_bell: jobs_bell.clone(),
        health: health.clone(),
    };
    let following = tokio::spawn(watch::follow(following, stop.clone()));
    let sampler = Sampler {
        application: settings.application.clone(),
        jobs: settings.jobs.clone(),
        name: name.clone(),
        handlers: registry.names().to_vec(),
        kinds: kinds.names(),
        history,
    };
    let sampler = tokio::spawn(sampler.run(stop.clone()));
    let keeping = upkeep::Context {
        application: settings.application.clone(),
        jobs: settings.jobs.clone(),
        name: name.clone(),
        settings: settings.upkeep,
        board: upkeep::audit::Board::default(),
    };
    let keeping = tokio::spawn(upkeep::run(keeping, stop.clone()));
    let delivery = deliver::Context {
        jobs: settings.jobs.clone(),
        name: name.clone(),
        kinds,
        settings: settings.delivery,
        bell: jobs_bell.clone(),
        health: health.clone(),
        pauses: pauses.clone(),
    };
    let delivery = {
        let stop = stop.clone();
        tokio::spawn(async move { deliver::run(&delivery, &stop).await })
    };
    let context = Arc::new(dispatch::Context {
        application: settings.application,
        jobs: settings.jobs,
        name,
        registry,
        outbox_bell,
        jobs_bell,
        health,
        pauses,
    });
    let workers: Vec<_> = (0..dispatch_workers)
        .map(|worker| {
            let (context, stop) = (context.clone(), stop.clone());
            tokio::spawn(async move { dispatch::run(&context, worker, &stop).await })
        })
        .collect();

    for worker in workers {
        worker.await?;
    }
    delivery.await?;
    listener.await?;
    following.await?;
    sampler.await?;
    keeping.await?;
    served.await
}

/// Runs a part to its end; if it failed, the others are told to stop.
async fn with_stop(stop: CancellationToken, part: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let ended = part.await;
    stop.cancel();
    ended
}
