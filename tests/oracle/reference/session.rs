//! Sessions and how long they live.

use std::net::Ipv4Addr;
use std::time::Duration;

use natgate::base::{Moment, Tick};
use natgate::policy::{Prefix, Timeouts};

use crate::support::Flags;
use crate::support::packet::{ICMP, TCP, Tcp, UDP};

/// An address and a port, or an ICMP query identifier; the port is zero where a protocol has none.
pub type Endpoint = (Ipv4Addr, u16);

/// What tells a session from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    pub vpc: usize,
    pub protocol: u8,
    pub inside: Endpoint,
    /// The other end as the inside host sees it. Of an ICMP query the port is zero.
    pub peer: Endpoint,
}

/// How a session's external endpoint came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// By a DNAT entry.
    Static,
    /// By a SNAT entry, for all peers of the inside endpoint.
    Independent,
    /// By a SNAT entry, for this peer alone.
    Dependent,
}

#[derive(Clone, Debug)]
pub struct Session {
    pub flow: Flow,
    /// Where the inside endpoint appears on the outside.
    pub external: Endpoint,
    pub kind: Kind,
    /// The source of the SNAT entry that made it.
    pub entry: Option<Prefix>,
    pub timeouts: Timeouts,
    pub last: Moment,
    pub tcp: TcpState,
    /// If only one side's SYN was seen: since when, by the count of all packets of sessions.
    pub half_open: Option<u64>,
}

/// What of a TCP connection has been seen, by direction: out of the VPC and into it.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpState {
    syn: [bool; 2],
    fin: [bool; 2],
    reset: bool,
    /// What each side has acknowledged.
    acknowledged: [Option<u32>; 2],
    /// Whether each side's SYN was seen, which tells how far its windows reach.
    announced: [bool; 2],
    /// Whether what is missing may have been seen elsewhere.
    partial: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Out,
    In,
}

impl TcpState {
    /// Of a DNAT entry: another worker, or the time before a restart, may have seen how it began.
    pub const PARTIAL: Self = Self {
        syn: [false; 2],
        fin: [false; 2],
        reset: false,
        acknowledged: [None; 2],
        announced: [false; 2],
        partial: true,
    };

    fn open(self) -> bool {
        self.syn == [true; 2] && !self.closed()
    }

    /// Whether something was seen, but not both sides' SYN.
    fn half_open(self) -> bool {
        let seen = self.syn.into_iter().chain(self.fin).any(|seen| seen) || self.reset;
        seen && self.syn != [true; 2]
    }

    /// Whether it is over.
    pub fn closed(self) -> bool {
        self.reset || self.fin == [true; 2]
    }

    /// RFC 7857 §2.2: a reset makes it transitory, unless it is far outside of the receiver's window (RFC 5961 §3), and traffic
    /// after that shows that the reset was not believed.
    pub fn segment(&mut self, segment: &Tcp, direction: Direction) {
        let (flags, at) = (segment.flags, direction as usize);
        if flags.has(Flags::RST) {
            // Nobody in these conversations scales windows.
            let window = if self.announced[1 - at] { 0xffff } else { 0xffff << 14 };
            let outside = |next: u32| segment.seq.wrapping_sub(next) > window;
            self.reset |= !self.open() || !self.acknowledged[1 - at].is_some_and(outside);
            return;
        }
        if flags.has(Flags::SYN) && !flags.has(Flags::ACK) && self.closed() {
            // The ports are used again (RFC 5382 REQ-2, RFC 6191).
            *self = Self::default();
        }
        self.announced[at] |= flags.has(Flags::SYN) && !self.open();
        if flags.has(Flags::ACK) {
            self.acknowledged[at] = Some(segment.ack).filter(|number| *number != 0);
        }
        self.reset = false;
        // SYN and FIN together open nothing and close nothing.
        if flags.has(Flags::SYN) {
            self.syn[at] = true;
            return;
        }
        // A private host speaks on connections that are open; a peer may send anything.
        if self.partial {
            self.syn[Direction::In as usize] = true;
            self.syn[Direction::Out as usize] |= direction == Direction::Out;
        }
        self.fin[at] |= flags.has(Flags::FIN);
    }
}

impl Session {
    /// The session as one begun by a packet that went no further: of a connection nothing was seen, and it may give way.
    pub fn unopened(mut self) -> Self {
        self.tcp = TcpState { partial: self.tcp.partial, ..TcpState::default() };
        self
    }

    /// How long it may live without traffic.
    pub fn lifetime(&self) -> Duration {
        let Timeouts { tcp_established, tcp_transitory, udp, icmp, other, tcp_reset: _ } = self.timeouts;
        let ticks = match self.flow.protocol {
            // RFC 4787 REQ-5.
            UDP => udp,
            // RFC 5508 REQ-2.
            ICMP => icmp,
            // RFC 5382 REQ-5: 2 hours and 4 minutes while it is open, 4 minutes while it opens and closes.
            TCP if self.tcp.open() => tcp_established,
            TCP => tcp_transitory,
            _ => other,
        };
        Duration::from_nanos(u64::from(ticks) * Tick::NANOS)
    }

    /// Until when it certainly lives: a timeout never ends early, but time is kept in ticks.
    pub fn certain(&self) -> Moment {
        Moment(self.last.0 / Tick::NANOS * Tick::NANOS) + self.lifetime()
    }

    /// When it is gone at the latest: a table is swept once a second.
    pub fn end(&self) -> Moment {
        self.last + self.lifetime() + Duration::from_secs(2)
    }

    pub fn touch(&mut self, now: Moment, count: u64, tcp: Option<&Tcp>, direction: Direction) {
        self.last = now;
        if let Some(tcp) = tcp {
            self.tcp.segment(tcp, direction);
            let since = self.half_open.unwrap_or(count);
            self.half_open = self.tcp.half_open().then_some(since);
        }
    }
}
