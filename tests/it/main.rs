//! Tests of whole servers, a module per feature.

mod conversation;
mod durability;
mod interchange;
mod kv;
mod random_requests;
mod service;
mod startup;
mod tidy;
