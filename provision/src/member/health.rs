//! The page `/health`, asked with a few lines of HTTP/1.1.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde::Deserialize;

use crate::spec::HttpUrl;

/// A connection to the same host is made at once or not at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// The server itself gives up after 5 s and two election timeouts.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// The page has some 40 bytes and a few headers.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// What the member says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Health {
    /// `"true"`, or why not.
    health: String,
    #[serde(default)]
    pub(crate) reason: String,
}

/// Why the page could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HealthError {
    #[error("{url} does not answer: {source}")]
    NoAnswer { url: String, source: std::io::Error },
    #[error("{url} answers, but not as holdfast or etcd would: {got:?}")]
    NotAMember { url: String, got: String },
}

impl Health {
    pub(crate) fn is_healthy(&self) -> bool {
        self.health == "true"
    }
}

/// Asks for the page.
///
/// # Errors
/// When nothing answers, or something that is no member.
pub(crate) fn health(client: &HttpUrl) -> Result<Health, HealthError> {
    let url = format!("{client}/health");
    let answer = ask(client).map_err(|source| HealthError::NoAnswer {
        url: url.clone(),
        source,
    })?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    // The body may come in chunks; the object is what stands between the braces.
    let object = body
        .find('{')
        .zip(body.rfind('}'))
        .map_or("", |(start, end)| &body[start..=end]);
    serde_json::from_str(object).map_err(|_| HealthError::NotAMember {
        url,
        got: answer.lines().next().unwrap_or_default().to_owned(),
    })
}

fn ask(client: &HttpUrl) -> std::io::Result<String> {
    let authority = client.authority();
    let address = authority.to_socket_addrs()?.next().ok_or_else(|| {
        std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address")
    })?;
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_LIMIT)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    let request = format!("GET /health HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
