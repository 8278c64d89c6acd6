//! What the engine says of a batch: one verdict a packet, and frames of its own.

use arrayvec::ArrayVec;

use crate::base::{DropReason, InterfaceIndex, PortIndex, WorkerIndex};
use crate::wire::Arrival;

/// The most packets in one batch.
pub const BATCH: usize = 256;

/// The one end of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it: it now lies at `head` with length `len` in its buffer.
    Send {
        /// The port to leave by.
        port: PortIndex,
        /// Where the frame now starts in its buffer.
        head: u16,
        /// Its length in bytes.
        len: u16,
    },
    /// Hand it to the worker that owns its session.
    Hand {
        /// That worker.
        to: WorkerIndex,
        /// How it is to be presented there.
        arrival: Arrival,
    },
    /// The gateway itself was meant, and has taken note.
    Consumed,
    /// A copy of it waits for the next hop's address, or for the first fragment of its datagram; it will be emitted or
    /// dropped later.
    Held,
    /// Dropped.
    Drop(DropReason),
}

/// A frame that the engine puts out besides those of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emission {
    /// The port to leave by, or of one that is handed over, the port that it came in on.
    pub port: PortIndex,
    start: u32,
    len: u16,
    /// What becomes of it.
    pub exit: Exit,
}

/// What becomes of an emitted frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It is of the gateway's own making, and sent.
    Own,
    /// It is a packet that was held, and is sent on now.
    Forwarded,
    /// It is a packet that was held, and is handed over now.
    Handed {
        /// The worker that owns its session.
        to: WorkerIndex,
        /// How it is to be presented there.
        arrival: Arrival,
    },
}

/// The address of a neighbour, learned by one worker and told to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourFact {
    /// The interface that it was heard on.
    pub interface: InterfaceIndex,
    /// Its IPv4 address.
    pub address: u32,
    /// Its Ethernet address.
    pub mac: [u8; 6],
}

/// Bytes of frames that one batch may emit.
const ARENA: usize = 256 * 1024;
/// Frames that one batch may emit.
const EMISSIONS: usize = 512;
/// Neighbour facts that one batch may tell.
const FACTS: usize = 64;

/// What the engine says of a batch. Its memory is taken once and used again for each batch.
#[derive(Debug)]
pub struct Output {
    /// One verdict a packet, in order.
    pub verdicts: ArrayVec<Verdict, BATCH>,
    /// Neighbours learned, for the other workers.
    pub facts: ArrayVec<NeighbourFact, FACTS>,
    emissions: Vec<Emission>,
    arena: Vec<u8>,
}

impl Default for Output {
    fn default() -> Self {
        Self {
            verdicts: ArrayVec::new(),
            facts: ArrayVec::new(),
            emissions: Vec::with_capacity(EMISSIONS),
            arena: Vec::with_capacity(ARENA),
        }
    }
}

impl Output {
    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.verdicts.clear();
        self.facts.clear();
        self.emissions.clear();
        self.arena.clear();
    }

    /// The frames to send besides those of the batch, in order.
    pub fn emissions(&self) -> impl Iterator<Item = (Emission, &[u8])> {
        self.emissions.iter().map(|e| {
            let start = e.start as usize;
            (*e, self.arena.get(start..start + usize::from(e.len)).unwrap_or_default())
        })
    }

    /// Room for a frame of `len` zeroed bytes to be emitted, or `None` when this batch has emitted all that it may.
    pub(crate) fn emit(&mut self, port: PortIndex, len: usize, exit: Exit) -> Option<&mut [u8]> {
        let start = self.arena.len();
        if self.emissions.len() >= EMISSIONS || start + len > ARENA || len > usize::from(u16::MAX) {
            return None;
        }
        self.arena.resize(start + len, 0);
        self.emissions.push(Emission { port, start: start as u32, len: len as u16, exit });
        self.arena.get_mut(start..)
    }

    pub(crate) fn tell(&mut self, fact: NeighbourFact) {
        // A fact that finds no room is learned by the other workers from their own ARP.
        let _ = self.facts.try_push(fact);
    }
}
