//! Which of a port's queues gets a frame: classic BPF programs that the kernel runs on each, so that a packet comes to
//! the worker that owns its session, and none has to be handed over.

use libc::sock_filter;

use crate::base::owner::{PORT_GROUP, bucket_bits};

/// How the frames of a port are spread over its queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Steering {
    /// By the kernel's hash of the flow: for a port that carries the inside and the outside.
    #[default]
    FlowHash,
    /// By the source address of an IPv4 packet, to the host's owner ([`owner_of_host`](crate::base::owner::owner_of_host)).
    /// What is not IPv4 comes to the first queue. For a port on the side of the VPCs.
    InsideSource,
    /// By the destination port of TCP and UDP, or the identifier of an ICMP echo reply, to the port's owner
    /// ([`owner_of_port`](crate::base::owner::owner_of_port)). Fragments and everything else come to the first queue. For a
    /// port to the outside.
    OutsidePort,
}

impl Steering {
    /// In words, for people.
    pub(super) const fn describe(self) -> &'static str {
        match self {
            Self::FlowHash => "steered by flow hash",
            Self::InsideSource => "steered by inside host",
            Self::OutsidePort => "steered by external port",
        }
    }

    /// The program that answers the number of the queue; `None` if the kernel's own hash does.
    pub(super) fn program(self, workers: u16) -> Option<Vec<sock_filter>> {
        match self {
            Self::FlowHash => None,
            Self::InsideSource => Some(inside_source(workers)),
            Self::OutsidePort => Some(outside_port(workers)),
        }
    }
}

/// A program for a socket that must not receive anything yet.
pub(super) const NOTHING: [sock_filter; 1] = [instruction(libc::BPF_RET | libc::BPF_K, 0)];

const ETHERTYPE_IPV4: u32 = 0x0800;
const ICMP: u32 = 1;
const TCP: u32 = 6;
const UDP: u32 = 17;
const ICMP_ECHO_REPLY: u32 = 0;
/// More fragments, or not the first one.
const FRAGMENT: u32 = 0x3fff;

const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const LOAD_HALF_AT_X: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_IND;
const LOAD_BYTE_AT_X: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_IND;
/// X becomes the length of the IPv4 header whose first byte is given.
const HEADER_LENGTH_TO_X: u32 = libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
const RETURN_A: u32 = libc::BPF_RET | libc::BPF_A;

/// Reads the frame's EtherType, which is that behind a VLAN tag: the kernel has taken the tag out before.
const LOAD_ETHERTYPE: sock_filter =
    instruction(LOAD_WORD, (libc::SKF_AD_OFF + libc::SKF_AD_PROTOCOL).cast_unsigned());

const fn instruction(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

const fn arithmetic(operation: u32, k: u32) -> sock_filter {
    instruction(libc::BPF_ALU | operation | libc::BPF_K, k)
}

/// Compares A with `k` and jumps over so many instructions.
const fn jump(comparison: u32, k: u32, if_true: u8, if_false: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | comparison | libc::BPF_K) as u16, jt: if_true, jf: if_false, k }
}

// Offsets count from the network header: that is where a received packet starts for the kernel when it distributes it.

fn inside_source(workers: u16) -> Vec<sock_filter> {
    let mut fold = vec![instruction(LOAD_WORD, 12)];
    // `bucket_of_host`
    let bits = bucket_bits(workers);
    for shift in
        std::iter::successors(Some(bits), |shift| Some(shift * 2)).take_while(|shift| *shift < u32::BITS)
    {
        fold.extend([
            instruction(libc::BPF_MISC | libc::BPF_TAX, 0),
            arithmetic(libc::BPF_RSH, shift),
            instruction(libc::BPF_ALU | libc::BPF_XOR | libc::BPF_X, 0),
        ]);
    }
    fold.extend(owner_of_bucket(workers));
    let mut program = vec![LOAD_ETHERTYPE, jump(libc::BPF_JEQ, ETHERTYPE_IPV4, 0, fold.len() as u8)];
    program.append(&mut fold);
    program.push(instruction(RETURN, 0));
    program
}

/// Answers the owner of the bucket in the low bits of A.
fn owner_of_bucket(workers: u16) -> [sock_filter; 3] {
    [
        arithmetic(libc::BPF_AND, (1 << bucket_bits(workers)) - 1),
        arithmetic(libc::BPF_MOD, u32::from(workers)),
        instruction(RETURN_A, 0),
    ]
}

