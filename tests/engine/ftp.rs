//! The application-level gateway for FTP in active mode: what a private client announces to a server outside is the EIP and a port by
//! which this server, and nobody else, comes to the client.

use std::net::Ipv4Addr;
use std::time::Duration;

use natgate::base::DropReason;
use natgate::policy::{Filtering, Mapping};

use crate::support::packet::UNREACHABLE;
use crate::support::{Body, Config, Flags, Packet, Side, TestNet, ip};

const INSIDE: Side = Side::Vpc(0);
const OUTSIDE: Side = Side::Outside;
const CLIENT: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 0, 0, 5), 4000);
const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 1), 21);
const DATA: (Ipv4Addr, u16) = (SERVER.0, 20);
const EIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 16);
const PORT: &str = "PORT 10,0,0,5,7,208\r\n";

fn config() -> Config {
    Config::new().snat("10.0.0.0/16", &["203.0.113.16"]).snat_with(|entry| entry.ftp = true)
}

/// Sequence number, acknowledgement and payload of a segment.
fn segment(packet: &Packet) -> (u32, u32, &[u8]) {
    let Body::Tcp(tcp) = &packet.body else { panic!("no TCP: {packet:?}") };
    (tcp.seq, tcp.ack, &tcp.payload)
}

fn text(packet: &Packet) -> String {
    String::from_utf8_lossy(segment(packet).2).into_owned()
}

fn with_options(mut packet: Packet, bytes: &[u8]) -> Packet {
    let Body::Tcp(tcp) = &mut packet.body else { panic!("no TCP: {packet:?}") };
    tcp.options = bytes.to_vec();
    packet
}

fn options(packet: &Packet) -> &[u8] {
    let Body::Tcp(tcp) = &packet.body else { panic!("no TCP: {packet:?}") };
    &tcp.options
}

/// A control connection: both hosts with what they have sent.
struct Control {
    client: (Ipv4Addr, u16),
    external: (Ipv4Addr, u16),
    /// The client's next number, and the server's.
    sent: u32,
    replied: u32,
    /// What the server has heard.
    heard: Vec<u8>,
}

impl Control {
    fn open(net: &mut TestNet, client: (Ipv4Addr, u16)) -> Self {
        let syn = net.send(INSIDE, &Packet::syn(client, SERVER)).forwarded(OUTSIDE).clone();
        let syn_ack = net.send(OUTSIDE, &syn.answer()).forwarded(INSIDE).clone();
        let (replied, sent, _) = segment(&syn_ack);
        net.send(INSIDE, &Packet::tcp(client, SERVER, Flags::ACK, sent, replied + 1)).forwarded(OUTSIDE);
        Self { client, external: syn.source(), sent, replied: replied + 1, heard: vec![] }
    }

    /// A segment of the client's.
    fn segment(&self, sequence: u32, payload: &str) -> Packet {
        Packet::tcp(self.client, SERVER, Flags::ACK, sequence, self.replied).payload(payload.as_bytes())
    }

    /// The client sends on, and the server takes it.
    fn send(&mut self, net: &mut TestNet, payload: &str) -> String {
        let packet = self.segment(self.sent, payload);
        self.sent += payload.len() as u32;
        let left = net.send(INSIDE, &packet).forwarded(OUTSIDE).clone();
        let (sequence, _, bytes) = segment(&left);
        assert_eq!(sequence, self.server_expects(), "in order");
        self.heard.extend_from_slice(bytes);
        text(&left)
    }

    fn server_expects(&self) -> u32 {
        1001 + self.heard.len() as u32
    }

    /// The server replies, and acknowledges what it has heard. Gives what the client is told of that.
    fn reply(&mut self, net: &mut TestNet, payload: &str) -> u32 {
        let reply = Packet::tcp(SERVER, self.external, Flags::ACK, self.replied, self.server_expects());
        let reply = net.send(OUTSIDE, &reply.payload(payload.as_bytes())).forwarded(INSIDE).clone();
        let (sequence, acknowledged, bytes) = segment(&reply);
        assert_eq!((sequence, bytes), (self.replied, payload.as_bytes()));
        self.replied += payload.len() as u32;
        acknowledged
    }
}

/// The endpoint that a line announces.
fn announced(line: &str) -> (Ipv4Addr, u16) {
    let line = line.trim_end();
    if let Some(numbers) = line.strip_prefix("PORT ") {
        let n: Vec<u8> = numbers.split(',').map(|n| n.parse().unwrap()).collect();
        return (Ipv4Addr::new(n[0], n[1], n[2], n[3]), u16::from_be_bytes([n[4], n[5]]));
    }
    let parts: Vec<_> = line.strip_prefix("EPRT |1|").expect(line).split('|').collect();
    (ip(parts[0]), parts[1].parse().unwrap())
}

