//! The HTTP API: JSON under `/v1`, on a Unix socket and, where configured, on TCP. It is thin: every rule lives in the
//! manager, which also judges what a caller's role allows.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`server`] | listeners, connections and their limits: one thread, the only asynchronous code |
//! | [`routes`] | which path asks for what |
//! | [`collections`] | resources: list, create, show, update, delete |
//! | `whole` | all resources at once: export and apply |
//! | [`caller`] | who asks: a user of this machine, or the owner of a key |
//! | [`input`] | bodies and queries, read strictly |
//! | [`problem`] | errors as RFC 9457 problem details |
//! | [`openapi`] | the document that describes it all |

pub mod caller;
pub mod collections;
pub mod input;
pub mod openapi;
pub mod problem;
pub mod routes;
pub mod server;
mod whole;

pub use server::{Server, StartError};
