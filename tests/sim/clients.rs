//! Who uses the cluster, and what they are owed: each answer must fit the model at its revision, and no
//! answer may be older than one that was there before its request began.
//!
//! That is linearizability in linear time: the answers' revisions say in which order they took effect.

use bytes::Bytes;
use holdfast_tests::dice::Dice;
use mvcc::{KeyRange, RangeAnswer, RangeQuery, View};
use prost::Message;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request as OperationRequest;
use proto::etcdserverpb::{
    self as wire, CompactionRequest, DeleteRangeRequest, InternalRaftRequest, LeaseGrantRequest,
    LeaseRevokeRequest, PutRequest, RequestHeader, RequestOp, TxnRequest,
};

use crate::applier::Answered;
use crate::member::Input;
use crate::model::{Model, is_same, outcome_of};
use crate::scenario::{Micros, SECOND, Scenario};

/// How long a client waits for an answer; then it does not know what came of its request.
pub(crate) const PATIENCE: Micros = 3 * SECOND;

/// What a client wants of a member.
pub(crate) enum Call {
    /// Put this into the log.
    Write(Bytes),
    /// All keys, as of now or later.
    Read,
    /// All keys, as the member has them.
    SerializableRead,
}

/// One client, with one request at a time.
pub(crate) struct Client {
    number: u64,
    calls: u64,
    /// The host that it calls.
    pub(crate) host: u64,
    /// The id of the request that waits for an answer.
    pub(crate) waits_for: Option<u64>,
    /// When that began.
    pub(crate) since: Micros,
    /// The highest revision of any answer before it.
    floor: i64,
    /// The revision of the key that it has read last.
    known: Option<(Bytes, i64)>,
    leases: Vec<i64>,
}

/// All of them, and what they know together.
pub(crate) struct Clients {
    pub(crate) clients: Vec<Client>,
    /// The highest revision of any linearizable answer.
    finished: i64,
    pub(crate) answered: u64,
    pub(crate) reads: u64,
    keys: u64,
    compaction_odds: u64,
    thrown: u64,
}

/// The number of whoever waits for nothing.
const NOBODY: u64 = 0xff;

impl Clients {
    pub(crate) fn new(scenario: &Scenario) -> Clients {
        let client = |number: usize| Client {
            number: number as u64 + 1,
            calls: 0,
            host: number as u64 % scenario.members + 1,
            waits_for: None,
            since: 0,
            floor: 0,
            known: None,
            leases: Vec::new(),
        };
        Clients {
            clients: (0..scenario.clients).map(client).collect(),
            finished: 1,
            answered: 0,
            reads: 0,
            keys: scenario.keys,
            compaction_odds: scenario.compaction_odds,
            thrown: 0,
        }
    }

    /// A write that nobody waits for.
    pub(crate) fn thrown_write(&mut self) -> Input {
        self.thrown += 1;
        let id = NOBODY << 40 | self.thrown;
        let data = encode(id, |request| {
            request.put = Some(PutRequest {
                key: format!("k{}", self.thrown % self.keys).into(),
                value: format!("{id:x}").into(),
                ..PutRequest::default()
            });
        });
        Input::Propose { id, data }
    }

    /// The client that made a request.
    pub(crate) fn of(request: u64) -> usize {
        (request >> 40) as usize - 1
    }

    /// Begins the next request.
    pub(crate) fn begin(&mut self, who: usize, now: Micros, dice: &mut Dice) -> (u64, Call) {
        let id = self.open(who, now);
        let (floor, keys, odds) = (self.finished, self.keys, self.compaction_odds);
        let client = &mut self.clients[who];
        let call = match dice.below(10) {
            _ if odds > 0 && dice.one_in(odds) => Call::Write(encode(id, |request| {
                let revision = (floor - dice.below(8) as i64).max(1);
                request.compaction = Some(CompactionRequest {
                    revision,
                    physical: false,
                });
            })),
            0..=3 => Call::Read,
            4 => Call::SerializableRead,
            _ => Call::Write(client.write(id, keys, dice)),
        };
        (id, call)
    }

    /// Opens a request: all that was answered before it must be in its answer.
    pub(crate) fn open(&mut self, who: usize, now: Micros) -> u64 {
        let floor = self.finished;
        let client = &mut self.clients[who];
        client.calls += 1;
        let id = client.number << 40 | client.calls;
        client.waits_for = Some(id);
        client.since = now;
        client.floor = floor;
        id
    }

    /// A write was answered.
    ///
    /// # Errors
    /// When the answer cannot be.
    pub(crate) fn answer(&mut self, answered: &Answered, model: &Model) -> Result<(), String> {
        let id = answered.id;
        let effect = model
            .effect(id)
            .ok_or_else(|| format!("request {id:x} was answered before it was committed"))?;
        let outcome = outcome_of(&answered.result);
        if outcome != effect.outcome || answered.revision != effect.revision {
            return Err(format!(
                "request {id:x} was answered {outcome:?} at revision {}, the model says {effect:?}",
                answered.revision
            ));
        }
        let client = &mut self.clients[Clients::of(id)];
        if client.waits_for != Some(id) {
            return Ok(());
        }
        client.waits_for = None;
        let least = client.floor + i64::from(effect.changed);
        if effect.revision < least {
            return Err(format!(
                "request {id:x} took effect at revision {}, but {} was answered before it began",
                effect.revision, client.floor
            ));
        }
        self.finished = self.finished.max(effect.revision);
        self.answered += 1;
        Ok(())
    }

