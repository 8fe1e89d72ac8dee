//! What clients did and were told, and whether a key-value store can have answered so.
//!
//! Every answer names a revision, so the order of writes is known and the check takes linear time: each
//! answer must fit the one history that all members tell at the end, and revisions must respect real time.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// One call of a client.
#[derive(Debug, Clone)]
pub struct Call {
    /// When it was made.
    pub begin: Duration,
    /// When its answer came; `None` if none did, so that what it did is not known.
    pub end: Option<Duration>,
    /// What it asked for.
    pub action: Action,
    /// The answer, if one came.
    pub answer: Option<Answer>,
}

/// What a call asks for. No two calls write the same value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Put a value.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// Put a value if the key was last changed at this revision.
    Swap {
        /// The key.
        key: String,
        /// The revision, 0 for a key that is not there.
        seen: i64,
        /// The value.
        value: String,
    },
    /// Read a key, linearizably.
    Get {
        /// The key.
        key: String,
    },
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The revision of the answer's header.
    pub revision: i64,
    /// Whether a swap was done; true for others.
    pub done: bool,
    /// What a get found: the value and the revision of its last change.
    pub found: Option<(String, i64)>,
}

/// A change, as a member's history tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub revision: i64,
    /// The key.
    pub key: String,
    /// What was put.
    pub value: String,
}

/// Checks all calls against the history that a member tells.
///
/// # Errors
/// The first thing that cannot be.
pub fn check(calls: &[Call], history: &[Change]) -> Result<(), String> {
    let state = State::of(history)?;
    for call in calls {
        state
            .check(call)
            .map_err(|what| format!("{what}: {call:?}"))?;
    }
    let values: HashMap<&str, &Call> = calls
        .iter()
        .filter_map(|call| Some((call.action.value()?, call)))
        .collect();
    for change in history {
        let call = values
            .get(&change.value[..])
            .ok_or_else(|| format!("nobody wrote {change:?}"))?;
        if call.answer.as_ref().is_some_and(|answer| !answer.done) {
            return Err(format!("a refused swap was done: {change:?}, {call:?}"));
        }
    }
    check_real_time(calls, &state)
}

/// All keys through time.
struct State<'h> {
    /// Of each key, the value by the revision of its change.
    keys: HashMap<&'h str, BTreeMap<i64, &'h str>>,
    /// The revision at which a value was put.
    revisions: HashMap<&'h str, i64>,
}

