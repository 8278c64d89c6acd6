//! The FTP application-level gateway (RFC 959, RFC 2428) for private clients of servers outside: where a client announces its own
//! address for a data connection, the server is told the EIP and a port of it, and may connect to that.
//!
//! [`stream`] rewrites the control connection; here stands which connections are looked into, and what is expected of them. An
//! announced endpoint gets an ordinary endpoint-independent mapping, which the expectation holds until the server of the control
//! connection uses it, until another is announced, until the control connection ends, or for [`PATIENCE`].

mod stream;

use std::io;

use crate::base::hugepage::HugeSlice;
use crate::base::{DropReason, EipIndex, EntryId, Tick};
use crate::nat::engine::{Context, Engine};
use crate::nat::flow::in_force;
use crate::nat::ftp::stream::{Announced, Stream};
use crate::nat::hosts::HostKey;
use crate::nat::key::{EndpointKey, FlowKey};
use crate::nat::lane::Lane;
use crate::nat::tcp;
use crate::policy::{PoolAddress, Realm};
use crate::wire::bytes::{get_u16, get_u32, put, put_u16, put_u32};
use crate::wire::datagram::tcp_flags::{ACK, FIN, RST, SYN};
use crate::wire::ftp::{Announcement, GROWTH};
use crate::wire::icmp::Quoted;
use crate::wire::rewrite::End;
use crate::wire::tcp as tcp_options;
use crate::wire::{Delta, Packet, checksum, protocol};

/// The port of FTP servers.
pub(super) const PORT: u16 = 21;
/// Control connections that a worker looks into.
const CONTROLS: usize = 1024;
/// Ticks for which a data connection is expected: a minute.
const PATIENCE: u32 = 600;
/// Ports below this are no client's.
const UNPRIVILEGED: u16 = 1024;
/// Control connections of which one batch looks whether they expect something for too long.
const SWEEP: usize = 4;
/// Bytes that the lines of a segment may grow by: so much smaller are the segments that a client is asked for.
const ROOM: u16 = (stream::EDITS * GROWTH) as u16;
/// Bytes of the longest payload, with room for what its lines grow by and for a line that was held back.
const LONGEST: usize = 65535 + 1024;
/// The urgent flag.
const URGENT: u8 = 0x20;

/// A data connection that a control connection has announced.
#[derive(Clone, Copy, Debug)]
struct Expectation {
    /// The mapping of the announced endpoint.
    mapping: u32,
    /// Who may come.
    peer: u32,
    until: Tick,
}

/// A control connection.
#[derive(Clone, Debug, Default)]
struct Control {
    stream: Stream,
    expectation: Option<Expectation>,
}

/// The control connections of one worker.
#[derive(Debug)]
pub(super) struct Ftp {
    controls: Vec<Control>,
    /// Places among them that are free.
    free: Vec<u16>,
    /// By session, the place of its control connection and one; zero if it has none.
    of_session: HugeSlice<u16>,
    /// By mapping, the place of the control connection that expects something of it and one; zero if none does.
    of_mapping: HugeSlice<u16>,
    expected: usize,
    sweep: usize,
    /// The payload that is being written.
    payload: Vec<u8>,
}

impl Ftp {
    /// Room for the control connections among so many sessions.
    ///
    /// # Errors
    /// The kernel's, when it gives no memory.
    pub(super) fn new(sessions: usize) -> io::Result<Self> {
        Ok(Self {
            controls: Vec::with_capacity(CONTROLS),
            free: Vec::with_capacity(CONTROLS),
            of_session: HugeSlice::sparse(sessions)?,
            of_mapping: HugeSlice::sparse(sessions)?,
            expected: 0,
            sweep: 0,
            payload: Vec::with_capacity(LONGEST),
        })
    }

    /// Adds the control connection of a session, if there is room.
    fn add(&mut self, session: u32) -> bool {
        let Some(of_session) = self.of_session.get_mut(session as usize) else { return false };
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.controls.len() < CONTROLS => {
                self.controls.push(Control::default());
                self.controls.len() as u16 - 1
            }
            None => return false,
        };
        *of_session = place + 1;
        true
    }

    fn place_of(&self, session: u32) -> Option<usize> {
        usize::from(*self.of_session.get(session as usize)?).checked_sub(1)
    }

    /// What is expected of a mapping, and by which control connection.
    fn expectation_of(&self, mapping: u32) -> Option<(usize, Expectation)> {
        let place = usize::from(*self.of_mapping.get(mapping as usize)?).checked_sub(1)?;
        let expectation = self.controls.get(place)?.expectation?;
        (expectation.mapping == mapping).then_some((place, expectation))
    }

    /// The peer that may come to a mapping because it was announced to it.
    pub(super) fn expects(&self, mapping: u32) -> Option<u32> {
        if self.expected == 0 {
            return None;
        }
        self.expectation_of(mapping).map(|(_, expectation)| expectation.peer)
    }
}

