//! Which events: the filter as flags.

use clap::Args as ClapArgs;
use shared::settings::Faults;

use crate::cli::when;
use crate::outbox::page::Filter;

/// Which events: those that match every filter given.
#[derive(ClapArgs, Clone, Debug, Default)]
#[command(next_help_heading = "Which events")]
pub(super) struct FilterArgs {
    /// Of one aggregate, such as user/0190f7a2-5d2c-7cc0-8b4e-0f6f2c9f4c11
    #[arg(long, value_name = "TYPE/ID")]
    aggregate: Option<String>,
    /// Of this type, such as user.registered; may be given several times
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
}

impl FilterArgs {
    pub(super) fn read(self, faults: &mut Faults) -> Filter {
        when::aggregate(self.aggregate.as_deref(), faults);
        Filter {
            aggregate: self.aggregate,
            types: Some(self.types).filter(|types| !types.is_empty()),
            ..Filter::default()
        }
    }
}
