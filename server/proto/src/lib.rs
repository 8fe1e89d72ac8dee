//! The published wire format of etcd v3.
