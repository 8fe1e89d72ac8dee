//! Compiles the wire format without `protoc`.

use std::error::Error;

const FILES: [&str; 9] = [
    "auth.proto",
    "election.proto",
    "health.proto",
    "kv.proto",
    "lease.proto",
    "lock.proto",
    "membership.proto",
    "raft_internal.proto",
    "rpc.proto",
];

/// Server and client code needs tonic, messages alone do not.
const GATE: &str = "#[cfg(feature = \"grpc\")]";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=.");
    let descriptors = protox::compile(FILES, ["."])?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(false)
        .server_mod_attribute(".", GATE)
        .client_mod_attribute(".", GATE)
        .include_file("proto.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
