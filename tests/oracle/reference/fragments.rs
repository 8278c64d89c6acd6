//! Fragments (RFC 4787 REQ-14): one without ports goes where the first one of its datagram went, and waits for it if that has
//! not come yet. One that overlaps another goes nowhere (RFC 1858 §4). What the fragments of one datagram share is their sender,
//! receiver, protocol and identification (RFC 791 §3.2), on the side that they are met on.

use std::net::Ipv4Addr;
use std::time::Duration;

use natgate::base::{DropReason as R, Moment, Tick};

use super::Reference;
use super::judge::Expected;
use super::rewrite::{End, hop, quote};
use crate::support::packet::{Body, ICMP, Packet, Quote, TCP, Tcp, UDP};
use crate::support::{Flags, Observed, Ports, Side};

/// How long a first fragment is remembered.
const MEMORY: Duration = Duration::from_secs(30);
/// How long a later one waits for it, and a first one of the same identification is taken for a duplicate.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the fragments of a datagram share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    realm: Side,
    src: Ipv4Addr,
    dst: Ipv4Addr,
    protocol: u8,
    id: u16,
}

impl Key {
    fn of(realm: Side, packet: &Packet) -> Self {
        let (src, dst) = (packet.ip.src, packet.ip.dst);
        Self { realm, src, dst, protocol: packet.protocol(), id: packet.ip.id }
    }
}

/// The bytes of a datagram that a fragment brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    start: usize,
    end: usize,
    is_last: bool,
}

impl Part {
    /// Of a fragment as it came.
    pub fn of(fragment: &Packet) -> Self {
        let Body::Other { payload, .. } = &fragment.body else { panic!("no fragment: {fragment:?}") };
        let (offset, more) = fragment.ip.fragment.expect("a fragment");
        let start = usize::from(offset);
        Self { start, end: start + payload.len(), is_last: !more }
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// What a fragment is to the datagrams whose first fragments are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It begins one, or waits for the fragment that does.
    Unknown,
    /// It belongs to one, perhaps as a duplicate.
    Belongs,
    /// It is of one that has no room for it.
    Unfit,
}

/// A first fragment that went on.
#[derive(Clone, Debug)]
struct First {
    key: Key,
    ports: (u16, u16),
    /// The identification that its datagram was given, if it was given one.
    id: Option<u16>,
    came: Moment,
    /// What has come of its datagram.
    parts: Vec<Part>,
}

impl First {
    fn new(realm: Side, begun: &Packet, part: Part, id: Option<u16>, came: Moment) -> Self {
        let ports = (begun.source().1, begun.destination().1);
        Self { key: Key::of(realm, begun), ports, id, came, parts: vec![part] }
    }

    fn end(&self) -> Option<usize> {
        self.parts.iter().find(|part| part.is_last).map(|last| last.end)
    }

    /// Whether it misses this part.
    fn lacks(&self, part: Part) -> bool {
        let reach = self.parts.iter().map(|part| part.end).max().unwrap_or_default();
        let fits = match self.end() {
            Some(end) => !part.is_last && part.end <= end,
            None => !part.is_last || part.end >= reach,
        };
        fits && part.start < part.end && !self.parts.iter().any(|other| other.overlaps(&part))
    }

