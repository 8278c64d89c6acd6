//! Both ends of the network: all private hosts and everybody on the Internet, who write and read frames. Every host answers ARP.

use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::Failure;
use super::lab::{Place, Running};
use super::packet::{self, Endpoint, Packet};
use super::{Gateway, Variant};
use crate::base::PortIndex;
use crate::base::time::Clock;
use crate::nic::af_packet::Steering;
use crate::nic::af_xdp::Share;
use crate::nic::open::{Backend, Opener};
use crate::nic::{Burst, Cache, Mac, Pool, Queue};

/// What a row's function says: what was seen, or what was seen instead of what should have been.
pub type Verdict = Result<String, String>;

/// How long a packet may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long stragglers are waited for.
const GRACE: Duration = Duration::from_millis(15);

/// The gateway's address on the inside.
pub const INSIDE_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The gateway's address on the outside.
pub const OUTSIDE_GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The gateway's next hop to the Internet.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// A host on the outside link.
pub const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// The EIP that most private hosts share.
pub const POOL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 16);
/// The EIP of [`ONE_TO_ONE`].
pub const ANY_EIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 17);
/// The EIP whose ports lead to [`SERVER`].
pub const PORT_EIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 18);
/// EIPs that 10.0.1.0/24 leaves with.
pub const TWO: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 19), Ipv4Addr::new(203, 0, 113, 25)];
/// The EIP that 10.0.2.0/24 leaves with, by ports 5000 to 5009.
pub const SMALL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 26);
/// An EIP that nothing is done with.
pub const UNASSIGNED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 30);
/// A private host with an EIP of its own.
pub const ONE_TO_ONE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
/// A private host to which ports of an EIP lead.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 4);
/// The EIP port that leads to [`SERVICE`], for TCP and UDP.
pub const PUBLIC: Endpoint = (PORT_EIP, 80);
/// Where the public port leads to.
pub const SERVICE: Endpoint = (SERVER, 8080);
/// A peer on the Internet.
pub const PEER: Endpoint = (Ipv4Addr::new(198, 51, 100, 1), 53);
/// Another one.
pub const PEER_2: Endpoint = (Ipv4Addr::new(198, 51, 100, 2), 443);
/// A router on the way to them.
pub const FAR_ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 99, 254);
/// A private host and a peer whose flow shows that the gateway still works.
const LIVE: [Endpoint; 2] = [(Ipv4Addr::new(10, 0, 0, 9), 9), (Ipv4Addr::new(198, 51, 100, 9), 9)];

/// A side of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Private hosts.
    Inside,
    /// The Internet.
    Outside,
}
pub use Side::{Inside, Outside};

impl Side {
    /// The other side.
    #[must_use]
    pub fn other(self) -> Self {
        if self == Inside { Outside } else { Inside }
    }

    fn is_host(self, address: Ipv4Addr) -> bool {
        match self {
            Inside => matches!(address.octets(), [10, 0, ..]) && address != INSIDE_GATEWAY,
            Outside => [ROUTER, NEIGHBOUR].contains(&address),
        }
    }

    /// The gateway's address there.
    pub fn gateway(self) -> Ipv4Addr {
        if self == Inside { INSIDE_GATEWAY } else { OUTSIDE_GATEWAY }
    }

    /// The Ethernet address from which a packet comes there.
    pub fn mac_of(self, address: Ipv4Addr) -> Mac {
        let station = match self {
            Outside if !matches!(address.octets(), [203, 0, 113, 1..=15]) => ROUTER,
            _ => address,
        };
        let [a, b, c, d] = station.octets();
        [2, self as u8 + 1, a, b, c, d]
    }
}

/// An ARP packet: what it is, and whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Not an answer.
    pub is_request: bool,
    /// The Ethernet address that it tells.
    pub sender_mac: Mac,
    /// Of whom.
    pub sender: Ipv4Addr,
    /// Whom it asks for, or tells.
    pub target: Ipv4Addr,
}

