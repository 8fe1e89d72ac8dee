//! Reads from history what watchers have not been told yet.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use mvcc::{Event, ReadError, Revision, View};

use crate::views::State;
use crate::watch::{Encoded, Interest, KeyIndex, encode_with};

/// Revisions in one response to a watcher that catches up; etcd's value.
const REVISIONS_MAX: i64 = 1000;
/// Bytes of events after which a step ends with the revision it is in.
const BYTES_MAX: usize = 4 << 20;

/// A watcher that is behind.
#[derive(Debug, Clone)]
pub(super) struct Behind {
    /// Its id.
    pub(super) id: i64,
    /// What it wants.
    pub(super) interest: Arc<Interest>,
    /// The first revision that it was not told of.
    pub(super) next: Revision,
}

/// What a step has found.
pub(super) struct Step {
    /// Watchers whose next revision is no longer there.
    pub(super) compacted: Vec<Behind>,
    /// The oldest that is.
    pub(super) compact_revision: Revision,
    /// The other watchers, each with its events.
    pub(super) told: Vec<(Behind, Encoded)>,
    /// These have what they want up to here.
    pub(super) up_to: Revision,
    /// The newest revision when the step began.
    pub(super) revision: Revision,
}

/// Reads on for those that are furthest behind, and for whoever is behind there too. It reads the
/// disk, so it belongs on a thread that may wait.
///
/// # Errors
/// When history cannot be read.
pub(super) fn step(state: &State, mut behind: Vec<Behind>) -> Result<Step, mvcc::Fault> {
    let view = &state.view;
    let revision = view.revision();
    let compact_revision = view.compact_revision().unwrap_or(Revision(0));
    let compacted = behind
        .extract_if(.., |watcher| watcher.next < compact_revision)
        .collect();
    let mut step = Step {
        compacted,
        compact_revision,
        told: Vec::new(),
        up_to: revision,
        revision,
    };
    let Some(first) = behind.iter().map(|watcher| watcher.next).min() else {
        return Ok(step);
    };
    let last = Revision(first.0.saturating_add(REVISIONS_MAX - 1)).min(revision);
    step.up_to = last;
    let mut found: Vec<Vec<Bytes>> = vec![Vec::new(); behind.len()];
    let interested = Interested::new(&behind);
    let history = match view.history(first) {
        Ok(history) => history,
        Err(ReadError::Fault(fault)) => return Err(fault),
        Err(ReadError::Refused(_)) => unreachable!("checked against the same view"),
    };
    let mut bytes = 0;
    let mut current = first;
    for event in history {
        let event = event?;
        let at = event.position.revision;
        if at > last {
            break;
        }
        if at > current && bytes >= BYTES_MAX {
            step.up_to = Revision(at.0 - 1);
            break;
        }
        current = at;
        bytes += interested.tell(view, &event, &behind, &mut found)?;
    }
    let encoded = found.into_iter().map(|events| Encoded::new(events.into()));
    step.told = behind.into_iter().zip(encoded).collect();
    Ok(step)
}

/// Watchers by their interest.
struct Interested {
    index: KeyIndex,
    interests: Vec<(Arc<Interest>, Vec<usize>)>,
}

impl Interested {
    fn new(behind: &[Behind]) -> Interested {
        let mut numbers: HashMap<&Interest, usize> = HashMap::new();
        let mut interested = Interested {
            index: KeyIndex::default(),
            interests: Vec::new(),
        };
        for (place, watcher) in behind.iter().enumerate() {
            let number = *numbers.entry(&watcher.interest).or_insert_with(|| {
                let number = interested.interests.len();
                let interest = watcher.interest.clone();
                interested.index.insert(&interest.keys, number);
                interested.interests.push((interest, Vec::new()));
                number
            });
            interested.interests[number].1.push(place);
        }
        interested
    }

    /// Adds an event to what was found for those who want it; its bytes, for all of them.
    fn tell(
        &self,
        view: &View,
        event: &Event,
        behind: &[Behind],
        found: &mut [Vec<Bytes>],
    ) -> Result<usize, mvcc::Fault> {
        let mut forms: [Option<Bytes>; 2] = [None, None];
        let mut fault = None;
        let mut bytes = 0;
        self.index.find(&event.pair.key_bytes(), |number| {
            let (interest, places) = &self.interests[number];
            if !interest.wants(event) {
                return;
            }
            let form = &mut forms[usize::from(interest.previous)];
            let encoded = match form {
                Some(encoded) => encoded.clone(),
                None => match encode_with(event, interest.previous, view) {
                    Ok(encoded) => form.insert(encoded).clone(),
                    Err(error) => {
                        fault = Some(error);
                        return;
                    }
                },
            };
            for place in places {
                if behind[*place].next <= event.position.revision {
                    bytes += encoded.len();
                    found[*place].push(encoded.clone());
                }
            }
        });
        match fault {
            Some(fault) => Err(fault),
            None => Ok(bytes),
        }
    }
}