#[test]
fn an_announced_endpoint_is_the_eips_and_leads_to_the_client() {
    for workers in [1, 3] {
        for line in [PORT, "EPRT |1|10.0.0.5|2000|\r\n", "port 10,0,0,5,7,208\n"] {
            for filtering in [
                Filtering::EndpointIndependent,
                Filtering::AddressDependent,
                Filtering::AddressAndPortDependent,
            ] {
                let config = config().snat_with(|entry| entry.filtering = filtering);
                let mut net = TestNet::with_workers(&config, workers, 1);
                let mut control = Control::open(&mut net, CLIENT);
                assert_eq!(control.send(&mut net, "USER a\r\n"), "USER a\r\n");
                let there = announced(&control.send(&mut net, line));
                assert_eq!(there.0, EIP);
                assert_eq!(control.reply(&mut net, "200 ok\r\n"), control.sent);
                assert_eq!(control.send(&mut net, "LIST\r\n"), "LIST\r\n");
                let syn = net.send(OUTSIDE, &Packet::syn(DATA, there)).forwarded(INSIDE).clone();
                assert_eq!((syn.source(), syn.destination()), (DATA, (CLIENT.0, 2000)));
                let answer = net.send(INSIDE, &syn.answer()).forwarded(OUTSIDE).clone();
                assert_eq!((answer.source(), answer.destination()), (there, DATA));
                assert_eq!(control.reply(&mut net, "150 coming\r\n"), control.sent);
                assert_eq!((net.totals().ftp_rewritten, net.totals().ftp_unaltered), (1, 0));
            }
        }
    }
}

#[test]
fn nobody_but_the_server_of_the_control_connection_comes_to_it() {
    let mut net = TestNet::new(&config());
    let mut control = Control::open(&mut net, CLIENT);
    let there = announced(&control.send(&mut net, PORT));
    net.send(OUTSIDE, &Packet::syn((ip("198.51.100.2"), 20), there)).dropped(DropReason::Filtered);
    net.send(OUTSIDE, &Packet::syn(DATA, there)).forwarded(INSIDE);
}

#[test]
fn an_expectation_ends_after_a_minute_and_with_the_control_connection() {
    let mut net = TestNet::new(&config());
    let mut control = Control::open(&mut net, CLIENT);
    let there = announced(&control.send(&mut net, PORT));
    net.advance(Duration::from_secs(59));
    assert_eq!(net.engines[0].occupancy().mappings, 2);
    net.advance(Duration::from_secs(2));
    assert_eq!(net.engines[0].occupancy().mappings, 1);
    net.send(OUTSIDE, &Packet::syn(DATA, there)).dropped(DropReason::UnsolicitedSyn);

    let there = announced(&control.send(&mut net, PORT));
    let reset = Packet::tcp(CLIENT, SERVER, Flags::RST, control.sent, 0);
    let (sequence, ..) = segment(net.send(INSIDE, &reset).forwarded(OUTSIDE));
    assert_eq!(sequence, control.server_expects());
    net.advance(Duration::from_mins(5));
    assert_eq!(net.engines[0].occupancy().mappings, 0);
    net.send(OUTSIDE, &Packet::syn(DATA, there)).dropped(DropReason::UnsolicitedSyn);
}

#[test]
fn another_announcement_takes_the_place_of_the_one_before() {
    let mut net = TestNet::new(&config());
    let mut control = Control::open(&mut net, CLIENT);
    let mut ports = vec![];
    for n in 0..50 {
        let there = announced(&control.send(&mut net, &format!("PORT 10,0,0,5,8,{n}\r\n")));
        assert_eq!(control.reply(&mut net, "200 ok\r\n"), control.sent);
        ports.push(there);
        assert_eq!(net.engines[0].occupancy().mappings, 2);
    }
    net.send(OUTSIDE, &Packet::syn(DATA, ports[0])).dropped(DropReason::UnsolicitedSyn);
    net.send(OUTSIDE, &Packet::syn(DATA, ports[49])).forwarded(INSIDE);
    assert_eq!(net.totals().ftp_rewritten, 50);
}

