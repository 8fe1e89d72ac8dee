//! Configuration changes in etcd's encoding.

use bytes::Bytes;
use consensus::{ConfigurationChange, ConfigurationChangeKind, MalformedChange, NodeId};
use proptest::prelude::*;

/// As etcd 3.5.30 wrote them: the first entry of a new cluster, and the addition of a learner.
#[test]
fn changes_are_encoded_byte_for_byte_as_etcd_does() {
    let first = [
        &b"\x08\x00\x10\x00\x18\xce\xc4\xbf\x9b\xe6\x93\xa7\x99\xee\x01\x22\x4d"[..],
        br#"{"id":17163953333949424206,"peerURLs":["http://127.0.0.1:31002"],"name":"n1"}"#,
    ]
    .concat();
    check(
        &first,
        0,
        ConfigurationChangeKind::AddNode,
        0xee32_9c9e_636f_e24e,
    );
    let learner = [
        &b"\x08\x83\xb8\xd9\xd6\xce\xc2\xa8\xa7\xe2\x01\x10\x03"[..],
        b"\x18\xbc\xc1\xa2\xee\xe5\xc1\xdd\x9e\xea\x01\x22\x52",
        br#"{"id":16877877682529536188,"peerURLs":["http://127.0.0.1:31005"],"isLearner":true}"#,
    ]
    .concat();
    let kind = ConfigurationChangeKind::AddLearnerNode;
    check(&learner, 0xe24e_a214_ead6_5c03, kind, 0xea3d_760e_5dc8_a0bc);
    let removal = b"\x08\x01\x10\x01\x18\x02";
    check(removal, 1, ConfigurationChangeKind::RemoveNode, 2);

    fn check(golden: &[u8], id: u64, kind: ConfigurationChangeKind, node_id: u64) {
        let golden = Bytes::copy_from_slice(golden);
        let change = ConfigurationChange::decode(&golden).unwrap();
        let found = (change.id, change.kind, change.node_id);
        assert_eq!(found, (id, kind, NodeId(node_id)));
        assert_eq!(change.encode(), golden);
    }
}

#[test]
fn an_unknown_type_is_an_error_and_an_unknown_field_is_not() {
    let unknown = Bytes::from_static(&[0x10, 4]);
    assert_eq!(
        ConfigurationChange::decode(&unknown),
        Err(MalformedChange::UnknownType(4))
    );
    // Field 9 as a fixed64, field 10 as bytes, field 11 as a fixed32, field 12 as a number.
    let extra = b"\x49\0\0\0\0\0\0\0\0\x52\x01x\x5d\0\0\0\0\x60\x01\x18\x07";
    let change = ConfigurationChange::decode(&Bytes::from_static(extra)).unwrap();
    assert_eq!(change.node_id, NodeId(7));
    assert_eq!(change.kind, ConfigurationChangeKind::AddNode);
}

#[test]
fn every_cut_of_a_change_is_an_error_or_a_shorter_change() {
    let whole = ConfigurationChange {
        id: u64::MAX,
        kind: ConfigurationChangeKind::AddLearnerNode,
        node_id: NodeId(u64::MAX / 3),
        context: Some(Bytes::from_static(b"{}")),
    };
    let data = whole.encode();
    for length in 0..data.len() {
        if let Ok(change) = ConfigurationChange::decode(&data.slice(..length)) {
            assert_ne!(change, whole);
            assert_eq!(change.context, None, "a context is whole or absent");
        }
    }
    assert_eq!(ConfigurationChange::decode(&data), Ok(whole));
}

fn any_change() -> impl Strategy<Value = ConfigurationChange> {
    use ConfigurationChangeKind::{AddLearnerNode, AddNode, RemoveNode, UpdateNode};
    let kind = prop::sample::select(vec![AddNode, RemoveNode, UpdateNode, AddLearnerNode]);
    let context =
        prop::option::of(prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from));
    (any::<u64>(), kind, any::<u64>(), context).prop_map(|(id, kind, node_id, context)| {
        ConfigurationChange {
            id,
            kind,
            node_id: NodeId(node_id),
            context,
        }
    })
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(change in any_change()) {
        prop_assert_eq!(ConfigurationChange::decode(&change.encode()), Ok(change));
    }

    #[test]
    fn garbage_is_never_more_than_an_error(data in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = ConfigurationChange::decode(&Bytes::from(data));
    }
}