impl Arp {
    /// The frame that carries it.
    pub fn frame(&self, to: Mac, target_mac: Mac) -> Vec<u8> {
        let mut frame = [&to[..], &self.sender_mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0]].concat();
        frame.push(if self.is_request { 1 } else { 2 });
        frame.extend_from_slice(&self.sender_mac);
        frame.extend_from_slice(&self.sender.octets());
        frame.extend_from_slice(&target_mac);
        frame.extend_from_slice(&self.target.octets());
        frame.resize(60, 0);
        frame
    }

    fn read(frame: &[u8]) -> Option<Self> {
        let arp = frame.get(14..42).filter(|_| frame[12..14] == [8, 6])?;
        let address = |at: usize| Ipv4Addr::new(arp[at], arp[at + 1], arp[at + 2], arp[at + 3]);
        let mut sender_mac = [0; 6];
        sender_mac.copy_from_slice(&arp[8..14]);
        Some(Self { is_request: arp[7] == 1, sender_mac, sender: address(14), target: address(24) })
    }
}

/// Everything that a host can receive but ARP.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The whole frame.
    pub frame: Vec<u8>,
    /// The packet in it, or why there is none.
    pub packet: Result<Packet, String>,
}

struct End {
    queue: Box<dyn Queue>,
    gateway: Mac,
    arrived: VecDeque<Arrival>,
    arps: Vec<Arp>,
    /// Answers ARP with another address than it should: a host that moved.
    moved: Option<(Ipv4Addr, Mac)>,
    is_deaf: bool,
}

/// The network.
pub struct Net {
    ends: [End; 2],
    cache: Cache,
    clock: Clock,
    waiting: Burst,
    arrived: Burst,
    hosts: u16,
    ports: u16,
    live: Endpoint,
    announced: Vec<Arp>,
    _guards: Vec<Option<Box<dyn Send>>>,
    _gateway: Running,
}

impl Net {
    /// Opens both ends, starts the gateway and waits until it carries packets.
    ///
    /// # Errors
    /// Why an end cannot be opened or the gateway does not work.
    pub fn start(gateway: Gateway, variant: Variant, place: &Place) -> Result<Self, Failure> {
        let pool = Pool::new(8192, 2048).map_err(|error| Failure::new("making buffers", error))?;
        let opener = Opener::new(&pool, 2);
        let mut guards = vec![];
        let mut open = |device: &str, index| {
            let steering = Steering::default();
            let opened = opener.open(Backend::AfPacket, device, index, 1, &Share::Exclusive, steering);
            let mut port = opened.map_err(|error| Failure::new("opening packet sockets", error))?;
            guards.push(port.guard.take());
            let queue = port.queues.pop().ok_or_else(|| {
                Failure::new("opening packet sockets", io::Error::other("the port has no queue"))
            })?;
            Ok(End {
                queue,
                gateway: [0xff; 6],
                arrived: VecDeque::new(),
                arps: vec![],
                moved: None,
                is_deaf: false,
            })
        };
        let ends = [open("in", PortIndex(0))?, open("out", PortIndex(1))?];
        let mut net = Self {
            ends,
            cache: pool.cache(),
            clock: Clock::start(),
            waiting: Burst::new(),
            arrived: Burst::new(),
            hosts: 0,
            ports: 0,
            live: LIVE[0],
            announced: vec![],
            _guards: guards,
            _gateway: Running::start(gateway, variant, place)?,
        };
        net.settle().map_err(|error| Failure::new("reaching the gateway", io::Error::other(error)))?;
        Ok(net)
    }

    /// Finds the gateway on both sides and opens the flow that shows that it lives.
    fn settle(&mut self) -> Result<(), String> {
        for side in [Inside, Outside] {
            let mut tries = 0;
            let mac = loop {
                match self.resolve(side, side.gateway()) {
                    Ok(mac) => break mac,
                    Err(error) if tries == 5 => return Err(error),
                    Err(_) => tries += 1,
                }
            };
            self.ends[side as usize].gateway = mac;
        }
        let mut tries = 0;
        loop {
            match self.mapped(LIVE[0], LIVE[1]) {
                Ok(external) => self.live = external,
                Err(error) if tries == 5 => return Err(error),
                Err(_) => {
                    tries += 1;
                    continue;
                }
            }
            return self.into(&Packet::udp(LIVE[1], self.live, b"live")).map(|_| ());
        }
    }