/// The engine at one control connection, as its lines are read.
struct Client<'a, 's> {
    engine: &'a mut Engine,
    slot: u32,
    place: usize,
    cx: &'a Context<'s>,
}

impl Announced for Client<'_, '_> {
    fn announced(&mut self, announcement: Announcement) -> Option<(u32, u16)> {
        let external = self.engine.expect_server(self.slot, self.place, announcement, self.cx);
        match external {
            Some(_) => self.engine.counters.ftp_rewritten += 1,
            None => self.engine.counters.ftp_unaltered += 1,
        }
        external
    }

    fn left_alone(&mut self) {
        self.engine.counters.ftp_unaltered += 1;
    }
}

impl Engine {
    /// From now on looks into a session: it is a new control connection.
    #[cold]
    pub(super) fn look_into(&mut self, slot: u32) {
        if !self.ftp.add(slot) {
            self.counters.ftp_unaltered += 1;
        } else if let Some(session) = self.sessions.session_mut(slot) {
            session.tcp |= tcp::LOOKED_INTO;
        }
    }

    /// A control connection has ended.
    #[cold]
    pub(super) fn end_control(&mut self, slot: u32) {
        let Some(place) = self.ftp.place_of(slot) else { return };
        self.end_expectation(place);
        if let Some(of_session) = self.ftp.of_session.get_mut(slot as usize) {
            *of_session = 0;
        }
        if let Some(control) = self.ftp.controls.get_mut(place) {
            *control = Control::default();
        }
        self.ftp.free.push(place as u16);
    }

    /// A control connection expects nothing any more.
    fn end_expectation(&mut self, place: usize) {
        let control = self.ftp.controls.get_mut(place);
        let Some(old) = control.and_then(|control| control.expectation.take()) else { return };
        self.ftp.expected -= 1;
        if let Some(of_mapping) = self.ftp.of_mapping.get_mut(old.mapping as usize)
            && usize::from(*of_mapping) == place + 1
        {
            *of_mapping = 0;
        }
        if let Some(gone) = self.mappings.release(old.mapping) {
            self.ports.give(EipIndex(gone.eip), gone.protocol, gone.external_port);
        }
    }

    /// A peer has come to a mapping, which its session holds from now on.
    #[cold]
    pub(super) fn has_come(&mut self, mapping: u32, peer: u32) {
        if let Some((place, expectation)) = self.ftp.expectation_of(mapping)
            && expectation.peer == peer
        {
            self.end_expectation(place);
        }
    }

    /// Ends what is expected for too long, a few at a time.
    #[inline]
    pub(super) fn stop_expecting(&mut self, now: Tick) {
        if self.ftp.expected > 0 {
            self.sweep_expectations(now);
        }
    }

    #[cold]
    fn sweep_expectations(&mut self, now: Tick) {
        for _ in 0..SWEEP {
            self.ftp.sweep += 1;
            if self.ftp.sweep >= self.ftp.controls.len() {
                self.ftp.sweep = 0;
            }
            let control = self.ftp.controls.get(self.ftp.sweep);
            if control.and_then(|control| control.expectation).is_some_and(|old| old.until <= now) {
                self.end_expectation(self.ftp.sweep);
            }
        }
    }

