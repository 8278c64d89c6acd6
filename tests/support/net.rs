//! One or more engines in lockstep between two sides of hosts. Every host answers ARP; every frame that leaves is read by
//! the codec; the invariants are checked after every step.

use std::collections::{BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use natgate::base::{Checksum, DropReason, Moment, PortIndex, Rng, WorkerIndex};
use natgate::nat::query::{SessionCursor, SessionFilter, SessionRow};
use natgate::nat::{Counters, Engine, EngineConfig, Exit, NeighbourFact, Output, Verdict};
use natgate::policy::Snapshot;
use natgate::wire::{Arrival, Packet as Buffered};

use super::codec::{self, Arp, Content, Link, Mac};
use super::config::{Compiler, Config, Side, gateway_mac, host_mac};
use super::packet::{Body, Ip, Packet};

/// Room in front of a frame in its buffer.
const HEADROOM: usize = 256;
/// Room behind it.
const TAILROOM: usize = 64;

/// An IPv4 packet that left the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    pub side: Side,
    /// Whether it is a packet that went through, not one of the gateway's own making.
    pub forwarded: bool,
    pub packet: Packet,
}

/// What one step brought about.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// IPv4 packets that left, in order.
    pub left: Vec<Left>,
    /// Drops counted meanwhile.
    pub drops: Vec<DropReason>,
    /// ARP packets that left.
    pub arps: Vec<(Side, Arp)>,
    /// Frames that left, as they were, with their port.
    pub frames: Vec<(u16, Vec<u8>)>,
}

impl Observed {
    /// The one packet that left.
    #[track_caller]
    pub fn one(&self) -> &Left {
        match &self.left[..] {
            [one] => one,
            _ => panic!("not one packet: {self:?}"),
        }
    }

    /// The one packet that went through to `side`.
    #[track_caller]
    pub fn forwarded(&self, side: Side) -> &Packet {
        let left = self.one();
        assert!(left.forwarded && left.side == side, "not forwarded to {side:?}: {self:?}");
        &left.packet
    }

    /// The one packet of the gateway's own making.
    #[track_caller]
    pub fn reply(&self, side: Side) -> &Packet {
        let replies: Vec<_> = self.left.iter().filter(|left| !left.forwarded).collect();
        match &replies[..] {
            [left] if left.side == side => &left.packet,
            _ => panic!("no single reply to {side:?}: {self:?}"),
        }
    }

    /// Asserts that nothing left and that this was the reason.
    #[track_caller]
    pub fn dropped(&self, reason: DropReason) {
        assert_eq!((self.left.len(), &self.drops[..]), (0, &[reason][..]), "{self:?}");
    }
}

/// A frame on its way to a worker.
struct Pending {
    worker: usize,
    buffer: Vec<u8>,
    head: usize,
    len: usize,
    port: PortIndex,
    checksum: Checksum,
    arrival: Arrival,
}

/// How frames that leave are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    /// Everything in them has to be right.
    Strict,
    /// What the gateway vouches for has to be right whatever came in: the link, the IP header and its length, and that no
    /// private source is outside. What a sender has broken is carried as it is (RFC 1812 §5.2.2).
    Header,
}

/// Engines, links and a clock.
pub struct TestNet {
    pub engines: Vec<Engine>,
    pub now: Moment,
    config: Config,
    compiler: Compiler,
    snapshot: Arc<Snapshot>,
    /// Out of its place while a batch runs.
    output: Option<Box<Output>>,
    /// Hosts that do not answer ARP.
    pub silent: BTreeSet<(Side, Ipv4Addr)>,
    /// The state of transport checksums that the ports report.
    pub checksum: Checksum,
    /// Whether this network answers ARP for its hosts; otherwise they do so themselves.
    pub answers_arp: bool,
    /// How frames that leave are judged.
    pub judge: Judge,
    pending: VecDeque<Pending>,
    facts: VecDeque<(usize, NeighbourFact)>,
    frames_in: u64,
}

impl TestNet {
    /// One worker.
    pub fn new(config: &Config) -> Self {
        Self::with_workers(config, 1, 1)
    }

    /// Any number of workers with random numbers from `seed`.
    pub fn with_workers(config: &Config, workers: u16, seed: u64) -> Self {
        Self::sized(config, workers, seed, 4096)
    }

