//! The rules of KV, each put to the server under test and to real etcd: both must answer alike, and
//! where a refusal is expected, with etcd's own words.

use bytes::Bytes;
use holdfast_tests::member::{Member, Product};
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request as Operation;
use proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

use crate::conversation::{Pair, Request};

const EMPTY_KEY: &str = "etcdserver: key is not provided";
const KEY_NOT_FOUND: &str = "etcdserver: key not found";
const VALUE_PROVIDED: &str = "etcdserver: value is provided";
const LEASE_PROVIDED: &str = "etcdserver: lease is provided";
const LEASE_NOT_FOUND: &str = "etcdserver: requested lease not found";
const TOO_MANY_OPERATIONS: &str = "etcdserver: too many operations in txn request";
const DUPLICATE_KEY: &str = "etcdserver: duplicate key given in txn request";
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE_REVISION: &str = "etcdserver: mvcc: required revision is a future revision";
const TOO_LARGE: &str = "etcdserver: request is too large";

/// A request, and the refusal that it must meet, if any.
type Step = (Request, Option<&'static str>);

/// The rule's label, what it says, and its steps; `base` is the revision before the first one.
type Case = (&'static str, &'static str, fn(base: i64) -> Vec<Step>);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rule_of_kv_is_answered_as_etcd_answers_it() {
    let mut pair = Pair::start().await;
    let mut found = Vec::new();
    for (label, what, steps) in CASES {
        let base = pair.revision().await;
        for (number, (request, refusal)) in steps(base).into_iter().enumerate() {
            let wrong = match pair.ask(&request).await {
                Err(difference) => Some(difference),
                Ok(answer) if answer.refusal() == refusal => None,
                Ok(answer) => Some(format!("{request:?}: {answer:?} instead of {refusal:?}")),
            };
            if let Some(wrong) = wrong {
                found.push(format!("{label}, step {number}: {what}\n{wrong}"));
                break;
            }
        }
        pair.fall_into_step().await;
    }
    let count = found.len();
    assert!(
        found.is_empty(),
        "{count} of {} cases differ:\n\n{}",
        CASES.len(),
        found.join("\n\n")
    );
}

/// etcd's check before a txn sees the key still there, and the put that misses it later ends the
/// process, at every start anew since the request stands in the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_txn_that_removes_a_key_whose_value_it_keeps_changes_nothing_and_ends_nobody() {
    let member = Member::start(Product::Holdfast).await;
    let client = member.client();
    client.put("a", "1").await.expect("a put");
    let keep = Operation::RequestPut(PutRequest {
        key: "a".into(),
        ignore_value: true,
        ..Default::default()
    });
    let keep = || RequestOp {
        request: Some(keep.clone()),
    };
    let nested_delete = || op_txn(vec![], vec![op_delete("a", "")], vec![]);
    let nested_keep = || op_txn(vec![], vec![keep()], vec![]);
    for success in [
        // The check for duplicates takes neither for a removal of the key.
        vec![op_delete("a", "\0"), keep()],
        vec![op_put("b", "2"), op_delete("a", "\0"), nested_keep()],
    ] {
        let txn = TxnRequest {
            success,
            ..Default::default()
        };
        let refusal = client
            .kv
            .clone()
            .txn(txn)
            .await
            .expect_err("the value is gone");
        assert_eq!(refusal.message(), KEY_NOT_FOUND);
    }
    // In the other order the key is there when it is kept.
    let success = vec![nested_keep(), nested_delete()];
    let txn = TxnRequest {
        success,
        ..Default::default()
    };
    client
        .kv
        .clone()
        .txn(txn)
        .await
        .expect("kept, then removed");
    client.put("a", "3").await.expect("the member lives");
    let before = client.everything().await.kvs;
    let again = Member::start_on(Product::Holdfast, member.kill(), &[]).await;
    assert_eq!(again.client().everything().await.kvs, before);
}

