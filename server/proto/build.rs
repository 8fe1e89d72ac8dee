//! Compiles the wire format without `protoc`.

use std::error::Error;

use prost::Message;
use prost_types::FileDescriptorSet;

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
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(
        out.join("descriptors"),
        published(descriptors.clone()).encode_to_vec(),
    )?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(false)
        .server_mod_attribute(".", GATE)
        .client_mod_attribute(".", GATE)
        .include_file("proto.rs")
        .compile_fds(descriptors)?;
    Ok(())
}

/// The description with etcd's own names of fields. Those with capitals in a row would make names in
/// Rust that nobody can read, so the files here have others.
fn published(mut descriptors: FileDescriptorSet) -> FileDescriptorSet {
    const NAMES: [(&str, &str); 2] = [("peer_urls", "peerURLs"), ("client_urls", "clientURLs")];
    for message in descriptors
        .file
        .iter_mut()
        .flat_map(|file| &mut file.message_type)
    {
        for field in &mut message.field {
            for (own, etcds) in NAMES {
                if field.name() == own {
                    field.name = Some(etcds.to_owned());
                    field.json_name = Some(etcds.to_owned());
                }
            }
        }
    }
    descriptors
}
