//! Asks a server's `/health`, as a load balancer would.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// A guest's forwarded port takes connections before anybody listens in the guest.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The real answer has about a hundred bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Whether a server on the loopback says that it is healthy: it can read linearizably.
pub(super) fn is_healthy(port: u16) -> bool {
    ask(port).is_ok_and(|answer| says_healthy(&answer))
}

fn ask(port: u16) -> std::io::Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn says_healthy(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return false;
    };
    let ok = head
        .lines()
        .next()
        .is_some_and(|line| line.split(' ').nth(1) == Some("200"));
    let body: String = body
        .chars()
        .filter(|letter| !letter.is_whitespace())
        .collect();
    ok && body.contains(r#""health":"true""#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_200_that_says_true_is_healthy() {
        let answer = |status: &str, body: &str| format!("HTTP/1.1 {status}\r\nA: b\r\n\r\n{body}");
        assert!(says_healthy(&answer(
            "200 OK",
            r#"{"health":"true","reason":""}"#
        )));
        assert!(says_healthy(&answer("200 OK", r#"{ "health": "true" }"#)));
        assert!(!says_healthy(&answer(
            "503 Service Unavailable",
            r#"{"health":"true"}"#
        )));
        assert!(!says_healthy(&answer("200 OK", r#"{"health":"false"}"#)));
        assert!(!says_healthy("HTTP/1.1 200 OK"));
        assert!(!says_healthy(""));
    }
}
