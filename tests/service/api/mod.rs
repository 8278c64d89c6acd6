//! The HTTP API of a running gateway, used by curl.

mod bench;
mod connections;
mod resources;
mod roles;
mod sessions;
