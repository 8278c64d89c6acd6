//! An engine that does as its packets say, and ports that are two bounded queues.
//!
//! A packet is a list of orders of three bytes each: the first is obeyed when it comes from a port, the second when
//! it was handed over, the third when it turns round. What follows is payload.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::base::{DropReason, InterfaceIndex, Moment, PortIndex, WorkerIndex};
use crate::nat::{Counters, EngineConfig, Estate, Exit, NeighbourFact, Output, Verdict};
use crate::nic::{Burst, Cache, Frame, Pool, Port, PortCounters, PortInfo, Queue};
use crate::policy::Snapshot;
use crate::wire::{Arrival, Packet};
use crate::worker::mailbox::Command;
use crate::worker::{Process, Setup};

pub(super) const SEND: u8 = 1;
pub(super) const HAND: u8 = 2;
pub(super) const TURN: u8 = 3;
pub(super) const CONSUME: u8 = 4;
pub(super) const HOLD: u8 = 5;
pub(super) const ANSWER: u8 = 6;
pub(super) const TELL: u8 = 7;
pub(super) const PANIC: u8 = 8;
pub(super) const HUGE: u8 = 9;
pub(super) const SPLIT: u8 = 10;

#[derive(Debug)]
pub(super) struct Script {
    counters: Counters,
    /// Held packets: the port each is to leave by.
    held: Vec<PortIndex>,
    pub(super) learned: Vec<NeighbourFact>,
    pub(super) empty_batches: u64,
}

impl Process for Script {
    fn make(_: EngineConfig) -> io::Result<Self> {
        Ok(Self { counters: Counters::default(), held: Vec::new(), learned: Vec::new(), empty_batches: 0 })
    }

