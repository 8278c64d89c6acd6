//! The compiled configuration that workers read: immutable, published whole, loaded once a batch.
//!
//! A [`Snapshot`] answers four questions: which interface does a frame belong to, what does an EIP stand for, what does
//! a private host have, and where is the next hop. It shares structure with the snapshot before it, so a change costs
//! what it changes and not what is configured.

pub mod allocation;
pub mod edit;
pub mod eip;
pub mod gateway;
pub mod interface;
pub mod limiter;
pub mod lpm;
pub mod mark;
pub mod persist;
pub mod recent;
pub mod snapshot;
pub mod snat;
pub mod timeouts;

pub use allocation::{Allocation, Blocks};
pub use edit::Edit;
pub use eip::{Eip, Host, HostForward, HostOneToOne, OneToOne, PortForward, Rivals};
pub use gateway::{Gateway, Limits, Meter};
pub use interface::{Interface, PortVlans, Realm};
pub use limiter::Limiter;
pub use lpm::{Lpm, Prefix};
pub use mark::{Mark, Marks, Touched};
pub use recent::Recent;
pub use snapshot::{Announcement, Leaving, Route, Snapshot, SnatTable, Topology, Vpc};
pub use snat::{Filtering, Mapping, PoolAddress, PortRange, SnatEntry};
pub use timeouts::Timeouts;
