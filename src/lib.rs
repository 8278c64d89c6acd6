//! natgate
pub mod base;
pub mod nic;
pub mod policy;
