//! Whole TCP hosts in memory (smoltcp) on both sides of the gateway, over links that lose, repeat, reorder and corrupt
//! frames by a seed.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use natgate::base::Rng;
use smoltcp::iface::{Config as InterfaceConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};

use super::codec;
use super::config::{Config, Side, host_mac};
use super::net::{Judge, TestNet};

/// How often, in a thousand frames, a link does wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub lose: u32,
    pub repeat: u32,
    pub reorder: u32,
    pub corrupt: u32,
}

/// Frames on their way over a link, in one direction.
struct Link {
    faults: Faults,
    rng: Rng,
    /// Frames with the number of later frames that overtake each.
    waiting: VecDeque<(u32, Vec<u8>)>,
}

impl Link {
    fn chance(&mut self, per_thousand: u32) -> bool {
        self.rng.below(1000) < per_thousand
    }

    fn put(&mut self, mut frame: Vec<u8>) {
        if self.chance(self.faults.lose) {
            return;
        }
        if self.chance(self.faults.corrupt) {
            let at = self.rng.below(frame.len() as u32) as usize;
            frame[at] ^= 1 << self.rng.below(8);
        }
        if self.chance(self.faults.repeat) {
            self.waiting.push_back((0, frame.clone()));
        }
        let late = if self.chance(self.faults.reorder) { 1 + self.rng.below(4) } else { 0 };
        self.waiting.push_back((late, frame));
    }

    /// The next frame to arrive. A late one goes behind those that overtake it.
    fn take(&mut self) -> Option<Vec<u8>> {
        for _ in 0..self.waiting.len() {
            let (late, frame) = self.waiting.pop_front()?;
            if late == 0 || self.waiting.is_empty() {
                return Some(frame);
            }
            self.waiting.push_back((late - 1, frame));
        }
        self.waiting.pop_front().map(|(_, frame)| frame)
    }
}

/// A host's network card.
#[derive(Default)]
struct Card {
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
    mtu: usize,
}

struct Received(Vec<u8>);
struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; len];
        let result = write(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Card {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        Some((Received(self.received.pop_front()?), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + 14;
        capabilities
    }
}

/// A host with one address, on the link of a side.
pub struct Endhost {
    pub side: Side,
    pub address: Ipv4Addr,
    card: Card,
    interface: Interface,
    pub sockets: SocketSet<'static>,
}

impl Endhost {
    fn new(config: &Config, side: Side, address: Ipv4Addr, seed: u64) -> Self {
        let link = config.link(side);
        let mut card = Card { mtu: usize::from(link.mtu), ..Card::default() };
        let mac = HardwareAddress::Ethernet(EthernetAddress(host_mac(side, address)));
        let mut settings = InterfaceConfig::new(mac);
        settings.random_seed = seed;
        let mut interface = Interface::new(settings, &mut card, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::Ipv4(address), link.len)).expect("room for an address");
        });
        interface.routes_mut().add_default_ipv4_route(link.address).expect("room for a route");
        Self { side, address, card, interface, sockets: SocketSet::new(vec![]) }
    }

    fn socket() -> tcp::Socket<'static> {
        let buffer = || tcp::SocketBuffer::new(vec![0; 16 * 1024]);
        tcp::Socket::new(buffer(), buffer())
    }

    /// Waits for one connection on a port.
    pub fn listen(&mut self, port: u16) -> SocketHandle {
        let mut socket = Self::socket();
        socket.listen(port).expect("a port to listen on");
        self.sockets.add(socket)
    }

    /// Opens a connection.
    pub fn connect(&mut self, from: u16, to: (Ipv4Addr, u16)) -> SocketHandle {
        let mut socket = Self::socket();
        socket.connect(self.interface.context(), to, from).expect("a connection to open");
        self.sockets.add(socket)
    }

    pub fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }
}

/// The gateway, its hosts and the links between.
pub struct Lan {
    pub net: TestNet,
    pub hosts: Vec<Endhost>,
    to_gateway: Link,
    to_hosts: Link,
}

impl Lan {
    pub fn new(mut net: TestNet, hosts: &[(Side, Ipv4Addr)], faults: Faults, seed: u64) -> Self {
        net.answers_arp = false;
        if faults.corrupt > 0 {
            net.judge = Judge::Header;
        }
        let link = |seed| Link { faults, rng: Rng::from_seed(seed), waiting: VecDeque::new() };
        let host = |(at, (side, address)): (usize, &(Side, Ipv4Addr))| {
            Endhost::new(net.config(), *side, *address, seed + at as u64)
        };
        let hosts = hosts.iter().enumerate().map(host).collect();
        Self { hosts, to_gateway: link(seed ^ 0x7467), to_hosts: link(seed ^ 0x6874), net }
    }

    /// Lets everything move once, and time go on to when something is due.
    pub fn step(&mut self) {
        let now = Instant::from_micros((self.net.now.0 / 1000).cast_signed());
        for host in &mut self.hosts {
            host.interface.poll(now, &mut host.card, &mut host.sockets);
            let vlan = self.net.config().link(host.side).vlan;
            while let Some(frame) = host.card.sent.pop_front() {
                self.to_gateway.put(tag(&frame, vlan, self.net.config().link(host.side).port));
            }
        }
        let mut moved = false;
        while let Some(mut frame) = self.to_gateway.take() {
            moved = true;
            let port = frame.pop().map_or(0, u16::from);
            let observed = self.net.inject(port, &frame);
            self.send_out(observed.frames);
        }
        while let Some(mut frame) = self.to_hosts.take() {
            moved = true;
            let port = frame.pop().map_or(0, u16::from);
            self.deliver(port, &frame);
        }
        let step = if moved { Duration::from_micros(100) } else { self.until_due(now) };
        let observed = self.net.advance(step);
        self.send_out(observed.frames);
    }

    fn send_out(&mut self, frames: Vec<(u16, Vec<u8>)>) {
        for (port, mut frame) in frames {
            frame.push(port as u8);
            self.to_hosts.put(frame);
        }
    }

    fn until_due(&mut self, now: Instant) -> Duration {
        let due =
            self.hosts.iter_mut().filter_map(|host| host.interface.poll_delay(now, &host.sockets)).min();
        due.map_or(Duration::from_millis(100), Duration::from)
            .clamp(Duration::from_micros(100), Duration::from_secs(1))
    }

    /// A frame that left by a port reaches every host on that link.
    fn deliver(&mut self, port: u16, frame: &[u8]) {
        let Ok((link, kind, rest)) = codec::split_frame(frame) else { return };
        let Some(side) = self.net.config().side_of(port, link.vlan) else { return };
        let untagged = codec::frame(codec::Link { vlan: None, ..link }, kind, rest);
        for host in self.hosts.iter_mut().filter(|host| host.side == side) {
            host.card.received.push_back(untagged.clone());
        }
    }
}

/// The frame with its VLAN, and behind it the port that it goes to.
fn tag(frame: &[u8], vlan: Option<u16>, port: u16) -> Vec<u8> {
    let mut tagged = match codec::split_frame(frame) {
        Ok((link, kind, rest)) => codec::frame(codec::Link { vlan, ..link }, kind, rest),
        Err(_) => frame.to_vec(),
    };
    tagged.push(port as u8);
    tagged
}
