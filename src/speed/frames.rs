//! Frames for the benchmark: flow number `n` is always the same flow.

use crate::base::{PortIndex, Rng};
use crate::speed::picker::{Picker, below};
use crate::speed::setup::{
    INSIDE_MAC, OUTSIDE_MAC, POOL, PUBLIC_PORT, STATION, eip_address, entries_for, host_address, hosts_for,
};
use crate::speed::{FCS, Plan, Scenario};
use crate::wire::bytes::{put, put_u16, put_u32};
use crate::wire::datagram::DONT_FRAGMENT;
use crate::wire::{checksum, ethernet, icmp, protocol};

/// Peers are taken from 198.18.0.0/15 (RFC 2544).
const PEERS: u32 = 0xc612_0000;
const PEER_PORT: u16 = 9;
const HOST_PORT: u16 = 20_000;

/// Writes one frame after the other.
#[derive(Debug)]
pub struct Frames {
    scenario: Scenario,
    flows: u32,
    hosts: u32,
    entries: u32,
    bytes: usize,
    next: u32,
    picker: Picker,
    /// Whether the next frame is an answer. A batch comes from one queue, and so in one direction.
    pub answers: bool,
    /// The external endpoint of each SNAT flow, once known; then half the traffic is answers.
    pub external: Vec<(u32, u16)>,
}

/// Ends of a flow as they stand in a frame.
struct Ends {
    source: (u32, u16),
    destination: (u32, u16),
    is_inward: bool,
}

impl Frames {
    /// The frames of a plan.
    pub fn new(plan: &Plan, mut rng: Rng) -> Self {
        Self {
            scenario: plan.scenario,
            flows: plan.sessions.max(1) as u32,
            hosts: hosts_for(plan.sessions),
            entries: entries_for(plan),
            bytes: plan.packet_bytes.saturating_sub(FCS).clamp(60, 1514),
            next: 0,
            picker: Picker::new(&mut rng),
            answers: false,
            external: Vec::new(),
        }
    }

    /// Number of flows.
    pub fn flows(&self) -> u32 {
        self.flows
    }

    /// Whether the peers answer.
    pub fn has_answers(&self) -> bool {
        matches!(self.scenario, Scenario::Snat | Scenario::Imix | Scenario::Icmp)
    }

    /// Where in the transport header the source port (or identifier) is.
    pub fn port_at(&self) -> usize {
        if self.scenario == Scenario::Icmp { 4 } else { 0 }
    }

    /// Begins again with the first of the new sessions.
    pub fn restart(&mut self) {
        self.next = 0;
    }

    /// Writes the next frame of the measurement: its length and the port that it comes in on.
    pub fn write_next(&mut self, frame: &mut [u8]) -> (u16, PortIndex) {
        let random = self.picker.next_u64();
        let flow = if self.scenario == Scenario::NewSession {
            self.next = self.next.wrapping_add(1);
            self.next - 1
        } else {
            below(random, self.flows)
        };
        let answer = self.answers && !self.external.is_empty();
        let bytes = match (self.scenario, (random >> 8) % 12) {
            (Scenario::Imix, 0..7) => 60,
            (Scenario::Imix, 7..11) => 590,
            (Scenario::Imix, _) => 1514,
            _ => self.bytes,
        };
        self.write(flow, answer, bytes, frame)
    }

    /// Writes a frame of a flow.
    pub fn write(&self, flow: u32, answer: bool, bytes: usize, frame: &mut [u8]) -> (u16, PortIndex) {
        let Ends { source, destination, is_inward } = self.ends(flow, answer);
        let (mac, port) = if is_inward { (OUTSIDE_MAC, 0) } else { (INSIDE_MAC, 1) };
        put(frame, 0, &mac);
        put(frame, 6, &STATION);
        put_u16(frame, 12, ethernet::IPV4);
        let is_icmp = self.scenario == Scenario::Icmp;
        let mut header = [0; 20];
        header[0] = 0x45;
        put_u16(&mut header, 6, DONT_FRAGMENT);
        header[8] = 64;
        header[9] = if is_icmp { protocol::ICMP } else { protocol::UDP };
        put_u16(&mut header, 2, (bytes - 14) as u16);
        put_u32(&mut header, 12, source.0);
        put_u32(&mut header, 16, destination.0);
        let sum = checksum::of_header(&header);
        put_u16(&mut header, 10, sum);
        put(frame, 14, &header);
        if is_icmp {
            let (kind, identifier) =
                if answer { (icmp::ECHO_REPLY, destination.1) } else { (icmp::ECHO_REQUEST, source.1) };
            put(frame, 34, &[kind, 0, 0, 0]);
            put_u16(frame, 38, identifier);
            put_u16(frame, 40, 1);
        } else {
            put_u16(frame, 34, source.1);
            put_u16(frame, 36, destination.1);
            put_u16(frame, 38, (bytes - 34) as u16);
            // Any value but zero is updated as a right one would be.
            put_u16(frame, 40, 0x1234);
        }
        (bytes as u16, PortIndex(port))
    }

    fn ends(&self, flow: u32, answer: bool) -> Ends {
        let entry = flow % self.entries;
        let client = (PEERS + flow / 50_000, (flow % 50_000) as u16 + 1024);
        match self.scenario {
            Scenario::DnatAny => {
                Ends { source: client, destination: (eip_address(entry), PUBLIC_PORT), is_inward: true }
            }
            Scenario::DnatPort => {
                Ends { source: client, destination: (eip_address(entry), PUBLIC_PORT), is_inward: true }
            }
            Scenario::Hairpin => Ends {
                source: (host_address(flow % self.hosts), HOST_PORT + (flow / self.hosts) as u16),
                destination: (eip_address(POOL as u32 + entry), PUBLIC_PORT),
                is_inward: false,
            },
            Scenario::Snat | Scenario::NewSession | Scenario::Imix | Scenario::Icmp => {
                let is_icmp = self.scenario == Scenario::Icmp;
                let host = (host_address(flow % self.hosts), HOST_PORT);
                let peer = (PEERS + flow / self.hosts, if is_icmp { 0 } else { PEER_PORT });
                match self.external.get(flow as usize) {
                    Some(external) if answer => {
                        Ends { source: peer, destination: *external, is_inward: true }
                    }
                    _ => Ends { source: host, destination: peer, is_inward: false },
                }
            }
        }
    }
}
