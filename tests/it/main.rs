//! Tests of whole servers, a module per feature.

mod auth;
mod bad_input;
mod clients;
mod cluster;
mod concurrency;
mod conversation;
mod durability;
mod faults;
mod gateway;
mod interchange;
mod kv;
mod labels;
mod lease;
mod maintenance;
mod members;
mod membership;
mod offline;
mod random_requests;
mod range_stream;
mod service;
mod space;
mod startup;
mod tidy;
mod tls;
mod trouble;
mod watch;
