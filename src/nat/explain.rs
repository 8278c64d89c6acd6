//! What would become of a packet that came now, by the same decisions that packets meet. Nothing changes.

use crate::base::{DropReason, InterfaceIndex, Moment, PortIndex, WorkerIndex};
use crate::nat::decision::Decision;
use crate::nat::engine::Engine;
use crate::nat::eviction::Newcomer;
use crate::nat::flow::{end_of, in_force, is_kept};
use crate::nat::fragments::{ByAddresses, check_addresses, may_be_translated, way_by_addresses};
use crate::nat::hosts::HostKey;
use crate::nat::key::FlowKey;
use crate::nat::lane::Lane;
use crate::nat::query::{SessionRow, session_row};
use crate::nat::reassembly::Place;
use crate::nat::session::{Flow, SessionKind};
use crate::policy::{Mapping, Realm, Snapshot, SnatEntry};
use crate::wire::rewrite::End;
use crate::wire::{Arrival, Datagram, Transport};

/// A packet that might come.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// The packet: addresses, ports, protocol, transport, TTL, lengths and flags count; offsets do not.
    pub datagram: Datagram,
    /// Whether its length is meant: else a fragment is one that fits to those before.
    pub has_length: bool,
    /// The side that it would come from.
    pub realm: Realm,
    /// The interface that it would come in on.
    pub interface: InterfaceIndex,
    /// How it would come to the worker that is asked.
    pub arrival: Arrival,
}

/// One translation on the way of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// By a session that exists.
    Session(SessionRow),
    /// By a DNAT entry; a session would be made to watch it.
    Static(Flow),
    /// By a mapping that admits a new peer.
    Admitted(Flow),
    /// By a SNAT entry that makes a new session. An external port of zero stands for one that is chosen then.
    NewSession(Flow),
    /// Not translated, routed on this side.
    Routed(Realm),
}

/// The end that a packet would come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Sent.
    Sent {
        /// The port.
        port: PortIndex,
        /// The interface.
        interface: InterfaceIndex,
        /// The next hop.
        next_hop: u32,
        /// Its Ethernet address, if it is known.
        mac: Option<[u8; 6]>,
    },
    /// Answered by the gateway itself.
    AnsweredByGateway,
    /// A later fragment that is held until the first one of its datagram comes.
    Waits,
    /// Handed to another worker, which is to be asked for the rest.
    Handed(WorkerIndex),
    /// Dropped.
    Drop(DropReason),
}

/// What would become of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// The translations that it meets, in order.
    pub steps: [Option<Step>; 2],
    /// Whether it turns round inside the gateway, between the first and the second.
    pub hairpin: bool,
    /// Whether a half-open connection gives way to its session.
    pub gives_way: bool,
    /// Its end.
    pub fate: Option<Fate>,
}

impl Explanation {
    /// Whether the TTL lasts.
    fn survives(&mut self, lane: &Lane) -> bool {
        let survives = lane.datagram.ttl > lane.hops();
        if !survives {
            self.fate = Some(Fate::Drop(DropReason::TtlExpired));
        }
        survives
    }

    fn push(&mut self, step: Step) {
        if let Some(free) = self.steps.iter_mut().find(|step| step.is_none()) {
            *free = Some(step);
        }
    }
}

impl Engine {
    /// What would become of a packet that came now, by the same decisions that packets meet. Nothing changes.
    pub fn explain(&self, question: &Question, snapshot: &Snapshot, now: Moment) -> Explanation {
        let mut explanation = Explanation::default();
        let mut lane = Lane {
            tenant: question.realm.tenant(),
            datagram: question.datagram,
            interface: question.interface,
            arrival: question.arrival,
            ..Lane::default()
        };
        // A packet turns round at most once.
        for step in 0..2 {
            if lane.datagram.is_fragment()
                && !self.explain_fragment(question, &mut lane, snapshot, now, &mut explanation)
            {
                break;
            }
            let Some(flow) = self.explain_step(&lane, snapshot, now, &mut explanation) else { break };
            let end = end_of(lane.tenant);
            let (realm, destination) = match end {
                End::Source => (Realm::Outside, flow.peer.0),
                End::Destination => (Realm::of_tenant(flow.tenant), flow.inside.0),
            };
            if end == End::Source && snapshot.eip(destination).is_some() && step == 0 {
                explanation.hairpin = true;
                lane.arrival = Arrival::Hairpin;
                lane.datagram.ttl = lane.datagram.ttl.saturating_sub(1);
                if let Some(identification) = lane.identification.filter(|_| flow.kind.shares_eip()) {
                    lane.datagram.id = identification;
                }
                lane.datagram.source = flow.external.0;
                lane.datagram.source_port = flow.external.1;
                lane.tenant = Realm::Outside.tenant();
                if matches!(explanation.steps[0], Some(Step::NewSession(_))) && flow.external == flow.peer {
                    // A host that speaks to its own mapping: the session that would be made takes it in again.
                    explanation.push(Step::Admitted(flow));
                    let inside = Realm::of_tenant(flow.tenant);
                    self.explain_way(inside, flow.inside.0, &lane, snapshot, &mut explanation);
                    break;
                }
                continue;
            }
            self.explain_way(realm, destination, &lane, snapshot, &mut explanation);
            break;
        }
        explanation
    }

