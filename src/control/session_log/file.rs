//! JSON lines in a file that others may move away.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::time::Duration;

use super::Place;
use super::line::Line;
use crate::base::Moment;

/// Bytes that are collected for one write.
const BUFFER: usize = 1 << 18;
/// How often it is looked whether the file is still the one of its name.
const LOOK: Duration = Duration::from_secs(1);

/// A file of JSON lines.
pub(super) struct JsonLines {
    path: PathBuf,
    file: BufWriter<File>,
    looked: Moment,
}

impl JsonLines {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        Ok(Self { file: BufWriter::with_capacity(BUFFER, open(&path)?), path, looked: Moment::default() })
    }

    /// Whether the file was moved away or removed, as log rotation does it.
    fn is_moved(&self) -> io::Result<bool> {
        let own = self.file.get_ref().metadata()?;
        Ok(match std::fs::metadata(&self.path) {
            Ok(named) => (named.dev(), named.ino()) != (own.dev(), own.ino()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        })
    }
}

fn open(path: &PathBuf) -> io::Result<File> {
    // Who spoke to whom is not for everybody.
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

impl Place for JsonLines {
    fn write(&mut self, line: &Line) -> io::Result<()> {
        let mut text = line.json();
        text.push('\n');
        self.file.write_all(text.as_bytes())
    }

    fn flush(&mut self, now: Moment) -> io::Result<()> {
        self.file.flush()?;
        if now.since(self.looked) >= LOOK {
            self.looked = now;
            if self.is_moved()? {
                self.file = BufWriter::with_capacity(BUFFER, open(&self.path)?);
            }
        }
        Ok(())
    }
}
