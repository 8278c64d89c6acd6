//! What can become of a packet that has no session.

use crate::base::{DropReason, WorkerIndex};
use crate::nat::lane::Lane;
use crate::nat::session::Flow;
use crate::policy::{Realm, SnatEntry, Timeouts};
use crate::wire::Arrival;

/// A flow that a DNAT entry makes, with what a session of it needs.
#[derive(Clone, Copy, Debug)]
pub struct Static {
    /// The flow.
    pub flow: Flow,
    /// The entry's timeouts.
    pub timeouts: Timeouts,
    /// The gateway of the EIP.
    pub gateway: u32,
}

/// What is to be done with a packet that has no session. Deciding changes nothing: the engine does what was decided, and
/// an explanation only tells it.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'s> {
    /// A DNAT entry translates it.
    Static(Static),
    /// A SNAT entry is to make a session for it.
    Snat(&'s SnatEntry),
    /// A mapping admits it: a session is to be made under that mapping.
    Admit {
        /// The entry of the mapping.
        entry: &'s SnatEntry,
        /// The mapping's slot.
        mapping: u32,
        /// The flow.
        flow: Flow,
    },
    /// It is routed on this side, untranslated.
    Route(Realm),
    /// The gateway answers it: an echo request to an EIP that no host takes.
    Echo,
    /// It is meant for the gateway itself.
    Local,
    /// Another worker owns its session.
    Hand {
        /// That worker.
        to: WorkerIndex,
        /// How it is to be presented there.
        arrival: Arrival,
    },
    /// It is dropped.
    Drop(DropReason),
}

impl Decision<'_> {
    /// Hands a packet to the worker that owns its session. One that was handed over already is not handed on: that would
    /// mean that two workers differ about the owner.
    pub(super) fn hand(owner: u16, lane: &Lane) -> Self {
        let arrival = match lane.arrival {
            Arrival::Wire => Arrival::Handed,
            Arrival::Hairpin => Arrival::Hairpin,
            Arrival::Handed => return Self::Drop(DropReason::HairpinLoop),
        };
        Self::Hand { to: WorkerIndex(owner), arrival }
    }
}
