//! Workers: one a core, each runs its packets to completion. They share nothing but bounded rings and a few atomics.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`setup`] | opened ports, buffers and sizes put together |
//! | [`launch`] | one pinned thread a worker, and what management may do with them |
//! | [`lockstep`] | the same workers, turn by turn in one thread, for tests and simulation |
//! | `turn` | the packet path: rings and queues, engine, verdicts, transmit |
//! | `handoff` | rings between workers |
//! | [`process`] | what a worker asks of its engine |
//! | [`publish`] | how a new configuration reaches the workers |
//! | [`mailbox`], [`ask`] | questions of management: listings, traces, explanations |
//! | [`stats`] | counters, and how they are read |
//! | [`idle`] | sleeping and waking |
//! | [`finish`] | draining, closing, and the law of conservation |

pub mod ask;
mod desk;
pub mod finish;
mod handoff;
pub mod idle;
pub mod launch;
pub mod lockstep;
pub mod mailbox;
mod port;
pub mod process;
pub mod publish;
mod revive;
pub mod setup;
pub mod stats;
mod turn;

#[cfg(test)]
mod tests;

pub use ask::{Capturing, Trace, TraceError, Watch, WatchError};
pub use desk::{Health, Incident};
pub use finish::{Died, Final};
pub use idle::Idle;
pub use launch::{Gateway, OnDeath, Running, Threads};
pub use lockstep::Lockstep;
pub use mailbox::Silent;
pub use process::Process;
pub use publish::{Lagging, Publisher};
pub use setup::{LaunchError, Setup};
pub use stats::{Activity, PortTotals, WorkerTotals};
