//! What can become of a packet that has no session.

use crate::base::owner::owner_of_host;
use crate::base::{DropReason, WorkerIndex};
use crate::nat::engine::Engine;
use crate::nat::flow::{end_of, in_force, is_kept};
use crate::nat::lane::Lane;
use crate::nat::session::Flow;
use crate::nat::tcp;
use crate::policy::{Host, Realm, Snapshot, SnatEntry, Timeouts};
use crate::wire::Arrival;
use crate::wire::rewrite::End;

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

impl Engine {
    /// A DNAT entry translates a packet, here or at the worker that has the session.
    pub(super) fn decide_static<'s>(&self, entry: Static, lane: &Lane, snapshot: &Snapshot) -> Decision<'s> {
        match self.owner_of_contested(&entry.flow, snapshot) {
            Some(owner) if owner != self.worker.0 => Decision::hand(owner, lane),
            _ if self.loses_to_rival(&entry.flow, lane, snapshot) => Decision::Drop(DropReason::FlowConflict),
            _ => Decision::Static(entry),
        }
    }

    /// Whether a packet from the outside would look, on the inside, like one of another flow that came by another entry. The
    /// answers of both would leave as that flow's (RFC 3022 §2.2 wants them told apart), unless it is over and this packet
    /// begins a new connection.
    fn loses_to_rival(&self, flow: &Flow, lane: &Lane, snapshot: &Snapshot) -> bool {
        if end_of(lane.tenant) == End::Source {
            return false;
        }
        let Some((session, record)) = self.rival(flow).and_then(|slot| self.sessions.get(slot)) else {
            return false;
        };
        let begins_anew =
            session.is_tcp() && tcp::is_over(session.tcp) && tcp::opens(lane.datagram.tcp_flags);
        let flow = session.flow(record);
        (in_force(&flow, snapshot) || is_kept(&flow, record.gateway, snapshot)) && !begins_anew
    }

    /// The session that has a flow's private side.
    pub(super) fn rival(&self, flow: &Flow) -> Option<u32> {
        let outward = flow.outward_key();
        self.sessions.find(self.sessions.hash(&outward), &outward)
    }

    /// The worker that has a flow's session, if that matters: where several DNAT entries lead to one private port, the answer
    /// to a packet goes by the session, so both directions come to the private host's worker. Any worker translates all
    /// other DNAT flows.
    pub(super) fn owner_of_contested(&self, flow: &Flow, snapshot: &Snapshot) -> Option<u16> {
        if self.workers == 1 {
            return None;
        }
        let Realm::Vpc(vpc) = Realm::of_tenant(flow.tenant) else { return None };
        let (address, port) = flow.inside;
        let is_contested = snapshot.host(vpc, address)?.is_contested(flow.protocol, port);
        is_contested.then(|| owner_of_host(address, self.workers))
    }
}

/// The side on which packets between two addresses go on untranslated, as far as that follows from the addresses alone:
/// between hosts of one VPC, or to and from destinations that are exempt (RFC 6888 REQ-6). `is_static` says whether a private
/// host's own DNAT entries come before that.
pub(super) fn routed(
    tenant: u16,
    source: u32,
    destination: u32,
    snapshot: &Snapshot,
    is_static: impl Fn(&Host) -> bool,
) -> Option<Realm> {
    let own = Realm::of_tenant(tenant);
    let Realm::Vpc(vpc) = own else {
        let is_eip = snapshot.eip(destination).is_some();
        return snapshot.untranslated_vpc(source, destination).filter(|_| !is_eip).map(Realm::Vpc);
    };
    if snapshot.vpc(vpc)?.cidr?.contains(destination) {
        return Some(own);
    }
    let is_exempt = snapshot.is_exempt(vpc, source, destination)
        && !snapshot.host(vpc, source).is_some_and(|host| is_static(host));
    is_exempt.then_some(Realm::Outside)
}

impl Decision<'_> {
    /// Hands a packet to the worker that owns its session. One that was handed over already is not handed on: that would
    /// mean that two workers differ about the owner.
    pub(super) fn hand(owner: u16, lane: &Lane) -> Self {
        let arrival = match lane.arrival {
            Arrival::Wire | Arrival::Fragment => Arrival::Handed,
            Arrival::Hairpin => Arrival::Hairpin,
            Arrival::Handed => return Self::Drop(DropReason::HairpinLoop),
        };
        Self::Hand { to: WorkerIndex(owner), arrival }
    }
}
