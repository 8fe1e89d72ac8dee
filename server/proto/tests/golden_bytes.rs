//! Encoded bytes, written down field by field from the published format.

use bytes::Bytes;
use prost::Message;
use proto::{authpb, etcdserverpb as pb, membershippb, mvccpb};

/// Encoding gives exactly `golden` (hex, blanks ignored), and decoding gives the message back.
fn check<M: Message + Default + PartialEq + std::fmt::Debug>(message: &M, golden: &str) {
    let golden = bytes_of_hex(golden);
    assert_eq!(message.encode_to_vec(), golden);
    assert_eq!(
        &M::decode(golden.as_slice()).expect("golden bytes decode"),
        message
    );
}

fn bytes_of_hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).expect("hex"))
        .collect()
}

#[test]
fn a_key_value_is_written_in_field_order() {
    let foo = mvccpb::KeyValue {
        key: Bytes::from_static(b"foo"),
        create_revision: 2,
        mod_revision: 2,
        version: 1,
        value: Bytes::from_static(b"bar"),
        lease: 0,
    };
    check(&foo, "0a03666f6f 1002 1802 2001 2a03626172");
}

#[test]
fn a_delete_event_carries_key_and_revision_only() {
    let event = mvccpb::Event {
        r#type: mvccpb::event::EventType::Delete as i32,
        kv: Some(mvccpb::KeyValue {
            key: Bytes::from_static(b"k"),
            mod_revision: 300,
            ..Default::default()
        }),
        prev_kv: None,
    };
    check(&event, "0801 1206 0a016b 18ac02");
}

#[test]
fn a_logged_put_has_the_request_before_the_header() {
    let request = pb::InternalRaftRequest {
        header: Some(pb::RequestHeader {
            id: 7,
            ..Default::default()
        }),
        put: Some(pb::PutRequest {
            key: Bytes::from_static(b"a"),
            value: Bytes::from_static(b"b"),
            ..Default::default()
        }),
        ..Default::default()
    };
    check(&request, "2206 0a0161 120162 a20602 0807");
}

#[test]
fn requests_of_the_log_have_their_published_numbers() {
    let request = pb::InternalRaftRequest {
        cluster_version_set: Some(membershippb::ClusterVersionSetRequest {
            ver: "3.6.0".into(),
        }),
        ..Default::default()
    };
    check(&request, "a251 07 0a05332e362e30");
    let request = pb::InternalRaftRequest {
        cluster_member_attr_set: Some(membershippb::ClusterMemberAttrSetRequest {
            member_id: 1,
            member_attributes: Some(membershippb::Attributes {
                name: "m".into(),
                client_urls: vec!["u".into()],
            }),
        }),
        ..Default::default()
    };
    check(&request, "aa51 0a 0801 1206 0a016d 120175");
    let request = pb::InternalRaftRequest {
        auth_role_revoke_permission: Some(pb::AuthRoleRevokePermissionRequest::default()),
        downgrade_version_test: Some(pb::DowngradeVersionTestRequest::default()),
        ..Default::default()
    };
    check(&request, "a24b 00 e2ea04 00");
}

#[test]
fn a_version_2_request_of_an_old_log_is_kept_with_its_zeros() {
    let request = pb::InternalRaftRequest {
        v2: Some(pb::Request {
            id: Some(3),
            method: Some("PUT".into()),
            val: Some(String::new()),
            dir: Some(false),
            ..Default::default()
        }),
        ..Default::default()
    };
    check(&request, "120b 0803 1203505554 2200 2800");
}

#[test]
fn a_compare_on_a_range_writes_its_operand_before_the_range_end() {
    use pb::compare::{CompareResult, CompareTarget, TargetUnion};
    let compare = pb::Compare {
        result: CompareResult::Less as i32,
        target: CompareTarget::Mod as i32,
        key: Bytes::from_static(b"a"),
        range_end: Bytes::from_static(b"b"),
        target_union: Some(TargetUnion::ModRevision(0)),
    };
    check(&compare, "0802 1002 1a0161 3000 82040162");
}

#[test]
fn nested_transactions_round_trip() {
    use pb::request_op::Request;
    let put = Request::RequestPut(pb::PutRequest {
        key: Bytes::from_static(b"k"),
        ..Default::default()
    });
    let inner = pb::TxnRequest {
        success: vec![pb::RequestOp { request: Some(put) }],
        ..Default::default()
    };
    let outer = pb::TxnRequest {
        failure: vec![pb::RequestOp {
            request: Some(Request::RequestTxn(inner)),
        }],
        ..Default::default()
    };
    check(&outer, "1a09 2207 1205 1203 0a016b");
}

#[test]
fn watch_events_are_field_eleven() {
    let response = pb::WatchResponse {
        watch_id: -1,
        events: vec![mvccpb::Event::default()],
        ..Default::default()
    };
    check(&response, "10ffffffffffffffffff01 5a00");
}

#[test]
fn permissions_and_members_have_their_published_numbers() {
    let role = authpb::Role {
        name: Bytes::from_static(b"r"),
        key_permission: vec![authpb::Permission {
            perm_type: authpb::permission::Type::Readwrite as i32,
            key: Bytes::from_static(b"k"),
            range_end: Bytes::from_static(b"\0"),
        }],
    };
    check(&role, "0a0172 1208 0802 12016b 1a0100");
    let member = pb::Member {
        id: 1,
        name: "n".into(),
        peer_urls: vec!["p".into()],
        client_urls: vec!["c".into()],
        is_learner: true,
    };
    check(&member, "0801 12016e 1a0170 220163 2801");
}

#[test]
fn a_status_answer_has_its_published_numbers() {
    let status = pb::StatusResponse {
        db_size_in_use: 1,
        storage_version: "3.6.0".into(),
        db_size_quota: 2,
        downgrade_info: Some(pb::DowngradeInfo {
            enabled: true,
            target_version: "3.5.0".into(),
        }),
        ..Default::default()
    };
    check(&status, "4801 5a05332e362e30 6002 6a09 0801 1205332e352e30");
}

#[test]
fn an_unknown_field_of_a_newer_client_is_skipped() {
    let bytes = bytes_of_hex("0a0161 d20f0178");
    let request = pb::RangeRequest::decode(bytes.as_slice()).expect("decodes");
    assert_eq!(request.key, Bytes::from_static(b"a"));
}