    fn process(&mut self, batch: &mut [Packet<'_>], _: &Snapshot, _: Moment, out: &mut Output) {
        out.clear();
        if batch.is_empty() {
            self.empty_batches += 1;
            for port in self.held.drain(..) {
                out.emit(port, 60, Exit::Forwarded).unwrap();
                self.counters.held -= 1;
                self.counters.forwarded += 1;
            }
        }
        for packet in batch {
            let place = match packet.arrival {
                Arrival::Wire => {
                    self.counters.received += 1;
                    0
                }
                Arrival::Fragment | Arrival::Handed => {
                    self.counters.taken_over += 1;
                    3
                }
                Arrival::Hairpin => {
                    self.counters.taken_over += 1;
                    6
                }
            };
            let orders = packet.frame();
            let order = orders.get(place).copied().unwrap_or(0);
            let target = orders.get(place + 1).copied().unwrap_or(0);
            let port = PortIndex(u16::from(target));
            let to = WorkerIndex(u16::from(target));
            if order == SPLIT && out.emit(port, 60, Exit::Own).is_some() {
                self.counters.originated += 1;
            }
            let verdict = match order {
                SEND | SPLIT => Verdict::Send { port, head: packet.head as u16, len: packet.len as u16 },
                HAND => Verdict::Hand { to, arrival: Arrival::Handed },
                TURN => Verdict::Hand { to, arrival: Arrival::Hairpin },
                CONSUME => Verdict::Consumed,
                HOLD => {
                    self.held.push(port);
                    Verdict::Held
                }
                ANSWER | HUGE => {
                    let len = if order == HUGE { 9000 } else { 60 };
                    if out.emit(port, len, Exit::Own).is_some() {
                        self.counters.originated += 1;
                    }
                    Verdict::Consumed
                }
                TELL => {
                    let address = u32::from(target);
                    out.tell(NeighbourFact { interface: InterfaceIndex(0), address, mac: [2; 6] });
                    Verdict::Consumed
                }
                PANIC => panic!("as ordered"),
                _ => Verdict::Drop(DropReason::NotOurs),
            };
            match verdict {
                Verdict::Send { .. } => self.counters.forwarded += 1,
                Verdict::Hand { .. } => self.counters.handed += 1,
                Verdict::Consumed => self.counters.consumed += 1,
                Verdict::Held => self.counters.held += 1,
                Verdict::Drop(reason) => self.counters.drop(reason),
            }
            out.verdicts.push(verdict);
        }
    }

    fn learn(&mut self, fact: NeighbourFact, _: &Snapshot, _: Moment, out: &mut Output) {
        out.clear();
        self.learned.push(fact);
    }

    fn inherit(&mut self, estate: Estate) {
        self.counters = estate.counters;
    }

    fn undo(&mut self, verdict: Verdict, reason: DropReason) {
        match verdict {
            Verdict::Send { .. } => self.counters.forwarded -= 1,
            Verdict::Hand { .. } => self.counters.handed -= 1,
            Verdict::Consumed | Verdict::Held | Verdict::Drop(_) => return,
        }
        self.counters.drop(reason);
    }

    fn answer(&mut self, _: &mut Command, _: &Snapshot, _: Moment, _: &mut Output) -> bool {
        true
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}

/// One queue of a port, seen from the other end of the wire.
#[derive(Clone)]
pub(super) struct Cable {
    pub(super) port: PortIndex,
    pub(super) into: Arc<ArrayQueue<Frame>>,
    pub(super) out: Arc<ArrayQueue<Frame>>,
    ready: Arc<OwnedFd>,
}

impl Cable {
    fn new(port: PortIndex, depth: usize) -> Self {
        let flags = rustix::event::EventfdFlags::NONBLOCK;
        Self {
            port,
            into: Arc::new(ArrayQueue::new(4096)),
            out: Arc::new(ArrayQueue::new(depth)),
            ready: Arc::new(rustix::event::eventfd(0, flags).unwrap()),
        }
    }

    /// Puts a frame on the wire towards the gateway.
    pub(super) fn send(&self, cache: &mut Cache, bytes: &[u8]) {
        let mut frame = cache.take().expect("the test has buffers");
        assert!(frame.fill(bytes));
        frame.port = self.port;
        self.into.push(frame).expect("the wire has room");
        rustix::io::write(&self.ready, &1_u64.to_ne_bytes()).unwrap();
    }

    /// Takes all frames that came from the gateway; says how many.
    pub(super) fn drain(&self, cache: &mut Cache) -> usize {
        std::iter::from_fn(|| self.out.pop()).map(|frame| cache.give(frame)).count()
    }
}

impl Queue for Cable {
    fn receive(&mut self, _: &mut Cache, burst: &mut Burst) -> usize {
        let before = burst.len();
        while !burst.is_full() {
            let Some(frame) = self.into.pop() else { break };
            burst.push(frame);
        }
        if self.into.is_empty() {
            let _ = rustix::io::read(&*self.ready, &mut [0; 8]);
            if !self.into.is_empty() {
                rustix::io::write(&*self.ready, &1_u64.to_ne_bytes()).unwrap();
            }
        }
        burst.len() - before
    }

    fn transmit(&mut self, _: &mut Cache, burst: &mut Burst) -> usize {
        let free = self.out.capacity() - self.out.len();
        let count = free.min(burst.len());
        for frame in burst.drain(..count) {
            self.out.push(frame).unwrap();
        }
        count
    }

    fn counters(&mut self) -> PortCounters {
        PortCounters { rx_missed: 5, ..PortCounters::default() }
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ready.as_fd())
    }

    fn close(&mut self, cache: &mut Cache) -> io::Result<()> {
        while let Some(frame) = self.into.pop() {
            cache.give(frame);
        }
        while let Some(frame) = self.out.pop() {
            cache.give(frame);
        }
        Ok(())
    }
}

/// The parts of a gateway, and the far ends of its wires by worker and port.
pub(super) struct Parts {
    pub(super) setup: Setup,
    pub(super) cables: Vec<Vec<Cable>>,
    /// The test's own supply of buffers.
    pub(super) cache: Cache,
}

pub(super) fn parts(workers: u16, ports: u16, slots: usize, depth: usize, ring: usize) -> Parts {
    let pool = Pool::new(slots, 2048).unwrap();
    let cables: Vec<Vec<Cable>> =
        (0..workers).map(|_| (0..ports).map(|port| Cable::new(PortIndex(port), depth)).collect()).collect();
    let setup = Setup {
        ports: (0..ports)
            .map(|index| Port {
                index: PortIndex(index),
                info: PortInfo {
                    device: format!("wire{index}"),
                    mode: "test".into(),
                    mac: [2, 0, 0, 0, 0, index as u8],
                    mtu: 1500,
                },
                queues: cables
                    .iter()
                    .map(|of_worker| Box::new(of_worker[usize::from(index)].clone()) as Box<dyn Queue>)
                    .collect(),
                rss: None,
                monitor: None,
                guard: None,
            })
            .collect(),
        pool: Arc::clone(&pool),
        workers,
        sessions: 1024,
        neighbours: 64,
        snat_eips: 4,
        ring,
        events: 0,
        seed: Some(1),
        snapshot: Arc::new(Snapshot::default()),
    };
    Parts { setup, cables, cache: pool.cache() }
}
