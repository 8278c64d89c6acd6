//! natgate
pub mod base;
pub mod nic;
