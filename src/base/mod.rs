//! The vocabulary that everything else speaks: indices, time, random numbers and the reasons for which a
//! frame is dropped. Leaf module: it knows nobody.

pub mod drop_reason;
pub mod hugepage;
pub mod index;
pub mod offload;
pub mod owner;
pub mod prefetch;
pub mod rng;
pub mod rss;
pub mod time;
pub mod toeplitz;

pub use drop_reason::DropReason;
pub use index::{
    EipIndex, EntryId, GatewayIndex, Generation, InterfaceIndex, PlanIndex, PortIndex, VpcIndex, WorkerIndex,
};
pub use offload::Checksum;
pub use rng::Rng;
pub use time::{Moment, Tick};