    /// Whether more of it is to come: it began just now, and is not complete.
    fn is_open(&self, now: Moment) -> bool {
        let bytes: usize = self.parts.iter().map(|part| part.end - part.start).sum();
        self.end() != Some(bytes) && now < self.came + PATIENCE
    }
}

/// A later fragment that waits for the first one.
#[derive(Clone, Debug)]
pub struct Waiting {
    key: Key,
    from: Side,
    pub packet: Packet,
    came: Moment,
}

/// What is known of fragmented datagrams.
#[derive(Clone, Debug, Default)]
pub struct Fragments {
    firsts: Vec<First>,
    /// Those that did not go on, where there are several workers: the one where the fragments of a datagram meet may have handed
    /// it to another, and does not know what became of it there.
    doubtful: Vec<First>,
    waiting: Vec<Waiting>,
}

/// Whether a packet is a fragment.
pub fn is_fragment(packet: &Packet) -> bool {
    packet.ip.fragment.is_some()
}

/// Whether a packet is a fragment but the first, which has no transport header.
pub fn is_later(packet: &Packet) -> bool {
    packet.ip.fragment.is_some_and(|(offset, _)| offset > 0)
}

/// Whether it is the first of several.
pub fn is_first(packet: &Packet) -> bool {
    packet.ip.fragment.is_some_and(|(offset, _)| offset == 0)
}

/// Why a fragment is no good whatever it wants: the header of TCP is not to be split (RFC 1858 §3, RFC 3128).
pub fn malformed(packet: &Packet) -> Option<R> {
    let Body::Other { protocol: TCP, payload } = &packet.body else { return None };
    match packet.ip.fragment? {
        (0, _) if payload.len() < 20 => Some(R::TransportTruncated),
        (1..20, _) => Some(R::FragmentTiny),
        _ => None,
    }
}

/// A fragment as the datagram that it is of, as far as that is known: with these ports, and with the flags of the first one.
fn seen(fragment: &Packet, (source, destination): (u16, u16), reply: bool) -> Packet {
    let Body::Other { protocol, payload } = &fragment.body else { return fragment.clone() };
    let body = match *protocol {
        UDP => Body::Udp { src: source, dst: destination, checksum: true, payload: vec![] },
        TCP => {
            let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().expect("four bytes"));
            let (seq, ack, flags) =
                if is_later(fragment) { (0, 0, 0) } else { (number(4), number(8), payload[13]) };
            Body::Tcp(Tcp {
                src: source,
                dst: destination,
                seq,
                ack,
                flags: Flags(flags),
                window: 0,
                urgent: 0,
                options: vec![],
                payload: vec![],
            })
        }
        ICMP => {
            let id = if reply { destination } else { source };
            Body::Echo { reply, id, seq: 0, payload: vec![] }
        }
        _ => fragment.body.clone(),
    };
    Packet { ip: fragment.ip.clone(), body }
}

/// A first fragment as the datagram that it begins.
fn begun(fragment: &Packet) -> Packet {
    let about = as_quote(fragment);
    seen(fragment, (about.source().1, about.destination().1), about.transport.first() == Some(&0))
}

/// A fragment with the ports that it has itself: a first one as what it begins, a later one as it is.
pub fn with_ports(fragment: &Packet) -> Packet {
    if is_first(fragment) { begun(fragment) } else { fragment.clone() }
}

fn as_quote(fragment: &Packet) -> Quote {
    let Body::Other { protocol, payload } = &fragment.body else { panic!("no fragment: {fragment:?}") };
    Quote { ip: fragment.ip.clone(), protocol: *protocol, total_len: 0, transport: payload.clone() }
}

/// What is left of a translated datagram in one of its fragments: addresses and TTL, and in the first one ports and checksum,
/// which is of the whole datagram and so follows the change (RFC 1624).
pub fn part_of(translated: Packet, fragment: &Packet) -> Packet {
    let mut part = as_quote(fragment);
    if is_first(fragment) {
        let before = begun(fragment);
        if translated.source() != before.source() {
            part = quote(part, End::Source, translated.source());
        }
        if translated.destination() != before.destination() {
            part = quote(part, End::Destination, translated.destination());
        }
    }
    let body = Body::Other { protocol: part.protocol, payload: part.transport };
    Packet { ip: translated.ip, body }
}

impl Fragments {
    /// A moment later than `now` if it is not certain at `now` what is known: time is kept in ticks.
    pub fn certain_from(&self, now: Moment) -> Option<Moment> {
        let tick = Duration::from_nanos(Tick::NANOS);
        let firsts = self.firsts.iter().chain(&self.doubtful);
        let ends = firsts.flat_map(|first| [first.came + PATIENCE, first.came + MEMORY]);
        let mut ends = ends.chain(self.waiting.iter().map(|waiting| waiting.came + PATIENCE));
        ends.find(|end| now + tick >= *end && now <= *end + tick + tick).map(|end| end + tick + tick + tick)
    }

