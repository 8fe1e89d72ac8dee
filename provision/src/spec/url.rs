//! Addresses to listen on and to tell others.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::Deserialize;

/// `http://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct HttpUrl {
    host: Host,
    port: u16,
}

/// The host part of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// A literal address.
    Ip(IpAddr),
    /// A name, resolved by whoever uses it.
    Name(String),
}

impl HttpUrl {
    pub(crate) fn on_loopback(port: u16) -> HttpUrl {
        HttpUrl {
            host: Host::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port,
        }
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Whether it means every address of the host: fit to listen on, not to be told to others.
    pub(crate) fn is_wildcard(&self) -> bool {
        matches!(&self.host, Host::Ip(ip) if ip.is_unspecified())
    }

    /// The address to dial from the same host.
    pub(crate) fn dialled_locally(&self) -> HttpUrl {
        let host = match &self.host {
            Host::Ip(IpAddr::V4(ip)) if ip.is_unspecified() => {
                Host::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST))
            }
            Host::Ip(IpAddr::V6(ip)) if ip.is_unspecified() => {
                Host::Ip(IpAddr::V6(Ipv6Addr::LOCALHOST))
            }
            other => other.clone(),
        };
        HttpUrl {
            host,
            port: self.port,
        }
    }

    /// `HOST:PORT`, as a socket or a `Host` header wants it.
    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Ip(IpAddr::V6(ip)) => write!(formatter, "[{ip}]"),
            Host::Ip(ip) => write!(formatter, "{ip}"),
            Host::Name(name) => formatter.write_str(name),
        }
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "http://{}:{}", self.host, self.port)
    }
}

impl FromStr for HttpUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<HttpUrl, String> {
        let refuse = |why: &str| {
            format!("{text:?} is not an address of the form \"http://HOST:PORT\": {why}")
        };
        if text.starts_with("https://") {
            return Err(refuse("TLS comes with a later version"));
        }
        let authority = text
            .strip_prefix("http://")
            .ok_or_else(|| refuse("it must begin with http://"))?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if authority.contains('/') {
            return Err(refuse("it must not have a path"));
        }
        let (host, port) = authority
            .rsplit_once(':')
            .ok_or_else(|| refuse("the port is missing"))?;
        let port = match port.parse::<u16>() {
            Ok(port) if port > 0 => port,
            _ => return Err(refuse("the port must be 1 to 65535")),
        };
        let host = parse_host(host).ok_or_else(|| {
            refuse("the host must be an IP address (IPv6 in brackets) or a host name")
        })?;
        Ok(HttpUrl { host, port })
    }
}

fn parse_host(text: &str) -> Option<Host> {
    if let Some(inner) = text.strip_prefix('[') {
        let ip: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
        return Some(Host::Ip(IpAddr::V6(ip)));
    }
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        return Some(Host::Ip(IpAddr::V4(ip)));
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
    let is_name = !text.is_empty()
        && text.len() <= 253
        && text.bytes().all(fits)
        // All digits and dots: a mistyped address, not a name.
        && text.bytes().any(|byte| byte.is_ascii_alphabetic());
    is_name.then(|| Host::Name(text.to_owned()))
}

impl TryFrom<String> for HttpUrl {
    type Error = String;

    fn try_from(text: String) -> Result<HttpUrl, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_scheme_a_host_and_a_port() {
        for good in [
            "http://127.0.0.1:2379",
            "http://[::1]:2379",
            "http://node-1.example:80",
        ] {
            let url: HttpUrl = good.parse().expect(good);
            assert_eq!(url.to_string(), good);
        }
        assert_eq!(
            "http://[::]:1"
                .parse::<HttpUrl>()
                .expect("url")
                .dialled_locally()
                .to_string(),
            "http://[::1]:1"
        );
        for bad in [
            "",
            "127.0.0.1:2379",
            "https://a:1",
            "http://a",
            "http://a:0",
            "http://a:70000",
            "http://a:1/x",
            "http://1.2.3:4",
            "http://::1:4",
            "http://a b:1",
            "http://:1",
        ] {
            assert!(bad.parse::<HttpUrl>().is_err(), "{bad:?} was taken");
        }
    }
}
