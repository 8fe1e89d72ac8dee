//! Whether the server's ports are free, from the kernel's own tables.

use std::collections::BTreeSet;
use std::path::Path;

/// `st` of a listening socket in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// One port that the server will listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) number: u16,
    pub(crate) use_: PortUse,
}

/// Who has a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PortUse {
    Free,
    /// The server itself.
    Ours,
    /// Somebody else, as far as we may see.
    Taken(String),
}

/// Looks at each of `numbers`; absent when the tables cannot be read.
pub(crate) fn ports(numbers: &BTreeSet<u16>, proc: &Path) -> Option<Vec<Port>> {
    let tcp = std::fs::read_to_string(proc.join("net/tcp")).ok()?;
    // A host without IPv6 has no such table.
    let tcp6 = std::fs::read_to_string(proc.join("net/tcp6")).unwrap_or_default();
    let listeners: Vec<(u16, u64)> = listeners(&tcp).chain(listeners(&tcp6)).collect();
    let port = |number: &u16| {
        let inode = listeners
            .iter()
            .find(|(port, _)| port == number)
            .map(|(_, inode)| *inode);
        let use_ = inode.map_or(PortUse::Free, |inode| holder(proc, inode));
        Port {
            number: *number,
            use_,
        }
    };
    Some(numbers.iter().map(port).collect())
}

/// Port and inode of each listening socket.
fn listeners(table: &str) -> impl Iterator<Item = (u16, u64)> {
    table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if *fields.get(3)? != LISTENING {
            return None;
        }
        let (_, port) = fields.get(1)?.rsplit_once(':')?;
        Some((
            u16::from_str_radix(port, 16).ok()?,
            fields.get(9)?.parse().ok()?,
        ))
    })
}

fn holder(proc: &Path, inode: u64) -> PortUse {
    let Some(pid) = pid_of(proc, inode) else {
        return PortUse::Taken("a process that only root can see".to_owned());
    };
    let read = |name: &str| {
        std::fs::read_to_string(proc.join(&pid).join(name))
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let name = read("comm");
    let unit = read("cgroup")
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .to_owned();
    if unit == crate::render::SERVER_UNIT {
        return PortUse::Ours;
    }
    let unit = if unit.ends_with(".service") {
        format!(" of {unit}")
    } else {
        String::new()
    };
    PortUse::Taken(format!("{name} (pid {pid}){unit}"))
}

fn pid_of(proc: &Path, inode: u64) -> Option<String> {
    let wanted = format!("socket:[{inode}]");
    let entries = std::fs::read_dir(proc).ok()?;
    entries.filter_map(Result::ok).find_map(|entry| {
        let pid = entry.file_name().into_string().ok()?;
        pid.parse::<u32>().ok()?;
        let open = std::fs::read_dir(entry.path().join("fd")).ok()?;
        let mut links = open.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
        links
            .any(|link| link.as_os_str() == wanted.as_str())
            .then_some(pid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_this_test_holds_is_taken_by_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
        let number = listener.local_addr().expect("address").port();
        let found = ports(&BTreeSet::from([number]), Path::new("/proc")).expect("tables");
        let PortUse::Taken(by) = &found[0].use_ else {
            panic!("{found:?}")
        };
        assert!(by.contains(&format!("pid {}", std::process::id())), "{by}");
    }

    #[test]
    fn only_listening_sockets_hold_a_port() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:094B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1
   1: 0100007F:094C 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 4712 1
";
        assert_eq!(listeners(table).collect::<Vec<_>>(), [(2379, 4711)]);
    }
}
