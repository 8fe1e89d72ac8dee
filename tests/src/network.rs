//! Networks of a test's own, which it may cut: each host is a network namespace, joined to the others by a
//! switch in one more namespace, where the test's clients are too.
//!
//! Making them needs root. Where that is missing a test says so and is passed over, but not with `CI` in
//! the environment: there it fails. See [`crate::file_system::FileSystem::or_pass_over`].

use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sched::{CloneFlags, setns};

/// Nobody's network card: what is sent there is lost.
const NOBODY: &str = "02:de:ad:be:ef:00";
/// The switch is the last host of the network.
const SWITCH_HOST: usize = 254;

/// Hosts that reach each other. It is taken down when the value goes.
#[derive(Debug)]
pub struct Network {
    name: String,
    hosts: usize,
}

impl Network {
    /// So many hosts.
    ///
    /// # Errors
    /// What the system said, when it cannot make them.
    pub fn new(hosts: usize) -> Result<Network, String> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let network = Network {
            name: format!("holdfast-{}-{number}", std::process::id()),
            hosts,
        };
        let switch = network.switch();
        ip(&["netns", "add", &switch])?;
        let address = format!("{}/24", address(SWITCH_HOST));
        ip(&["-n", &switch, "link", "add", "sw", "type", "bridge"])?;
        ip(&["-n", &switch, "addr", "add", &address, "dev", "sw"])?;
        ip(&["-n", &switch, "link", "set", "sw", "up"])?;
        ip(&["-n", &switch, "link", "set", "lo", "up"])?;
        for host in 0..hosts {
            network.add(host)?;
        }
        Ok(network)
    }

    fn add(&self, host: usize) -> Result<(), String> {
        let (switch, name) = (self.switch(), self.namespace(host));
        let port = format!("p{host}");
        let address = format!("{}/24", address(host));
        ip(&["netns", "add", &name])?;
        ip(&[
            "-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "e0", "netns",
            &name,
        ])?;
        ip(&["-n", &switch, "link", "set", &port, "master", "sw"])?;
        ip(&["-n", &switch, "link", "set", &port, "up"])?;
        ip(&["-n", &name, "addr", "add", &address, "dev", "e0"])?;
        ip(&["-n", &name, "link", "set", "e0", "up"])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])
    }

    /// The namespace of a host, for `ip netns exec`.
    pub fn namespace(&self, host: usize) -> String {
        format!("{}-{host}", self.name)
    }

    /// The address of a host.
    pub fn address(&self, host: usize) -> String {
        address(host)
    }

    /// Whatever this thread connects from now on begins at the switch.
    ///
    /// # Panics
    /// If the system refuses.
    pub fn enter(&self) {
        let path = format!("/run/netns/{}", self.switch());
        let namespace = File::open(path).expect("the namespace is there");
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
    }

    /// From now on nothing arrives at `to` that `from` sends.
    ///
    /// # Panics
    /// If the system refuses.
    pub fn cut(&self, from: usize, to: usize) {
        let (name, to) = (self.namespace(from), address(to));
        ip(&[
            "-n",
            &name,
            "neigh",
            "replace",
            &to,
            "lladdr",
            NOBODY,
            "dev",
            "e0",
            "nud",
            "permanent",
        ])
        .expect("a neighbour can be set");
    }

    /// From now on `host` and the others do not reach each other; clients still reach all.
    ///
    /// # Panics
    /// If the system refuses.
    pub fn isolate(&self, host: usize) {
        for other in (0..self.hosts).filter(|other| *other != host) {
            self.cut(host, other);
            self.cut(other, host);
        }
    }

    /// Everything arrives again.
    pub fn mend(&self) {
        for from in 0..self.hosts {
            for to in (0..self.hosts).filter(|to| *to != from) {
                // What was not cut has nothing to be removed, or what the system has found out itself.
                let _ = ip(&[
                    "-n",
                    &self.namespace(from),
                    "neigh",
                    "del",
                    &address(to),
                    "dev",
                    "e0",
                ]);
            }
        }
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in (0..self.hosts)
            .map(|host| self.namespace(host))
            .chain([self.switch()])
        {
            // It may not have come about.
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

fn address(host: usize) -> String {
    match host {
        SWITCH_HOST => format!("10.77.0.{SWITCH_HOST}"),
        _ => format!("10.77.0.{}", host + 1),
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output();
    let output = output.map_err(|error| format!("cannot run ip: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "ip {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}
