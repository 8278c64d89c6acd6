//! The terminal as a whole, without line editing, and as it was when this is dropped.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::control::protocol::UsageBy;

/// To the other screen, without a cursor and without line breaks of the terminal's own; and back.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &[u8] = b"\x1b[?7h\x1b[?25h\x1b[?1049l";

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// To end.
    Quit,
    /// Another table.
    By(UsageBy),
    /// Nothing.
    Other,
}

/// A terminal that belongs to this program.
pub(super) struct Screen<'a> {
    out: &'a mut dyn Write,
    before: Termios,
    signals: Vec<SigId>,
    stopping: Arc<AtomicBool>,
}

impl<'a> Screen<'a> {
    /// Takes the terminal.
    pub(super) fn open(out: &'a mut dyn Write) -> io::Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let before = tcgetattr(stdin())?;
        let signals = [SIGHUP, SIGINT, SIGTERM]
            .map(|signal| signal_hook::flag::register(signal, Arc::clone(&stopping)));
        let signals = signals.into_iter().collect::<io::Result<Vec<_>>>()?;
        let mut raw = before.clone();
        raw.make_raw();
        // From here on it is given back whatever happens.
        let screen = Self { out, before, signals, stopping };
        tcsetattr(stdin(), OptionalActions::Flush, &raw)?;
        screen.out.write_all(ENTER)?;
        Ok(screen)
    }

    /// Shows a text, as far as there is room.
    pub(super) fn draw(&mut self, text: &str) -> io::Result<()> {
        let size = tcgetwinsize(stdout()).ok();
        let rows = size.map_or(24, |size| usize::from(size.ws_row).max(1));
        let columns = size.map_or(80, |size| usize::from(size.ws_col).max(1));
        let mut frame = String::from("\x1b[H");
        for (row, line) in text.lines().take(rows).enumerate() {
            if row > 0 {
                frame.push_str("\r\n");
            }
            frame.extend(line.chars().filter(|c| !c.is_control()).take(columns));
            frame.push_str("\x1b[K");
        }
        frame.push_str("\x1b[J");
        self.out.write_all(frame.as_bytes())?;
        self.out.flush()
    }

    /// The next key, if one is pressed in this time. A signal to end counts as one.
    pub(super) fn key(&mut self, time: Duration) -> io::Result<Option<Key>> {
        if self.stopping.load(Ordering::Relaxed) {
            return Ok(Some(Key::Quit));
        }
        let stdin = stdin();
        let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
        let time = Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        };
        match poll(&mut fds, Some(&time)) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            // By a signal: one to end, or that the terminal has another size.
            Err(Errno::INTR) => {
                let is_over = self.stopping.load(Ordering::Relaxed);
                return Ok(Some(if is_over { Key::Quit } else { Key::Other }));
            }
            Err(error) => return Err(error.into()),
        }
        let mut byte = [0u8; 16];
        let read = rustix::io::read(stdin, &mut byte)?;
        Ok(Some(match byte.get(..read) {
            // The terminal is gone, or Ctrl-C, Ctrl-D, Escape alone.
            None | Some([] | [3 | 4 | 27 | b'q' | b'Q', ..]) if read <= 1 => Key::Quit,
            Some([b'g', ..]) => Key::By(UsageBy::Gateway),
            Some([b'e', ..]) => Key::By(UsageBy::Eip),
            Some([b'n', ..]) => Key::By(UsageBy::Entry),
            Some([b'h', ..]) => Key::By(UsageBy::Host),
            _ => Key::Other,
        }))
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        let _ = self.out.write_all(LEAVE).and_then(|()| self.out.flush());
        let _ = tcsetattr(stdin(), OptionalActions::Flush, &self.before);
        for signal in self.signals.drain(..) {
            signal_hook::low_level::unregister(signal);
        }
    }
}