    /// Time passes: how many wait no longer.
    pub fn advance(&mut self, now: Moment) -> usize {
        let before = self.waiting.len();
        self.firsts.retain(|first| now < first.came + MEMORY);
        self.doubtful.retain(|first| now < first.came + MEMORY);
        self.waiting.retain(|waiting| now < waiting.came + PATIENCE);
        before - self.waiting.len()
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether others of a fragment's datagram wait, perhaps on the other side because they have turned round.
    pub fn is_waited_for(&self, realm: Side, fragment: &Packet) -> bool {
        let Key { dst, protocol, id, .. } = Key::of(realm, fragment);
        let is_of_it = |waiting: &Waiting| {
            let key = &waiting.key;
            waiting.from == realm && (key.dst, key.protocol, key.id) == (dst, protocol, id)
        };
        self.waiting.iter().any(is_of_it)
    }

    fn first(&self, key: Key) -> Option<&First> {
        self.firsts.iter().find(|first| first.key == key)
    }

    /// A fragment with what is known of its datagram; nothing if its first one is still to come.
    pub fn know(&self, realm: Side, fragment: &Packet) -> Option<Packet> {
        if is_first(fragment) {
            return Some(begun(fragment));
        }
        let first = self.first(Key::of(realm, fragment))?;
        // An echo has its identifier at the end that asks.
        Some(seen(fragment, first.ports, first.ports.0 == 0))
    }

    /// What a fragment is to the datagrams that are known; a first one [with its ports](with_ports).
    pub fn place(&self, realm: Side, packet: &Packet, part: Part, now: Moment) -> Place {
        let Some(first) = self.first(Key::of(realm, packet)) else { return Place::Unknown };
        let is_new = first.lacks(part);
        let is_again = first.parts.contains(&part);
        let ports = || (packet.source().1, packet.destination().1);
        // Another first one is a duplicate if it comes soon, and else of another datagram.
        let belongs = if is_later(packet) {
            is_new || is_again
        } else {
            is_again && first.is_open(now) && first.ports == ports()
        };
        match belongs {
            true => Place::Belongs,
            false if first.is_open(now) => Place::Unfit,
            false => Place::Unknown,
        }
    }

    /// A fragment that belongs to a datagram has come.
    pub fn add(&mut self, realm: Side, packet: &Packet, part: Part) {
        let key = Key::of(realm, packet);
        let first = self.firsts.iter_mut().find(|first| first.key == key);
        if let Some(first) = first.filter(|first| first.lacks(part)) {
            first.parts.push(part);
        }
    }

    /// The identification with which a fragment of a private host leaves where its datagram gets one of its own.
    pub fn given_id(&self, realm: Side, packet: &Packet, part: Part, now: Moment) -> Option<u16> {
        let belongs = self.place(realm, packet, part, now) == Place::Belongs;
        self.first(Key::of(realm, packet)).filter(|_| belongs)?.id
    }

    /// A first fragment went on: unless it is a duplicate, what waited for it may follow.
    pub fn remember(
        &mut self,
        realm: Side,
        begun: &Packet,
        part: Part,
        id: Option<u16>,
        now: Moment,
    ) -> Vec<Waiting> {
        if self.place(realm, begun, part, now) == Place::Belongs {
            return vec![];
        }
        let key = Key::of(realm, begun);
        self.firsts.retain(|first| first.key != key);
        self.doubtful.retain(|first| first.key != key);
        self.firsts.push(First::new(realm, begun, part, id, now));
        let (released, waiting) = self.waiting.drain(..).partition(|waiting| waiting.key == key);
        self.waiting = waiting;
        released
    }

    /// A first fragment went no further, as far as the reference knows.
    pub fn doubt(&mut self, realm: Side, raw: &Packet, now: Moment) {
        self.doubtful.push(First::new(realm, &begun(raw), Part::of(raw), None, now));
    }

    /// Whether fragments that went to these destinations are known is not certain any more.
    pub fn doubt_those_to(&mut self, destinations: impl Fn(Ipv4Addr) -> bool) {
        let is_its = |first: &mut First| first.key.realm == Side::Outside && destinations(first.key.dst);
        self.doubtful.extend(self.firsts.extract_if(.., is_its));
    }

    /// Whether a first one of a fragment's datagram went no further.
    pub fn is_doubtful(&self, realm: Side, fragment: &Packet) -> bool {
        let key = Key::of(realm, fragment);
        self.doubtful.iter().any(|first| first.key == key)
    }

    fn wait(&mut self, realm: Side, from: Side, fragment: &Packet, now: Moment) -> Expected {
        let key = Key::of(realm, fragment);
        self.waiting.push(Waiting { key, from, packet: fragment.clone(), came: now });
        Expected::Waits
    }
}

impl Reference {
    /// A later fragment whose first one has not come: where the addresses alone tell the way it goes; else it waits, if
    /// there is anything that its first one might belong to.
    pub(super) fn without_first(&mut self, side: Side, fragment: &Packet) -> Expected {
        match side {
            Side::Outside => self.later_to_eip(Side::Outside, &hop(fragment), fragment),
            Side::Vpc(vpc) => self.later_from_inside(vpc, fragment),
        }
    }

