//! The list of sessions.

use natgate::policy::{Prefix, Timeouts};

use super::fragments::is_later;
use super::session::{Direction, Endpoint, Flow, Kind, Session, TcpState};
use super::{Reference, tcp_of};
use crate::support::packet::{self, Body, Packet};
use crate::support::{Flags, Snat};

impl Reference {
    pub(super) fn session(&self, flow: &Flow) -> Option<&Session> {
        self.sessions.iter().find(|s| s.flow == *flow)
    }

    /// Begins a session of a SNAT entry.
    pub(super) fn begin(&mut self, flow: Flow, external: Endpoint, kind: Kind, entry: &Snat) {
        self.push(flow, external, (kind, Some(entry.source)), entry.timeouts, TcpState::default());
    }

    pub(super) fn push(
        &mut self,
        flow: Flow,
        external: Endpoint,
        (kind, entry): (Kind, Option<Prefix>),
        timeouts: Timeouts,
        tcp: TcpState,
    ) {
        let last = self.now;
        self.sessions.push(Session { flow, external, kind, entry, timeouts, last, tcp, half_open: None });
    }

    /// Notes a packet of a session.
    pub(super) fn touch(&mut self, flow: &Flow, tcp: Option<&packet::Tcp>, direction: Direction) {
        self.touches += 1;
        let (now, count) = (self.now, self.touches);
        if let Some(session) = self.sessions.iter_mut().find(|s| s.flow == *flow) {
            session.touch(now, count, tcp, direction);
        }
    }

    /// Notes a packet of a DNAT entry. Its session begins with any packet but an answer, a reset or a later fragment.
    pub(super) fn note_static(
        &mut self,
        flow: Flow,
        external: Endpoint,
        packet: &Packet,
        direction: Direction,
    ) {
        let tcp = tcp_of(packet);
        let begins = match &packet.body {
            _ if is_later(packet) => false,
            Body::Tcp(tcp) => !tcp.flags.has(Flags::RST),
            Body::Echo { reply, .. } => !reply,
            _ => true,
        };
        if self.session(&flow).is_none() && begins {
            let timeouts = self.dnat_timeouts(flow.protocol, external);
            self.push(flow, external, (Kind::Static, None), timeouts, TcpState::PARTIAL);
        }
        self.touch(&flow, tcp, direction);
    }
}