#[test]
fn a_third_partys_address_a_privileged_port_and_what_cannot_be_read_pass_as_they_are() {
    let mut net = TestNet::new(&config());
    let mut control = Control::open(&mut net, CLIENT);
    let lines = [
        "PORT 10,0,0,6,7,208\r\n",
        "PORT 198,51,100,2,7,208\r\n",
        "PORT 10,0,0,5,0,22\r\n",
        "EPRT |2|2001:db8::5|2000|\r\n",
        "PORT 10,0,0,5,7\r\n",
        "EPRT |1|10.0.0.5|99999|\r\n",
    ];
    for (n, line) in lines.into_iter().enumerate() {
        assert_eq!(control.send(&mut net, line), line);
        assert_eq!(control.reply(&mut net, "500 no\r\n"), control.sent);
        assert_eq!(net.totals().ftp_unaltered, n as u64 + 1);
    }
    assert_eq!((net.totals().ftp_rewritten, net.engines[0].occupancy().mappings), (0, 1));
    for line in ["SITE PORT 10,0,0,5,7,208\r\n", "XPORT 10,0,0,5,7,208\r\n", "PORTS\r\n"] {
        assert_eq!(control.send(&mut net, line), line);
    }
    assert_eq!(net.totals().ftp_unaltered, lines.len() as u64);
}

#[test]
fn lines_split_over_segments_and_several_in_one() {
    for at in 1..PORT.len() {
        let mut net = TestNet::new(&config());
        let mut control = Control::open(&mut net, CLIENT);
        let first = control.send(&mut net, &PORT[..at]);
        assert_eq!(first, "", "held back: a mere acknowledgement goes on");
        assert_eq!(control.reply(&mut net, ""), control.sent - at as u32, "not acknowledged either");
        let whole = control.send(&mut net, &PORT[at..]);
        assert_eq!(announced(&whole).0, EIP);
        assert_eq!(control.reply(&mut net, "200 ok\r\n"), control.sent);
    }
    let mut net = TestNet::new(&config());
    let mut control = Control::open(&mut net, CLIENT);
    let all = control.send(&mut net, &format!("NOOP\r\n{PORT}LIST\r\nEPRT |1|10.0.0.5|2001|\r\nQU"));
    let lines: Vec<_> = all.split_inclusive('\n').collect();
    assert_eq!((lines[0], lines[2], lines[4]), ("NOOP\r\n", "LIST\r\n", "QU"));
    assert_eq!((announced(lines[1]).0, announced(lines[3]).0), (EIP, EIP));
    assert_eq!(control.reply(&mut net, "200 ok\r\n"), control.sent);
}

#[test]
fn what_is_sent_again_is_written_the_same() {
    let mut net = TestNet::new(&config());
    let mut control = Control::open(&mut net, CLIENT);
    control.send(&mut net, "USER a\r\n");
    let begin = control.sent;
    let line = control.send(&mut net, PORT);
    let number = control.server_expects() - line.len() as u32;
    // The whole of it, its parts, and with what comes before.
    for (from, to) in [(0, PORT.len()), (0, 7), (9, PORT.len()), (3, 8)] {
        let again = net.send(INSIDE, &control.segment(begin + from as u32, &PORT[from..to]));
        assert_eq!(segment(again.forwarded(OUTSIDE)).0, number);
        assert_eq!(text(again.forwarded(OUTSIDE)), line, "{from} {to}");
    }
    let again = net.send(INSIDE, &control.segment(begin - 8, &format!("USER a\r\n{PORT}")));
    assert_eq!(text(again.forwarded(OUTSIDE)), format!("USER a\r\n{line}"));
    assert_eq!((net.totals().ftp_rewritten, net.totals().ftp_unaltered), (1, 0));
    // A segment after one that was lost waits for it.
    let lost = control.segment(control.sent, "NOOP\r\n");
    let ahead = net.send(INSIDE, &control.segment(control.sent + 6, "LIST\r\n"));
    assert_eq!(
        (segment(ahead.forwarded(OUTSIDE)).0, text(ahead.forwarded(OUTSIDE))),
        (control.server_expects(), String::new())
    );
    assert_eq!(text(net.send(INSIDE, &lost).forwarded(OUTSIDE)), "NOOP\r\n");
}