    /// A read of all keys was answered with what `view` holds.
    ///
    /// # Errors
    /// When it cannot be.
    pub(crate) fn answer_read(
        &mut self,
        id: u64,
        is_linearizable: bool,
        view: &View,
        model: &Model,
    ) -> Result<(), String> {
        let answer = read_all(view)?;
        let revision = answer.revision.0;
        check_content(&answer, model)?;
        let client = &mut self.clients[Clients::of(id)];
        if client.waits_for != Some(id) {
            return Ok(());
        }
        client.waits_for = None;
        let pairs = &answer.pairs;
        client.known = pairs
            .get(id as usize % pairs.len().max(1))
            .map(|pair| (Bytes::copy_from_slice(pair.key()), pair.mod_revision.0))
            .filter(|(key, _)| &key[..] != b"both");
        if is_linearizable {
            if revision < client.floor {
                return Err(format!(
                    "read {id:x} brought revision {revision}, but {} was answered before it began",
                    client.floor
                ));
            }
            self.finished = self.finished.max(revision);
            self.reads += 1;
        }
        Ok(())
    }

    /// A request will have no answer that counts.
    pub(crate) fn give_up(&mut self, who: usize, dice: &mut Dice, hosts: &[u64]) {
        let client = &mut self.clients[who];
        client.waits_for = None;
        client.host = dice.pick(hosts);
    }
}

impl Client {
    fn write(&mut self, id: u64, keys: u64, dice: &mut Dice) -> Bytes {
        let key = Bytes::from(format!("k{}", dice.below(keys)));
        let value = Bytes::from(format!("{id:x}{}", ".".repeat(dice.below(80) as usize)));
        let put = PutRequest {
            key: key.clone(),
            value,
            prev_kv: dice.one_in(2),
            ..PutRequest::default()
        };
        let choice = dice.below(14);
        encode(id, |request| match choice {
            0 | 1 => {
                request.delete_range = Some(DeleteRangeRequest {
                    key,
                    range_end: if dice.one_in(3) {
                        "k3".into()
                    } else {
                        Bytes::new()
                    },
                    prev_kv: false,
                });
            }
            2..=4 => request.txn = Some(self.compare_and_put(&put)),
            5 => {
                let lease = id as i64;
                self.leases.push(lease);
                request.lease_grant = Some(LeaseGrantRequest { id: lease, ttl: 60 });
            }
            6 if !self.leases.is_empty() => {
                let lease = self
                    .leases
                    .remove(dice.below(self.leases.len() as u64) as usize);
                request.lease_revoke = Some(LeaseRevokeRequest { id: lease });
            }
            7 | 8 if !self.leases.is_empty() => {
                let lease = dice.pick(&self.leases);
                request.put = Some(PutRequest { lease, ..put });
            }
            _ => request.put = Some(put),
        })
    }

    /// Succeeds when the key is as this client has seen it; else puts another.
    fn compare_and_put(&self, put: &PutRequest) -> TxnRequest {
        let (key, revision) = self.known.clone().unwrap_or((put.key.clone(), 0));
        let compare = wire::Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Mod as i32,
            key: key.clone(),
            range_end: Bytes::new(),
            target_union: Some(TargetUnion::ModRevision(revision)),
        };
        let operation = |key: Bytes| RequestOp {
            request: Some(OperationRequest::RequestPut(PutRequest {
                key,
                value: put.value.clone(),
                ..PutRequest::default()
            })),
        };
        TxnRequest {
            compare: vec![compare],
            success: vec![operation(key), operation("both".into())],
            failure: vec![operation("lost".into())],
        }
    }
}

fn encode(id: u64, fill: impl FnOnce(&mut InternalRaftRequest)) -> Bytes {
    let mut request = InternalRaftRequest {
        header: Some(RequestHeader {
            id,
            ..RequestHeader::default()
        }),
        ..InternalRaftRequest::default()
    };
    fill(&mut request);
    request.encode_to_vec().into()
}

pub(crate) fn read_all(view: &View) -> Result<RangeAnswer, String> {
    view.range(&RangeQuery::new(KeyRange::All))
        .map_err(|error| error.to_string())
}

/// A state is exactly what the model had at its revision.
pub(crate) fn check_content(answer: &RangeAnswer, model: &Model) -> Result<(), String> {
    let revision = answer.revision.0;
    if revision > model.revision() {
        return Err(format!("revision {revision} is nowhere committed"));
    }
    let mut expected = model.at(revision);
    for pair in &answer.pairs {
        let fits = expected
            .next()
            .is_some_and(|(key, version)| is_same(pair, key, version));
        if !fits {
            let key = pair.key().escape_ascii();
            return Err(format!("{key} at revision {revision} is not what was put"));
        }
    }
    match expected.next() {
        Some((key, _)) => Err(format!(
            "{} is missing at revision {revision}",
            key.escape_ascii()
        )),
        None => Ok(()),
    }
}