    fn later_from_inside(&mut self, vpc: usize, fragment: &Packet) -> Expected {
        let host = fragment.ip.src;
        let side = Side::Vpc(vpc);
        if self.config.vpcs[vpc].cidr.contains(fragment.ip.dst.into()) {
            return Expected::Forward { side, packet: hop(fragment), free_id: false };
        }
        let of_host = || self.config.dnat.iter().filter(|d| (d.vpc, d.host) == (vpc, host));
        if self.is_exempt(vpc, host, fragment.ip.dst) && of_host().count() == 0 {
            return Expected::Forward { side: Side::Outside, packet: hop(fragment), free_id: false };
        }
        let any_port = self.any_port_of_host(vpc, host).map(|entry| entry.eip);
        if let Some(eip) = any_port.filter(|_| of_host().all(|d| d.ports == Ports::Any)) {
            let mut packet = hop(fragment);
            packet.ip.src = eip;
            return if self.config.is_eip(packet.ip.dst) && packet.ip.ttl > 0 {
                let whole = packet.clone();
                self.later_to_eip(side, &whole, &packet)
            } else {
                Expected::Forward { side: Side::Outside, packet, free_id: false }
            };
        }
        if of_host().count() > 0 || self.snat_entry(vpc, host).is_some() {
            return self.fragments.wait(side, side, fragment, self.now);
        }
        Expected::Drop(vec![R::FragmentNoFirst])
    }

    /// The same at an EIP. `packet` has its hop behind it; what waits is `fragment`.
    fn later_to_eip(&mut self, from: Side, packet: &Packet, fragment: &Packet) -> Expected {
        let (src, dst) = (packet.ip.src, packet.ip.dst);
        if !self.config.is_eip(dst) {
            return self.exempt_inward(src, dst, packet);
        }
        let mut place = Place::Unknown;
        if from != Side::Outside {
            let part = Part::of(fragment);
            place = self.fragments.place(Side::Outside, packet, part, self.now);
            if place == Place::Belongs {
                self.fragments.add(Side::Outside, packet, part);
                let known = self.fragments.know(Side::Outside, packet).expect("its first one is known");
                return self.eip(from, &known, true).with_id(false);
            }
        }
        if let Some(entry) = self.config.dnat.iter().find(|d| d.eip == dst && d.ports == Ports::Any) {
            let mut packet = packet.clone();
            packet.ip.dst = entry.host;
            return Expected::Forward { side: Side::Vpc(entry.vpc), packet, free_id: false };
        }
        if place == Place::Unfit {
            return Expected::Drop(vec![R::FragmentOverlap]);
        }
        let of_dnat = self.config.dnat.iter().any(|d| d.eip == dst);
        if of_dnat || self.config.snat.iter().any(|s| s.pool.contains(&dst)) {
            return self.fragments.wait(Side::Outside, from, fragment, self.now);
        }
        Expected::Drop(vec![R::FragmentNoFirst])
    }

    /// The way back of what is exempt from translation (RFC 6888 REQ-6); `packet` has its hop behind it.
    pub(super) fn exempt_inward(&self, src: Ipv4Addr, dst: Ipv4Addr, packet: &Packet) -> Expected {
        let exempt = (0..self.config.vpcs.len()).find(|vpc| {
            let entry =
                self.snat_entry(*vpc, dst).filter(|_| self.config.vpcs[*vpc].cidr.contains(dst.into()));
            entry.is_some_and(|entry| entry.untranslated.iter().any(|prefix| prefix.contains(src.into())))
        });
        match exempt {
            Some(vpc) => Expected::Forward { side: Side::Vpc(vpc), packet: packet.clone(), free_id: false },
            None => Expected::Drop(vec![R::NotOurs, R::EipUnassigned, R::FragmentNoFirst]),
        }
    }

