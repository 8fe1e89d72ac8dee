//! Alarms: what a member has found to be wrong, known to all of them.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb as wire;
use storage::{Batch, Committed};

use crate::members::MemberId;
use crate::{Fault, schema};

/// What an alarm is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlarmKind {
    /// The database has reached its quota.
    NoSpace,
    /// A member's data differ from the others'.
    Corrupt,
}

impl AlarmKind {
    /// The kind with this number on the wire; `None` for "no alarm" and unknown ones.
    pub fn from_wire(number: i32) -> Option<AlarmKind> {
        match number {
            1 => Some(AlarmKind::NoSpace),
            2 => Some(AlarmKind::Corrupt),
            _ => None,
        }
    }

    /// Its number on the wire.
    pub fn to_wire(self) -> i32 {
        match self {
            AlarmKind::NoSpace => 1,
            AlarmKind::Corrupt => 2,
        }
    }

    /// Its name on the wire, as operators know it.
    pub fn name(self) -> &'static str {
        match self {
            AlarmKind::NoSpace => "NOSPACE",
            AlarmKind::Corrupt => "CORRUPT",
        }
    }
}

/// One member's alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Alarm {
    /// Whose.
    pub member: MemberId,
    /// What it is about.
    pub kind: AlarmKind,
}

impl Alarm {
    fn key(self) -> Bytes {
        let message = wire::AlarmMember {
            member_id: self.member.0,
            alarm: self.kind.to_wire(),
        };
        message.encode_to_vec().into()
    }
}

/// All active alarms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alarms {
    active: BTreeSet<Alarm>,
}

impl Alarms {
    pub(crate) fn load(committed: &Committed) -> Result<Alarms, Fault> {
        let mut alarms = Alarms::default();
        let Some(bucket) = committed.bucket(schema::ALARM)? else {
            return Ok(alarms);
        };
        for pair in bucket.range(&[])? {
            let key = pair?.0;
            let message = wire::AlarmMember::decode(key.clone())
                .map_err(|error| Fault::record(schema::ALARM, &key, &error))?;
            if let Some(kind) = AlarmKind::from_wire(message.alarm) {
                alarms.active.insert(Alarm {
                    member: MemberId(message.member_id),
                    kind,
                });
            }
        }
        Ok(alarms)
    }

    /// Ascending by member.
    pub fn iter(&self) -> impl Iterator<Item = Alarm> {
        self.active.iter().copied()
    }

    /// Whether any member has raised an alarm of this kind.
    pub fn any(&self, kind: AlarmKind) -> bool {
        self.active.iter().any(|alarm| alarm.kind == kind)
    }

    pub(crate) fn activate(&mut self, alarm: Alarm, batch: &mut Batch) {
        if self.active.insert(alarm) {
            batch.put(schema::ALARM, alarm.key(), Bytes::new());
        }
    }

    /// False when it was not active.
    pub(crate) fn deactivate(&mut self, alarm: Alarm, batch: &mut Batch) -> bool {
        let was_active = self.active.remove(&alarm);
        if was_active {
            batch.delete(schema::ALARM, alarm.key());
        }
        was_active
    }
}
