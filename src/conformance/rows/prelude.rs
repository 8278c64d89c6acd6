//! What every row speaks of.

pub use crate::conformance::net::*;
pub use crate::conformance::packet::*;
