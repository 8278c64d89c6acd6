//! What was expected against what was observed.

use std::net::Ipv4Addr;

use std::time::Duration;

use natgate::base::{DropReason, Moment, Tick};
use natgate::nat::query::SessionRow;

use super::session::{Endpoint, Flow, Session};

use crate::support::packet::{Body, Packet, TIME_EXCEEDED, UNREACHABLE};
use crate::support::{Observed, Side};

/// What becomes of a packet.
#[derive(Clone, Debug)]
pub enum Expected {
    /// It goes on, like this. The IP identifier is free if the gateway may have had to choose one (RFC 7857 §10).
    Forward { side: Side, packet: Packet, free_id: bool },
    /// The gateway answers an echo request.
    EchoReply { side: Side },
    /// The sender is told that the TTL ran out.
    TimeExceeded { side: Side, from: Ipv4Addr },
    /// It waits for the first fragment of its datagram.
    Waits,
    /// It goes nowhere, for one of these reasons.
    Drop(Vec<DropReason>),
    /// The gateway takes note of it or drops it for one of these reasons; it sends nothing.
    Silence(Vec<DropReason>),
    /// Dropped for one of these reasons, or the sender is told that the TTL ran out, whatever is looked at first.
    DropOrTimeExceeded { reasons: Vec<DropReason>, side: Side, from: Ipv4Addr },
}

impl Expected {
    /// The same, with an identifier that is free or not.
    pub fn with_id(self, free_id: bool) -> Self {
        match self {
            Self::Forward { side, packet, .. } => Self::Forward { side, packet, free_id },
            other => other,
        }
    }

    pub fn or_time_exceeded(self, side: Side, from: Ipv4Addr) -> Self {
        match self {
            Self::Drop(reasons) => Self::DropOrTimeExceeded { reasons, side, from },
            other => other,
        }
    }
}

/// Compares; an error says what was expected.
pub fn compare(expected: &Expected, sent: &Packet, observed: &Observed) -> Result<(), String> {
    let fits = match expected {
        Expected::Forward { side, packet, free_id } => {
            matches!(&observed.left[..], [left] if left.forwarded && left.side == *side
                && same(&left.packet, packet, *free_id))
                && observed.drops.is_empty()
        }
        Expected::EchoReply { side } => {
            let Body::Echo { id, seq, payload, .. } = &sent.body else {
                return Err("only an echo request is answered".into());
            };
            let body = Body::Echo { reply: true, id: *id, seq: *seq, payload: payload.clone() };
            matches!(&observed.left[..], [left] if left.side == *side
                && (left.packet.ip.src, left.packet.ip.dst) == (sent.ip.dst, sent.ip.src)
                && left.packet.body == body)
                && observed.drops.is_empty()
        }
        Expected::TimeExceeded { side, from } => time_exceeded(*side, *from, sent, observed),
        Expected::Waits => observed.left.is_empty() && observed.drops.is_empty(),
        Expected::Drop(reasons) => dropped(reasons, sent, observed),
        Expected::Silence(reasons) => {
            observed.left.is_empty() && observed.drops.iter().all(|reason| reasons.contains(reason))
        }
        Expected::DropOrTimeExceeded { reasons, side, from } => {
            dropped(reasons, sent, observed) || time_exceeded(*side, *from, sent, observed)
        }
    };
    if fits { Ok(()) } else { Err(format!("expected {expected:?}\nobserved {observed:?}")) }
}

/// Takes out of what was observed what was expected of a fragment that another one released.
pub fn take(expected: &Expected, sent: &Packet, observed: &mut Observed) -> Result<(), String> {
    let wrong = |observed: &Observed| {
        format!("expected of {sent:?}, which has waited: {expected:?}\nobserved {observed:?}")
    };
    let taken = match expected {
        Expected::Forward { side, packet, free_id } => {
            let is_it = |left: &crate::support::Left| {
                left.forwarded && left.side == *side && same(&left.packet, packet, *free_id)
            };
            let place = observed.left.iter().position(is_it);
            // A next hop whose address is still asked for need not keep more than one (RFC 1122 §2.3.2.2).
            let has_no_room = |reason: &DropReason| *reason == DropReason::NeighbourQueueFull;
            match (place, observed.drops.iter().position(has_no_room)) {
                (Some(at), _) => drop(observed.left.remove(at)),
                (None, Some(at)) => drop(observed.drops.drain(at..=at)),
                (None, None) => return Err(wrong(observed)),
            }
            true
        }
        Expected::Drop(reasons) => {
            let is_it = |reason: &DropReason| reasons.contains(reason);
            observed.drops.iter().position(is_it).map(|at| observed.drops.remove(at)).is_some()
        }
        Expected::Waits => true,
        _ => false,
    };
    if taken { Ok(()) } else { Err(wrong(observed)) }
}