    /// Expects the server of a control connection at the announced endpoint. Gives what to announce instead; none for an endpoint that
    /// is not the client's own, or that cannot be had.
    fn expect_server(
        &mut self,
        slot: u32,
        place: usize,
        announcement: Announcement,
        cx: &Context<'_>,
    ) -> Option<(u32, u16)> {
        let (session, record) = self.sessions.get(slot)?;
        let (session, entry) = (*session, EntryId(record.entry));
        if announcement.address != session.inside || announcement.port < UNPRIVILEGED {
            return None;
        }
        let Realm::Vpc(vpc) = Realm::of_tenant(session.tenant) else { return None };
        let entry = cx.snapshot.snat_entry(vpc, entry).filter(|entry| entry.ftp)?;
        let member = PoolAddress { index: EipIndex(session.eip), address: session.external };
        let inside = self.mappings.hashed(EndpointKey {
            tenant: session.tenant,
            protocol: protocol::TCP,
            address: session.inside,
            port: announcement.port,
        });
        let known = self.mapping_in_force(&inside, cx);
        let mapping = if let Some(known) = known {
            self.mappings.get(known).filter(|row| row.external == member.address)?;
            self.mappings.share(known);
            known
        } else {
            let host = HostKey { tenant: session.tenant, address: session.inside };
            let host = self.hosts.find(&self.hosts.hashed(host))?;
            let (client, server) = ((session.inside, announcement.port), (session.peer, session.peer_port));
            let key = FlowKey::outward(session.tenant, protocol::TCP, client, server);
            let port = self.take_port_of(entry, host, member, &key, cx)?;
            let external = self.mappings.hashed(EndpointKey::external(protocol::TCP, member.address, port));
            let Some(made) = self.mappings.insert(&inside, &external, member.index, entry.id) else {
                self.ports.give(member.index, protocol::TCP, port);
                return None;
            };
            made
        };
        // The one before ends only now: it may be the same.
        self.end_expectation(place);
        let expectation = Expectation { mapping, peer: session.peer, until: Tick(cx.tick.0 + PATIENCE) };
        if let Some(control) = self.ftp.controls.get_mut(place)
            && let Some(of_mapping) = self.ftp.of_mapping.get_mut(mapping as usize)
        {
            control.expectation = Some(expectation);
            *of_mapping = place as u16 + 1;
            self.ftp.expected += 1;
        }
        let row = self.mappings.get(mapping)?;
        let external = (row.external, row.external_port);
        if !in_force(&row.flow((session.peer, 0)), cx.snapshot) {
            // A DNAT entry has the endpoint.
            self.end_expectation(place);
            return None;
        }
        Some(external)
    }

    /// A segment of a control connection, before its addresses are translated. The lane describes it as it is then.
    #[cold]
    pub(super) fn control_segment(
        &mut self,
        packet: &mut Packet<'_>,
        lane: &mut Lane,
        slot: u32,
        end: End,
        cx: &Context<'_>,
    ) -> Result<(), DropReason> {
        let Some(place) = self.ftp.place_of(slot) else { return Ok(()) };
        match end {
            End::Source => self.client_segment(packet, lane, (slot, place), cx),
            End::Destination => {
                self.server_segment(packet, lane, (slot, place));
                Ok(())
            }
        }
    }

    /// What the server sends: its acknowledgements are of what it was sent.
    fn server_segment(&self, packet: &mut Packet<'_>, lane: &Lane, (slot, place): (u32, usize)) {
        let Some(control) = self.ftp.controls.get(place) else { return };
        let datagram = &lane.datagram;
        let segment = packet.buffer.get_mut(usize::from(datagram.l4)..datagram.end()).unwrap_or_default();
        if datagram.tcp_flags & SYN != 0 {
            let way = self.sessions.session(slot).map(|session| session.way_out);
            let mtu = way.map_or(0, |way| self.neighbours.mtu(way));
            if mtu > tcp_options::HEADERS + ROOM {
                tcp_options::clamp_mss(segment, mtu - tcp_options::HEADERS - ROOM);
            }
            tcp_options::forbid_sack(segment);
        }
        if datagram.tcp_flags & ACK != 0 {
            let old = get_u32(segment, 8);
            let new = control.stream.inward(old);
            if new != old {
                put_number(segment, 8, old, new);
            }
        }
    }

    /// The packet that an ICMP error from one side quotes is a segment of a control connection as it went on: its sender is told of
    /// the number that it sent itself, or has no reason to believe it (RFC 5927 §4.1).
    #[cold]
    pub(super) fn restore_quoted(&self, message: &mut [u8], quoted: &Quoted, key: &FlowKey) {
        let Some(slot) = self.sessions.find(self.sessions.hash(key), key) else { return };
        let Some(place) = self.ftp.place_of(slot) else { return };
        let Some(Control { stream, .. }) = self.ftp.controls.get(place) else { return };
        let segment = message.get_mut(quoted.l4..).unwrap_or_default();
        let is_clients = Realm::of_tenant(key.tenant) == Realm::Outside;
        let at = if is_clients { 4 } else { 8 };
        if segment.len() < at + 4 {
            return;
        }
        let old = get_u32(segment, at);
        let new = if is_clients { stream.inward(old) } else { stream.outward(old) };
        put_number(segment, at, old, new);
    }

