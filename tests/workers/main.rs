//! Workers on threads of their own, on memory ports.

#[path = "../gateway/mod.rs"]
mod gateway;

mod death;
mod rss;
mod traffic;