    /// The same with room for `sessions` sessions in each worker.
    pub fn sized(config: &Config, workers: u16, seed: u64, sessions: usize) -> Self {
        let engine = |worker| {
            Engine::new(EngineConfig {
                worker: WorkerIndex(worker),
                workers,
                sessions,
                neighbours: 256,
                snat_eips: 64,
                distributions: std::sync::Arc::default(),
                rng: Rng::from_seed(seed << 8 | u64::from(worker)),
            })
            .expect("memory for an engine")
        };
        let mut compiler = Compiler::default();
        let snapshot = compiler.compile(config);
        let mut net = Self {
            engines: (0..workers).map(engine).collect(),
            now: Moment::from_secs(1),
            config: config.clone(),
            compiler,
            snapshot,
            output: Some(Box::default()),
            silent: BTreeSet::new(),
            checksum: Checksum::Unverified,
            answers_arp: true,
            judge: Judge::Strict,
            pending: VecDeque::new(),
            facts: VecDeque::new(),
            frames_in: 0,
        };
        net.idle(4);
        net
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Puts another configuration in force, and lets the workers look at nothing yet.
    pub fn publish(&mut self, config: &Config) {
        self.config = config.clone();
        self.snapshot = self.compiler.compile(config);
    }

    /// Puts another configuration in force.
    pub fn reload(&mut self, config: &Config) -> Observed {
        self.publish(config);
        // Until all sessions were looked at.
        self.idle(self.engines[0].occupancy().session_capacity / 16 + 2)
    }

    /// Lets time pass and the timers run.
    pub fn advance(&mut self, by: Duration) -> Observed {
        self.now = self.now + by;
        self.idle(8)
    }

    /// Lets every worker run over empty batches.
    pub fn idle(&mut self, rounds: usize) -> Observed {
        self.step(|net, observed| {
            for worker in (0..net.engines.len()).cycle().take(rounds * net.engines.len()) {
                net.run(worker, &mut [], observed);
            }
        })
    }

    /// Sends a packet as its source would: to the gateway's Ethernet address, by the link of `side`.
    pub fn send(&mut self, side: Side, packet: &Packet) -> Observed {
        let bytes = self.frame_of(side, packet);
        self.inject(self.config.link(side).port, &bytes)
    }

    /// The frame in which `send` sends a packet.
    pub fn frame_of(&self, side: Side, packet: &Packet) -> Vec<u8> {
        let link = Link {
            dst: gateway_mac(side),
            src: host_mac(side, self.config.next_hop(side, packet.ip.src)),
            vlan: self.config.link(side).vlan,
        };
        codec::ip_frame(link, packet)
    }

    /// Puts a frame on a port. The worker is chosen as a NIC would: by the addresses and ports.
    pub fn inject(&mut self, port: u16, frame: &[u8]) -> Observed {
        let worker = flow_hash(frame) as usize % self.engines.len();
        self.inject_at(worker, port, frame)
    }

    /// Puts a frame on a worker's queue of a port.
    pub fn inject_at(&mut self, worker: usize, port: u16, frame: &[u8]) -> Observed {
        self.step(|net, observed| {
            net.queue(worker, port, frame, net.checksum);
            net.settle(observed);
        })
    }

    /// The sessions of all workers.
    pub fn sessions(&self) -> Vec<SessionRow> {
        let mut rows = Vec::with_capacity(4096);
        for engine in &self.engines {
            let mut cursor = SessionCursor::default();
            let all = SessionFilter::default();
            assert!(engine.list_sessions(&mut cursor, &all, usize::MAX, self.now, &mut rows), "room for all");
        }
        rows
    }

    /// Counters of all workers together.
    pub fn totals(&self) -> Counters {
        let mut total = Counters::default();
        for counters in self.engines.iter().map(Engine::counters) {
            total.received += counters.received;
            total.taken_over += counters.taken_over;
            total.forwarded += counters.forwarded;
            total.handed += counters.handed;
            total.consumed += counters.consumed;
            total.held += counters.held;
            total.originated += counters.originated;
            total.sessions_created += counters.sessions_created;
            total.sessions_removed += counters.sessions_removed;
            total.stateless += counters.stateless;
            total.displaced += counters.displaced;
            total.evicted += counters.evicted;
            total.ftp_rewritten += counters.ftp_rewritten;
            total.ftp_unaltered += counters.ftp_unaltered;
            for (sum, drops) in total.drops.iter_mut().zip(counters.drops) {
                *sum += drops;
            }
        }
        total
    }

    fn step(&mut self, act: impl FnOnce(&mut Self, &mut Observed)) -> Observed {
        let before = self.totals();
        let mut observed = Observed::default();
        act(self, &mut observed);
        let after = self.totals();
        for (reason, (old, new)) in DropReason::ALL.iter().zip(before.drops.iter().zip(after.drops)) {
            observed.drops.extend((*old..new).map(|_| *reason));
        }
        self.check(&after);
        observed
    }

    /// The conservation law, for every worker and over all of them.
    fn check(&self, total: &Counters) {
        for (worker, engine) in self.engines.iter().enumerate() {
            assert_eq!(engine.counters().balance(), 0, "worker {worker}: {:?}", engine.counters());
        }
        assert_eq!(total.handed, total.taken_over, "every packet handed over is taken over");
        assert_eq!(total.received, self.frames_in, "every frame is received once");
    }

    fn queue(&mut self, worker: usize, port: u16, frame: &[u8], checksum: Checksum) {
        let mut buffer = vec![0xa5; HEADROOM + frame.len() + TAILROOM];
        buffer[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
        self.frames_in += 1;
        self.pending.push_back(Pending {
            worker,
            buffer,
            head: HEADROOM,
            len: frame.len(),
            port: PortIndex(port),
            checksum,
            arrival: Arrival::Wire,
        });
    }

    /// Runs until nothing is on its way any more.
    fn settle(&mut self, observed: &mut Observed) {
        for _ in 0..1000 {
            if let Some((from, fact)) = self.facts.pop_front() {
                for worker in (0..self.engines.len()).filter(|worker| *worker != from) {
                    let mut output = self.output.take().unwrap_or_default();
                    self.engines[worker].learn(fact, &self.snapshot, self.now, &mut output);
                    self.collect(worker, &[], &output, observed);
                    self.output = Some(output);
                }
            } else if let Some(mut pending) = self.pending.pop_front() {
                self.run(pending.worker, std::slice::from_mut(&mut pending), observed);
            } else {
                return;
            }
        }
        panic!("the network does not come to rest: {observed:?}");
    }

    /// One batch of one worker.
    fn run(&mut self, worker: usize, batch: &mut [Pending], observed: &mut Observed) {
        let mut output = self.output.take().unwrap_or_default();
        let mut packets: Vec<_> = batch
            .iter_mut()
            .map(|p| Buffered::new(&mut p.buffer, p.head, p.len, p.port, p.checksum).arrived(p.arrival))
            .collect();
        self.engines[worker].process(&mut packets, &self.snapshot, self.now, &mut output);
        assert_eq!(output.verdicts.len(), packets.len(), "one verdict a packet");
        let places: Vec<_> = packets.iter().map(|p| (p.head, p.len, p.checksum)).collect();
        drop(packets);
        for (pending, (head, len, checksum)) in batch.iter_mut().zip(places) {
            (pending.head, pending.len, pending.checksum) = (head, len, checksum);
        }
        self.collect(worker, batch, &output, observed);
        self.output = Some(output);
        self.settle(observed);
    }

    fn collect(&mut self, worker: usize, batch: &[Pending], output: &Output, observed: &mut Observed) {
        for (pending, verdict) in batch.iter().zip(&output.verdicts) {
            match *verdict {
                Verdict::Send { port, head, len } => {
                    let (head, len) = (usize::from(head), usize::from(len));
                    self.transmit(port.0, &pending.buffer[head..head + len], true, observed);
                }
                Verdict::Hand { to, arrival } => {
                    assert_ne!(to.index(), worker, "handed to itself");
                    assert_ne!(arrival, Arrival::Wire, "handed over as if from the wire");
                    self.pending.push_back(Pending {
                        worker: to.index(),
                        buffer: pending.buffer.clone(),
                        head: pending.head,
                        len: pending.len,
                        port: pending.port,
                        checksum: pending.checksum,
                        arrival,
                    });
                }
                Verdict::Consumed | Verdict::Held | Verdict::Drop(_) => {}
            }
        }
        for (emission, frame) in output.emissions() {
            match emission.exit {
                Exit::Own => self.transmit(emission.port.0, frame, false, observed),
                Exit::Forwarded => self.transmit(emission.port.0, frame, true, observed),
                Exit::Handed { to, arrival } => {
                    assert_ne!(to.index(), worker, "handed to itself");
                    self.pending.push_back(Pending {
                        worker: to.index(),
                        buffer: [&[0xa5; HEADROOM][..], frame, &[0xa5; TAILROOM]].concat(),
                        head: HEADROOM,
                        len: frame.len(),
                        port: emission.port,
                        checksum: Checksum::Unverified,
                        arrival,
                    });
                }
            }
        }
        self.facts.extend(output.facts.iter().map(|fact| (worker, *fact)));
    }

    /// A frame has left: it must be right.
    fn transmit(&mut self, port: u16, frame: &[u8], forwarded: bool, observed: &mut Observed) {
        observed.frames.push((port, frame.to_vec()));
        let (link, content) = match codec::decode_frame(frame) {
            Ok((link, content)) => (link, Ok(content)),
            Err(error) => {
                assert!(
                    self.judge == Judge::Header,
                    "a bad frame left by port {port}: {error}: {frame:02x?}"
                );
                let (link, kind, rest) = codec::split_frame(frame).expect("a link header");
                let head =
                    codec::decode_header(rest).unwrap_or_else(|e| panic!("{e} in {kind:04x} {rest:02x?}"));
                let len = usize::from(head.2.total_len());
                assert_eq!((kind, len), (0x0800, rest.len()), "an IPv4 packet of its length: {rest:02x?}");
                (link, Err((head.0, head.1)))
            }
        };
        let side = self
            .config
            .side_of(port, link.vlan)
            .unwrap_or_else(|| panic!("no interface for VLAN {:?} of port {port}: {content:?}", link.vlan));
        assert_eq!(link.src, gateway_mac(side), "the gateway's own address as source: {content:?}");
        let ip = match &content {
            Ok(Content::Arp(arp)) => {
                observed.arps.push((side, *arp));
                self.answer_arp(side, &link, arp);
                return;
            }
            Ok(Content::Ip(packet)) => &packet.ip,
            Err((ip, _)) => ip,
        };
        // A reply goes back to where the frame came from, which Header does not vouch for.
        if self.answers_arp && (forwarded || self.judge == Judge::Strict) {
            let next_hop = self.config.next_hop(side, ip.dst);
            assert_eq!(link.dst, host_mac(side, next_hop), "the next hop's address: {content:?}");
        }
        if side == Side::Outside {
            self.assert_public(ip, &content);
        }
        if let Ok(Content::Ip(packet)) = content {
            observed.left.push(Left { side, forwarded, packet });
        }
    }

    fn answer_arp(&mut self, side: Side, link: &Link, arp: &Arp) {
        assert_eq!(arp.sender.0, link.src, "ARP speaks for its sender: {arp:?}");
        let asked = arp.target.1;
        let gratuitous = arp.sender.1 == asked;
        if !self.answers_arp || !arp.request || gratuitous || self.silent.contains(&(side, asked)) {
            return;
        }
        let mac = host_mac(side, asked);
        let answer = Arp { request: false, sender: (mac, asked), target: arp.sender };
        let link = Link { dst: link.src, src: mac, vlan: link.vlan };
        // All ARP comes to the first queue.
        self.queue(0, self.config.link(side).port, &codec::arp_frame(link, &answer), Checksum::Unverified);
    }

    /// No private source goes out, unless its destination is exempt from translation.
    fn assert_public(&self, ip: &Ip, content: &Result<Content, (Ip, u8)>) {
        let private =
            |address: Ipv4Addr| self.config.vpcs.iter().any(|vpc| vpc.cidr.contains(address.into()));
        let exempt = self
            .config
            .snat
            .iter()
            .flat_map(|s| &s.untranslated)
            .any(|prefix| prefix.contains(ip.dst.into()));
        assert!(exempt || !private(ip.src), "a private source outside: {content:?}");
        if let Ok(Content::Ip(Packet { body: Body::Error { quote, .. }, .. })) = content {
            assert!(exempt || !private(quote.ip.dst), "a private address quoted outside: {content:?}");
        }
    }
}

/// What a NIC would spread flows by.
fn flow_hash(frame: &[u8]) -> u32 {
    let Ok((_, 0x0800, packet)) = codec::split_frame(frame) else {
        return 0;
    };
    let flow = packet.get(12..24).unwrap_or_default();
    flow.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)) >> 8
}

/// The Ethernet address that an ARP answer for `address` gave, if one left.
pub fn arp_answer(observed: &Observed, address: Ipv4Addr) -> Option<Mac> {
    observed.arps.iter().find(|(_, arp)| !arp.request && arp.sender.1 == address).map(|(_, arp)| arp.sender.0)
}
