//! An etcd-compatible replicated key-value store.

fn main() {}
