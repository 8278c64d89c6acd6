//! What stands in the repository beside the code, against the code: its shape, its dependencies, its documents, its scripts.
//!
//! `NATGATE_UPDATE=1 cargo test --test repository` writes what is generated.

#[path = "../common/mod.rs"]
mod common;

mod architecture;
mod dependencies;
mod dpdk_env;
mod monitoring;
mod readme;
