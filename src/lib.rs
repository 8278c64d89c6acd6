//! natgate
pub mod base;
pub mod config;
pub mod nat;
pub mod nic;
pub mod policy;
pub mod wire;
pub mod worker;
