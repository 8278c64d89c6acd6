//! The state of a TCP connection, as far as a NAT must follow it (RFC 5382 §5, RFC 7857 §2).
//!
//! Six bits record which flags were seen from which side. A connection is *established*, with the long timeout, when both
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

/// Whether a segment acknowledges and cannot change any state: those are the most.
#[inline(always)]
pub const fn is_plain(flags: u8, bits: u8) -> bool {
    flags & (SYN | FIN | RST | ACK) == ACK && is_established(bits)
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
        let before = if reopens(bits, flags) { 0 } else { bits & !RESET };
        return before | syn;
    }
    // Traffic after a reset shows that the reset was not believed (RFC 7857 §2.2).
    let bits = bits & !RESET;
    if flags & FIN != 0 { bits | fin } else { bits }
}

/// The bits of a connection that is met in its middle, as after a restart: only DNAT entries allow that.
pub const fn picked_up(flags: u8, end: End) -> u8 {
    if flags & SYN == 0 { after(SYN_OUT | SYN_IN, flags, end) } else { after(0, flags, end) }
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
    fn traffic_after_a_reset_takes_it_back() {
        use End::{Destination as In, Source as Out};
        let open = [(SYN, Out), (SYN | ACK, In), (ACK, Out), (RST, In)];
        assert_eq!(run(&open), TcpState::Reset);
        let mut goes_on = open.to_vec();
        goes_on.push((ACK, Out));
        assert_eq!(run(&goes_on), TcpState::Established);
    }
}
