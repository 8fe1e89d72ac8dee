//! Any unary call, by its path and its message's description.

use std::sync::LazyLock;

use bytes::{Buf, BufMut, Bytes};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Status};

use crate::client::Client;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(proto::DESCRIPTORS).expect("the descriptors were built with this code")
});

/// Calls `service/method` with an encoded message, and gives the answer as JSON.
///
/// # Errors
/// The server's refusal.
///
/// # Panics
/// If there is no such method.
pub async fn call(
    client: &Client,
    path: &str,
    message: Bytes,
    token: &str,
) -> Result<Value, Status> {
    let mut grpc = Grpc::new(client.channel.clone());
    grpc.ready()
        .await
        .map_err(|error| Status::unknown(error.to_string()))?;
    let whole = format!("/{path}").parse().expect("a path");
    let answer = grpc.unary(with_token(message, token), whole, Raw).await?;
    Ok(to_json(answer.into_inner(), &output_of(path)))
}

/// A request with a token, unless it is empty.
///
/// # Panics
/// If the token is not ASCII.
pub fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    if !token.is_empty() {
        let token = token.parse().expect("a token is ASCII");
        request.metadata_mut().insert("token", token);
    }
    request
}

fn output_of(path: &str) -> MessageDescriptor {
    let (service, method) = path.split_once('/').expect("service/method");
    let service = POOL
        .get_service_by_name(service)
        .expect("a service of ours");
    let mut methods = service.methods();
    methods
        .find(|other| other.name() == method)
        .expect("a method of ours")
        .output()
}

fn to_json(message: Bytes, kind: &MessageDescriptor) -> Value {
    let message = DynamicMessage::decode(kind.clone(), message).expect("an answer of this kind");
    let options = SerializeOptions::new().use_proto_field_name(true);
    let json = message.serialize_with_options(serde_json::value::Serializer, &options);
    json.expect("a message is JSON")
}

/// Messages as they are.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