#[test]
fn numbers_are_right_to_the_last_segment() {
    let mut net = TestNet::new(&config());
    let mut control = Control::open(&mut net, CLIENT);
    control.send(&mut net, PORT);
    assert_eq!(control.reply(&mut net, "200 ok\r\n"), control.sent);
    let fin = Packet::tcp(CLIENT, SERVER, Flags::FIN_ACK, control.sent, control.replied).payload(b"QUIT\r\n");
    let fin = net.send(INSIDE, &fin).forwarded(OUTSIDE).clone();
    assert_eq!((segment(&fin).0, segment(&fin).2), (control.server_expects(), &b"QUIT\r\n"[..]));
    let end = control.server_expects() + 7;
    let last = Packet::tcp(SERVER, control.external, Flags::FIN_ACK, control.replied, end);
    let last = net.send(OUTSIDE, &last).forwarded(INSIDE).clone();
    assert_eq!(segment(&last).1, control.sent + 7);
    let ack = Packet::tcp(CLIENT, SERVER, Flags::ACK, control.sent + 7, control.replied + 1);
    assert_eq!(segment(net.send(INSIDE, &ack).forwarded(OUTSIDE)).0, end);
    net.advance(Duration::from_mins(5));
    assert_eq!((net.sessions().len(), net.engines[0].occupancy().mappings), (0, 0));
}

/// Hosts believe an ICMP error only if it quotes a number that they have sent (RFC 5927 §4.1), as for the path MTU.
#[test]
fn icmp_errors_quote_the_numbers_that_their_receiver_knows() {
    let mut net = TestNet::new(&config());
    let mut control = Control::open(&mut net, CLIENT);
    control.send(&mut net, PORT);
    control.reply(&mut net, "200 ok\r\n");
    let quoted = |error: &Packet| {
        let Body::Error { quote, .. } = &error.body else { panic!("no error: {error:?}") };
        let number = |at: usize| u32::from_be_bytes(quote.transport[at..at + 4].try_into().unwrap());
        (number(4), (quote.transport.len() >= 12).then(|| number(8)))
    };
    let router = ip("198.51.100.254");
    for bytes in [None, Some(20), Some(8)] {
        let asked = control.segment(control.sent, "LIST\r\n");
        let left = net.send(INSIDE, &asked).forwarded(OUTSIDE).clone();
        assert_ne!(segment(&left).0, segment(&asked).0);
        let error = Packet::error(router, UNREACHABLE, 4, &left, bytes);
        let told = net.send(OUTSIDE, &error).forwarded(INSIDE).clone();
        assert_eq!(quoted(&told).0, segment(&asked).0);
        if bytes.is_none() {
            let Body::Error { quote, .. } = &told.body else { panic!("no error: {told:?}") };
            assert_eq!(quote.transport, asked.encode()[20..], "all of it, with the checksum");
        }
        // The other way it is what the server has acknowledged.
        let answer =
            Packet::tcp(SERVER, control.external, Flags::ACK, control.replied, control.server_expects());
        let arrived = net.send(OUTSIDE, &answer).forwarded(INSIDE).clone();
        assert_ne!(segment(&arrived).1, segment(&answer).1);
        let error = Packet::error(CLIENT.0, UNREACHABLE, 3, &arrived, bytes);
        let told = net.send(INSIDE, &error).forwarded(OUTSIDE).clone();
        let acknowledged = (bytes != Some(8)).then_some(segment(&answer).1);
        assert_eq!(quoted(&told), (control.replied, acknowledged));
    }
}

#[test]
fn selective_acknowledgements_are_not_agreed_on_and_segments_leave_room() {
    let mut net = TestNet::new(&config());
    let offer = [2, 4, 5, 0xb4, 4, 2, 1, 1];
    let syn = net.send(INSIDE, &with_options(Packet::syn(CLIENT, SERVER), &offer)).forwarded(OUTSIDE).clone();
    assert_eq!(options(&syn), [2, 4, 5, 0xb4, 1, 1, 1, 1]);
    let syn_ack = net.send(OUTSIDE, &with_options(syn.answer(), &offer)).forwarded(INSIDE).clone();
    assert_eq!(options(&syn_ack), [2, 4, 5, 0x74, 1, 1, 1, 1]);
    // Other connections are as they were.
    let other = Packet::syn(CLIENT, (SERVER.0, 80));
    assert_eq!(options(net.send(INSIDE, &with_options(other, &offer)).forwarded(OUTSIDE)), offer);
}

