//! Saying what would become of a packet.

use std::net::Ipv4Addr;

use crate::base::{EntryId, InterfaceIndex, WorkerIndex};
use crate::config::Directory;
use crate::control::address::Protocol;
use crate::control::describe::{PacketDescription, Side, TcpFlags};
use crate::control::inventory::Kind;
use crate::control::manager::{Manager, View, names};
use crate::control::protocol::{Explanation, Fault, FaultCode, Step};
use crate::nat::session::Flow;
use crate::nat::{self, Fate, Question, SessionRow};
use crate::policy::{Realm, Snapshot};
use crate::wire::datagram::{DONT_FRAGMENT, MORE_FRAGMENTS};
use crate::wire::{Arrival, Datagram, Transport};

/// Workers that are asked at most: the one that receives, the owner of the session, and the owner after a turn inside the
/// gateway.
const WORKERS: usize = 4;
/// The TTL that hosts usually send with.
const TTL: u8 = 64;
/// Length of an IP header without options in bytes.
const HEADER: u16 = 20;

impl Manager {
    /// What would become of a packet, by the same decisions that packets meet. Nothing changes and nothing is sent.
    ///
    /// # Errors
    /// A description that contradicts itself or the configuration, or a worker that does not answer.
    pub fn explain(&self, packet: &PacketDescription) -> Result<Explanation, Fault> {
        packet
            .check()
            .map_err(|rule| Fault::new(FaultCode::BadRequest, format!("packet \"{packet}\": {rule}")))?;
        let view = self.view();
        let snapshot = self.running.snapshot();
        let realm = match &packet.from {
            Some(Side::Vpc(name)) => Realm::Vpc(view.vpc_named(&self.called(Kind::Vpc, "vpc", name)?)?),
            Some(Side::Outside) => Realm::Outside,
            None => realm(&view, packet.source.address)?,
        };
        let (datagram, has_length) = (datagram(packet), packet.length.is_some());
        let interface = interface(&snapshot, realm, datagram.source).ok_or_else(|| {
            let side = names::realm(&view.directory, realm);
            Fault::new(
                FaultCode::BadRequest,
                format!("nothing is attached to {side}, so no packet comes from there"),
            )
        })?;
        let mut told = Telling::new(&view.directory, packet.to_string(), datagram, realm, interface);
        let mut question = Question { datagram, has_length, realm, interface, arrival: Arrival::Wire };
        let mut worker = WorkerIndex(0);
        for _ in 0..WORKERS {
            let answer = self
                .running
                .explain(worker, &question)
                .map_err(|silent| Fault::new(FaultCode::Unavailable, silent.to_string()))?;
            // Of an owner's answer only what this worker could not know is new: a step before the handover is not.
            told.tell(&answer);
            match answer.fate {
                Some(Fate::Handed(to)) if to != worker => {
                    told.step("handoff", format!("worker {to} owns it"));
                    // After a turn inside the gateway it comes there as if from the outside, already translated.
                    let arrival = Arrival::Handed;
                    question =
                        Question { datagram: told.now, has_length, realm: told.realm, interface, arrival };
                    worker = to;
                }
                _ => break,
            }
        }
        Ok(told.explanation)
    }
}

/// An explanation while it is put into words.
struct Telling<'a> {
    directory: &'a Directory,
    /// The packet as it is at this point.
    now: Datagram,
    /// The side that it comes from at this point.
    realm: Realm,
    /// Whether the source port is one that would be chosen then.
    chosen: bool,
    explanation: Explanation,
}

impl<'a> Telling<'a> {
    fn new(
        directory: &'a Directory,
        packet: String,
        datagram: Datagram,
        realm: Realm,
        interface: InterfaceIndex,
    ) -> Self {
        let from = names::realm(directory, realm);
        let mut telling = Self {
            directory,
            now: datagram,
            realm,
            chosen: false,
            explanation: Explanation { packet, from: from.clone(), ..Explanation::default() },
        };
        telling
            .step("arrival", format!("from {from}, on interface {}", names::interface(directory, interface)));
        telling
    }

