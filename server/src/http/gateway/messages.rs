//! Messages between JSON and gRPC's frames, by their description.

use std::sync::LazyLock;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, MethodDescriptor,
    SerializeOptions,
};

/// gRPC's prefix of a message: a flag and the length.
const PREFIX_BYTES: usize = 5;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(proto::DESCRIPTORS).expect("the descriptors were built with this code")
});

/// The description of a method that there is.
pub(super) fn method(service: &str, method: &str) -> MethodDescriptor {
    let service = POOL.get_service_by_name(service);
    let methods = service.expect("the table of paths names services of ours");
    let found = methods.methods().find(|other| other.name() == method);
    found.expect("the table of paths names methods of ours")
}

/// The first JSON value of `json` as a framed message, and how many bytes it took; `None` when the
/// value is not complete yet. No value at all is the empty message if `is_all` says that no more
/// comes.
pub(super) fn to_frame(
    json: &[u8],
    is_all: bool,
    kind: &MessageDescriptor,
) -> Result<Option<(Bytes, usize)>, String> {
    let mut values =
        serde_json::Deserializer::from_slice(json).into_iter::<&serde_json::value::RawValue>();
    let value = match values.next() {
        Some(Ok(value)) => value.get(),
        Some(Err(error)) if error.is_eof() && !is_all => return Ok(None),
        Some(Err(error)) => return Err(error.to_string()),
        None if is_all => "{}",
        None => return Ok(None),
    };
    // A number may go on in what has not come yet.
    let taken = values.byte_offset();
    if taken == json.len() && !is_all && !value.ends_with(['}', ']', '"']) {
        return Ok(None);
    }
    let mut deserializer = serde_json::Deserializer::from_str(value);
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let message = match value.trim() {
        "null" => DynamicMessage::new(kind.clone()),
        _ => DynamicMessage::deserialize_with_options(kind.clone(), &mut deserializer, &options)
            .map_err(|error| error.to_string())?,
    };
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).map_err(|_| "the message is too large".to_owned())?);
    message.encode(&mut frame).expect("a BytesMut has room");
    Ok(Some((frame.freeze(), taken)))
}

/// Cuts messages out of gRPC's stream of bytes.
#[derive(Default)]
pub(super) struct Frames(BytesMut);

impl Frames {
    pub(super) fn push(&mut self, data: &[u8]) {
        self.0.extend_from_slice(data);
    }

    pub(super) fn next(&mut self) -> Option<Bytes> {
        let prefix = self.0.get(1..PREFIX_BYTES)?;
        let length = u32::from_be_bytes(prefix.try_into().expect("four bytes")) as usize;
        if self.0.len() < PREFIX_BYTES + length {
            return None;
        }
        self.0.advance(PREFIX_BYTES);
        Some(self.0.split_to(length).freeze())
    }
}

/// A message as JSON, as etcd's gateway writes it.
pub(super) fn to_json(message: Bytes, kind: &MessageDescriptor) -> Result<Vec<u8>, String> {
    let message =
        DynamicMessage::decode(kind.clone(), message).map_err(|error| error.to_string())?;
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .stringify_64_bit_integers(true)
        .skip_default_fields(true);
    let mut json = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut json);
    let written = message.serialize_with_options(&mut serializer, &options);
    written.map_err(|error| error.to_string())?;
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::gateway::paths;

    fn put() -> MessageDescriptor {
        method("etcdserverpb.KV", "Put").input()
    }

    fn frame(json: &str) -> Result<proto::etcdserverpb::PutRequest, String> {
        let (frame, _) = to_frame(json.as_bytes(), true, &put())?.expect("complete");
        Ok(proto::etcdserverpb::PutRequest::decode(&frame[PREFIX_BYTES..]).expect("a put"))
    }

    #[test]
    fn every_path_names_a_method_of_ours() {
        for (service, name) in paths::all() {
            method(service, name);
        }
    }

    /// [HT-2]
    #[test]
    fn json_is_read_as_generously_as_etcd_reads_it() {
        let read = frame(r#"{"key":"Zm9v","value":"_-8","lease":"7","prev_kv":true,"x":[1]} {"#);
        let read = read.expect("good");
        assert_eq!(
            (&read.key[..], &read.value[..]),
            (&b"foo"[..], &b"\xff\xef"[..])
        );
        assert_eq!((read.lease, read.prev_kv), (7, true));
        let read = frame(r#"{"lease":-8,"prevKv":true,"value":null}"#).expect("good");
        assert_eq!((read.lease, read.prev_kv), (-8, true));
        assert_eq!(frame("").expect("empty"), Default::default());
        assert_eq!(frame("  {} ").expect("empty"), Default::default());
        for bad in [
            "{",
            "[",
            r#"{"key":1}"#,
            r#"{"key":"*"}"#,
            "{]",
            r#"{"lease":"x"}"#,
        ] {
            frame(bad).expect_err(bad);
        }
    }

    #[test]
    fn values_are_cut_out_of_a_stream() {
        let stream = br#"{"key":"YQ=="}{"key":"Yg=="}"#;
        let (_, taken) = to_frame(stream, false, &put())
            .expect("good")
            .expect("complete");
        assert_eq!(taken, 14);
        assert!(
            to_frame(&stream[..10], false, &put())
                .expect("so far")
                .is_none()
        );
        assert!(to_frame(b"  ", false, &put()).expect("so far").is_none());
    }

    /// [HT-1]
    #[test]
    fn messages_are_written_as_etcd_writes_them() {
        let response = proto::etcdserverpb::PutResponse {
            header: Some(proto::etcdserverpb::ResponseHeader {
                cluster_id: 1 << 60,
                revision: 7,
                ..Default::default()
            }),
            prev_kv: Some(proto::mvccpb::KeyValue::default()),
        };
        let kind = method("etcdserverpb.KV", "Put").output();
        let json = to_json(response.encode_to_vec().into(), &kind).expect("written");
        let expected =
            r#"{"header":{"cluster_id":"1152921504606846976","revision":"7"},"prev_kv":{}}"#;
        assert_eq!(String::from_utf8(json).expect("text"), expected);
    }
}
