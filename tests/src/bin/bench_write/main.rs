//! What the outbox costs those who write to it: registrations per second with and without the event, and over HTTP.
//!
//! Three contenders take turns on one database, on a server with fsync and synchronous commits on:
//!
//! - bare: the transaction that opens an account, without its event: what the service would do without an outbox.
//! - with: the same transaction with the event, in the product's own statement.
//! - http: `POST /v1/users` to the real `api`, each client on a connection of its own, each request from a network of its
//!   own, so that the limit per network does its work and refuses nobody.
//!
//! Everything shares this machine's processors with the clients that ask. Absolute figures move from machine to machine:
//! the ratios are what counts, `ratio` = with/bare and `http_ratio` = http/bare, medians of three interleaved rounds.
//! Run it by `cargo bench-write`.

mod contenders;

use anyhow::Result;
use contenders::{Http, Transactions};
use tests::databases::{DatabaseServer, Databases};
use tests::measure::{self, median};

/// Rounds; the median of each figure is printed.
const ROUNDS: usize = 3;
/// How many clients ask at the same time.
const CLIENTS: [usize; 3] = [1, 8, 32];

#[tokio::main]
async fn main() -> Result<()> {
    let server = DatabaseServer::start(measure::server()).await?;
    let databases = Databases::on(&server).await?;
    let mut line = "write:".to_owned();
    for clients in CLIENTS {
        let transactions = Transactions::connect(&databases, clients).await?;
        let http = Http::start(&databases, clients).await?;
        let [mut bare, mut with, mut over_http] = [const { Vec::new() }; 3];
        // The first round warms up caches and connections and is not counted.
        for round in 0..=ROUNDS {
            let rates = [transactions.bare().await?, transactions.with_event().await?, http.posts().await?];
            eprintln!(
                "{clients} clients, round {round}: bare {:.0}/s with {:.0}/s http {:.0}/s",
                rates[0], rates[1], rates[2]
            );
            if round > 0 {
                [&mut bare, &mut with, &mut over_http].into_iter().zip(rates).for_each(|(all, rate)| all.push(rate));
            }
        }
        let [bare, with, over_http] = [bare, with, over_http].map(median);
        line += &format!(
            " bare_{clients}={bare:.0}/s with_{clients}={with:.0}/s http_{clients}={over_http:.0}/s \
             ratio_{clients}={:.2} http_ratio_{clients}={:.2}",
            with / bare,
            over_http / bare,
        );
    }
    println!("{line}");
    Ok(())
}