    /// What the client sends.
    fn client_segment(
        &mut self,
        packet: &mut Packet<'_>,
        lane: &mut Lane,
        (slot, place): (u32, usize),
        cx: &Context<'_>,
    ) -> Result<(), DropReason> {
        let datagram = lane.datagram;
        if datagram.is_fragment() {
            return Err(DropReason::FtpFragment);
        }
        let (l3, l4) = (usize::from(datagram.l3), usize::from(datagram.l4));
        let segment = packet.buffer.get_mut(l4..datagram.end()).unwrap_or_default();
        if checksum::of_transport(datagram.source, datagram.destination, protocol::TCP, segment) != 0 {
            return Err(DropReason::TransportChecksum);
        }
        let Some(session) = self.sessions.session(slot).copied() else { return Ok(()) };
        let sequence = get_u32(segment, 4);
        let flags = datagram.tcp_flags;
        let header_len = usize::from(segment.get(12).copied().unwrap_or_default() >> 4) * 4;
        let mut payload = std::mem::take(&mut self.ftp.payload);
        payload.clear();
        let (passed, is_cut) = if flags & SYN != 0 {
            tcp_options::forbid_sack(segment);
            // Data would come before the stream: the client sends it again.
            let is_new = !tcp::is_established(session.tcp);
            self.restart_control(place, sequence, is_new)
        } else if flags & RST != 0 {
            (self.outward_number(place, sequence), true)
        } else {
            let mut stream = match self.ftp.controls.get_mut(place) {
                Some(control) => std::mem::take(&mut control.stream),
                None => Stream::default(),
            };
            let old = segment.get(header_len..).unwrap_or_default();
            let client = &mut Client { engine: self, slot, place, cx };
            let of_segment = (sequence, old, flags & FIN != 0);
            let passed = stream.pass(of_segment, session.acknowledged_in, client, &mut payload);
            if let Some(control) = self.ftp.controls.get_mut(place) {
                control.stream = stream;
            }
            (passed.sequence, passed.is_cut)
        };
        let written = write_segment(packet, lane, (passed, is_cut), header_len, &payload);
        self.ftp.payload = payload;
        if flags & URGENT != 0 && written.is_ok() {
            let urgent = sequence.wrapping_add(get_u16(packet.buffer, l4 + 18).into());
            let urgent = self.outward_number(place, urgent).wrapping_sub(passed);
            put_u16(packet.buffer, l4 + 18, urgent.min(u16::MAX.into()) as u16);
        }
        written?;
        let Some(segment) = packet.buffer.get_mut(l4..l3 + usize::from(lane.datagram.total_len)) else {
            return Err(DropReason::TooLarge);
        };
        put_u16(segment, 16, 0);
        let sum = checksum::of_transport(datagram.source, datagram.destination, protocol::TCP, segment);
        put_u16(segment, 16, sum);
        Ok(())
    }

    /// The stream of a connection that begins anew. Gives the number of its SYN.
    fn restart_control(&mut self, place: usize, sequence: u32, is_new: bool) -> (u32, bool) {
        if !is_new {
            return (self.outward_number(place, sequence), true);
        }
        self.end_expectation(place);
        if let Some(control) = self.ftp.controls.get_mut(place) {
            control.stream = Stream::at(sequence.wrapping_add(1));
        }
        (sequence, true)
    }

    fn outward_number(&self, place: usize, number: u32) -> u32 {
        self.ftp.controls.get(place).map_or(number, |control| control.stream.outward(number))
    }
}

/// Writes a segment's number and payload, and what the IP header says of its length. Its own checksum is still to be computed.
fn write_segment(
    packet: &mut Packet<'_>,
    lane: &mut Lane,
    (sequence, is_cut): (u32, bool),
    header_len: usize,
    payload: &[u8],
) -> Result<(), DropReason> {
    let datagram = &mut lane.datagram;
    let (l3, l4) = (usize::from(datagram.l3), usize::from(datagram.l4));
    let end = l4 + header_len + payload.len();
    let total_len = u16::try_from(end - l3).map_err(|_| DropReason::TooLarge)?;
    if end > packet.buffer.len() {
        return Err(DropReason::TooLarge);
    }
    put(packet.buffer, l4 + header_len, payload);
    put_u32(packet.buffer, l4 + 4, sequence);
    if is_cut && datagram.tcp_flags & FIN != 0 {
        datagram.tcp_flags &= !FIN;
        if let Some(flags) = packet.buffer.get_mut(l4 + 13) {
            *flags &= !FIN;
        }
    }
    let sum = Delta::of_u16(datagram.total_len, total_len).apply(get_u16(packet.buffer, l3 + 10));
    put_u16(packet.buffer, l3 + 2, total_len);
    put_u16(packet.buffer, l3 + 10, sum);
    datagram.total_len = total_len;
    packet.len = packet.len.max(end - packet.head.min(end));
    Ok(())
}

/// Writes another number at an even place of a segment, with the segment's checksum.
fn put_number(segment: &mut [u8], at: usize, old: u32, new: u32) {
    let sum = Delta::of_u32(old, new).apply(get_u16(segment, 16));
    put_u32(segment, at, new);
    put_u16(segment, 16, sum);
}
