//! The state of a TCP connection, as far as a NAT must follow it (RFC 5382 §5, RFC 7857 §2).
//!
//! Five bits record which flags were seen from which side; two more say what else is to be known of a connection. A connection is *established*, with the long timeout, when both
//! sides have sent SYN and not yet both sent FIN and no RST stands; else it is *transitory*.

use crate::wire::datagram::tcp_flags::{ACK, FIN, RST, SYN};
use crate::wire::rewrite::End;

/// SYN from the private host.
pub const SYN_OUT: u8 = 1;
/// SYN from the peer.
pub const SYN_IN: u8 = 2;
/// FIN from the private host.
pub const FIN_OUT: u8 = 4;
/// FIN from the peer.
pub const FIN_IN: u8 = 8;
/// RST from either, with nothing after it.
pub const RESET: u8 = 16;

/// Not a flag of TCP: what the hosts say is read, so no segment is plain, see the gateway for FTP beside this.
pub const LOOKED_INTO: u8 = 32;

/// Not a flag of TCP: of a DNAT flow until it is established. Another worker, or natgate before a restart, may have seen what is
/// missing here, so it is not waited for: the private host speaks only on connections that are open, and a peer's segment counts once
/// the private host answers, for anybody can send one.
pub const PARTIAL: u8 = 64;

/// The state of a TCP connection in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TcpState {
    /// One side has sent SYN.
    Opening,
    /// Both sides have sent SYN.
    Established,
    /// One side has sent FIN.
    HalfClosed,
    /// Both sides have sent FIN.
    Closed,
    /// Reset.
    Reset,
}

/// The state of these bits.
pub const fn state(bits: u8) -> TcpState {
    if bits & RESET != 0 {
        TcpState::Reset
    } else if bits & (FIN_OUT | FIN_IN) == FIN_OUT | FIN_IN {
        TcpState::Closed
    } else if bits & (SYN_OUT | SYN_IN) != SYN_OUT | SYN_IN {
        TcpState::Opening
    } else if bits & (FIN_OUT | FIN_IN) != 0 {
        TcpState::HalfClosed
    } else {
        TcpState::Established
    }
}

/// Whether the long timeout holds.
#[inline]
pub const fn is_established(bits: u8) -> bool {
    bits & (SYN_OUT | SYN_IN | RESET) == SYN_OUT | SYN_IN && bits & (FIN_OUT | FIN_IN) != FIN_OUT | FIN_IN
}

/// Whether the connection has ended, so that its ports may serve another.
pub const fn is_over(bits: u8) -> bool {
    matches!(state(bits), TcpState::Closed | TcpState::Reset)
}

/// Whether something was seen of the connection, but not the SYN of both sides, whatever came since.
pub const fn is_half_open(bits: u8) -> bool {
    bits & !LOOKED_INTO != 0 && bits & (SYN_OUT | SYN_IN) != SYN_OUT | SYN_IN
}

/// Whether a segment acknowledges and cannot change any state: those are the most.
#[inline(always)]
pub const fn is_plain(flags: u8, bits: u8) -> bool {
    flags & (SYN | FIN | RST | ACK) == ACK
        && bits & (SYN_OUT | SYN_IN | RESET | LOOKED_INTO) == SYN_OUT | SYN_IN
        && bits & (FIN_OUT | FIN_IN) != FIN_OUT | FIN_IN
}

/// Whether a segment opens a connection anew where one is over (RFC 5382 REQ-2, TIME-WAIT reuse of RFC 6191).
pub const fn reopens(bits: u8, flags: u8) -> bool {
    is_over(bits) && flags & (SYN | ACK | RST) == SYN
}

/// The bits after a segment from one end.
pub const fn after(bits: u8, flags: u8, end: End) -> u8 {
    let (syn, fin) = match end {
        End::Source => (SYN_OUT, FIN_OUT),
        End::Destination => (SYN_IN, FIN_IN),
    };
    if flags & RST != 0 {
        return bits | RESET;
    }
    if flags & SYN != 0 {
        let before = if reopens(bits, flags) { bits & LOOKED_INTO } else { bits & !RESET };
        return whole(before | syn);
    }
    // Traffic after a reset shows that the reset was not believed (RFC 7857 §2.2).
    let bits = bits & !RESET;
    let bits = match end {
        _ if bits & PARTIAL == 0 => bits,
        End::Source => whole(bits | SYN_OUT | SYN_IN),
        End::Destination => bits | SYN_IN,
    };
    if flags & FIN != 0 { bits | fin } else { bits }
}

/// Once both sides have opened, nothing is missing any more.
const fn whole(bits: u8) -> u8 {
    if bits & (SYN_OUT | SYN_IN) == SYN_OUT | SYN_IN { bits & !PARTIAL } else { bits }
}

/// Whether a segment opens a connection.
pub const fn opens(flags: u8) -> bool {
    flags & (SYN | ACK | RST | FIN) == SYN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(steps: &[(u8, End)]) -> TcpState {
        state(steps.iter().fold(0, |bits, (flags, end)| after(bits, *flags, *end)))
    }

    #[test]
    fn a_connection_from_open_to_close() {
        use End::{Destination as In, Source as Out};
        let life = [(SYN, Out), (SYN | ACK, In), (ACK, Out), (FIN | ACK, Out), (FIN | ACK, In), (ACK, Out)];
        let expected = [
            TcpState::Opening,
            TcpState::Established,
            TcpState::Established,
            TcpState::HalfClosed,
            TcpState::Closed,
            TcpState::Closed,
        ];
        for (n, state) in expected.into_iter().enumerate() {
            assert_eq!(run(&life[..=n]), state, "after step {n}");
        }
        let mut again = life.to_vec();
        again.push((SYN, Out));
        assert_eq!(run(&again), TcpState::Opening);
    }

    #[test]
    fn a_simultaneous_open_establishes() {
        assert_eq!(run(&[(SYN, End::Source), (SYN, End::Destination)]), TcpState::Established);
    }

    #[test]
    fn of_a_part_the_private_host_vouches_for_the_rest() {
        use End::{Destination as In, Source as Out};
        let run = |steps: &[(u8, End)]| {
            let bits = steps.iter().fold(PARTIAL, |bits, (flags, end)| after(bits, *flags, *end));
            assert_eq!(is_half_open(bits), bits & PARTIAL != 0);
            state(bits)
        };
        assert_eq!(run(&[(ACK, In), (ACK, In)]), TcpState::Opening);
        assert_eq!(run(&[(SYN, In), (ACK, In), (FIN | ACK, In)]), TcpState::Opening);
        assert_eq!(run(&[(SYN | ACK, Out), (SYN | ACK, Out)]), TcpState::Opening);
        assert_eq!(run(&[(ACK, In), (ACK, Out)]), TcpState::Established);
        assert_eq!(run(&[(ACK, Out)]), TcpState::Established);
        assert_eq!(run(&[(SYN | ACK, Out), (ACK, Out)]), TcpState::Established);
        assert_eq!(run(&[(FIN | ACK, In), (FIN | ACK, Out)]), TcpState::Closed);
        assert_eq!(run(&[(ACK, In), (RST, Out)]), TcpState::Reset);
    }

    #[test]
    fn traffic_after_a_reset_takes_it_back() {
        use End::{Destination as In, Source as Out};
        let open = [(SYN, Out), (SYN | ACK, In), (ACK, Out), (RST, In)];
        assert_eq!(run(&open), TcpState::Reset);
        let mut goes_on = open.to_vec();
        goes_on.push((ACK, Out));
        assert_eq!(run(&goes_on), TcpState::Established);
    }
}
