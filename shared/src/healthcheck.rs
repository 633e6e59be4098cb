//! Asking a running service how it is, for containers without a shell: `api healthcheck`, `relay healthcheck`.
//!
//! One plain HTTP request to this machine's own port; no redirects, no TLS, no name resolution.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// A service that takes longer is not well.
const PATIENCE: Duration = Duration::from_secs(3);
/// What is read of an answer at most.
const ANSWER_BYTES: u64 = 4096;

/// What to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether it works: `/readyz`.
    Ready,
    /// Whether it answers at all: `/livez`.
    Live,
}

impl Question {
    fn path(self) -> &'static str {
        match self {
            Self::Ready => "/readyz",
            Self::Live => "/livez",
        }
    }
}

/// Asks the service that listens there. Its answer's body, or why it is not well, on one line.
///
/// # Errors
/// When nobody answers in time, or the answer is no.
pub fn ask(listen: SocketAddr, question: Question) -> Result<String, String> {
    let address = reachable(listen);
    let answer = exchange(address, question.path()).map_err(|error| format!("{address} does not answer: {error}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let body = body.trim().replace(['\r', '\n'], " ");
    match head.split_whitespace().nth(1) {
        Some("200") => Ok(body),
        Some(status) => Err(format!("{} at {address} says {status}: {body}", question.path())),
        None => Err(format!("{address} answers, and not in HTTP")),
    }
}

/// Where a service that listens on every address of the machine is reached from the machine itself.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn exchange(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // In one piece: what arrives in several may be answered before its end.
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// A server that gives one answer, and what it was asked.
    fn server(answer: &'static str) -> (SocketAddr, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // To its end: a connection closed over unread bytes is reset.
            let mut request = Vec::new();
            let mut piece = [0; 1024];
            while !request.ends_with(b"\r\n\r\n") {
                let read = stream.read(&mut piece).unwrap();
                request.extend_from_slice(&piece[..read]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request).into_owned()
        });
        (address, asked)
    }

    #[test]
    fn a_service_that_says_yes_is_well() {
        let (address, asked) = server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        // As it would be configured in a container.
        let everywhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
        assert_eq!(ask(everywhere, Question::Live), Ok("ok".to_owned()));
        assert!(asked.join().unwrap().starts_with("GET /livez HTTP/1.1\r\n"));
    }

    #[test]
    fn a_service_that_says_no_or_nothing_is_not() {
        let (address, asked) = server("HTTP/1.1 503 Service Unavailable\r\n\r\n{\"status\":\n\"not ready\"}");
        let problem = ask(address, Question::Ready).unwrap_err();
        assert!(problem.contains("says 503: {\"status\": \"not ready\"}"), "{problem}");
        assert!(asked.join().unwrap().starts_with("GET /readyz"));
        assert!(ask(address, Question::Live).unwrap_err().contains("does not answer"), "it is gone");
        let (address, _) = server("220 mail.example ESMTP\r\n");
        assert!(ask(address, Question::Live).is_err());
    }
}