    /// What a fragment meets before its flow: whether it goes on, a later one with the ports of the first.
    fn explain_fragment(
        &self,
        question: &Question,
        lane: &mut Lane,
        snapshot: &Snapshot,
        now: Moment,
        told: &mut Explanation,
    ) -> bool {
        let is_first = lane.datagram.fragment_offset() == 0;
        if !is_first && let Err(reason) = check_addresses(lane, snapshot) {
            told.fate = Some(Fate::Drop(reason));
            return false;
        }
        if let Some(to) = self.meeting_place(lane, snapshot) {
            told.fate = Some(Fate::Handed(to));
            return false;
        }
        let place = match self.fragments.first_of(lane, now.tick()) {
            // What is left out of a question is as it should be.
            Some(first) if !question.has_length && !is_first => Place::Of(first),
            _ if !question.has_length => Place::Unknown,
            _ => self.fragments.place(lane, now.tick()),
        };
        if let Place::Of(first) = place {
            (lane.datagram.source_port, lane.datagram.destination_port) =
                (first.key.source_port, first.key.destination_port);
            lane.identification = first.identification;
            return true;
        }
        let way = way_by_addresses(lane, snapshot);
        if is_first && (place != Place::Unfit || way.is_some()) {
            lane.identification = Some(self.identifications.next(lane.datagram.destination));
            return true;
        }
        match way {
            Some(ByAddresses::Route(realm)) => {
                told.push(Step::Routed(realm));
                if told.survives(lane) {
                    self.explain_way(realm, lane.datagram.destination, lane, snapshot, told);
                }
            }
            Some(ByAddresses::Entry(_)) => return true,
            None if place == Place::Unfit => told.fate = Some(Fate::Drop(DropReason::FragmentOverlap)),
            None if may_be_translated(lane, snapshot) => told.fate = Some(Fate::Waits),
            None => told.fate = Some(Fate::Drop(DropReason::FragmentNoFirst)),
        }
        false
    }

    /// One translation: its flow, or `None` when the packet ends here.
    fn explain_step(
        &self,
        lane: &Lane,
        snapshot: &Snapshot,
        now: Moment,
        told: &mut Explanation,
    ) -> Option<Flow> {
        if let Some(slot) = self.sessions.find(self.sessions.hash(&lane.key()), &lane.key())
            && let Some((session, record)) = self.sessions.get(slot)
            && (in_force(&session.flow(record), snapshot)
                || is_kept(&session.flow(record), record.gateway, snapshot))
        {
            let row = session_row(self.worker, session, record, now.tick());
            let flow = session.flow(record);
            told.push(Step::Session(row));
            return told.survives(lane).then_some(flow);
        }
        let decision = match Realm::of_tenant(lane.tenant) {
            Realm::Outside => self.decide_inward(lane, snapshot),
            Realm::Vpc(vpc) => self.decide_outward(lane, vpc, snapshot),
        };
        match decision {
            Decision::Static(entry) => {
                told.push(Step::Static(entry.flow));
                told.survives(lane).then_some(entry.flow)
            }
            Decision::Admit { entry, mapping, flow } => {
                if let Err(reason) =
                    self.would_admit(entry, Newcomer::of(&flow, Some(mapping), lane), snapshot, told)
                {
                    told.fate = Some(Fate::Drop(reason));
                    return None;
                }
                told.push(Step::Admitted(flow));
                told.survives(lane).then_some(flow)
            }
            Decision::Snat(entry) => {
                if let Err(reason) = self.would_admit(entry, Newcomer::from(lane), snapshot, told) {
                    told.fate = Some(Fate::Drop(reason));
                    return None;
                }
                let Some(mut flow) = self.would_map(entry, &lane.key(), snapshot) else {
                    told.fate = Some(Fate::Drop(DropReason::PortsExhausted));
                    return None;
                };
                if told.gives_way {
                    // The mapping that is there may go with what gives way.
                    flow.external.1 = 0;
                }
                told.push(Step::NewSession(flow));
                told.survives(lane).then_some(flow)
            }
            Decision::Route(realm) => {
                told.push(Step::Routed(realm));
                if told.survives(lane) {
                    self.explain_way(realm, lane.key().destination, lane, snapshot, told);
                }
                None
            }
            Decision::Echo | Decision::Local => {
                let is_echo = lane.datagram.transport == Transport::EchoRequest;
                // What is not whole is not answered.
                told.fate = Some(if is_echo && !lane.datagram.is_fragment() {
                    Fate::AnsweredByGateway
                } else {
                    Fate::Drop(DropReason::LocalUnserved)
                });
                None
            }
            Decision::Hand { to, .. } => {
                told.fate = Some(Fate::Handed(to));
                None
            }
            Decision::Drop(reason) => {
                told.fate = Some(Fate::Drop(reason));
                None
            }
        }
    }

