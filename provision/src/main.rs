//! Sets up machines and bakes images that run holdfast.

fn main() {}
