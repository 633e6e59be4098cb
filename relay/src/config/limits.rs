//! The settings of limits on mail: how fast, and how many at a time.

use clap::Args;
use shared::settings::{self, Faults};

use crate::deliver::{Limits, Rate};

/// Limits on mail, for servers and recipients that want it slow.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Mails that this relay sends, as in 50/s, 600/m or 10000/h [default: no limit]
    #[arg(long, env = "MAIL_RATE", value_name = "RATE")]
    mail_rate: Option<String>,
    /// Mails that all relays send together [default: no limit]
    #[arg(long, env = "MAIL_RATE_OF_ALL", value_name = "RATE")]
    mail_rate_of_all: Option<String>,
    /// Mails that this relay sends to one domain [default: no limit]
    #[arg(long, env = "MAIL_DOMAIN_RATE", value_name = "RATE")]
    mail_domain_rate: Option<String>,
    /// Mails that this relay has under way to one domain [default: no limit]
    #[arg(long, env = "MAIL_DOMAIN_CONNECTIONS", value_name = "NUMBER")]
    mail_domain_connections: Option<String>,
}

impl LimitArgs {
    /// Reads them.
    pub fn read(self, faults: &mut Faults) -> Limits {
        let group_concurrency = self
            .mail_domain_connections
            .map(|text| settings::number("MAIL_DOMAIN_CONNECTIONS", Some(text), 1, 1..=1000, faults))
            .and_then(|number| usize::try_from(number).ok());
        Limits {
            rate: rate("MAIL_RATE", self.mail_rate, faults),
            rate_of_all: rate("MAIL_RATE_OF_ALL", self.mail_rate_of_all, faults),
            group_rate: rate("MAIL_DOMAIN_RATE", self.mail_domain_rate, faults),
            group_concurrency,
        }
    }
}

fn rate(name: &'static str, text: Option<String>, faults: &mut Faults) -> Option<Rate> {
    match text?.parse() {
        Ok(rate) => Some(rate),
        Err(error) => {
            faults.push(name, format!("{error}"), "Give it as 50/s, 600/m or 10000/h");
            None
        }
    }
}