    /// A private host that no other row uses, of those that share [`POOL`].
    pub fn host(&mut self) -> Ipv4Addr {
        self.hosts += 1;
        let [high, low] = self.hosts.to_be_bytes();
        Ipv4Addr::new(10, 0, 4 + high, low)
    }

    /// A port above 20000 that no other row uses: an even one.
    pub fn port(&mut self) -> u16 {
        self.ports += 2;
        20_000 + self.ports
    }

    /// A new private host's endpoint.
    pub fn endpoint(&mut self) -> Endpoint {
        (self.host(), self.port())
    }

    /// The endpoint of a peer with a port that no other row uses.
    pub fn client(&mut self) -> Endpoint {
        (PEER.0, self.port())
    }

    /// The gateway's Ethernet address on a side.
    pub fn gateway_mac(&self, side: Side) -> Mac {
        self.ends[side as usize].gateway
    }

    /// Sends a frame.
    pub fn send_frame(&mut self, side: Side, frame: &[u8]) {
        let Some(mut buffer) = self.cache.take() else { return };
        if buffer.fill(frame) {
            self.waiting.push(buffer);
        } else {
            self.cache.give(buffer);
        }
        let start = self.clock.now();
        while !self.waiting.is_empty() && self.clock.now().since(start) < PATIENCE {
            self.ends[side as usize].queue.transmit(&mut self.cache, &mut self.waiting);
        }
        self.waiting.drain(..).for_each(|frame| self.cache.give(frame));
    }

    /// The frame that carries an IP packet from its sender to the gateway.
    pub fn frame(&self, side: Side, packet: &Packet) -> Vec<u8> {
        let (to, from) = (self.gateway_mac(side), side.mac_of(packet.src));
        [&to[..], &from, &[8, 0], &packet.encode()].concat()
    }

    /// Sends a packet to the gateway.
    pub fn send(&mut self, side: Side, packet: &Packet) {
        let frame = self.frame(side, packet);
        self.send_frame(side, &frame);
    }

    /// Takes what has arrived off the queues, and answers ARP.
    fn poll(&mut self) {
        for side in [Inside, Outside] {
            let mut arrived = std::mem::take(&mut self.arrived);
            self.ends[side as usize].queue.receive(&mut self.cache, &mut arrived);
            for buffer in arrived.drain(..) {
                let frame = buffer.bytes().to_vec();
                self.cache.give(buffer);
                self.take(side, frame);
            }
            self.arrived = arrived;
        }
    }

    fn take(&mut self, side: Side, frame: Vec<u8>) {
        let end = &mut self.ends[side as usize];
        if let Some(arp) = Arp::read(&frame) {
            end.arps.push(arp);
            if arp.sender == arp.target && side == Outside {
                self.announced.push(arp);
            }
            if arp.is_request && side.is_host(arp.target) && arp.sender != arp.target && !end.is_deaf {
                let moved = end.moved.filter(|(address, _)| *address == arp.target);
                let answer = Arp {
                    is_request: false,
                    sender_mac: moved.map_or(side.mac_of(arp.target), |(_, mac)| mac),
                    sender: arp.target,
                    target: arp.sender,
                };
                self.send_frame(side, &answer.frame(arp.sender_mac, arp.sender_mac));
            }
            return;
        }
        let packet = match frame.get(12..14) {
            Some([8, 0]) => Packet::decode(&frame[14..]),
            _ => Err("a frame that is neither IPv4 nor ARP".into()),
        };
        end.arrived.push_back(Arrival { frame, packet });
    }

