//! Following a page: the part of it that changes is made again every other second, and sent when it is not what was
//! sent before.
//!
//! Relative times are the browser's to keep; they alone are no change. Streams end with the process, which would wait
//! for them otherwise.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use poem::http::{StatusCode, header};
use poem::web::Data;
use poem::web::sse::{Event, SSE};
use poem::{IntoResponse, Request, Response, handler};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::sync::OwnedSemaphorePermit;

use super::guard::Visitor;
use super::query::Query;
use super::view::Message;
use super::{App, pages};

/// The most that watch at the same time.
pub const MOST: usize = 64;

const PACE: Duration = Duration::from_secs(2);
/// How soon a browser comes back after the stream broke.
const RETRY_MILLISECONDS: u64 = 3_000;
/// Proxies take a silent connection for dead; and only who writes notices that a browser has gone.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

struct Watch {
    app: Arc<App>,
    visitor: Visitor,
    path: String,
    query: Query,
    sent: Option<[u8; 32]>,
    /// How often it was asked for news.
    turn: u64,
    _permit: OwnedSemaphorePermit,
}

/// `GET /live?view=/path?query`
#[handler]
pub fn live(app: Data<&Arc<App>>, visitor: Data<&Visitor>, request: &Request) -> Response {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let view = query.get("view");
    let (path, query) = view.split_once('?').unwrap_or((view, ""));
    let Ok(permit) = app.watchers.clone().try_acquire_owned() else {
        const FULL: Message = Message("Too many watch", "As many pages are followed as may be. Close one.");
        let refused = app.refuse(StatusCode::SERVICE_UNAVAILABLE, FULL);
        return refused.with_header(header::RETRY_AFTER, "30").into_response();
    };
    let watch = Watch {
        app: app.clone(),
        visitor: visitor.clone(),
        path: path.to_owned(),
        query: Query::parse(query),
        sent: None,
        turn: 0,
        _permit: permit,
    };
    let stream = SSE::new(events(watch)).keep_alive(KEEP_ALIVE);
    // nginx would hold the events back until it has a page of them.
    stream.with_header("x-accel-buffering", "no").into_response()
}

fn events(watch: Watch) -> impl Stream<Item = Event> + Send + 'static {
    stream::unfold(watch, |mut watch| async move {
        loop {
            watch.turn += 1;
            match watch.turn {
                1 => return Some((Event::retry(RETRY_MILLISECONDS), watch)),
                2 => {}
                _ => watch.pause().await,
            }
            if watch.app.stop.is_cancelled() || watch.is_over() {
                return None;
            }
            if let Some(event) = watch.news().await {
                return Some((event, watch));
            }
        }
    })
}

impl Watch {
    /// What to send, if it is not what was sent last.
    async fn news(&mut self) -> Option<Event> {
        let made = tokio::select! {
            made = pages::find(&self.app, &self.path, &self.query) => made,
            () = self.app.stop.cancelled() => return None,
        };
        let (kind, html) = match made {
            Ok(page) => ("page", self.app.view.live(self.app.shell(&self.visitor.session, &self.path), &page)),
            Err(problem) => ("problem", problem.text().to_owned()),
        };
        let digest = digest(&html);
        (self.sent.replace(digest) != Some(digest)).then(|| Event::message(html).event_type(kind))
    }

    fn is_over(&self) -> bool {
        self.visitor.session.expires_at <= OffsetDateTime::now_utc().unix_timestamp()
    }

    async fn pause(&self) {
        tokio::select! {
            () = tokio::time::sleep(PACE) => {}
            () = self.app.stop.cancelled() => {}
        }
    }
}

/// Of everything but the words of relative times.
fn digest(html: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut parts = html.split("<time ");
    hash.update(parts.next().unwrap_or_default());
    for part in parts {
        let (element, rest) = part.split_once("</time>").unwrap_or((part, ""));
        hash.update(element.split('>').next().unwrap_or_default());
        hash.update(rest);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::digest;

    #[test]
    fn only_the_words_of_times_are_no_news() {
        let html = |at: &str, words: &str, after: &str| {
            format!("<p>a <time datetime=\"{at}\" title=\"{at}\">{words}</time> {after}</p>")
        };
        let first = digest(&html("1", "now", "x"));
        assert_eq!(first, digest(&html("1", "2 s ago", "x")));
        assert_ne!(first, digest(&html("2", "now", "x")));
        assert_ne!(first, digest(&html("1", "now", "y")));
    }
}
