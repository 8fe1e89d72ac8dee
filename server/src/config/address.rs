//! URLs of members: a scheme, a host and a port, nothing else.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Why a text is not one of our URLs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No scheme that etcd knows.
    #[error("URL scheme must be http, https, unix, or unixs: {0}")]
    Scheme(String),
    /// Unix sockets are not built yet.
    #[error(
        "{0} is a Unix socket, and Unix sockets come with a later version; use http://host:port"
    )]
    UnixLater(String),
    /// Not `host:port` behind the scheme.
    #[error("URL address does not have the form \"host:port\": {0}")]
    HostPort(String),
    /// The host is missing.
    #[error("unexpected empty host ({0})")]
    EmptyHost(String),
    /// Something follows the port.
    #[error("URL must not contain a path: {0}")]
    Path(String),
    /// A name was given where an address to listen on is needed.
    #[error("expected IP in URL for binding ({0}); use an IP address or localhost")]
    NotAnIp(String),
}

macro_rules! url_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Address);

        impl $name {
            /// Checks a URL that others are told to dial.
            ///
            /// # Errors
            /// Says what is wrong with `text`, which the message holds.
            pub fn to_advertise(text: &str) -> Result<$name, AddressError> {
                Address::parse(text).map($name)
            }

            /// Checks a URL that we bind, whose host must be an IP address or `localhost`.
            ///
            /// # Errors
            /// Says what is wrong with `text`, which the message holds.
            pub fn to_listen(text: &str) -> Result<$name, AddressError> {
                let address = Address::parse(text)?;
                match address.ip() {
                    Some(_) => Ok($name(address)),
                    None => Err(AddressError::NotAnIp(address.text)),
                }
            }

            /// The URL as it was typed, with blanks around it removed.
            pub fn as_str(&self) -> &str {
                &self.0.text
            }

            /// Whether it asks for TLS.
            pub fn is_https(&self) -> bool {
                self.0.https
            }

            /// The host without brackets.
            pub fn host(&self) -> &str {
                &self.0.host
            }

            /// The port.
            pub fn port(&self) -> u16 {
                self.0.port
            }

            /// The address to bind; nothing if the host is a name other than `localhost`.
            pub fn socket_address(&self) -> Option<SocketAddr> {
                self.0.ip().map(|ip| SocketAddr::new(ip, self.0.port))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0.text)
            }
        }
    };
}

url_type! {
    /// Where clients reach a member.
    ClientUrl
}
url_type! {
    /// Where members reach each other.
    PeerUrl
}
url_type! {
    /// Where metrics and health are served besides the client URLs.
    MetricsUrl
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Address {
    text: String,
    https: bool,
    host: String,
    port: u16,
}

impl Address {
    fn parse(text: &str) -> Result<Address, AddressError> {
        let text = text.trim();
        let owned = || text.to_owned();
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| AddressError::Scheme(owned()))?;
        match scheme {
            "http" | "https" => {}
            "unix" | "unixs" => return Err(AddressError::UnixLater(owned())),
            _ => return Err(AddressError::Scheme(owned())),
        }
        if rest.contains('/') {
            return Err(AddressError::Path(owned()));
        }
        let (host, port) = split_host_port(rest).ok_or_else(|| AddressError::HostPort(owned()))?;
        if host.is_empty() {
            return Err(AddressError::EmptyHost(owned()));
        }
        Ok(Address {
            text: owned(),
            https: scheme == "https",
            host: host.to_owned(),
            port,
        })
    }

    fn ip(&self) -> Option<IpAddr> {
        if self.host == "localhost" {
            return Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        self.host.parse().ok()
    }
}

/// Splits `host:port` and `[v6]:port`. Letters that no host name holds, such as those of a user
/// name or a query, make it neither.
fn split_host_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(bracketed) => {
            let address = bracketed.strip_suffix(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            address
        }
        None => host,
    };
    let v6 = text.starts_with('[');
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c) || (v6 && c == ':');
    if !host.chars().all(allowed) || !port.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((host, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_are_taken_apart() {
        let url = ClientUrl::to_listen(" http://127.0.0.1:2379 ").expect("valid");
        assert_eq!(
            (url.as_str(), url.host(), url.port()),
            ("http://127.0.0.1:2379", "127.0.0.1", 2379)
        );
        let url = PeerUrl::to_listen("http://[::1]:2380").expect("valid");
        assert_eq!(
            url.socket_address(),
            Some("[::1]:2380".parse().expect("address"))
        );
        let url = PeerUrl::to_listen("http://localhost:1").expect("valid");
        assert_eq!(
            url.socket_address(),
            Some("127.0.0.1:1".parse().expect("address"))
        );
        let url = ClientUrl::to_advertise("http://host-1.example.com:80").expect("valid");
        assert_eq!(
            (url.host(), url.socket_address()),
            ("host-1.example.com", None)
        );
    }

    #[test]
    fn other_texts_are_refused_with_the_reason() {
        let reason = |text: &str| ClientUrl::to_listen(text).expect_err(text).to_string();
        assert!(reason("localhost:2379").starts_with("URL scheme must be http"));
        assert!(reason("ftp://localhost:2379").starts_with("URL scheme must be http"));
        let https = ClientUrl::to_listen("https://localhost:2379").expect("valid");
        assert!(https.is_https());
        assert!(reason("unix:///run/a").contains("Unix sockets come with a later version"));
        assert!(reason("http://localhost").contains("host:port"));
        assert!(reason("http://localhost:").contains("host:port"));
        assert!(reason("http://localhost:65536").contains("host:port"));
        assert!(reason("http://localhost:+1").contains("host:port"));
        assert!(reason("http://::1:2379").contains("host:port"));
        assert!(reason("http://[::1:2379").contains("host:port"));
        assert!(reason("http://user@localhost:1").contains("host:port"));
        assert!(reason("http://localhost:1?a").contains("host:port"));
        assert!(reason("http://:2379").contains("empty host"));
        assert!(reason("http://localhost:2379/").contains("must not contain a path"));
        assert!(reason("http://example.com:2379").contains("expected IP in URL"));
    }
}
