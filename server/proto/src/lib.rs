//! The published wire format of etcd v3: a module per protobuf package.
//!
//! Bytes fields are `bytes::Bytes`, so that keys and values are shared instead of copied. The
//! feature `grpc` adds the servers and clients of the services.

mod generated {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::needless_pass_by_value,
        clippy::allow_attributes_without_reason,
        reason = "generated from the .proto files, which say what there is to say"
    )]
    include!(concat!(env!("OUT_DIR"), "/proto.rs"));
}

/// The `google.protobuf.FileDescriptorSet` of all of it, for whoever handles messages by their
/// description.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors"));

pub use generated::{
    authpb, etcdserverpb, grpc, leasepb, membershippb, mvccpb, v3electionpb, v3lockpb,
};