    /// Whether limits and tables have room for one more SNAT session of a host, or a half-open connection would make it.
    fn would_admit(
        &self,
        entry: &SnatEntry,
        newcomer: Newcomer,
        snapshot: &Snapshot,
        told: &mut Explanation,
    ) -> Result<(), DropReason> {
        self.has_room(entry, newcomer.inside(), snapshot).or_else(|reason| {
            told.gives_way = self.gives_way(entry, newcomer, reason, snapshot).is_some();
            if told.gives_way { Ok(()) } else { Err(reason) }
        })
    }

    fn has_room(
        &self,
        entry: &SnatEntry,
        (tenant, host): (u16, u32),
        snapshot: &Snapshot,
    ) -> Result<(), DropReason> {
        let host = self.hosts.hashed(HostKey { tenant, address: host });
        let host = self.hosts.find(&host).and_then(|slot| self.hosts.get(slot));
        if host.is_some_and(|host| host.sessions >= entry.host_quota) {
            return Err(DropReason::HostQuota);
        }
        let gateway = snapshot.gateway(entry.gateway).ok_or(DropReason::NoSnatEntry)?;
        if gateway.meter.sessions() >= gateway.limits.sessions {
            return Err(DropReason::SessionLimit);
        }
        if self.sessions.len() >= self.sessions.capacity() {
            return Err(DropReason::SessionTableFull);
        }
        Ok(())
    }

    /// The flow that a SNAT entry would make, if it finds a port: its external port is zero where it would be chosen then.
    fn would_map(&self, entry: &SnatEntry, key: &FlowKey, snapshot: &Snapshot) -> Option<Flow> {
        let prospect = self.prospect(key);
        let peer = (key.destination, key.destination_port);
        let known = (entry.mapping == Mapping::EndpointIndependent)
            .then(|| self.mappings.by_inside(&prospect.inside))
            .flatten()
            .and_then(|slot| self.mappings.get(slot))
            .map(|row| row.flow(peer))
            .filter(|flow| in_force(flow, snapshot));
        known.or_else(|| {
            let member = self.would_leave_with(entry, key, snapshot)?;
            Some(Flow {
                kind: match entry.mapping {
                    Mapping::EndpointIndependent => SessionKind::Snat,
                    Mapping::EndpointDependent => SessionKind::SnatDependent,
                },
                protocol: key.protocol,
                tenant: key.tenant,
                inside: (key.source, key.source_port),
                external: (member.address, 0),
                peer,
                eip: member.index,
                entry: entry.id,
            })
        })
    }

    fn explain_way(
        &self,
        realm: Realm,
        destination: u32,
        lane: &Lane,
        snapshot: &Snapshot,
        told: &mut Explanation,
    ) {
        let Some(route) = snapshot.route(realm, destination) else {
            told.fate = Some(Fate::Drop(DropReason::NoRoute));
            return;
        };
        let Some(interface) = snapshot.interface(route.interface) else {
            told.fate = Some(Fate::Drop(DropReason::NoRoute));
            return;
        };
        if lane.datagram.total_len > interface.mtu && lane.datagram.dont_fragment() {
            told.fate = Some(Fate::Drop(DropReason::FragmentationNeeded));
            return;
        }
        let address = route.next_hop.unwrap_or(destination);
        told.fate = Some(Fate::Sent {
            port: interface.port,
            interface: route.interface,
            next_hop: address,
            mac: self.neighbours.mac_of(route.interface, address),
        });
    }
}
