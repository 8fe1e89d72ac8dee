//! The members of a cluster as the domain's SRV records name them.

use std::net::SocketAddr;

use super::{Ask, SrvRecord};
use crate::config::{DiscoverySrv, InitialMember, PeerUrl};
use crate::data_dir::StartError;

/// Schemes and the services that stand for them.
const SERVICES: [(&str, &str); 2] = [("https", "etcd-server-ssl"), ("http", "etcd-server")];

/// A record with what it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) url: PeerUrl,
    pub(super) addresses: Vec<SocketAddr>,
}

/// The member that looks for itself in the records.
pub(super) struct Own<'a> {
    pub(super) name: &'a str,
    /// Its URLs with their addresses.
    pub(super) targets: &'a [Target],
}

/// Asks for the records. One of the services must name the members; where the other does so too, its
/// URLs are further ones of the same members.
pub(super) fn members(
    discovery: &DiscoverySrv,
    name: &str,
    advertised: &[PeerUrl],
    ask: &dyn Ask,
) -> Result<Vec<InitialMember>, StartError> {
    let resolve = |url: &PeerUrl| {
        let addresses = ask.addresses(url.host(), url.port());
        addresses.map(|addresses| Target {
            url: url.clone(),
            addresses,
        })
    };
    let targets: Result<Vec<Target>, _> = advertised.iter().map(resolve).collect();
    let targets = targets.map_err(|error| StartError::Cluster(format!(
        "error setting up initial cluster: the host of --initial-advertise-peer-urls has no address: {error}"
    )))?;
    let own = Own {
        name,
        targets: &targets,
    };
    let suffix = discovery.suffix.as_ref();
    let suffix = suffix.map_or_else(String::new, |suffix| format!("-{suffix}"));
    let mut found = Vec::new();
    let mut failures = Vec::new();
    for (scheme, service) in SERVICES {
        let service = format!("_{service}{suffix}._tcp.{}", discovery.domain);
        let listed = (|| {
            let mut records = ask.srv(&service).map_err(|error| error.what)?;
            records.sort();
            let targets: Result<Vec<Target>, String> = records
                .iter()
                .map(|record| target(scheme, record, ask))
                .collect();
            name_targets(&targets?, &own)
        })();
        match listed {
            Ok(listed) => add(&mut found, listed),
            Err(failure) => failures.push(format!("{service}: {failure}")),
        }
    }
    match found.is_empty() {
        false => Ok(found),
        true => Err(StartError::Cluster(format!(
            "error setting up initial cluster: error querying DNS SRV records: {}; add them to the \
             domain, or name the members in --initial-cluster",
            failures.join("; ")
        ))),
    }
}

fn target(scheme: &str, record: &SrvRecord, ask: &dyn Ask) -> Result<Target, String> {
    let text = format!("{scheme}://{}:{}", record.host, record.port);
    let url = PeerUrl::to_advertise(&text).map_err(|error| error.to_string())?;
    let addresses = ask.addresses(url.host(), url.port());
    Ok(Target {
        url,
        addresses: addresses.map_err(|error| error.to_string())?,
    })
}

/// Gives each target the name of a member: this one's to its own, numbers to the others, whose names
/// nobody knows yet.
pub(super) fn name_targets(
    targets: &[Target],
    own: &Own<'_>,
) -> Result<Vec<InitialMember>, String> {
    let mut members = Vec::new();
    let mut number = 0;
    for target in targets {
        let is_same = |own: &&Target| {
            own.addresses
                .iter()
                .any(|address| target.addresses.contains(address))
        };
        let name = match own.targets.iter().find(is_same) {
            Some(same) if same.url.is_https() != target.url.is_https() => {
                return Err(format!(
                    "{} is this member, which advertises {}",
                    target.url, same.url
                ));
            }
            Some(_) => own.name.to_owned(),
            None => {
                number += 1;
                (number - 1).to_string()
            }
        };
        let member = InitialMember {
            name,
            peer_urls: vec![target.url.clone()],
        };
        add(&mut members, vec![member]);
    }
    Ok(members)
}

/// Adds members to those that are there, or URLs to those of the same name.
fn add(members: &mut Vec<InitialMember>, more: Vec<InitialMember>) {
    for new in more {
        match members.iter_mut().find(|member| member.name == new.name) {
            Some(member) => {
                member.peer_urls.extend(new.peer_urls);
                member.peer_urls.sort();
                member.peer_urls.dedup();
            }
            None => members.push(new),
        }
    }
}