    /// Waits for something, for at most so long.
    fn wait<T>(&mut self, patience: Duration, mut look: impl FnMut(&mut Self) -> Option<T>) -> Option<T> {
        let start = self.clock.now();
        loop {
            self.poll();
            if let Some(found) = look(self) {
                return Some(found);
            }
            if self.clock.now().since(start) > patience {
                return None;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Duration) {
        self.wait(time, |_| None::<()>);
    }

    /// Forgets what has arrived, before a row.
    pub fn clear(&mut self) {
        self.pass(GRACE);
        for end in &mut self.ends {
            end.arrived.clear();
            end.arps.clear();
            end.moved = None;
            end.is_deaf = false;
        }
    }

    /// The next frame that arrives on a side.
    pub fn next(&mut self, side: Side) -> Result<Arrival, String> {
        let found = self.wait(PATIENCE, |net| net.ends[side as usize].arrived.pop_front());
        found.ok_or_else(|| {
            let back = self.ends[side.other() as usize].arrived.pop_front();
            match back {
                Some(Arrival { packet: Ok(packet), .. }) => {
                    format!("instead came {packet:?} on the other side")
                }
                _ => format!("nothing arrived on the {side:?} side").to_lowercase(),
            }
        })
    }

    /// The next packet that arrives on a side, whole and with right checksums.
    pub fn next_packet(&mut self, side: Side) -> Result<Packet, String> {
        let packet = self.next(side)?.packet?;
        if packet.is_valid() { Ok(packet) } else { Err(format!("with a wrong checksum: {packet:?}")) }
    }

    /// Sends a packet from a side and gives what arrives on the same or the other one.
    pub fn pass_to(&mut self, from: Side, packet: &Packet, to: Side) -> Result<Packet, String> {
        self.send(from, packet);
        self.next_packet(to).map_err(|error| format!("{packet:?}: {error}"))
    }

    /// From the inside to the outside.
    pub fn out(&mut self, packet: &Packet) -> Result<Packet, String> {
        self.pass_to(Inside, packet, Outside)
    }

    /// From the outside to the inside.
    pub fn into(&mut self, packet: &Packet) -> Result<Packet, String> {
        self.pass_to(Outside, packet, Inside)
    }

    /// From the inside to the inside.
    pub fn around(&mut self, packet: &Packet) -> Result<Packet, String> {
        self.pass_to(Inside, packet, Inside)
    }

    /// What all has arrived since, when what was sent before has come through and the gateway shows that it lives.
    pub fn drain(&mut self) -> Result<[Vec<Arrival>; 2], String> {
        self.pass(GRACE);
        let mut seen = [vec![], vec![]];
        for (side, packet) in [
            (Outside, Packet::udp(LIVE[0], LIVE[1], b"live")),
            (Inside, Packet::udp(LIVE[1], self.live, b"live")),
        ] {
            self.send(side.other(), &packet);
            let peer = if side == Outside { LIVE[1] } else { LIVE[0] };
            let found = self.wait(PATIENCE, |net| {
                while let Some(arrival) = net.ends[side as usize].arrived.pop_front() {
                    if arrival.packet.as_ref().is_ok_and(|packet| packet.destination() == peer) {
                        return Some(());
                    }
                    seen[side as usize].push(arrival);
                }
                None
            });
            found.ok_or("the gateway carries nothing any more")?;
        }
        self.pass(GRACE);
        for (end, seen) in self.ends.iter_mut().zip(&mut seen) {
            seen.extend(end.arrived.drain(..));
        }
        Ok(seen)
    }

    /// Asserts that nothing has arrived.
    pub fn nothing(&mut self) -> Result<(), String> {
        match self.drain()?.concat().first() {
            None => Ok(()),
            Some(Arrival { packet: Ok(packet), .. }) => Err(format!("there came {packet:?}")),
            Some(Arrival { packet: Err(error), .. }) => Err(format!("there came {error}")),
        }
    }

    /// Asserts that a packet goes nowhere and that nobody is told.
    pub fn lost(&mut self, side: Side, packet: &Packet) -> Result<(), String> {
        self.send(side, packet);
        self.nothing().map_err(|error| format!("{packet:?}: {error}"))
    }

    /// Asserts that a packet does not get through; its sender may be told.
    pub fn refused(&mut self, side: Side, packet: &Packet) -> Result<(), String> {
        self.send(side, packet);
        let seen = self.drain()?;
        let told = |arrival: &Arrival| {
            arrival.packet.as_ref().is_ok_and(|error| {
                error.protocol == packet::ICMP && error.icmp().0 != 8 && error.dst == packet.src
                    || error.protocol == packet::TCP && error.flags() & packet::RST != 0
            })
        };
        match seen[side.other() as usize].iter().chain(seen[side as usize].iter().filter(|a| !told(a))).next()
        {
            None => Ok(()),
            Some(arrival) => Err(format!("{packet:?}: there came {:?}", arrival.packet)),
        }
    }

    /// Sends a packet of which the IP bytes are changed first.
    pub fn send_tampered(&mut self, side: Side, packet: &Packet, edit: impl FnOnce(&mut Vec<u8>)) {
        let frame = self.frame(side, packet);
        let (link, ip) = frame.split_at(14);
        let mut ip = ip.to_vec();
        edit(&mut ip);
        let mut frame = [link, &ip].concat();
        // No shorter than Ethernet's frames are.
        frame.resize(frame.len().max(60), 0);
        self.send_frame(side, &frame);
    }

    /// The external endpoint of a host's datagrams to a peer.
    pub fn mapped(&mut self, from: Endpoint, to: Endpoint) -> Result<Endpoint, String> {
        self.out(&Packet::udp(from, to, b"?")).map(|packet| packet.source())
    }

    /// The external endpoint of a host's new connection to a peer.
    pub fn connected(&mut self, from: Endpoint, to: Endpoint) -> Result<Endpoint, String> {
        self.out(&Packet::syn(from, to)).map(|packet| packet.source())
    }

    /// Opens a connection through SNAT and gives its external endpoint.
    pub fn established(&mut self, from: Endpoint, to: Endpoint) -> Result<Endpoint, String> {
        let syn = self.out(&Packet::syn(from, to))?;
        let syn_ack = self.into(&syn.answer())?;
        self.out(&syn_ack.answer())?;
        Ok(syn.source())
    }

    /// Asks by ARP who has an address.
    pub fn resolve(&mut self, side: Side, address: Ipv4Addr) -> Result<Mac, String> {
        let asker = if side == Inside { LIVE[0].0 } else { ROUTER };
        let ask = Arp { is_request: true, sender_mac: side.mac_of(asker), sender: asker, target: address };
        self.ask(side, &ask, [0xff; 6])
    }

    /// Sends an ARP request and gives the Ethernet address in the answer.
    pub fn ask(&mut self, side: Side, arp: &Arp, to: Mac) -> Result<Mac, String> {
        self.ends[side as usize].arps.clear();
        self.send_frame(side, &arp.frame(to, [0; 6]));
        let found = self.wait(PATIENCE / 4, |net| {
            let mut answers = net.ends[side as usize].arps.iter();
            answers.find(|answer| !answer.is_request && answer.sender == arp.target).map(|a| a.sender_mac)
        });
        found.ok_or_else(|| format!("{} is not answered for", arp.target))
    }

    /// What the gateway announced on the outside since it was started.
    pub fn announced(&self) -> &[Arp] {
        &self.announced
    }

    /// No host of a side answers ARP, until [`clear`](Self::clear) or `is_deaf` is taken back.
    pub fn deaf(&mut self, side: Side, is_deaf: bool) {
        self.ends[side as usize].is_deaf = is_deaf;
    }

    /// A host has another Ethernet address from now on.
    pub fn move_host(&mut self, side: Side, address: Ipv4Addr, mac: Mac) {
        self.ends[side as usize].moved = Some((address, mac));
    }
}

/// Asserts.
pub fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// Asserts that two things are the same.
pub fn same<T: PartialEq + std::fmt::Debug>(is: &T, should: &T) -> Result<(), String> {
    ensure(is == should, || format!("{is:?} instead of {should:?}"))
}

/// Asserts that a packet is as expected, one hop later. The identification of what may be fragmented is the gateway's choice.
pub fn became(left: &Packet, expected: Packet) -> Result<(), String> {
    let mut expected = expected;
    expected.ttl -= 1;
    if expected.fragment & packet::DF == 0 {
        expected.id = left.id;
    }
    ensure(*left == expected, || {
        let mut what = vec![];
        if (left.source(), left.destination()) != (expected.source(), expected.destination()) {
            what.push("addresses");
        }
        if left.body != expected.body {
            what.push("body");
        }
        if left.ttl != expected.ttl {
            what.push("TTL");
        }
        if (left.tos, left.fragment, &left.options, left.id)
            != (expected.tos, expected.fragment, &expected.options, expected.id)
        {
            what.push("header");
        }
        format!("{left:?} instead of {expected:?} ({})", what.join(", "))
    })
}

/// An endpoint for people.
pub fn shown((address, port): Endpoint) -> String {
    format!("{address}:{port}")
}
