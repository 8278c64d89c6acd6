//! One end of the load: a port, and the hosts that it pretends to be. They answer ARP, and nothing else.

use std::time::Duration;
use std::{io, mem};

use crate::base::Moment;
use crate::base::time::Clock;
use crate::nic::{Burst, Cache, Frame, Mac, Port, PortInfo, Queue};
use crate::pktgen::flows::Addresses;
use crate::wire::arp::Arp;
use crate::wire::bytes::get_u16;
use crate::wire::ethernet;

const BROADCAST: Mac = [0xff; 6];

/// A port with one queue.
pub struct Station {
    queue: Box<dyn Queue>,
    info: PortInfo,
    hosts: Vec<Addresses>,
    /// Frames that the queue had no room for yet.
    waiting: Burst,
    arrived: Burst,
    /// Undoes what opening changed, after the queue is closed.
    guard: Option<Box<dyn Send>>,
}

impl std::fmt::Debug for Station {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Station")
            .field("info", &self.info)
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

impl Station {
    /// A station on a port with exactly one queue, which answers ARP for `hosts`.
    ///
    /// # Errors
    /// The port has another number of queues.
    pub fn new(mut port: Port, hosts: Vec<Addresses>) -> io::Result<Self> {
        match (port.queues.pop(), port.queues.is_empty()) {
            (Some(queue), true) => Ok(Self {
                queue,
                info: port.info,
                hosts,
                waiting: Burst::new(),
                arrived: Burst::new(),
                guard: port.guard,
            }),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "a station needs a port with one queue")),
        }
    }

    /// What the port is.
    pub fn info(&self) -> &PortInfo {
        &self.info
    }

    /// Frames that the kernel or the device dropped before they could be received.
    pub fn missed(&mut self) -> u64 {
        self.queue.counters().rx_missed
    }

    /// Frames that wait for the queue.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a frame can be taken for sending.
    pub fn has_room(&self) -> bool {
        !self.waiting.is_full()
    }

    /// Takes a frame for sending; it is given back to the cache if there is no room.
    pub fn push(&mut self, cache: &mut Cache, frame: Frame) {
        if let Err(refused) = self.waiting.try_push(frame) {
            cache.give(refused.element());
        }
    }

    /// Sends what waits, as far as the queue has room; how many frames it took.
    pub fn flush(&mut self, cache: &mut Cache) -> usize {
        self.queue.transmit(cache, &mut self.waiting)
    }

    /// Receives frames and gives all but ARP to `each`, which gives them back to the cache or to a station.
    pub fn receive(
        &mut self,
        cache: &mut Cache,
        mut each: impl FnMut(&mut Self, &mut Cache, Frame),
    ) -> usize {
        let mut arrived = mem::take(&mut self.arrived);
        self.queue.receive(cache, &mut arrived);
        let count = arrived.len();
        for mut frame in arrived.drain(..) {
            match arp_of(frame.bytes()) {
                Some(arp) if arp.is_request && self.is_host(arp.target) && arp.sender != arp.target => {
                    let answer = Arp {
                        is_request: false,
                        sender_mac: self.info.mac,
                        sender: arp.target,
                        target_mac: arp.sender_mac,
                        target: arp.sender,
                    };
                    if frame.fill(&frame_of(&answer, arp.sender_mac)) {
                        self.push(cache, frame);
                    } else {
                        cache.give(frame);
                    }
                }
                _ => each(self, cache, frame),
            }
        }
        self.arrived = arrived;
        count
    }

    fn is_host(&self, address: u32) -> bool {
        self.hosts.iter().any(|hosts| hosts.contains(address))
    }

    /// Asks for the Ethernet address of a neighbour, again and again for some seconds.
    ///
    /// # Errors
    /// It does not answer.
    pub fn resolve(&mut self, cache: &mut Cache, from: u32, address: u32, clock: &Clock) -> io::Result<Mac> {
        const TIMEOUT: Duration = Duration::from_secs(5);
        const AGAIN: Duration = Duration::from_millis(500);
        let start = clock.now();
        let mut next = start;
        while clock.now().since(start) < TIMEOUT {
            if clock.now() >= next {
                self.ask(cache, from, address);
                next = clock.now() + AGAIN;
            }
            self.flush(cache);
            let mut found = None;
            self.receive(cache, |_, cache, frame| {
                let arp = arp_of(frame.bytes()).filter(|arp| arp.sender == address);
                found = found.or(arp.map(|arp| arp.sender_mac));
                cache.give(frame);
            });
            if let Some(mac) = found {
                return Ok(mac);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let address = std::net::Ipv4Addr::from(address);
        let message = format!("{address} does not answer ARP on {}", self.info.device);
        Err(io::Error::new(io::ErrorKind::TimedOut, message))
    }

    fn ask(&mut self, cache: &mut Cache, sender: u32, target: u32) {
        let arp = Arp { is_request: true, sender_mac: self.info.mac, sender, target_mac: [0; 6], target };
        let Some(mut frame) = cache.take() else { return };
        if frame.fill(&frame_of(&arp, BROADCAST)) {
            self.push(cache, frame);
        } else {
            cache.give(frame);
        }
    }

    /// Closes the port.
    ///
    /// # Errors
    /// The back end's.
    pub fn close(mut self, cache: &mut Cache) -> io::Result<()> {
        self.waiting.drain(..).for_each(|frame| cache.give(frame));
        let closed = self.queue.close(cache);
        drop(self.queue);
        drop(self.guard);
        closed
    }

    /// Answers ARP for a while, until both sides know each other.
    pub fn settle(&mut self, cache: &mut Cache, until: Moment, clock: &Clock) {
        while clock.now() < until {
            self.receive(cache, |_, cache, frame| cache.give(frame));
            self.flush(cache);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn arp_of(frame: &[u8]) -> Option<Arp> {
    let is_arp = frame.len() >= ethernet::HEADER && get_u16(frame, 12) == ethernet::ARP;
    if is_arp { Arp::parse(frame.get(ethernet::HEADER..)?).ok() } else { None }
}

fn frame_of(arp: &Arp, to: Mac) -> [u8; 60] {
    let mut bytes = [0; 60];
    arp.write(&mut bytes, to, None);
    bytes
}