#[test]
fn a_segment_that_has_no_room_to_grow_is_dropped_and_told_of() {
    let mut net = TestNet::new(&config());
    let control = Control::open(&mut net, CLIENT);
    let full = format!("{PORT}{}\r\n", "x".repeat(1460 - PORT.len() - 2));
    let mut packet = control.segment(control.sent, &full);
    packet.ip.dont_fragment = true;
    let observed = net.send(INSIDE, &packet);
    assert_eq!(observed.drops, [DropReason::FragmentationNeeded]);
    assert!(matches!(observed.reply(INSIDE).body, Body::Error { kind: 3, code: 4, .. }));
    // The host sends less at a time.
    let smaller = net.send(INSIDE, &control.segment(control.sent, &full[..1300])).forwarded(OUTSIDE).clone();
    assert!(text(&smaller).starts_with("PORT 203,0,113,16,"));
}

#[test]
fn a_wrong_checksum_is_not_made_right() {
    let mut net = TestNet::new(&config());
    let control = Control::open(&mut net, CLIENT);
    let mut frame = net.frame_of(INSIDE, &control.segment(control.sent, PORT));
    *frame.last_mut().unwrap() ^= 1;
    net.inject(net.config().link(INSIDE).port, &frame).dropped(DropReason::TransportChecksum);
}

#[test]
fn a_full_table_passes_control_connections_as_they_are() {
    let mut net = TestNet::new(&config());
    let client = |n: u16| (CLIENT.0, 10_000 + n);
    for n in 0..1024 {
        net.send(INSIDE, &Packet::syn(client(n), SERVER)).forwarded(OUTSIDE);
    }
    assert_eq!(net.totals().ftp_unaltered, 0);
    let mut late = Control::open(&mut net, client(1024));
    assert_eq!(net.totals().ftp_unaltered, 1);
    assert_eq!(late.send(&mut net, PORT), PORT);
    assert_eq!(late.reply(&mut net, "500 no\r\n"), late.sent);
    // The others end, and there is room again.
    net.advance(Duration::from_mins(5));
    net.idle(64);
    let mut control = Control::open(&mut net, client(1025));
    assert_eq!(announced(&control.send(&mut net, PORT)).0, EIP);
}

#[test]
fn without_the_option_and_on_other_ports_nothing_is_read() {
    let mut off = TestNet::new(&config().snat_with(|entry| entry.ftp = false));
    let mut control = Control::open(&mut off, CLIENT);
    assert_eq!(control.send(&mut off, PORT), PORT);
    let mut net = TestNet::new(&config());
    let web = (SERVER.0, 80);
    let syn = net.send(INSIDE, &Packet::syn(CLIENT, web)).forwarded(OUTSIDE).clone();
    net.send(OUTSIDE, &syn.answer()).forwarded(INSIDE);
    let packet = Packet::tcp(CLIENT, web, Flags::ACK, 1001, 7001).payload(PORT.as_bytes());
    assert_eq!(text(net.send(INSIDE, &packet).forwarded(OUTSIDE)), PORT);
}

#[test]
fn an_option_that_is_taken_back_leaves_the_numbers_right() {
    let mut net = TestNet::new(&config());
    let mut control = Control::open(&mut net, CLIENT);
    control.send(&mut net, PORT);
    net.reload(&config().snat_with(|entry| entry.ftp = false));
    assert_eq!(control.reply(&mut net, "200 ok\r\n"), control.sent);
    assert_eq!(control.send(&mut net, PORT), PORT);
    assert_eq!(control.reply(&mut net, "500 no\r\n"), control.sent);
}

#[test]
fn an_endpoint_that_a_dnat_entry_has_is_not_announced() {
    let config = config().forward(6, ("203.0.113.16", 9000), ("10.0.0.5", 2000), 1);
    let mut net = TestNet::new(&config);
    let mut control = Control::open(&mut net, CLIENT);
    assert_eq!(control.send(&mut net, PORT), PORT);
    assert_eq!(net.engines[0].occupancy().mappings, 1);
}

#[test]
fn fragments_of_what_a_client_sends_are_dropped() {
    let mut net = TestNet::new(&config());
    let control = Control::open(&mut net, CLIENT);
    let packet = control.segment(control.sent, &"x".repeat(100));
    let fragments = packet.fragments(40);
    assert_eq!(net.send(INSIDE, &fragments[0]).drops, [DropReason::FtpFragment]);
}

#[test]
fn endpoint_dependent_mapping_reads_nothing() {
    let config = config().snat_with(|entry| {
        (entry.mapping, entry.filtering) = (Mapping::EndpointDependent, Filtering::AddressAndPortDependent);
    });
    let mut net = TestNet::new(&config);
    let mut control = Control::open(&mut net, CLIENT);
    assert_eq!(control.send(&mut net, PORT), PORT);
}
