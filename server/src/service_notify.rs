//! Tells systemd how the server does, by the protocol of sd_notify: datagrams of `KEY=value` lines
//! to the socket that `NOTIFY_SOCKET` names.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// A status line is for people; systemd shows one line.
const STATUS_CHARS_MAX: usize = 200;

/// The way to systemd. Without a socket every message is silently dropped: then nobody asked.
#[derive(Debug)]
pub struct ServiceNotify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl ServiceNotify {
    /// The way that this process was given by its environment.
    ///
    /// # Errors
    /// The address in `NOTIFY_SOCKET` is none, or no socket can be made.
    pub fn of_process() -> io::Result<ServiceNotify> {
        let watchdog = watchdog_interval(
            std::env::var("WATCHDOG_USEC").ok().as_deref(),
            std::env::var("WATCHDOG_PID").ok().as_deref(),
            std::process::id(),
        );
        ServiceNotify::to(std::env::var_os("NOTIFY_SOCKET"), watchdog)
    }

    /// A way to the socket at `address`, if there is one. A leading `@` means an abstract name.
    ///
    /// # Errors
    /// As [`ServiceNotify::of_process`].
    pub fn to(address: Option<OsString>, watchdog: Option<Duration>) -> io::Result<ServiceNotify> {
        let Some(address) = address.filter(|address| !address.is_empty()) else {
            return Ok(ServiceNotify {
                socket: None,
                watchdog,
            });
        };
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(ServiceNotify {
            socket: Some((socket, address)),
            watchdog,
        })
    }

    /// The server serves; `status` says what.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// What the server does at present.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={}", one_line(status)));
    }

    /// The server stops.
    pub fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={}", one_line(status)));
    }

    /// Starting or stopping takes at most this much longer, counted from now.
    pub fn extend_timeout(&self, timeout: Duration) {
        self.send(&format!("EXTEND_TIMEOUT_USEC={}", timeout.as_micros()));
    }

    /// How often [`ServiceNotify::alive`] must be called: half of what systemd waits.
    pub fn alive_interval(&self) -> Option<Duration> {
        self.watchdog.map(|watchdog| watchdog / 2)
    }

    /// The server is not stuck.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    fn send(&self, message: &str) {
        let Some((socket, address)) = &self.socket else {
            return;
        };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
            let what = message.lines().next().unwrap_or_default();
            tracing::warn!(what, %error, "failed to notify init daemon");
        }
    }
}

fn one_line(text: &str) -> String {
    text.chars()
        .take(STATUS_CHARS_MAX)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// systemd's watchdog counts for this process only if no other one is named.
fn watchdog_interval(usec: Option<&str>, pid: Option<&str>, own_pid: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own_pid)) {
        return None;
    }
    let usec: u64 = usec?.parse().ok()?;
    (usec > 0).then(|| Duration::from_micros(usec))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 1024];
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("timeout");
        let length = socket.recv(&mut buffer).expect("a datagram");
        String::from_utf8(buffer[..length].to_vec()).expect("text")
    }

    #[test]
    fn systemd_hears_each_message() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("notify");
        let systemd = UnixDatagram::bind(&path).expect("bind");
        let notify = ServiceNotify::to(Some(path.into()), None).expect("socket");
        notify.status("replays\nthe log");
        assert_eq!(received(&systemd), "STATUS=replays the log");
        notify.ready("serves");
        assert_eq!(received(&systemd), "READY=1\nSTATUS=serves");
        notify.extend_timeout(Duration::from_secs(2));
        assert_eq!(received(&systemd), "EXTEND_TIMEOUT_USEC=2000000");
        notify.alive();
        assert_eq!(received(&systemd), "WATCHDOG=1");
        notify.stopping("closes files");
        assert_eq!(received(&systemd), "STOPPING=1\nSTATUS=closes files");
    }

    #[test]
    fn an_abstract_socket_is_reached() {
        let name = format!("holdfast-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("name");
        let systemd = UnixDatagram::bind_addr(&address).expect("bind");
        let notify = ServiceNotify::to(Some(format!("@{name}").into()), None).expect("socket");
        notify.alive();
        assert_eq!(received(&systemd), "WATCHDOG=1");
    }

    #[test]
    fn without_a_socket_or_a_listener_nothing_breaks() {
        ServiceNotify::to(None, None)
            .expect("no socket")
            .ready("serves");
        let folder = tempfile::tempdir().expect("temporary folder");
        let gone = folder.path().join("gone");
        ServiceNotify::to(Some(gone.into()), None)
            .expect("socket")
            .ready("serves");
    }

    #[test]
    fn the_watchdog_counts_for_the_named_process() {
        let interval = |usec, pid| watchdog_interval(usec, pid, 7);
        assert_eq!(
            interval(Some("2000000"), None),
            Some(Duration::from_secs(2))
        );
        assert_eq!(
            interval(Some("2000000"), Some("7")),
            Some(Duration::from_secs(2))
        );
        assert_eq!(interval(Some("2000000"), Some("8")), None);
        assert_eq!(interval(Some("0"), None), None);
        assert_eq!(interval(Some("soon"), None), None);
        assert_eq!(interval(None, Some("7")), None);
        let notify = ServiceNotify::to(None, Some(Duration::from_secs(2))).expect("no socket");
        assert_eq!(notify.alive_interval(), Some(Duration::from_secs(1)));
    }
}
