//! What the outbox costs those who write to it: registrations per second with and without the event, and over HTTP.
//!
//! The contenders take turns on one database, on a server with fsync and synchronous commits on:
//!
//! - bare: the transaction that opens an account, without its event: BEGIN, INSERT, COMMIT, as a service without an outbox
//!   would have it.
//! - with: the same transaction with the event, in the product's own statement.
//! - single_bare, single_with: the same two statements without BEGIN and COMMIT, each a transaction of its own.
//! - http: `POST /v1/users` to the real `api`, which registers by such a single statement; each client on a connection of its
//!   own, each request from a network of its own, so that the limit per network does its work and refuses nobody.
//!
//! Everything shares this machine's processors with the clients that ask. Absolute figures move from machine to machine:
//! the ratios are what counts, `ratio` = with/bare, `single_ratio` = single_with/single_bare, `http_ratio` = http/bare and
//! `http_single_ratio` = http/single_bare, medians of interleaved rounds. Run it by `cargo bench-write`.

mod contenders;

use anyhow::Result;
use contenders::{Contender, Http, Transactions};
use tests::databases::{DatabaseServer, Databases};
use tests::measure::{self, median};

/// Rounds; the median of each figure is printed.
const ROUNDS: usize = 5;
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
        let mut rounds: [Vec<f64>; 5] = Default::default();
        // The first round warms up caches and connections and is not counted.
        for round in 0..=ROUNDS {
            let mut rates = Vec::new();
            for (in_transaction, with_event) in [(true, false), (true, true), (false, false), (false, true)] {
                rates.push(transactions.rate(Contender { with_event, in_transaction }).await?);
            }
            rates.push(http.posts().await?);
            eprintln!("{clients} clients, round {round}: {rates:.0?}");
            if round > 0 {
                rounds.iter_mut().zip(rates).for_each(|(all, rate)| all.push(rate));
            }
        }
        let [bare, with, single_bare, single_with, over_http] = rounds.map(median);
        line += &format!(
            " bare_{clients}={bare:.0}/s with_{clients}={with:.0}/s single_bare_{clients}={single_bare:.0}/s \
             single_with_{clients}={single_with:.0}/s http_{clients}={over_http:.0}/s ratio_{clients}={:.2} \
             single_ratio_{clients}={:.2} http_ratio_{clients}={:.2} http_single_ratio_{clients}={:.2}",
            with / bare,
            single_with / single_bare,
            over_http / bare,
            over_http / single_bare,
        );
    }
    println!("{line}");
    Ok(())
}