/// etcd 3.5 loses such a key and ends when it is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_removed_and_put_in_one_revision_survives_a_compaction_at_it() {
    let member = Member::start(Product::Holdfast).await;
    let client = member.client();
    client.put("a", "1").await.expect("a put");
    let success = vec![op_delete("a", "\0"), op_put("a", "2"), op_put("b", "3")];
    let txn = TxnRequest {
        success,
        ..Default::default()
    };
    let answer = client
        .kv
        .clone()
        .txn(txn)
        .await
        .expect("a txn")
        .into_inner();
    let revision = answer.header.expect("a header").revision;
    client.put("b", "4").await.expect("a put");
    let compaction = CompactionRequest {
        revision,
        physical: true,
    };
    client
        .kv
        .clone()
        .compact(compaction)
        .await
        .expect("a compaction");
    let before = client.everything().await.kvs;
    let values: Vec<&[u8]> = before.iter().map(|pair| &pair.value[..]).collect();
    assert_eq!(values, [b"2", b"4"]);
    let hash = client.hash_kv(0).await.hash;
    let again = Member::start_on(Product::Holdfast, member.stop(), &[]).await;
    assert_eq!(again.client().everything().await.kvs, before);
    assert_eq!(again.client().hash_kv(0).await.hash, hash);
}

/// KV-37 and KV-41, with a pair of its own: etcd remembers the hash of a compaction at 0 and from then on gives
/// it to everybody who asks for the hash at 0, which means the newest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_zero_everything_counts_as_compacted_before_the_first_compaction_too() {
    let mut pair = Pair::start().await;
    let txn_at = |revision| {
        let read = RangeRequest {
            key: "a".into(),
            revision,
            ..Default::default()
        };
        txn(
            vec![],
            vec![RequestOp {
                request: Some(Operation::RequestRange(read)),
            }],
            vec![],
        )
    };
    let steps = [
        ok(put("a", "1")),
        ok(txn_at(-1)),
        no(txn_at(-2), COMPACTED),
        no(txn_at(i64::MIN), COMPACTED),
        no(compact(-1), COMPACTED),
        no(compact(i64::MIN), COMPACTED),
        ok(compact(0)),
        no(compact(0), COMPACTED),
        no(compact(-1), COMPACTED),
        ok(range("\0", "\0")),
    ];
    for (request, refusal) in steps {
        let answer = pair
            .ask(&request)
            .await
            .unwrap_or_else(|difference| panic!("{difference}"));
        assert_eq!(answer.refusal(), refusal, "{request:?}");
    }
}

/// KV-8. etcd 3.5 takes any number for an order; 3.6, whose level holdfast reports, refuses them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_sort_order_or_target_is_refused() {
    let member = Member::start(Product::subject()).await;
    let refuses = member.product() == Product::Holdfast;
    for (sort_order, sort_target) in [(3, 0), (-1, 0), (0, 5), (1, -1), (7, 7)] {
        let key = Bytes::from_static(b"a");
        let request = RangeRequest {
            key,
            sort_order,
            sort_target,
            ..Default::default()
        };
        let refusal = member.client().range(request).await.err();
        let message = refusal.map(|status| status.message().to_owned());
        let expected = refuses.then(|| "etcdserver: invalid sort option".to_owned());
        assert_eq!(
            message, expected,
            "order {sort_order}, target {sort_target}"
        );
    }
}