fn outside_port(workers: u16) -> Vec<sock_filter> {
    let mut program = vec![
        LOAD_ETHERTYPE,
        jump(libc::BPF_JEQ, ETHERTYPE_IPV4, 0, 16),
        instruction(LOAD_HALF, 6),
        jump(libc::BPF_JSET, FRAGMENT, 14, 0),
        instruction(HEADER_LENGTH_TO_X, 0),
        instruction(LOAD_BYTE, 9),
        jump(libc::BPF_JEQ, TCP, 6, 0),
        jump(libc::BPF_JEQ, UDP, 5, 0),
        jump(libc::BPF_JEQ, ICMP, 0, 9),
        instruction(LOAD_BYTE_AT_X, 0),
        jump(libc::BPF_JEQ, ICMP_ECHO_REPLY, 0, 7),
        instruction(LOAD_HALF_AT_X, 4),
        instruction(libc::BPF_JMP | libc::BPF_JA, 1),
        instruction(LOAD_HALF_AT_X, 2),
        // `bucket_of_port`
        arithmetic(libc::BPF_RSH, PORT_GROUP),
    ];
    program.extend(owner_of_bucket(workers));
    program.push(instruction(RETURN, 0));
    program
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;
    use crate::base::owner::{owner_of_host, owner_of_port};

    /// Runs a program on an IPv4 packet as the kernel would.
    fn run(program: &[sock_filter], ether_type: u32, packet: &[u8]) -> u32 {
        let load = |at: usize, len: usize| {
            packet
                .get(at..at + len)
                .map(|bytes| bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
        };
        let (mut a, mut x, mut at) = (0_u32, 0_u32, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            let code = u32::from(code);
            at += 1;
            let jump = |taken: bool| usize::from(if taken { jt } else { jf });
            let loaded = match code {
                LOAD_WORD if k == LOAD_ETHERTYPE.k => Some(ether_type),
                LOAD_WORD => load(k as usize, 4),
                LOAD_HALF => load(k as usize, 2),
                LOAD_BYTE => load(k as usize, 1),
                LOAD_HALF_AT_X => load((x + k) as usize, 2),
                LOAD_BYTE_AT_X => load((x + k) as usize, 1),
                HEADER_LENGTH_TO_X => {
                    x = (packet[k as usize] & 0xf) as u32 * 4;
                    continue;
                }
                0x07 => {
                    x = a;
                    continue;
                }
                0xac => Some(a ^ x),
                0x54 => Some(a & k),
                0x74 => Some(a >> k),
                0x94 => Some(a % k),
                0x15 => {
                    at += jump(a == k);
                    continue;
                }
                0x45 => {
                    at += jump(a & k != 0);
                    continue;
                }
                0x05 => {
                    at += k as usize;
                    continue;
                }
                RETURN => return k,
                RETURN_A => return a,
                other => panic!("instruction {other:#x}"),
            };
            // A load beyond the packet ends the program with zero.
            let Some(value) = loaded else { return 0 };
            a = value;
        }
    }

    fn udp(source: [u8; 4], port: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4(source, [192, 0, 2, 1], 9).udp(7, port).write(&mut bytes, b"data").unwrap();
        bytes
    }

    #[test]
    fn hosts_go_to_their_owners() {
        for workers in [1, 2, 3, 8, 64, 100] {
            let program = Steering::InsideSource.program(workers).unwrap();
            for host in 0..500_u32 {
                let ip = 0x0a00_0000 + host * 77;
                let packet = udp(ip.to_be_bytes(), 1);
                let owner = u32::from(owner_of_host(ip, workers));
                assert_eq!(run(&program, ETHERTYPE_IPV4, &packet), owner);
                assert_eq!(run(&program, 0x0806, &packet), 0);
                assert_eq!(run(&program, ETHERTYPE_IPV4, &packet[..15]), 0);
            }
        }
    }

    #[test]
    fn ports_go_to_their_owners() {
        for workers in [1, 2, 3, 8, 64, 100] {
            let program = Steering::OutsidePort.program(workers).unwrap();
            for port in (0..=u16::MAX).step_by(7) {
                let owner = u32::from(owner_of_port(port, workers));
                let packet = udp([198, 51, 100, 1], port);
                assert_eq!(run(&program, ETHERTYPE_IPV4, &packet), owner);
                assert_eq!(run(&program, 0x86dd, &packet), 0);

                let mut tcp = packet.clone();
                tcp[9] = 6;
                assert_eq!(run(&program, ETHERTYPE_IPV4, &tcp), owner);

                let mut options = packet.clone();
                options[0] = 0x46;
                options.splice(20..20, [1; 4]);
                assert_eq!(run(&program, ETHERTYPE_IPV4, &options), owner);

                for fragment in [[0x20, 0], [0, 1]] {
                    let mut packet = packet.clone();
                    packet[6..8].copy_from_slice(&fragment);
                    assert_eq!(run(&program, ETHERTYPE_IPV4, &packet), 0);
                }
                let mut unfragmented = packet;
                unfragmented[6] = 0x40;
                assert_eq!(run(&program, ETHERTYPE_IPV4, &unfragmented), owner);

                let mut bytes = Vec::new();
                let builder = PacketBuilder::ipv4([1, 1, 1, 1], [2, 2, 2, 2], 9);
                builder.icmpv4_echo_reply(port, 9).write(&mut bytes, b"data").unwrap();
                assert_eq!(run(&program, ETHERTYPE_IPV4, &bytes), owner);
                let mut bytes = Vec::new();
                let builder = PacketBuilder::ipv4([1, 1, 1, 1], [2, 2, 2, 2], 9);
                builder.icmpv4_echo_request(port, 9).write(&mut bytes, b"data").unwrap();
                assert_eq!(run(&program, ETHERTYPE_IPV4, &bytes), 0);
                bytes[9] = 47;
                assert_eq!(run(&program, ETHERTYPE_IPV4, &bytes), 0);
            }
        }
    }
}