fn same(left: &Packet, expected: &Packet, free_id: bool) -> bool {
    let mut expected = expected.clone();
    if free_id {
        expected.ip.id = left.ip.id;
    }
    *left == expected
}

/// Dropped for one of these reasons; the sender alone may be told (RFC 5508 REQ-8, RFC 6888 REQ-11).
fn dropped(reasons: &[DropReason], sent: &Packet, observed: &Observed) -> bool {
    let told = |left: &crate::support::Left| {
        !left.forwarded
            && left.packet.ip.dst == sent.ip.src
            && matches!(&left.packet.body, Body::Error { kind: UNREACHABLE, quote, .. } if quotes(quote, sent))
    };
    observed.left.iter().all(told) && matches!(&observed.drops[..], [reason] if reasons.contains(reason))
}

fn time_exceeded(side: Side, from: Ipv4Addr, sent: &Packet, observed: &Observed) -> bool {
    matches!(&observed.left[..], [left] if !left.forwarded
        && left.side == side
        && (left.packet.ip.src, left.packet.ip.dst) == (from, sent.ip.src)
        && matches!(&left.packet.body, Body::Error { kind: TIME_EXCEEDED, code: 0, quote, .. } if quotes(quote, sent)))
        && observed.drops == [DropReason::TtlExpired]
}

/// Whether a quote is of this packet as it was sent: the whole header and at least eight bytes (RFC 792).
fn quotes(quote: &crate::support::Quote, sent: &Packet) -> bool {
    let whole = crate::support::Quote::of(sent, None);
    quote.ip == whole.ip
        && quote.protocol == whole.protocol
        && quote.total_len == whole.total_len
        && quote.transport.len() >= 8.min(whole.transport.len())
        && whole.transport.starts_with(&quote.transport)
}

/// Whether the engine lists a session.
pub fn is_listed(session: &Session, listed: &[SessionRow]) -> bool {
    listed.iter().any(|row| is_of(session, row))
}

/// Whether the engine lists this session as this row.
pub fn is_of(session: &Session, row: &SessionRow) -> bool {
    (flow_of(row), endpoint(row.external)) == (session.flow, session.external)
}

/// The external endpoint that the engine lists for a flow of a SNAT entry.
pub fn listed_external(flow: &Flow, listed: &[SessionRow]) -> Option<Endpoint> {
    let row = listed.iter().find(|row| row.kind.is_snat() && flow_of(row) == *flow)?;
    Some(endpoint(row.external))
}

fn flow_of(row: &SessionRow) -> Flow {
    Flow {
        vpc: row.vpc.index(),
        protocol: row.protocol,
        inside: endpoint(row.inside),
        peer: endpoint(row.peer),
    }
}

fn endpoint((address, port): (u32, u16)) -> Endpoint {
    (address.into(), port)
}

/// The engine lists exactly the sessions that there should be, each once, and each ends when it should.
pub fn compare_sessions(sessions: &[&Session], now: Moment, listed: &[&SessionRow]) -> Result<(), String> {
    for row in listed {
        let flow = flow_of(row);
        let Some(session) = sessions.iter().find(|s| (s.flow, s.external) == (flow, endpoint(row.external)))
        else {
            return Err(format!("a session that should not be there: {row:?}"));
        };
        let left = session.certain().since(now);
        let shown = Duration::from_nanos(u64::from(row.expires) * Tick::NANOS);
        let tick = Duration::from_nanos(Tick::NANOS);
        if shown > left + tick || left > shown + tick {
            return Err(format!("it ends in {shown:?} instead of {left:?}: {row:?} {session:?}"));
        }
    }
    let is_there = |session: &Session| listed.iter().any(|row| is_of(session, row));
    match sessions.iter().find(|session| !is_there(session)) {
        Some(missing) => Err(format!("a session is not listed: {missing:?} among {listed:?}")),
        None if sessions.len() == listed.len() => Ok(()),
        None => Err(format!("listed twice: {listed:?}")),
    }
}