const CASES: &[Case] = &[
    ("KV-1", "an empty range_end selects the single key", |_| {
        vec![
            ok(put("a", "1")),
            ok(put("a1", "2")),
            ok(get("a")),
            ok(get("missing")),
        ]
    }),
    (
        "KV-1",
        "range_end is not included, prefixes work, zero means to the end",
        |_| {
            vec![
                ok(put("a", "1")),
                ok(put("b", "2")),
                ok(put("b1", "3")),
                ok(put("c", "4")),
                ok(put("\u{ff}", "5")),
                ok(range("a", "c")),
                ok(range("b", "c")),
                ok(range("b", "\0")),
                ok(range("\0", "\0")),
                ok(range("c", "\u{100}")),
            ]
        },
    ),
    (
        "KV-1",
        "a range_end at or below the key selects nothing",
        |_| {
            vec![
                ok(put("b", "1")),
                ok(range("b", "b")),
                ok(range("b", "a")),
                ok(delete("b", "a")),
            ]
        },
    ),
    ("KV-1", "keys are bytes, zero and 0xff included", |_| {
        let odd: [&'static [u8]; 6] = [b"\0", b"\0\0", b"\xff", b"\xff\xff", b"a\0", b"a\xff"];
        let mut steps: Vec<Step> = odd.iter().map(|key| ok(put(*key, "x"))).collect();
        steps.extend([
            ok(range("\0", "\0")),
            ok(range(&b"\xff"[..], "\0")),
            ok(range("a", "b")),
            ok(range("a\0", &b"a\xff"[..])),
        ]);
        steps
    }),
    ("KV-2", "only what changes a key makes a revision", |_| {
        vec![
            ok(put("a", "1")),
            ok(delete("missing", "")),
            ok(txn(vec![], vec![], vec![])),
            ok(txn(vec![], vec![op_delete("missing", "")], vec![])),
            ok(txn(
                vec![],
                vec![op_put("a", "2"), op_put("b", "3")],
                vec![],
            )),
            ok(range("\0", "\0")),
        ]
    }),
    (
        "KV-3",
        "versions and creation start anew after a delete",
        |_| {
            vec![
                ok(put("a", "1")),
                ok(put("a", "1")),
                ok(get("a")),
                ok(delete("a", "")),
                ok(get("a")),
                ok(put("a", "2")),
                ok(get("a")),
            ]
        },
    ),
    ("KV-7", "headers inside a txn hold only a revision", |_| {
        vec![
            ok(put("a", "1")),
            ok(txn(
                vec![],
                vec![
                    op_range("a", ""),
                    op_delete("missing", ""),
                    op_put("b", "2"),
                    op_range("b", ""),
                    op_delete("missing", ""),
                    op_txn(vec![], vec![op_put("c", "3")], vec![]),
                ],
                vec![],
            )),
        ]
    }),
    ("KV-8", "an empty key is refused", |_| {
        vec![
            no(get(""), EMPTY_KEY),
            no(range("", "\0"), EMPTY_KEY),
            no(delete("", ""), EMPTY_KEY),
        ]
    }),
    (
        "KV-9",
        "older revisions can be read, future ones not",
        |base| {
            vec![
                ok(put("a", "1")),
                ok(put("a", "2")),
                ok(put("b", "3")),
                ok(delete("a", "")),
                ok(at(range("\0", "\0"), base)),
                ok(at(range("\0", "\0"), base + 1)),
                ok(at(range("\0", "\0"), base + 2)),
                ok(at(range("\0", "\0"), base + 3)),
                ok(at(range("\0", "\0"), base + 4)),
                no(at(range("\0", "\0"), base + 5), FUTURE_REVISION),
                no(at(get("missing"), i64::MAX), FUTURE_REVISION),
                ok(at(get("b"), 0)),
                ok(at(get("b"), -1)),
                ok(at(get("b"), i64::MIN)),
            ]
        },
    ),
    (
        "KV-10",
        "a serializable read sees what a linearizable one sees when nothing is under way",
        |_| {
            vec![
                ok(put("a", "1")),
                ok(with(get("a"), |range| range.serializable = true)),
                ok(with(range("\0", "\0"), |range| range.serializable = true)),
            ]
        },
    ),
    (
        "KV-11",
        "count counts the whole range, count_only nothing else",
        |base| {
            let mut steps: Vec<Step> = KEYS.iter().map(|key| ok(put(*key, "x"))).collect();
            steps.extend([
                ok(with(range("a", "z"), |range| range.limit = 2)),
                ok(with(range("a", "z"), |range| range.count_only = true)),
                ok(with(range("a", "z"), |range| {
                    range.count_only = true;
                    range.limit = 2;
                    range.min_mod_revision = i64::MAX;
                    range.keys_only = true;
                })),
                ok(with(at(range("a", "z"), base + 2), |range| {
                    range.count_only = true;
                })),
                ok(with(range("z", "zz"), |range| range.count_only = true)),
                ok(with(get("a"), |range| range.count_only = true)),
            ]);
            steps
        },
    ),
    (
        "KV-12",
        "more tells whether the limit cut something off",
        |_| {
            let mut steps: Vec<Step> = KEYS.iter().map(|key| ok(put(*key, "x"))).collect();
            for limit in [-1, 0, 1, 3, 4, 5, 6, i64::MAX] {
                steps.push(ok(with(range("a", "z"), |range| range.limit = limit)));
            }
            steps
        },
    ),
    (
        "KV-13",
        "filters apply before sort and limit, not to count",
        |base| {
            let mut steps: Vec<Step> = KEYS.iter().map(|key| ok(put(*key, "x"))).collect();
            steps.push(ok(put("b", "y")));
            steps.extend([
                ok(with(range("a", "z"), |range| range.min_mod_revision = 4)),
                ok(with(at(range("a", "z"), base + 6), |range| {
                    range.max_create_revision = 1;
                })),
            ]);
            for offset in [0, 1, 3, 6, 9] {
                let revision = base + offset;
                steps.extend([
                    ok(with(range("a", "z"), |range| {
                        range.min_mod_revision = revision;
                    })),
                    ok(with(range("a", "z"), |range| {
                        range.max_mod_revision = revision;
                    })),
                    ok(with(range("a", "z"), |range| {
                        range.min_create_revision = revision;
                    })),
                    ok(with(range("a", "z"), |range| {
                        range.max_create_revision = revision;
                        range.limit = 2;
                    })),
                ]);
            }
            steps
        },
    ),
    ("KV-14", "every order by every target", |_| sorted(0)),
    (
        "KV-15",
        "a limit without an order sorts only the first keys",
        |_| sorted(3),
    ),
    (
        "KV-16",
        "keys_only blanks the values, also after sorting by them",
        |_| {
            let mut steps: Vec<Step> = KEYS.iter().map(|key| ok(put(*key, *key))).collect();
            steps.push(ok(with(range("a", "z"), |range| range.keys_only = true)));
            steps.push(ok(with(range("a", "z"), |range| {
                range.keys_only = true;
                range.sort_target = SortTarget::Value.into();
                range.sort_order = SortOrder::Descend.into();
            })));
            steps
        },
    ),
    (
        "KV-22",
        "contradictory puts are refused before anything is looked up",
        |_| {
            vec![
                no(put("", "x"), EMPTY_KEY),
                no(
                    put_as("a", "x", |put| put.ignore_value = true),
                    VALUE_PROVIDED,
                ),
                no(
                    put_as("a", "", |put| {
                        put.ignore_lease = true;
                        put.lease = 5;
                    }),
                    LEASE_PROVIDED,
                ),
                no(put_as("", "x", |put| put.ignore_value = true), EMPTY_KEY),
            ]
        },
    ),
    (
        "KV-23",
        "what is to be kept must be there, and a lease must live",
        |_| {
            vec![
                no(
                    put_as("a", "", |put| put.ignore_value = true),
                    KEY_NOT_FOUND,
                ),
                no(
                    put_as("a", "", |put| put.ignore_lease = true),
                    KEY_NOT_FOUND,
                ),
                no(put_as("a", "x", |put| put.lease = 12345), LEASE_NOT_FOUND),
                no(put_as("a", "x", |put| put.lease = -1), LEASE_NOT_FOUND),
                ok(range("\0", "\0")),
            ]
        },
    ),
    (
        "KV-24",
        "keeping value or lease still makes a revision",
        |_| {
            vec![
                ok(put("a", "old")),
                ok(put_as("a", "", |put| put.ignore_value = true)),
                ok(get("a")),
                ok(put_as("a", "new", |put| put.ignore_lease = true)),
                ok(get("a")),
            ]
        },
    ),
    ("KV-25", "prev_kv is the pair before the put", |_| {
        vec![
            ok(put_as("a", "1", |put| put.prev_kv = true)),
            ok(put_as("a", "2", |put| put.prev_kv = true)),
            ok(put_as("a", "", |put| put.prev_kv = true)),
            ok(delete("a", "")),
            ok(put_as("a", "3", |put| put.prev_kv = true)),
        ]
    }),
    (
        "KV-26",
        "deleted counts the keys, and nothing deleted is no revision",
        |_| {
            let mut steps: Vec<Step> = KEYS.iter().map(|key| ok(put(*key, "x"))).collect();
            steps.extend([
                ok(delete("b", "d")),
                ok(delete("b", "d")),
                ok(delete("a", "")),
                ok(delete("\0", "\0")),
                ok(range("\0", "\0")),
            ]);
            steps
        },
    ),
    (
        "KV-27",
        "prev_kvs are the removed pairs in the order of keys",
        |_| {
            let mut steps: Vec<Step> = KEYS.iter().rev().map(|key| ok(put(*key, "x"))).collect();
            steps.extend([
                ok(delete_with_previous("b", "e")),
                ok(delete_with_previous("\0", "\0")),
            ]);
            steps
        },
    ),
    (
        "KV-29",
        "each list of a txn is limited, and nested ones to what is left",
        |_| {
            let puts = |count: usize| {
                (0..count)
                    .map(|n| op_put(format!("k{n:03}"), "x"))
                    .collect()
            };
            let compares = |count: usize| vec![version_is("a", 0); count];
            vec![
                ok(txn(vec![], puts(128), vec![])),
                no(txn(vec![], puts(129), vec![]), TOO_MANY_OPERATIONS),
                no(txn(vec![], vec![], puts(129)), TOO_MANY_OPERATIONS),
                ok(txn(compares(128), vec![], vec![])),
                no(txn(compares(129), vec![], vec![]), TOO_MANY_OPERATIONS),
                ok(txn(vec![], vec![op_txn(vec![], puts(127), vec![])], vec![])),
                no(
                    txn(vec![], vec![op_txn(vec![], puts(128), vec![])], vec![]),
                    TOO_MANY_OPERATIONS,
                ),
            ]
        },
    ),
    ("KV-30", "a compare needs a key", |_| {
        vec![
            no(txn(vec![version_is("", 0)], vec![], vec![]), EMPTY_KEY),
            no(
                txn(
                    vec![],
                    vec![op_txn(vec![version_is("", 0)], vec![], vec![])],
                    vec![],
                ),
                EMPTY_KEY,
            ),
        ]
    }),
    (
        "KV-31",
        "operations of a txn meet the checks of their own kind, on both branches",
        |_| {
            let contradictory = Operation::RequestPut(PutRequest {
                key: "a".into(),
                value: "x".into(),
                ignore_value: true,
                ..Default::default()
            });
            let contradictory = RequestOp {
                request: Some(contradictory),
            };
            let empty = RequestOp { request: None };
            vec![
                no(txn(vec![], vec![op_range("", "")], vec![]), EMPTY_KEY),
                no(txn(vec![], vec![op_put("", "")], vec![]), EMPTY_KEY),
                no(txn(vec![], vec![op_delete("", "")], vec![]), EMPTY_KEY),
                no(txn(vec![], vec![], vec![op_put("", "")]), EMPTY_KEY),
                no(
                    txn(vec![], vec![contradictory.clone()], vec![]),
                    VALUE_PROVIDED,
                ),
                no(txn(vec![], vec![], vec![contradictory]), VALUE_PROVIDED),
                no(txn(vec![], vec![empty.clone()], vec![]), KEY_NOT_FOUND),
                no(
                    txn(vec![], vec![op_txn(vec![], vec![empty], vec![])], vec![]),
                    KEY_NOT_FOUND,
                ),
            ]
        },
    ),
    (
        "KV-32",
        "one key is put at most once on a path, and not where it is deleted",
        |_| {
            let put_a = || op_put("a", "x");
            let nested = |success, failure| op_txn(vec![], success, failure);
            vec![
                no(txn(vec![], vec![put_a(), put_a()], vec![]), DUPLICATE_KEY),
                no(txn(vec![], vec![], vec![put_a(), put_a()]), DUPLICATE_KEY),
                ok(txn(vec![], vec![put_a()], vec![put_a()])),
                no(
                    txn(vec![], vec![put_a(), op_delete("a", "")], vec![]),
                    DUPLICATE_KEY,
                ),
                no(
                    txn(vec![], vec![op_delete("a", "b"), put_a()], vec![]),
                    DUPLICATE_KEY,
                ),
                ok(txn(vec![], vec![op_delete("b", "c"), put_a()], vec![])),
                ok(txn(
                    vec![],
                    vec![op_delete("a", "b"), op_delete("a", "")],
                    vec![],
                )),
                no(
                    txn(vec![], vec![put_a(), nested(vec![put_a()], vec![])], vec![]),
                    DUPLICATE_KEY,
                ),
                no(
                    txn(vec![], vec![nested(vec![], vec![put_a()]), put_a()], vec![]),
                    DUPLICATE_KEY,
                ),
                ok(txn(
                    vec![],
                    vec![nested(vec![put_a()], vec![put_a()])],
                    vec![],
                )),
                no(
                    txn(
                        vec![],
                        vec![nested(vec![put_a()], vec![]), nested(vec![], vec![put_a()])],
                        vec![],
                    ),
                    DUPLICATE_KEY,
                ),
                no(
                    txn(
                        vec![],
                        vec![op_delete("a", ""), nested(vec![put_a()], vec![])],
                        vec![],
                    ),
                    DUPLICATE_KEY,
                ),
                ok(txn(
                    vec![],
                    vec![
                        nested(vec![put_a()], vec![]),
                        nested(vec![op_delete("a", "")], vec![]),
                    ],
                    vec![],
                )),
                no(
                    txn(
                        vec![],
                        vec![
                            nested(vec![op_delete("a", "")], vec![]),
                            nested(vec![put_a()], vec![]),
                        ],
                        vec![],
                    ),
                    DUPLICATE_KEY,
                ),
                ok(txn(vec![], vec![put_a(), op_delete("a", "\0")], vec![])),
                ok(range("\0", "\0")),
                ok(txn(vec![], vec![put_a(), op_delete("a", "Z")], vec![])),
                ok(range("\0", "\0")),
            ]
        },
    ),
    (
        "KV-33",
        "all compares must hold, and only the taken branch answers",
        |_| {
            vec![
                ok(put("a", "1")),
                ok(txn(
                    vec![version_is("a", 1), version_is("b", 0)],
                    vec![op_put("b", "then"), op_range("a", "")],
                    vec![op_put("b", "else")],
                )),
                ok(txn(
                    vec![version_is("a", 1), version_is("b", 0)],
                    vec![op_put("c", "then")],
                    vec![
                        op_delete("a", "c"),
                        op_range("\0", "\0"),
                        op_put("d", "else"),
                    ],
                )),
                ok(range("\0", "\0")),
            ]
        },
    ),
    (
        "KV-34",
        "compares see the state before the txn, those of nested ones too",
        |_| {
            vec![
                ok(txn(
                    vec![version_is("a", 0)],
                    vec![
                        op_put("a", "1"),
                        op_txn(vec![version_is("a", 0)], vec![op_put("b", "2")], vec![]),
                    ],
                    vec![],
                )),
                ok(range("\0", "\0")),
            ]
        },
    ),
    (
        "KV-35",
        "a compare over a range holds for every key in it",
        |_| {
            let over = |target, union, result| {
                let mut compare = compare("k", target, union, result);
                compare.range_end = "l".into();
                ok(txn(vec![compare], vec![op_range("k1", "")], vec![]))
            };
            use {CompareResult as R, CompareTarget as T, TargetUnion as U};
            let all = || {
                vec![
                    over(T::Value, U::Value("x".into()), R::Equal),
                    over(T::Value, U::Value("y".into()), R::NotEqual),
                    over(T::Version, U::Version(0), R::Equal),
                    over(T::Version, U::Version(0), R::Greater),
                    over(T::Create, U::CreateRevision(0), R::Equal),
                    over(T::Mod, U::ModRevision(1), R::Less),
                    over(T::Lease, U::Lease(0), R::Equal),
                ]
            };
            let mut steps = all();
            steps.push(ok(put("k1", "x")));
            steps.extend(all());
            steps.push(ok(put("k2", "y")));
            steps.extend(all());
            steps
        },
    ),
    (
        "KV-36",
        "an operand of another kind is zero, an unknown relation holds",
        |_| {
            use {CompareResult as R, CompareTarget as T, TargetUnion as U};
            let ask = |compare: Compare| ok(txn(vec![compare], vec![op_range("a", "")], vec![]));
            let mut steps = vec![ok(put("a", "1"))];
            for result in [R::Equal, R::Greater, R::Less, R::NotEqual] {
                for target in [T::Version, T::Create, T::Mod, T::Value, T::Lease] {
                    for union in [
                        U::Version(1),
                        U::CreateRevision(1),
                        U::ModRevision(1),
                        U::Value("1".into()),
                        U::Lease(1),
                    ] {
                        steps.push(ask(compare("a", target, union, result)));
                    }
                }
            }
            let mut none = version_is("a", 0);
            none.target_union = None;
            steps.push(ask(none.clone()));
            none.target = T::Value.into();
            steps.push(ask(none));
            for odd in [4, -1, 99] {
                let mut relation = version_is("a", 77);
                relation.result = odd;
                steps.push(ask(relation));
                let mut target = version_is("a", 77);
                target.target = odd + 1;
                steps.push(ask(target));
            }
            steps
        },
    ),
    (
        "KV-37",
        "a txn that would fail half way changes nothing",
        |base| {
            let lease = Operation::RequestPut(PutRequest {
                key: "c".into(),
                lease: 77,
                ..Default::default()
            });
            let keep = Operation::RequestPut(PutRequest {
                key: "c".into(),
                ignore_value: true,
                ..Default::default()
            });
            let future = Operation::RequestRange(RangeRequest {
                key: "a".into(),
                revision: base + 100,
                ..Default::default()
            });
            let then = |operation| {
                let last = RequestOp {
                    request: Some(operation),
                };
                txn(
                    vec![],
                    vec![op_put("a", "1"), op_put("b", "2"), last],
                    vec![],
                )
            };
            vec![
                no(then(lease), LEASE_NOT_FOUND),
                no(then(keep), KEY_NOT_FOUND),
                no(then(future), FUTURE_REVISION),
                ok(range("\0", "\0")),
            ]
        },
    ),
    (
        "KV-38",
        "operations see the changes before them in their txn",
        |_| {
            let put = |key: &'static str, value: &'static str| RequestOp {
                request: Some(Operation::RequestPut(PutRequest {
                    key: key.into(),
                    value: value.into(),
                    prev_kv: true,
                    ..Default::default()
                })),
            };
            let delete = RequestOp {
                request: Some(Operation::RequestDeleteRange(DeleteRangeRequest {
                    key: "b".into(),
                    range_end: "\0".into(),
                    prev_kv: true,
                })),
            };
            vec![
                ok(txn(
                    vec![],
                    vec![
                        op_range("a", "\0"),
                        put("b", "1"),
                        op_range("a", "\0"),
                        delete,
                        op_range("a", "\0"),
                        put("c", "2"),
                        op_range("a", "\0"),
                    ],
                    vec![],
                )),
                ok(range("\0", "\0")),
            ]
        },
    ),
    ("KV-39, KV-40", "a txn of ranges makes no revision", |_| {
        vec![
            ok(put("a", "1")),
            ok(txn(
                vec![version_is("a", 1)],
                vec![op_range("a", "")],
                vec![op_range("b", "")],
            )),
            ok(txn(
                vec![version_is("a", 2)],
                vec![op_range("a", "")],
                vec![op_range("b", "")],
            )),
            ok(txn(vec![version_is("a", 1)], vec![], vec![])),
            ok(txn(vec![version_is("a", 2)], vec![], vec![])),
            ok(txn(
                vec![],
                vec![op_txn(vec![], vec![op_range("a", "")], vec![])],
                vec![],
            )),
        ]
    }),
    (
        "KV-41",
        "a compaction goes neither back nor into the future",
        |base| {
            vec![
                ok(put("a", "1")),
                ok(put("a", "2")),
                ok(put("a", "3")),
                no(compact(base + 4), FUTURE_REVISION),
                ok(compact(base + 2)),
                no(compact(base + 2), COMPACTED),
                no(compact(base + 1), COMPACTED),
                no(compact(0), COMPACTED),
                no(compact(-1), COMPACTED),
                no(at(get("a"), base + 1), COMPACTED),
                ok(at(get("a"), base + 2)),
                ok(at(get("a"), base + 3)),
                no(
                    txn(
                        vec![],
                        vec![
                            op_put("b", "1"),
                            RequestOp {
                                request: Some(Operation::RequestRange(RangeRequest {
                                    key: "a".into(),
                                    revision: base + 1,
                                    ..Default::default()
                                })),
                            },
                        ],
                        vec![],
                    ),
                    COMPACTED,
                ),
                ok(range("\0", "\0")),
            ]
        },
    ),
    (
        "KV-42",
        "a physical compaction waits, and hashes agree before and after",
        |base| {
            let physical = |revision| {
                Request::Compact(CompactionRequest {
                    revision,
                    physical: true,
                })
            };
            vec![
                ok(put("a", "1")),
                ok(put("b", "1")),
                ok(put("a", "2")),
                ok(delete("b", "")),
                ok(put("c", "3")),
                ok(Request::HashKv(0)),
                ok(Request::HashKv(base + 3)),
                ok(physical(base + 4)),
                ok(Request::HashKv(0)),
                no(physical(base + 4), COMPACTED),
                no(Request::HashKv(base + 3), COMPACTED),
                no(Request::HashKv(base + 99), FUTURE_REVISION),
                ok(range("\0", "\0")),
                ok(put("b", "4")),
                ok(Request::HashKv(0)),
            ]
        },
    ),
    (
        "KV-43",
        "a tombstone exactly at the compacted revision can still be read as absence",
        |base| {
            vec![
                ok(put("a", "1")),
                ok(put("b", "1")),
                ok(delete("a", "")),
                ok(Request::Compact(CompactionRequest {
                    revision: base + 3,
                    physical: true,
                })),
                ok(at(range("\0", "\0"), base + 3)),
                ok(put("a", "2")),
                ok(at(range("\0", "\0"), base + 3)),
                ok(range("\0", "\0")),
                ok(Request::HashKv(0)),
                ok(Request::Compact(CompactionRequest {
                    revision: base + 4,
                    physical: true,
                })),
                ok(Request::HashKv(0)),
            ]
        },
    ),
    (
        "KV-45",
        "a request larger than the limit is refused whole",
        |_| {
            vec![
                ok(put("a", "x".repeat(1_572_000))),
                no(put("a", "y".repeat(1_572_864)), TOO_LARGE),
                ok(with(get("a"), |range| range.keys_only = true)),
            ]
        },
    ),
];

const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Keys whose order differs by every target, then every order by every target.
fn sorted(limit: i64) -> Vec<Step> {
    let mut steps = vec![
        ok(put("c", "1")),
        ok(put("a", "5")),
        ok(put("e", "2")),
        ok(put("b", "4")),
        ok(put("d", "3")),
        ok(put("e", "7")),
        ok(put("c", "9")),
        ok(put("c", "6")),
    ];
    for order in [SortOrder::None, SortOrder::Ascend, SortOrder::Descend] {
        for target in 0..=SortTarget::Value as i32 {
            let ask = |key_range: Request| {
                with(key_range, |range| {
                    range.sort_order = order.into();
                    range.sort_target = target;
                    range.limit = limit;
                })
            };
            steps.push(ok(ask(range("a", "z"))));
            steps.push(ok(with(ask(range("a", "z")), |range| {
                range.min_create_revision = 2;
            })));
        }
    }
    steps
}

fn ok(request: Request) -> Step {
    (request, None)
}

fn no(request: Request, refusal: &'static str) -> Step {
    (request, Some(refusal))
}

fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Request {
    put_as(key, value, |_| {})
}

fn put_as(
    key: impl Into<Bytes>,
    value: impl Into<Bytes>,
    change: impl FnOnce(&mut PutRequest),
) -> Request {
    let mut put = PutRequest {
        key: key.into(),
        value: value.into(),
        ..Default::default()
    };
    change(&mut put);
    Request::Put(put)
}

fn get(key: impl Into<Bytes>) -> Request {
    range(key, "")
}

fn range(key: impl Into<Bytes>, range_end: impl Into<Bytes>) -> Request {
    let (key, range_end) = (key.into(), range_end.into());
    Request::Range(RangeRequest {
        key,
        range_end,
        ..Default::default()
    })
}

fn with(request: Request, change: impl FnOnce(&mut RangeRequest)) -> Request {
    let Request::Range(mut range) = request else {
        panic!("only ranges have options");
    };
    change(&mut range);
    Request::Range(range)
}

fn at(request: Request, revision: i64) -> Request {
    with(request, |range| range.revision = revision)
}

fn delete(key: impl Into<Bytes>, range_end: impl Into<Bytes>) -> Request {
    let (key, range_end) = (key.into(), range_end.into());
    Request::DeleteRange(DeleteRangeRequest {
        key,
        range_end,
        prev_kv: false,
    })
}

fn delete_with_previous(key: impl Into<Bytes>, range_end: impl Into<Bytes>) -> Request {
    let (key, range_end) = (key.into(), range_end.into());
    Request::DeleteRange(DeleteRangeRequest {
        key,
        range_end,
        prev_kv: true,
    })
}

fn compact(revision: i64) -> Request {
    Request::Compact(CompactionRequest {
        revision,
        physical: false,
    })
}

fn txn(compare: Vec<Compare>, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> Request {
    Request::Txn(TxnRequest {
        compare,
        success,
        failure,
    })
}

fn op_put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> RequestOp {
    let put = PutRequest {
        key: key.into(),
        value: value.into(),
        ..Default::default()
    };
    RequestOp {
        request: Some(Operation::RequestPut(put)),
    }
}

fn op_range(key: impl Into<Bytes>, range_end: impl Into<Bytes>) -> RequestOp {
    let (key, range_end) = (key.into(), range_end.into());
    let range = RangeRequest {
        key,
        range_end,
        ..Default::default()
    };
    RequestOp {
        request: Some(Operation::RequestRange(range)),
    }
}

fn op_delete(key: impl Into<Bytes>, range_end: impl Into<Bytes>) -> RequestOp {
    let (key, range_end) = (key.into(), range_end.into());
    let delete = DeleteRangeRequest {
        key,
        range_end,
        prev_kv: false,
    };
    RequestOp {
        request: Some(Operation::RequestDeleteRange(delete)),
    }
}

fn op_txn(compare: Vec<Compare>, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
    let txn = TxnRequest {
        compare,
        success,
        failure,
    };
    RequestOp {
        request: Some(Operation::RequestTxn(txn)),
    }
}

fn compare(
    key: impl Into<Bytes>,
    target: CompareTarget,
    union: TargetUnion,
    result: CompareResult,
) -> Compare {
    Compare {
        result: result.into(),
        target: target.into(),
        key: key.into(),
        target_union: Some(union),
        range_end: Bytes::new(),
    }
}

fn version_is(key: impl Into<Bytes>, version: i64) -> Compare {
    let union = TargetUnion::Version(version);
    compare(key, CompareTarget::Version, union, CompareResult::Equal)
}
