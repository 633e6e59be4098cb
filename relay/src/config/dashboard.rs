//! The settings of the dashboard: where it listens, and who may come in.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use shared::settings::{self, Faults, Secret};

use crate::dashboard::Settings;
use crate::dashboard::session::Tokens;

/// A token that people can't guess, and programs neither.
const SHORTEST_TOKEN: usize = 20;

const TOKEN_EXAMPLE: &str = "Give one of at least 20 characters (`openssl rand -base64 32`)";

/// The dashboard.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Dashboard")]
pub struct DashboardArgs {
    /// Where the dashboard is served, such as 127.0.0.1:9091 [default: nowhere]
    #[arg(long, env = "DASHBOARD_LISTEN", value_name = "ADDRESS")]
    dashboard_listen: Option<String>,
    /// The token that lets people in who may change things; needed elsewhere than on loopback
    #[arg(long, env = "DASHBOARD_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    dashboard_token: Option<Secret>,
    /// The file that holds it
    #[arg(long, env = "DASHBOARD_TOKEN_FILE", value_name = "FILE")]
    dashboard_token_file: Option<PathBuf>,
    /// The token that lets people in who may only look
    #[arg(long, env = "DASHBOARD_READ_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    dashboard_read_token: Option<Secret>,
    /// The file that holds it
    #[arg(long, env = "DASHBOARD_READ_TOKEN_FILE", value_name = "FILE")]
    dashboard_read_token_file: Option<PathBuf>,
    /// Host names by which people reach the dashboard, separated by commas; addresses and localhost need not be named
    #[arg(long, env = "DASHBOARD_HOSTS", value_name = "NAMES")]
    dashboard_hosts: Option<String>,
}

impl DashboardArgs {
    /// Reads them; none when there is to be no dashboard.
    pub fn read(self, faults: &mut Faults) -> Option<Settings> {
        let name = "DASHBOARD_TOKEN";
        let operator = settings::secret(name, self.dashboard_token, self.dashboard_token_file.as_deref(), faults);
        let operator = operator.filter(|token| is_long(name, token, faults));
        let name = "DASHBOARD_READ_TOKEN";
        let reader =
            settings::secret(name, self.dashboard_read_token, self.dashboard_read_token_file.as_deref(), faults);
        let reader = reader.filter(|token| is_long(name, token, faults));
        if operator.is_some() && operator == reader {
            faults.push(name, "is the same as DASHBOARD_TOKEN", "Give another, or leave it out");
        }
        let hosts = settings::text(self.dashboard_hosts).map(|text| hosts(&text, faults)).unwrap_or_default();
        let given = settings::text(self.dashboard_listen)?;
        let Ok(listen) = given.trim().parse::<SocketAddr>() else {
            let remedy = "Give an address with a port, such as 127.0.0.1:9091";
            faults.push("DASHBOARD_LISTEN", format!("{given:?} is not valid"), remedy);
            return None;
        };
        let tokens = Tokens { operator, reader };
        if !listen.ip().is_loopback() && tokens.are_none() {
            let problem = "is not set, and DASHBOARD_LISTEN is no loopback address";
            faults.push("DASHBOARD_TOKEN", problem, format!("{TOKEN_EXAMPLE}, or listen on 127.0.0.1"));
        }
        Some(Settings { listen, tokens, hosts })
    }
}

fn is_long(name: &str, token: &Secret, faults: &mut Faults) -> bool {
    let long = token.expose().chars().count() >= SHORTEST_TOKEN;
    if !long {
        faults.push(name, "is too short", TOKEN_EXAMPLE);
    }
    long
}

/// Names without scheme, port or path, in lower case.
fn hosts(text: &str, faults: &mut Faults) -> Vec<String> {
    let mut hosts = Vec::new();
    for host in text.split(',').map(|host| host.trim().trim_end_matches('.').to_ascii_lowercase()) {
        if host.is_empty() || !host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)) {
            let remedy = "Give names alone, such as relay.example.com, without scheme and port";
            faults.push("DASHBOARD_HOSTS", format!("{host:?} is no host name"), remedy);
        } else {
            hosts.push(host);
        }
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(listen: &str, token: &str, reader: &str, hosts: &str) -> (Option<Settings>, String) {
        let args = DashboardArgs {
            dashboard_listen: Some(listen.to_owned()),
            dashboard_token: Some(Secret::new(token)),
            dashboard_read_token: Some(Secret::new(reader)),
            dashboard_hosts: Some(hosts.to_owned()),
            ..DashboardArgs::default()
        };
        let mut faults = Faults::new();
        let settings = args.read(&mut faults);
        (settings, faults.finish().err().map(|faults| faults.to_string()).unwrap_or_default())
    }

    const LONG: &str = "a-token-of-some-length";

    #[test]
    fn without_an_address_there_is_none() {
        let (settings, faults) = read("", "", "", "");
        assert!(settings.is_none() && faults.is_empty(), "{faults}");
    }

    #[test]
    fn loopback_needs_no_token_and_everywhere_else_does() {
        for (listen, token, reader, fault) in [
            ("127.0.0.1:9091", "", "", ""),
            ("[::1]:9091", "", "", ""),
            ("0.0.0.0:9091", "", "", "DASHBOARD_TOKEN: is not set"),
            ("192.0.2.7:9091", "", "", "DASHBOARD_TOKEN: is not set"),
            ("0.0.0.0:9091", LONG, "", ""),
            ("0.0.0.0:9091", "", LONG, ""),
            ("0.0.0.0:9091", "short", "", "DASHBOARD_TOKEN: is too short"),
            ("0.0.0.0:9091", LONG, LONG, "DASHBOARD_READ_TOKEN: is the same"),
            ("9091", LONG, "", "DASHBOARD_LISTEN: \"9091\" is not valid"),
        ] {
            let (_, faults) = read(listen, token, reader, "");
            assert!(if fault.is_empty() { faults.is_empty() } else { faults.contains(fault) }, "{listen}: {faults}");
            assert!(!faults.contains("short\""), "no token is quoted: {faults}");
        }
    }

    #[test]
    fn hosts_are_names_alone() {
        let (settings, faults) = read("127.0.0.1:1", "", "", "Relay.Example.com., other");
        assert_eq!(
            (settings.unwrap().hosts, faults),
            (vec!["relay.example.com".to_owned(), "other".to_owned()], String::new())
        );
        let (_, faults) = read("127.0.0.1:1", "", "", "https://relay.example.com,a:1,");
        assert_eq!(faults.lines().count(), 3, "{faults}");
    }
}
