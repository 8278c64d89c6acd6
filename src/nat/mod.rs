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
//! | `prospect` | what new sessions of a batch will need, looked up for all of them at once |
//! | [`create`] | the session that an entry makes, its mapping and its port |
//! | `reset` | TCP resets of the gateway's own |
//! | [`local`] | ARP, echo and ICMP errors of the gateway itself |
//! | [`icmp_error`], [`fragments`] | ICMP errors and fragments that pass through |
//! | `ftp` | the application-level gateway for FTP |
//! | [`reassembly`], [`parts`] | which fragments belong together, and which overlap |
//! | [`table`], [`index`], [`session`], [`carried`], [`key`], [`tcp`] | the session table |
//! | [`half_open`], `eviction` | connections whose handshake is not complete, and what they give way to |
//! | [`mappings`], [`hosts`], [`ports`] | what SNAT sessions share |
//! | [`identification`] | IP identifications of what leaves with a shared EIP |
//! | [`neighbours`] | next hops and ARP |
//! | `kill` | ending sessions on request |
//! | [`query`], [`explain`], [`trace`], [`capture`] | questions that change nothing: listings, explanations, traces, captures |
//! | [`usage`], [`talkers`] | what each gateway, EIP and entry, and the busiest private hosts, have carried |
//! | [`output`], [`counters`], [`events`] | what comes out |
//! | [`estate`] | what is left of an engine that died |

pub mod capture;
pub mod carried;
pub mod counters;
pub mod create;
pub mod decision;
pub mod engine;
pub mod estate;
pub mod events;
mod eviction;
pub mod explain;
pub mod flow;
pub mod fragments;
mod ftp;
pub mod half_open;
pub mod hosts;
pub mod icmp_error;
pub mod identification;
pub mod index;
pub mod inward;
pub mod key;
mod kill;
pub mod lane;
pub mod leave;
pub mod local;
pub mod mappings;
pub mod neighbours;
pub mod output;
pub mod outward;
pub mod parts;
pub mod ports;
mod prospect;
pub mod query;
pub mod reassembly;
mod reset;
mod review;
pub mod session;
pub mod stage;
pub mod table;
pub mod talkers;
pub mod tcp;
pub mod trace;
pub mod usage;

pub use capture::{Capture, CaptureFilter, CaptureReader, CaptureRecord, Way};
pub use counters::Counters;
pub use engine::{Engine, EngineConfig, Memory, Occupancy};
pub use estate::Estate;
pub use events::{Ending, Event};
pub use explain::{Explanation, Fate, Question, Step};
pub use output::{BATCH, Emission, Exit, NeighbourFact, Output, Verdict};
pub use ports::{Destination, Distributions, PortsRow};
pub use query::{PortsCursor, SessionCursor, SessionFilter, SessionRow, SessionState};
pub use talkers::{TALKERS, Talker};
pub use trace::{TraceFilter, TraceRecord};
pub use usage::{Usage, UsageKind};
