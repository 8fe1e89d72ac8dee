//! Plain HTTP/1.1 requests by hand, so that what is checked is what is on the wire.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A page of a test is answered within this, or the server hangs.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// An HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The head as it came, without the status line.
    pub head: String,
    /// The body as it came.
    pub body: String,
}

/// Asks `endpoint` (`host:port`) for a path.
///
/// # Panics
/// If there is no answer, or none in HTTP.
pub fn request(method: &str, endpoint: &str, path: &str) -> Answer {
    let mut stream = TcpStream::connect(endpoint).expect("the server listens");
    stream
        .set_read_timeout(Some(ANSWER_TIME_MAX))
        .expect("a time-out can be set");
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {endpoint}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("the server reads");
    let mut bytes = Vec::new();
    stream
        .read_to_end(&mut bytes)
        .expect("the server answers and closes");
    let text = String::from_utf8(bytes).expect("pages are UTF-8");
    let (head, body) = text
        .split_once("\r\n\r\n")
        .expect("an HTTP answer has a head");
    let (first, head) = head.split_once("\r\n").unwrap_or((head, ""));
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    Answer {
        status: status.unwrap_or_else(|| panic!("no status in {first:?}")),
        head: head.to_owned(),
        body: if chunked {
            unchunked(body)
        } else {
            body.to_owned()
        },
    }
}

fn unchunked(mut rest: &str) -> String {
    let mut whole = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).expect("a chunk has a size");
        if size == 0 {
            break;
        }
        whole.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    whole
}
