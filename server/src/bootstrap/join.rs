//! A member that was added to a running cluster looks for itself in what the cluster says.

use std::net::SocketAddr;

use state_machine::{Member, MemberId};

use super::{Ask, AskError};
use crate::config::{ETCD_VERSION, InitialMember, PeerUrl};

/// The oldest cluster that members of today can talk to, in etcd's view.
const CLUSTER_VERSION_MIN: (u64, u64) = (3, 0);

/// The id of the member at place `own` of the list. The list must name the same members as the
/// cluster does, by URLs of the same texts or at least of the same addresses.
pub(super) fn own_id(
    listed: &[InitialMember],
    own: usize,
    remote: &[Member],
    ask: &dyn Ask,
) -> Result<MemberId, String> {
    let validating = |what: String| {
        let known: Vec<String> = remote
            .iter()
            .map(|member| format!("{}={}", member.id, member.peer_urls.join(",")))
            .collect();
        format!(
            "error validating peerURLs {}: {what}; --initial-cluster must name exactly these members, \
             so correct it, or add this member to the cluster first",
            known.join(" ")
        )
    };
    if remote.len() != listed.len() {
        return Err(validating("member count is unequal".to_owned()));
    }
    let mut found = None;
    for member in remote {
        let place = place_of(member, listed, ask).map_err(|error| {
            let resolver = error.map_or_else(|| "none".to_owned(), |error| error.to_string());
            validating(format!(
                "PeerURLs: no match found for existing member ({}, {:?}), last resolver error ({resolver})",
                member.id, member.peer_urls
            ))
        })?;
        if place == own {
            found = Some(member.id);
        }
    }
    found.ok_or_else(|| {
        let name = &listed[own].name;
        validating(format!("none of them is {name}"))
    })
}

/// The place in the list of a member of the cluster; otherwise what the name service had against it.
fn place_of(
    member: &Member,
    listed: &[InitialMember],
    ask: &dyn Ask,
) -> Result<usize, Option<AskError>> {
    let urls: Result<Vec<PeerUrl>, _> = member
        .peer_urls
        .iter()
        .map(|url| PeerUrl::to_advertise(url))
        .collect();
    let Ok(mut urls) = urls else {
        return Err(None);
    };
    urls.sort();
    if let Some(place) = listed.iter().position(|listed| listed.peer_urls == urls) {
        return Ok(place);
    }
    let mut failure = None;
    for (place, listed) in listed.iter().enumerate() {
        match same_urls(&urls, &listed.peer_urls, ask) {
            Ok(true) => return Ok(place),
            Ok(false) => {}
            Err(error) => failure = Some(error),
        }
    }
    Err(failure)
}

/// Whether both lists lead to the same places.
///
/// # Errors
/// When a name cannot be resolved.
pub(super) fn same_urls(a: &[PeerUrl], b: &[PeerUrl], ask: &dyn Ask) -> Result<bool, AskError> {
    if a.len() != b.len() {
        return Ok(false);
    }
    let resolved = |url: &PeerUrl| -> Result<(bool, Vec<SocketAddr>), AskError> {
        Ok((url.is_https(), ask.addresses(url.host(), url.port())?))
    };
    let mut left = b.iter().map(resolved).collect::<Result<Vec<_>, _>>()?;
    for url in a {
        let (https, addresses) = resolved(url)?;
        let same = |(other_https, other): &(bool, Vec<SocketAddr>)| {
            https == *other_https && addresses.iter().any(|address| other.contains(address))
        };
        match left.iter().position(same) {
            Some(place) => drop(left.swap_remove(place)),
            None => return Ok(false),
        }
    }
    Ok(true)
}

/// All members of a cluster must allow as many learners as there are.
pub(super) fn check_learners(remote: &[Member], max: usize) -> Result<(), String> {
    let learners = remote.iter().filter(|member| member.learner).count();
    match learners <= max {
        true => Ok(()),
        false => Err(format!(
            "membership: too many learner members in cluster: {learners}; set --max-learners as the \
             other members have it"
        )),
    }
}

/// Asks each of the other members for the cluster's version, and decides whether a member of ours may
/// enter.
pub(super) fn check_versions(remotes: &[Member], ask: &dyn Ask) -> Result<(), String> {
    let version_of = |member: &Member| {
        member.peer_urls.iter().find_map(|url| {
            let answer = ask.cluster_version(url);
            answer
                .inspect_err(|error| tracing::warn!(%error, "a member does not tell its version"))
                .ok()
        })
    };
    let versions: Vec<String> = remotes.iter().filter_map(version_of).collect();
    if are_near(&versions, Downgrade::Off) {
        return Ok(());
    }
    // Asked only now: without a quorum this question has no answer.
    let mut urls = remotes.iter().flat_map(|member| &member.peer_urls);
    let is_near = are_near(&versions, Downgrade::Enabled)
        && urls.any(|url| ask.downgrade_enabled(url).unwrap_or(false));
    match is_near {
        true => Ok(()),
        false => Err(format!(
            "incompatible with current running cluster: its members answer {versions:?} for the \
             cluster's version, and this member enters from 3.0.0 to {}; if that is wrong, see that \
             one of them can be reached",
            ETCD_VERSION
        )),
    }
}

/// Whether the cluster is on its way to an older version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Downgrade {
    Off,
    Enabled,
}

/// Whether at least one of these versions of the cluster is near enough to ours, and none is not. What
/// is no version says that it was not decided yet.
pub(super) fn are_near(versions: &[String], downgrade: Downgrade) -> bool {
    let (major, minor) = numbers(ETCD_VERSION).expect("our own version is one");
    let newest = match downgrade {
        Downgrade::Off => (major, minor),
        Downgrade::Enabled => (major, minor + 1),
    };
    let known: Vec<(u64, u64)> = versions
        .iter()
        .filter_map(|version| numbers(version))
        .collect();
    let is_near = |version: &(u64, u64)| (CLUSTER_VERSION_MIN..=newest).contains(version);
    !known.is_empty() && known.iter().all(is_near)
}

/// The first two numbers of a version with three.
fn numbers(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.split('.');
    let (major, minor, _) = (parts.next()?, parts.next()?, parts.next()?);
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// None of the others could be asked.
pub(super) fn nobody_answers(failures: &[String]) -> String {
    let failures = match failures.is_empty() {
        true => "--initial-cluster names no other member".to_owned(),
        false => failures.join("; "),
    };
    format!(
        "cannot fetch cluster info from peer urls: could not retrieve cluster information from the \
         given URLs ({failures}); name all members in --initial-cluster and see that one of them can \
         be reached, or set --initial-cluster-state=new to begin a new cluster"
    )
}

/// A member answered that is not in a cluster yet.
pub(super) fn no_members() -> String {
    "cannot fetch cluster info from peer urls: failed to get raft cluster member(s) from the given \
     URLs; try again when the cluster has a leader"
        .to_owned()
}