    fn step(&mut self, stage: &str, decision: String) {
        self.explanation.steps.push(Step { stage: stage.to_owned(), decision });
    }

    fn tell(&mut self, answer: &nat::Explanation) {
        for (position, step) in answer.steps.iter().flatten().enumerate() {
            if position == 1 && answer.hairpin {
                self.step(
                    "hairpin",
                    "it turns round inside the gateway, as if it came from the outside".into(),
                );
            }
            self.translation(step);
        }
        if answer.gives_way {
            self.step("room", "there is none: a half-open connection gives way".into());
        }
        if answer.hairpin && answer.steps[1].is_none() {
            self.step("hairpin", "it turns round inside the gateway, as if it came from the outside".into());
        }
        if let Some(fate) = answer.fate {
            self.fate(fate);
        }
    }

    fn translation(&mut self, step: &nat::Step) {
        let session =
            |row: &SessionRow| format!("by a session, {} {}", names::kind(row.kind), names::state(row.state));
        match step {
            nat::Step::Session(row) => {
                let (inside, external) = (row.inside, row.external);
                self.translate(&session(row), row.entry, inside, external);
            }
            nat::Step::Static(flow) => self.flow("by the entry, which needs no session", flow),
            nat::Step::Admitted(flow) => self.flow("by a mapping that admits a new peer", flow),
            nat::Step::NewSession(flow) => self.flow("by a new session", flow),
            nat::Step::Routed(realm) => {
                let side = names::realm(self.directory, *realm);
                self.step("translation", format!("none: it is routed as it is, {side}"));
            }
        }
    }

    fn flow(&mut self, how: &str, flow: &Flow) {
        self.translate(how, flow.entry, flow.inside, flow.external);
    }

    /// From a private host its source becomes the EIP, from the outside its destination becomes the private host.
    fn translate(&mut self, how: &str, entry: EntryId, inside: (u32, u16), external: (u32, u16)) {
        let end = |end| names::endpoint(self.now.protocol, end);
        let change = match self.realm {
            Realm::Vpc(_) if external.1 == 0 && inside.1 != 0 => {
                self.chosen = true;
                let (what, address) = (self.number(), Ipv4Addr::from(external.0));
                format!("source {} becomes {address}; its {what} is chosen then", end(inside))
            }
            Realm::Vpc(_) => format!("source {} becomes {}", end(inside), end(external)),
            Realm::Outside => format!("destination {} becomes {}", end(external), end(inside)),
        };
        match self.realm {
            Realm::Vpc(_) => (self.now.source, self.now.source_port) = external,
            Realm::Outside => (self.now.destination, self.now.destination_port) = inside,
        }
        self.now.ttl = self.now.ttl.saturating_sub(1);
        self.realm = Realm::Outside;
        let entry = names::entry(self.directory, entry);
        self.step("translation", format!("{how}: {change}"));
        self.step("entry", entry.clone());
        self.explanation.becomes = Some(self.packet());
        self.explanation.entry = Some(match self.explanation.entry.take() {
            Some(first) if first != entry => format!("{first}, then {entry}"),
            _ => entry,
        });
    }

