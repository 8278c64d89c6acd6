//! natgate as a process: its commands, its API, its store, its log, its start and its end. What it carries is for others to test.

#[path = "../common/mod.rs"]
mod common;

mod api;
mod apply;
mod command;
mod daemon;
mod replay;
mod session_log;
mod store;
