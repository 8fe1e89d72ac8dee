//! curl, as operators and scripts use it.

use std::process::Command;

/// What curl got.
#[derive(Clone, Debug)]
pub struct Curled {
    /// HTTP's status.
    pub status: u16,
    /// Headers in lower case, trailers too.
    pub headers: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Curled {
    /// The body as text.
    ///
    /// # Panics
    /// If it is none.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    pub fn json(&self) -> serde_json::Value {
        let text = self.text();
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.headers.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
    }
}

/// Runs curl; `None` if it got no answer.
///
/// # Panics
/// If there is no curl.
pub fn try_curl(arguments: &[&str]) -> Option<Curled> {
    let headers = tempfile::NamedTempFile::new().expect("a temporary file");
    let output = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--max-time",
            "30",
            "--dump-header",
        ])
        .arg(headers.path())
        .args(["--write-out", "%{stderr}status %{http_code}"])
        .args(arguments)
        .output()
        .expect("curl can be run");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let status = said.rsplit("status ").next()?.trim().parse().ok()?;
    if status == 0 {
        eprintln!("curl: {said}");
        return None;
    }
    let headers = std::fs::read(headers.path()).expect("curl has written the headers");
    Some(Curled {
        status,
        headers: String::from_utf8_lossy(&headers).to_ascii_lowercase(),
        body: output.stdout,
    })
}

/// Runs curl, which must get an answer.
///
/// # Panics
/// If it gets none.
pub fn curl(arguments: &[&str]) -> Curled {
    try_curl(arguments).unwrap_or_else(|| panic!("no answer to {arguments:?}"))
}
