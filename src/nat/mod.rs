//! The NAT engine: what becomes of a packet. Start at [`engine`].
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`engine`] | the way of a batch through the engine, stage by stage |
//! | [`stage`] | the stages, for whoever times them |
//! | [`lane`] | what is known of one packet from stage to stage |
//! | [`flow`] | packets of sessions: check, count, translate |
//! | [`leave`] | the way out of every packet: next hop, bandwidth, rewriting, hairpinning |
//! | [`decision`], [`inward`], [`outward`] | packets without a session: which entry takes them |
//! | [`create`] | the session that an entry makes, its mapping and its port |
//! | [`local`] | ARP, echo and ICMP errors of the gateway itself |
//! | [`icmp_error`], [`fragments`] | ICMP errors and fragments that pass through |
//! | [`reassembly`] | which fragments belong together |
//! | [`table`], [`index`], [`session`], [`key`], [`tcp`] | the session table |
//! | [`mappings`], [`hosts`], [`ports`] | what SNAT sessions share |
//! | [`identification`] | IP identifications of what leaves with a shared EIP |
//! | [`neighbours`] | next hops and ARP |
//! | [`query`], [`trace`] | questions that change nothing: listings, explanations, traces |
//! | [`output`], [`counters`], [`events`] | what comes out |

pub mod counters;
pub mod create;
pub mod decision;
pub mod engine;
pub mod events;
pub mod flow;
pub mod fragments;
pub mod hosts;
pub mod icmp_error;
pub mod identification;
pub mod index;
pub mod inward;
pub mod key;
pub mod lane;
pub mod leave;
pub mod local;
pub mod mappings;
pub mod neighbours;
pub mod output;
pub mod outward;
pub mod ports;
pub mod query;
pub mod reassembly;
mod review;
pub mod session;
pub mod stage;
pub mod table;
pub mod tcp;
pub mod trace;

pub use counters::Counters;
pub use engine::{Engine, EngineConfig, Memory, Occupancy};
pub use events::{Ending, Event};
pub use output::{BATCH, Emission, Exit, NeighbourFact, Output, Verdict};
pub use ports::PortsRow;
pub use query::{Explanation, Fate, Question, SessionCursor, SessionFilter, SessionRow, SessionState, Step};
pub use trace::{TraceFilter, TraceRecord};