impl<'h> State<'h> {
    fn of(history: &'h [Change]) -> Result<State<'h>, String> {
        let mut state = State {
            keys: HashMap::new(),
            revisions: HashMap::new(),
        };
        let mut last = 0;
        for change in history {
            if change.revision <= last {
                return Err(format!("the history goes back from {last}: {change:?}"));
            }
            last = change.revision;
            let key = state.keys.entry(&change.key).or_default();
            key.insert(change.revision, &change.value);
            let twice = state.revisions.insert(&change.value, change.revision);
            if let Some(first) = twice {
                return Err(format!("applied twice, first at {first}: {change:?}"));
            }
        }
        Ok(state)
    }

    /// Value and revision of a key's last change up to a revision.
    fn at(&self, key: &str, revision: i64) -> Option<(&'h str, i64)> {
        let changes = self.keys.get(key)?;
        let (revision, value) = changes.range(..=revision).next_back()?;
        Some((value, *revision))
    }

    /// Whether an answer fits the history.
    fn check(&self, call: &Call) -> Result<(), String> {
        let Some(answer) = &call.answer else {
            return Ok(());
        };
        match &call.action {
            Action::Put { value, .. } => self.check_written(value, answer),
            Action::Swap { key, seen, value } => {
                let before = match answer.done {
                    true => self.at(key, answer.revision - 1),
                    false => self.at(key, answer.revision),
                };
                let fits = before.map_or(0, |(_, revision)| revision) == *seen;
                if fits != answer.done {
                    return Err(format!("the key was at {before:?}"));
                }
                match answer.done {
                    true => self.check_written(value, answer),
                    false => Ok(()),
                }
            }
            Action::Get { key } => {
                let expected = self.at(key, answer.revision);
                let found = answer.found.as_ref();
                let found = found.map(|(value, revision)| (&value[..], *revision));
                match found == expected {
                    true => Ok(()),
                    false => Err(format!("at its revision the key was {expected:?}")),
                }
            }
        }
    }

    fn check_written(&self, value: &str, answer: &Answer) -> Result<(), String> {
        match self.revisions.get(value) {
            Some(revision) if *revision == answer.revision => Ok(()),
            Some(revision) => Err(format!("it was done at {revision}")),
            None => Err("acknowledged and lost".to_owned()),
        }
    }

    /// The revision that a call saw or made, if it did anything.
    fn revision(&self, call: &Call) -> Option<i64> {
        match (&call.answer, call.action.value()) {
            (Some(answer), _) => Some(answer.revision),
            (None, Some(value)) => self.revisions.get(value).copied(),
            (None, None) => None,
        }
    }
}

impl Action {
    fn value(&self) -> Option<&str> {
        match self {
            Action::Put { value, .. } | Action::Swap { value, .. } => Some(value),
            Action::Get { .. } => None,
        }
    }
}

/// What begins after another call's answer comes after it in the history, too.
fn check_real_time(calls: &[Call], state: &State<'_>) -> Result<(), String> {
    let mut by_begin: Vec<&Call> = calls.iter().collect();
    by_begin.sort_by_key(|call| call.begin);
    let mut by_end: Vec<&Call> = calls.iter().filter(|call| call.end.is_some()).collect();
    by_end.sort_by_key(|call| call.end);
    let mut ended = by_end.into_iter().peekable();
    let mut floor: Option<(i64, &Call)> = None;
    for call in by_begin {
        while let Some(earlier) = ended.next_if(|earlier| earlier.end < Some(call.begin)) {
            let revision = state.revision(earlier).unwrap_or(0);
            if floor.is_none_or(|(highest, _)| revision > highest) {
                floor = Some((revision, earlier));
            }
        }
        let (Some(revision), Some((floor, earlier))) = (state.revision(call), floor) else {
            continue;
        };
        let writes =
            call.action.value().is_some() && call.answer.as_ref().is_none_or(|answer| answer.done);
        if revision < floor || writes && revision == floor {
            return Err(format!(
                "at revision {revision} although one had ended before at {floor}: {call:?}, {earlier:?}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(begin: u64, end: Option<u64>, value: &str, revision: i64) -> Call {
        Call {
            begin: Duration::from_secs(begin),
            end: end.map(Duration::from_secs),
            action: Action::Put {
                key: "k".to_owned(),
                value: value.to_owned(),
            },
            answer: end.map(|_| answer(revision, None)),
        }
    }

    fn get(begin: u64, end: u64, revision: i64, found: Option<(&str, i64)>) -> Call {
        Call {
            begin: Duration::from_secs(begin),
            end: Some(Duration::from_secs(end)),
            action: Action::Get {
                key: "k".to_owned(),
            },
            answer: Some(answer(revision, found)),
        }
    }

    fn answer(revision: i64, found: Option<(&str, i64)>) -> Answer {
        Answer {
            revision,
            done: true,
            found: found.map(|(value, revision)| (value.to_owned(), revision)),
        }
    }

    fn change(revision: i64, value: &str) -> Change {
        Change {
            revision,
            key: "k".to_owned(),
            value: value.to_owned(),
        }
    }

    #[test]
    fn what_cannot_be_is_found() {
        let calls = [
            put(1, Some(2), "a", 2),
            put(3, None, "b", 0),
            get(4, 5, 2, Some(("a", 2))),
        ];
        let history = [change(2, "a"), change(3, "b")];
        assert_eq!(check(&calls, &history), Ok(()));
        assert_eq!(check(&calls, &history[..1]), Ok(()), "it may be lost");

        let fails = |calls: &[Call], history: &[Change], expected: &str| {
            let error = check(calls, history).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        };
        fails(&calls, &history[1..], "acknowledged and lost");
        fails(&calls, &[change(2, "a"), change(3, "a")], "applied twice");
        fails(&calls, &[change(2, "a"), change(3, "c")], "nobody wrote");
        fails(
            &[
                put(1, Some(2), "a", 2),
                put(3, Some(4), "b", 3),
                get(5, 6, 2, Some(("a", 2))),
            ],
            &history,
            "had ended before",
        );
        fails(
            &[put(1, Some(2), "a", 2), get(3, 4, 2, None)],
            &history[..1],
            "the key was",
        );
        fails(
            &[put(3, Some(4), "a", 2), put(1, Some(2), "b", 3)],
            &history,
            "had ended before",
        );
    }
}
