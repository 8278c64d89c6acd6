//! The HTTP API: JSON under `/v1`, on a Unix socket and, where configured, on TCP. It is thin: every rule lives in the
//! manager, which also judges what a caller's role allows.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`server`] | listeners: one thread, the only asynchronous code |
//! | `connection` | one connection and its bounds |
//! | `taken` | a stream that is cut off when its client takes nothing of it |
//! | `places` | how many connections there are, and who gives way |
//! | [`routes`] | which path asks for what |
//! | [`collections`] | resources: list, create, show, update, delete |
//! | `whole` | all resources at once: export and apply |
//! | `watch` | sessions that begin and end, as a stream |
//! | [`caller`] | who asks: a user of this machine, or the owner of a key |
//! | [`input`] | bodies and queries, read strictly |
//! | [`problem`] | errors as RFC 9457 problem details |
//! | [`openapi`] | the document that describes it all |

pub mod caller;
pub mod collections;
mod connection;
pub mod input;
pub mod openapi;
mod places;
pub mod problem;
pub mod routes;
pub mod server;
mod taken;
#[cfg(test)]
mod tests;
mod watch;
mod whole;

pub use server::{Listeners, Server, StartError};