    /// Whether the addresses of a fragment tell the way it goes, so that its ports do not matter.
    pub(super) fn addresses_tell(&self, side: Side, fragment: &Packet) -> bool {
        let (src, dst) = (fragment.ip.src, fragment.ip.dst);
        match side {
            Side::Outside if self.config.is_eip(dst) => {
                self.config.dnat.iter().any(|d| (d.eip, d.ports) == (dst, Ports::Any))
            }
            Side::Outside => matches!(self.exempt_inward(src, dst, fragment), Expected::Forward { .. }),
            Side::Vpc(vpc) => {
                let mut of_host = self.config.dnat.iter().filter(|d| (d.vpc, d.host) == (vpc, src));
                let is_exempt = self.is_exempt(vpc, src, dst) && of_host.clone().count() == 0;
                let is_its_own = of_host.clone().count() > 0 && of_host.all(|d| d.ports == Ports::Any);
                self.config.vpcs[vpc].cidr.contains(dst.into()) || is_exempt || is_its_own
            }
        }
    }

    /// A fragment of a private host turns round to an EIP, with its source translated and its hop behind it: it is met again as
    /// one from the outside, by the identification that its datagram got. `raw` is the fragment as it came.
    pub(super) fn turn_in_parts(
        &mut self,
        vpc: usize,
        (packet, free_id): (&Packet, bool),
        raw: &Packet,
        observed: &Observed,
    ) -> Expected {
        let (side, part) = (Side::Vpc(vpc), Part::of(raw));
        let seen = with_ports(raw);
        let given = self.fragments.given_id(side, &seen, part, self.now);
        let mut turned = packet.clone();
        turned.ip.id = given.filter(|_| free_id).unwrap_or(packet.ip.id);
        if is_later(raw) {
            let turned = part_of(turned, raw);
            return self.later_to_eip(side, &turned, &turned).with_id(free_id);
        }
        // A datagram that gets an identification of its own is a new one on the other side, too.
        let is_new = free_id && given.is_none();
        if !is_new {
            let place = self.fragments.place(Side::Outside, &turned, part, self.now);
            if place == Place::Unfit && !self.addresses_tell(Side::Outside, &turned) {
                return Expected::Drop(vec![R::FragmentOverlap]);
            }
        }
        let expected = self.eip(side, packet, true).with_id(free_id);
        if matches!(expected, Expected::Forward { .. }) {
            if let Some(id) = observed_id(observed).filter(|_| is_new) {
                turned.ip.id = id;
            }
            let released = self.fragments.remember(Side::Outside, &turned, part, None, self.now);
            self.released.extend(released);
        }
        expected
    }

    /// A first fragment goes on: it is remembered, with the identification that was observed if it was given one, and what
    /// waited for it follows.
    pub(super) fn goes_on(&mut self, realm: Side, raw: &Packet, free_id: bool, observed: &Observed) {
        let (begun, part) = (begun(raw), Part::of(raw));
        let id = observed_id(observed).filter(|_| free_id);
        let released = self.fragments.remember(realm, &begun, part, id, self.now);
        self.released.extend(released);
    }

    /// What becomes of those that waited for the fragment that came just now.
    pub(super) fn follow_first(&mut self, observed: &Observed) -> Result<Vec<(Expected, Packet)>, String> {
        let released = std::mem::take(&mut self.released);
        let follow = |Waiting { key, from, packet, .. }| {
            let part = Part::of(&packet);
            let expected = match self.fragments.place(key.realm, &packet, part, self.now) {
                Place::Unfit => Expected::Drop(vec![R::FragmentOverlap]),
                Place::Unknown => Expected::Drop(vec![R::FragmentNoFirst]),
                Place::Belongs if key.realm == from => self.receive(from, &packet, observed, &[])?,
                Place::Belongs => {
                    self.fragments.add(key.realm, &packet, part);
                    let known = self.fragments.know(key.realm, &packet).expect("just remembered");
                    let expected = self.eip(from, &known, true).with_id(false);
                    self.in_parts(expected, from, &packet)
                }
            };
            Ok((expected, packet))
        };
        released.into_iter().map(follow).collect()
    }
}

/// The identification with which a first fragment was seen to leave.
fn observed_id(observed: &Observed) -> Option<u16> {
    let seen = observed.left.iter().find(|left| left.forwarded && is_first(&left.packet));
    seen.map(|left| left.packet.ip.id)
}
