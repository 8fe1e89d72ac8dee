//! The core at its door: a member with a simulated log on disk, alone and in company.

mod bootstrap;
mod cluster;
mod company;
mod member;
mod members;
mod pipeline;
mod restart;
