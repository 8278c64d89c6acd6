//! Lines of FTP control connections in which a client announces where it waits for a data connection: `PORT` (RFC 959 §4.1.2) and
//! `EPRT` (RFC 2428 §2).

use arrayvec::ArrayVec;

/// Bytes of the longest line that is looked at, its end included. The longest that announces anything has 32.
pub const LINE: usize = 64;

/// Bytes that a line may grow by when another address and port are written into it.
pub const GROWTH: usize = 16;

/// A line as it is written.
pub type Text = ArrayVec<u8, 40>;

/// How a line announces an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `PORT h1,h2,h3,h4,p1,p2`
    Port,
    /// `EPRT |1|address|port|` with this delimiter.
    Extended(u8),
}

/// What a line announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// How.
    pub form: Form,
    /// The address.
    pub address: u32,
    /// The port.
    pub port: u16,
}

/// What a whole line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// It announces an IPv4 endpoint.
    Announces(Announcement),
    /// It is a command that announces something, and what cannot be read.
    Malformed,
    /// Any other.
    Other,
}

const COMMANDS: [&[u8; 5]; 2] = [b"PORT ", b"EPRT "];

/// Whether a line that begins so may announce an endpoint.
pub fn may_announce(beginning: &[u8]) -> bool {
    COMMANDS.iter().any(|command| {
        let len = beginning.len().min(command.len());
        let (Some(bytes), Some(command)) = (beginning.get(..len), command.get(..len)) else { return false };
        bytes.eq_ignore_ascii_case(command)
    })
}

/// Reads a line with its end.
pub fn read(line: &[u8]) -> Line {
    let Some((command, parameters)) = line.split_first_chunk::<5>() else { return Line::Other };
    let parameters = parameters.trim_ascii();
    let announced = match &command.to_ascii_uppercase()[..] {
        b"PORT " => read_port(parameters),
        b"EPRT " => read_extended(parameters),
        _ => return Line::Other,
    };
    announced.map_or(Line::Malformed, Line::Announces)
}

fn read_port(text: &[u8]) -> Option<Announcement> {
    let mut numbers = text.split(|byte| *byte == b',');
    let mut next = || number(numbers.next()?, 3, 255);
    let bytes = [next()?, next()?, next()?, next()?, next()?, next()?];
    let [a, b, c, d, high, low] = bytes.map(|number| number as u8);
    let address = u32::from_be_bytes([a, b, c, d]);
    let port = u16::from_be_bytes([high, low]);
    numbers.next().is_none().then_some(Announcement { form: Form::Port, address, port })
}

fn read_extended(text: &[u8]) -> Option<Announcement> {
    let delimiter = *text.first().filter(|byte| byte.is_ascii_graphic() && !byte.is_ascii_digit())?;
    let mut parts = text.split(|byte| *byte == delimiter);
    let (before, family, host) = (parts.next()?, parts.next()?, parts.next()?);
    let (port, after) = (parts.next()?, parts.next()?);
    if !before.is_empty() || family != b"1" || !after.is_empty() || parts.next().is_some() {
        return None;
    }
    let mut numbers = host.split(|byte| *byte == b'.');
    let mut next = || number(numbers.next()?, 3, 255);
    let address = u32::from_be_bytes([next()?, next()?, next()?, next()?].map(|number| number as u8));
    let port = number(port, 5, u16::MAX.into())? as u16;
    let form = Form::Extended(delimiter);
    numbers.next().is_none().then_some(Announcement { form, address, port })
}

fn number(digits: &[u8], most_digits: usize, most: u32) -> Option<u32> {
    if digits.is_empty() || digits.len() > most_digits || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    (value <= most).then_some(value)
}

impl Announcement {
    /// The line that announces it, with the end of the line that it stands for.
    pub fn write(&self, old: &[u8]) -> Text {
        let mut text = Text::new();
        let [a, b, c, d] = self.address.to_be_bytes();
        match self.form {
            Form::Port => {
                let [high, low] = self.port.to_be_bytes();
                put(&mut text, b"PORT ");
                for (nth, byte) in [a, b, c, d, high, low].into_iter().enumerate() {
                    put(&mut text, if nth == 0 { b"" } else { b"," });
                    put_number(&mut text, byte.into());
                }
            }
            Form::Extended(delimiter) => {
                put(&mut text, b"EPRT ");
                put(&mut text, &[delimiter, b'1', delimiter]);
                for (nth, byte) in [a, b, c, d].into_iter().enumerate() {
                    put(&mut text, if nth == 0 { b"" } else { b"." });
                    put_number(&mut text, byte.into());
                }
                put(&mut text, &[delimiter]);
                put_number(&mut text, self.port);
                put(&mut text, &[delimiter]);
            }
        }
        put(&mut text, if old.ends_with(b"\r\n") { b"\r\n" } else { b"\n" });
        text
    }
}

