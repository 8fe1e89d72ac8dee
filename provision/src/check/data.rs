//! What lies in the data folder before the server starts.

use std::path::Path;

/// What lies in a data folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DataState {
    /// Not there, or nothing in it.
    Empty,
    /// A member's database and log.
    Member,
    /// A member's folder without its database or its log.
    Incomplete(&'static str),
    /// Something else.
    Foreign(String),
    /// It may not be read.
    Unreadable,
}

/// Looks into `data_dir`; `wal_dir` is where the log lies if not there.
pub(crate) fn data_state(data_dir: &Path, wal_dir: Option<&Path>) -> DataState {
    let entries = match std::fs::read_dir(data_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return DataState::Empty,
        Err(_) => return DataState::Unreadable,
    };
    // A freshly made file system has lost+found in it.
    let names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name != "lost+found")
        .collect();
    if names.iter().any(|name| name == "member") {
        let wal = wal_dir.map_or_else(|| data_dir.join("member/wal"), Path::to_owned);
        if !data_dir.join("member/snap/db").is_file() {
            return DataState::Incomplete("the database member/snap/db");
        }
        let has_log = std::fs::read_dir(wal).is_ok_and(|mut entries| entries.next().is_some());
        return if has_log {
            DataState::Member
        } else {
            DataState::Incomplete("the log")
        };
    }
    names
        .into_iter()
        .next()
        .map_or(DataState::Empty, DataState::Foreign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_empty_a_member_s_half_a_member_s_or_somebody_else_s() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path();
        let state = || data_state(path, None);
        assert_eq!(data_state(&path.join("missing"), None), DataState::Empty);
        std::fs::create_dir(path.join("lost+found")).expect("folder");
        assert_eq!(state(), DataState::Empty);
        std::fs::create_dir_all(path.join("member/snap")).expect("folder");
        assert_eq!(
            state(),
            DataState::Incomplete("the database member/snap/db")
        );
        std::fs::write(path.join("member/snap/db"), "").expect("file");
        assert_eq!(state(), DataState::Incomplete("the log"));
        std::fs::create_dir(path.join("member/wal")).expect("folder");
        std::fs::write(path.join("member/wal/0.wal"), "").expect("file");
        assert_eq!(state(), DataState::Member);
        std::fs::remove_dir_all(path.join("member")).expect("remove");
        std::fs::write(path.join("notes"), "").expect("file");
        assert_eq!(state(), DataState::Foreign("notes".to_owned()));
    }
}