    fn number(&self) -> &'static str {
        if Protocol(self.now.protocol).has_ports() { "port" } else { "identifier" }
    }

    /// The packet as it is at this point; a star stands for the port that is not chosen yet.
    fn packet(&self) -> String {
        let text = names::packet(&self.now);
        if !self.chosen {
            return text;
        }
        let source = names::endpoint(self.now.protocol, (self.now.source, self.now.source_port));
        let starred = format!("{}:*", Ipv4Addr::from(self.now.source));
        text.replacen(&source, &starred, 1)
    }

    fn fate(&mut self, fate: Fate) {
        self.explanation.verdict = match fate {
            Fate::Sent { port, interface, next_hop, mac } => {
                let (port, interface) =
                    (names::port(self.directory, port), names::interface(self.directory, interface));
                let next_hop = Ipv4Addr::from(next_hop);
                let mac = mac.map_or_else(|| "asked for by ARP first".to_owned(), names::mac);
                self.step("route", format!("interface {interface}, next hop {next_hop} ({mac})"));
                format!("sent by port {port}")
            }
            Fate::AnsweredByGateway => "answered by the gateway itself".to_owned(),
            Fate::Waits => {
                "held for two seconds at most, until the first fragment of its datagram comes".to_owned()
            }
            Fate::Handed(worker) => format!("handed to worker {worker}"),
            Fate::Drop(reason) => {
                self.explanation.becomes = None;
                format!("dropped, {reason}: {}", reason.description())
            }
        };
    }
}

/// The side whose addresses a packet's source is of.
fn realm(view: &View, source: Ipv4Addr) -> Result<Realm, Fault> {
    let vpcs = view.model.vpcs().iter().filter(|vpc| vpc.cidr.contains(source.into()));
    let names: Vec<_> = vpcs.map(|vpc| vpc.name.as_str()).collect();
    match names.as_slice() {
        [] => Ok(Realm::Outside),
        [only] => view.vpc_named(only).map(Realm::Vpc),
        several => {
            let message = format!("source {source} belongs to several VPCs: {}", several.join(", "));
            Err(Fault::new(FaultCode::BadRequest, message)
                .hint(format!("add from vpc {}, or the like", several[0])))
        }
    }
}

/// The interface that a packet of this source comes in on.
fn interface(snapshot: &Snapshot, realm: Realm, source: u32) -> Option<InterfaceIndex> {
    let all = || {
        snapshot.topology().interfaces.iter().enumerate().filter(|(_, interface)| interface.realm == realm)
    };
    let on_link = all().find(|(_, interface)| interface.prefix.contains(source));
    let on_link = on_link.map(|(index, _)| InterfaceIndex(index as u16));
    let by_route = || snapshot.route(realm, source).map(|route| route.interface);
    let any = || all().next().map(|(index, _)| InterfaceIndex(index as u16));
    on_link.or_else(by_route).or_else(any)
}

fn datagram(packet: &PacketDescription) -> Datagram {
    let PacketDescription { protocol, source, destination, reply, id, length, ttl, df, .. } = packet;
    let is_later = packet.fragment.is_some_and(|at| at > 0);
    let (transport, header) = match *protocol {
        Protocol::TCP => (Transport::Tcp, 20),
        Protocol::UDP => (Transport::Udp, 8),
        Protocol::ICMP if *reply => (Transport::EchoReply, 8),
        Protocol::ICMP => (Transport::EchoRequest, 8),
        _ => (Transport::Other, 8),
    };
    let transport = if is_later { Transport::LaterFragment } else { transport };
    let id = id.unwrap_or(1);
    let more = if packet.last { 0 } else { MORE_FRAGMENTS };
    let fragment = packet.fragment.map_or(0, |at| more | (at / 8));
    let (source_port, destination_port) = match transport {
        Transport::EchoRequest => (id, 0),
        Transport::EchoReply => (0, id),
        Transport::LaterFragment => (0, 0),
        _ => (source.port.unwrap_or(0), destination.port.unwrap_or(0)),
    };
    Datagram {
        source: source.address.into(),
        destination: destination.address.into(),
        source_port,
        destination_port,
        l4: HEADER,
        total_len: length.unwrap_or(HEADER + header),
        fragment: if *df { DONT_FRAGMENT } else { fragment },
        id: packet.identification.unwrap_or(0),
        protocol: protocol.0,
        ttl: ttl.unwrap_or(TTL),
        transport,
        tcp_flags: match transport {
            Transport::Tcp => packet.flags.unwrap_or(TcpFlags::SYN).bits(),
            _ => 0,
        },
        ..Datagram::default()
    }
}
