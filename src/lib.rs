//! natgate
pub mod api;
pub mod base;
pub mod cli;
pub mod config;
pub mod conformance;
pub mod control;
pub mod daemon;
pub mod doctor;
pub mod nat;
pub mod nic;
pub mod pktgen;
pub mod policy;
pub mod speed;
pub mod wire;
pub mod worker;
