//! What `explain` says of a packet, held against what then became of it.

use std::net::Ipv4Addr;

use natgate::base::InterfaceIndex;
use natgate::nat::{Explanation, Fate, Question, Step};
use natgate::wire::{Arrival, Datagram, Transport};

use super::config::{Config, Side};
use super::net::{Observed, TestNet};
use super::packet::Packet;

/// What `explain` says of a packet, before it is sent.
#[derive(Clone, Copy, Debug)]
pub struct Foretold {
    pub explanation: Explanation,
    /// Source and destination as the packet would leave; a source port of zero is one that is chosen then.
    pub source: (u32, u16),
    pub destination: (u32, u16),
}

impl TestNet {
    /// Asks the first worker what would become of a packet; `None` of what `explain` does not speak of: packets that are not read at
    /// all, and ICMP errors.
    pub fn explain(&self, side: Side, packet: &Packet) -> Option<Foretold> {
        let bytes = self.frame_of(side, packet);
        let l3 = bytes.len() - packet.encode().len();
        let mut datagram = Datagram::default();
        datagram.parse_into(&bytes, l3).ok()?;
        if !datagram.makes_flows() && datagram.transport != Transport::LaterFragment {
            return None;
        }
        let at = self.config().links().position(|(of, _)| of == side)?;
        let question = Question {
            datagram,
            has_length: true,
            realm: side.realm(),
            interface: InterfaceIndex(at as u16),
            arrival: Arrival::Wire,
        };
        let explanation = self.engines[0].explain(&question, self.snapshot(), self.now);
        let mut source = (datagram.source, datagram.source_port);
        let mut destination = (datagram.destination, datagram.destination_port);
        let mut is_outward = side != Side::Outside;
        for step in explanation.steps.iter().flatten() {
            let (inside, external) = match step {
                Step::Session(row) => (row.inside, row.external),
                Step::Static(flow) | Step::Admitted(flow) | Step::NewSession(flow) => {
                    (flow.inside, flow.external)
                }
                Step::Routed(_) => break,
            };
            // The identifier of an echo stands at one end only.
            match is_outward {
                true if datagram.transport == Transport::EchoReply => source.0 = external.0,
                true => source = external,
                false if datagram.transport == Transport::EchoRequest => destination.0 = inside.0,
                false => destination = inside,
            }
            is_outward = false;
        }
        Some(Foretold { explanation, source, destination })
    }
}

impl Foretold {
    /// Whether that is what happened then.
    pub fn came_true(&self, config: &Config, observed: &Observed) -> Result<(), String> {
        // Where a port is chosen only then, whether it turns round to that very port cannot be told before.
        if self.explanation.hairpin
            && matches!(self.explanation.steps[0], Some(Step::NewSession(flow)) if flow.external.1 == 0)
        {
            return Ok(());
        }
        // What gives way to the first half may be what the second would have met.
        if self.explanation.hairpin && self.explanation.gives_way {
            return Ok(());
        }
        let wrong = |what: &str| Err(format!("explain: {what}: {self:?}, and then {observed:?}"));
        match self.explanation.fate {
            Some(Fate::Drop(reason)) if observed.drops == [reason] => Ok(()),
            Some(Fate::Drop(_)) => wrong("not dropped for this reason"),
            Some(Fate::Waits) if observed.left.is_empty() && observed.drops.is_empty() => Ok(()),
            Some(Fate::Waits) => wrong("not held"),
            Some(Fate::AnsweredByGateway) => match &observed.left[..] {
                [left] if observed.drops.is_empty() && (!left.forwarded || self.explanation.hairpin) => {
                    Ok(())
                }
                _ => wrong("not answered"),
            },
            Some(Fate::Sent { interface, .. }) => {
                let [left] = &observed.left[..] else { return wrong("not sent") };
                let to = config.links().nth(interface.index()).map(|(side, _)| side);
                let same = |is: (Ipv4Addr, u16), should: (u32, u16)| {
                    u32::from(is.0) == should.0 && (should.1 == 0 || is.1 == 0 || is.1 == should.1)
                };
                if !left.forwarded || Some(left.side) != to || !observed.drops.is_empty() {
                    return wrong("sent elsewhere");
                }
                if !same(left.packet.source(), self.source)
                    || !same(left.packet.destination(), self.destination)
                {
                    return wrong("translated otherwise");
                }
                Ok(())
            }
            Some(Fate::Handed(_)) | None => wrong("no end"),
        }
    }
}