/// Adds bytes; the longest line has room.
fn put(text: &mut Text, bytes: &[u8]) {
    let _ = text.try_extend_from_slice(bytes);
}

fn put_number(text: &mut Text, number: u16) {
    let mut divisor = 10_000;
    while divisor > 1 && number < divisor {
        divisor /= 10;
    }
    while divisor > 0 {
        put(text, &[b'0' + (number / divisor % 10) as u8]);
        divisor /= 10;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOST: u32 = 0x0a00_0005;

    #[test]
    fn both_commands_are_read() {
        let port = Announcement { form: Form::Port, address: HOST, port: 1234 };
        for line in ["PORT 10,0,0,5,4,210\r\n", "port 10,0,0,5,4,210\n", "PoRT  010,0,00,5,4,210 \r\n"] {
            assert_eq!(read(line.as_bytes()), Line::Announces(port), "{line:?}");
        }
        for delimiter in [b'|', b'!', b'~'] {
            let extended = Announcement { form: Form::Extended(delimiter), address: HOST, port: 1234 };
            let line = "EPRT |1|10.0.0.5|1234|\r\n".replace('|', &char::from(delimiter).to_string());
            assert_eq!(read(line.as_bytes()), Line::Announces(extended), "{line:?}");
        }
    }

    #[test]
    fn what_is_no_endpoint_is_not_read_as_one() {
        for line in [
            "PORT \r\n",
            "PORT 10,0,0,5,4\r\n",
            "PORT 10,0,0,5,4,210,1\r\n",
            "PORT 10,0,0,256,4,210\r\n",
            "PORT 10,0,0,-5,4,210\r\n",
            "PORT 10, 0,0,5,4,210\r\n",
            "PORT 10,0,0,0005,4,210\r\n",
            "EPRT |2|2001:db8::1|1234|\r\n",
            "EPRT |1|10.0.0.5|65536|\r\n",
            "EPRT |1|10.0.0.5|1234\r\n",
            "EPRT |1|10.0.0|1234|\r\n",
            "EPRT |1|10.0.0.5.6|1234|\r\n",
            "EPRT 1110.0.0.5112341\r\n",
            "EPRT |1|10.0.0.5|1234|1\r\n",
        ] {
            assert_eq!(read(line.as_bytes()), Line::Malformed, "{line:?}");
        }
        for line in ["", "\n", "PORT\r\n", "PASV\r\n", "XPORT 10,0,0,5,4,210\r\n", "NOOP\r\n"] {
            assert_eq!(read(line.as_bytes()), Line::Other, "{line:?}");
        }
    }

    #[test]
    fn a_line_shows_early_that_it_announces_nothing() {
        for beginning in ["", "P", "e", "pORT", "EPRT ", "PORT 10,0"] {
            assert!(may_announce(beginning.as_bytes()), "{beginning:?}");
        }
        for beginning in ["PA", "USER", "EPRT\r", "PORTS", " PORT"] {
            assert!(!may_announce(beginning.as_bytes()), "{beginning:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(address: u32, port: u16, extended: bool) {
            let form = if extended { Form::Extended(b'|') } else { Form::Port };
            let announcement = Announcement { form, address, port };
            let text = announcement.write(b"\r\n");
            prop_assert!(text.ends_with(b"\r\n") && text.len() <= LINE);
            prop_assert_eq!(read(&text), Line::Announces(announcement));
        }

        #[test]
        fn any_line_is_read_and_grows_by_little(
            command in prop::sample::select(vec!["PORT ", "EPRT "]),
            rest in prop::collection::vec(prop::sample::select(b"0123456789,|. ".to_vec()), 0..58),
        ) {
            let line = [command.as_bytes(), &rest, b"\r\n"].concat();
            if let Line::Announces(read) = read(&line) {
                let longest = Announcement { address: u32::MAX, port: u16::MAX, ..read };
                prop_assert!(longest.write(&line).len() <= line.len() + GROWTH);
            }
        }

        #[test]
        fn no_bytes_do_harm(line in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = (read(&line), may_announce(&line));
        }
    }
}
