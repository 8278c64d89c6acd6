//! The HTTP API of a running gateway, used by curl.

#[path = "../common/mod.rs"]
mod common;

mod bench;
mod connections;
mod resources;
mod roles;
mod sessions;
