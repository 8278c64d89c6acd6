//! The files that hours are kept in.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::row::HEAD;
use super::{Hour, Metered, Subject};
use crate::config;
use crate::control::time;

const HOUR: u64 = 3600;
/// The running hour is written at least so often, in seconds.
const MINUTE: u64 = 60;
/// The longest line that is read.
const LINE: u64 = 1024;

/// The books cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("metering.path {}: {error}", path.display())]
pub struct OpenError {
    path: PathBuf,
    error: io::Error,
}

/// What was used, by hour.
#[derive(Debug)]
pub struct Books {
    path: PathBuf,
    keep: Duration,
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    /// The beginning of the running hour.
    hour: u64,
    used: BTreeMap<Subject, Hour>,
    /// Hours that are over and not written yet.
    over: Vec<Metered>,
    written: u64,
}

impl Running {
    fn rows(&self) -> impl Iterator<Item = Metered> {
        let hour = self.hour;
        self.used.iter().map(move |(subject, used)| Metered { hour, subject: subject.clone(), used: *used })
    }

    /// Goes over to the hour of a time. A clock that was set back does not bring an hour back.
    fn turn(&mut self, now: u64) {
        let hour = now - now % HOUR;
        if hour > self.hour {
            let over: Vec<_> = self.rows().collect();
            self.over.extend(over);
            self.used.clear();
            self.hour = hour;
        }
    }
}

impl Books {
    /// Opens the books, and goes on with the hour that was running when they were closed, if it still runs.
    ///
    /// # Errors
    /// The directory cannot be made, read or written.
    pub fn open(settings: &config::Metering) -> Result<Self, OpenError> {
        let config::Metering { path, keep } = settings;
        let failed = |error| OpenError { path: path.clone(), error };
        let books = Self { path: path.clone(), keep: *keep, running: Mutex::default() };
        fs::create_dir_all(path).map_err(failed)?;
        let mut before = BTreeMap::<u64, BTreeMap<Subject, Hour>>::new();
        for row in Self::read(&books.path_of_running()).map_err(failed)? {
            before.entry(row.hour).or_default().insert(row.subject, row.used);
        }
        let now = time::now();
        {
            let mut running = books.running();
            if let Some((hour, used)) = before.pop_last() {
                (running.hour, running.used) = (hour, used);
            }
            let over = before.into_iter().flat_map(|(hour, rows)| {
                rows.into_iter().map(move |(subject, used)| Metered { hour, subject, used })
            });
            running.over = over.collect();
            running.turn(now);
        }
        books.write(now).map_err(failed)?;
        Ok(books)
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path_of_running(&self) -> PathBuf {
        self.path.join("running.csv")
    }

    /// The file of the month of an hour.
    fn path_of_month(&self, hour: u64) -> PathBuf {
        let day = time::format(hour);
        self.path.join(format!("hours-{}.csv", day.get(..7).unwrap_or_default()))
    }

    /// Whether a minute is over since the last writing, or an hour.
    pub(super) fn is_due(&self, now: u64) -> bool {
        let running = self.running();
        now / MINUTE != running.written / MINUTE || now - now % HOUR > running.hour
    }

    /// Takes in what was used since this was called last. It belongs to the hour that it was used in, as far as a second tells.
    pub(super) fn note(&self, now: u64, used: impl Iterator<Item = (Subject, Hour)>) {
        let mut running = self.running();
        running.turn(now.saturating_sub(1));
        for (subject, used) in used.filter(|(_, used)| !used.is_idle()) {
            running.used.entry(subject).or_default().add(&used);
        }
        running.turn(now);
    }

    /// Writes what is not yet on the disk.
    pub(super) fn write(&self, now: u64) -> io::Result<()> {
        let mut running = self.running();
        running.turn(now);
        let mut months = BTreeMap::<PathBuf, Vec<&Metered>>::new();
        for row in &running.over {
            months.entry(self.path_of_month(row.hour)).or_default().push(row);
        }
        for (path, rows) in months {
            append(&path, &rows)?;
        }
        let had_ended = !running.over.is_empty();
        running.over.clear();
        let new = self.path.join("running.csv.new");
        let mut file = File::create(&new)?;
        let lines: Vec<_> = running.rows().map(|row| format!("{row}\n")).collect();
        file.write_all(format!("{HEAD}\n{}", lines.concat()).as_bytes())?;
        file.sync_all()?;
        fs::rename(new, self.path_of_running())?;
        File::open(&self.path)?.sync_all()?;
        running.written = now;
        if had_ended {
            self.forget(now);
        }
        Ok(())
    }

    /// Removes the files of months that are over for longer than hours are kept.
    fn forget(&self, now: u64) {
        let oldest = self.path_of_month(now.saturating_sub(self.keep.as_secs()));
        for path in self.months().unwrap_or_default() {
            if path < oldest
                && let Err(error) = fs::remove_file(&path)
            {
                log::warn!("metering: {}: {error}", path.display());
            }
        }
    }

    /// The files of months, in their order.
    fn months(&self) -> io::Result<Vec<PathBuf>> {
        let mut months = Vec::new();
        for file in fs::read_dir(&self.path)? {
            let file = file?;
            let name = file.file_name();
            let month = name.to_str().and_then(|name| name.strip_prefix("hours-")?.strip_suffix(".csv"));
            if month.is_some() {
                months.push(file.path());
            }
        }
        months.sort();
        Ok(months)
    }

    /// Hours that begin within a range, oldest first, at most `limit`; and whether there are more.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn hours(
        &self,
        range: Range<u64>,
        wanted: impl Fn(&Subject) -> bool,
        limit: usize,
    ) -> io::Result<(Vec<Metered>, bool)> {
        let (first, last) = (self.path_of_month(range.start), self.path_of_month(range.end));
        let mut found = BTreeMap::new();
        let mut take = |row: Metered| {
            if range.contains(&row.hour) && wanted(&row.subject) {
                // A line that was written twice, because natgate was killed between two files, counts once.
                found.insert((row.hour, row.subject), row.used);
            }
        };
        {
            // What is over and not written yet is in no file.
            let running = self.running();
            for path in self.months()?.into_iter().filter(|path| (&first..=&last).contains(&path)) {
                Self::read(&path)?.into_iter().for_each(&mut take);
            }
            running.over.iter().cloned().chain(running.rows()).for_each(&mut take);
        }
        let is_cut = found.len() > limit;
        let rows = found.into_iter().take(limit);
        Ok((rows.map(|((hour, subject), used)| Metered { hour, subject, used }).collect(), is_cut))
    }

    /// The beginning of the running hour.
    pub fn running_hour(&self) -> u64 {
        self.running().hour
    }

    /// All lines of a file; those that are damaged are said and left out.
    fn read(path: &Path) -> io::Result<Vec<Metered>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut lines = BufReader::new(file);
        let (mut rows, mut damaged, mut line) = (Vec::new(), 0u64, Vec::new());
        loop {
            line.clear();
            if lines.by_ref().take(LINE).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let text = std::str::from_utf8(&line).unwrap_or_default().trim_end();
            match Metered::read(text) {
                Some(row) if line.ends_with(b"\n") => rows.push(row),
                _ if text == HEAD || text.is_empty() && line == b"\n" => {}
                _ => damaged += 1,
            }
        }
        if damaged > 0 {
            log::warn!("metering: {}: {damaged} lines are damaged and left out", path.display());
        }
        Ok(rows)
    }
}

/// Appends lines to a file, behind a line of their own if the last one was cut off.
fn append(path: &Path, rows: &[&Metered]) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    let len = file.metadata()?.len();
    let mut text = String::new();
    if len == 0 {
        text = format!("{HEAD}\n");
    } else {
        let mut last = [0];
        file.seek(SeekFrom::Start(len - 1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            text.push('\n');
        }
    }
    for row in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{row}");
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::socket::scratch;

    fn open(path: &Path) -> Books {
        let books =
            Books { path: path.into(), keep: Duration::from_hours(24 * 60), running: Mutex::default() };
        fs::create_dir_all(path).unwrap();
        books
    }

    fn subject() -> Subject {
        Subject::Eip([203, 0, 113, 16].into())
    }

    fn use_some(books: &Books, now: u64, sessions: u64) {
        let used = Hour { peak_new_sessions: sessions, peak_sessions: sessions, bytes_out: 100, bytes_in: 1 };
        books.note(now, std::iter::once((subject(), used)));
    }

    const START: u64 = 1_700_000_000 - 1_700_000_000 % HOUR;

    #[test]
    fn peaks_are_the_largest_and_bytes_add_up() {
        let directory = scratch::Directory::new();
        let books = open(directory.path());
        books.running().turn(START);
        for sessions in [3, 7, 5] {
            use_some(&books, START + sessions, sessions);
        }
        let (rows, is_cut) = books.hours(START..START + HOUR, |_| true, 10).unwrap();
        let used = Hour { peak_new_sessions: 7, peak_sessions: 7, bytes_out: 300, bytes_in: 3 };
        assert_eq!((rows, is_cut), (vec![Metered { hour: START, subject: subject(), used }], false));
    }

    #[test]
    fn hours_that_are_over_stand_in_the_file_of_their_month_and_survive() {
        let directory = scratch::Directory::new();
        let books = open(directory.path());
        books.running().turn(START);
        for hour in 0..50 {
            use_some(&books, START + hour * HOUR + 10, hour + 1);
            books.write(START + hour * HOUR + 20).unwrap();
        }
        drop(books);
        let books = open(directory.path());
        let (rows, _) = books.hours(START..START + 100 * HOUR, |_| true, 1000).unwrap();
        // The last hour runs, and is in the other file.
        assert_eq!(rows.len(), 49);
        assert_eq!(rows[10].used.peak_sessions, 11);
        let running = Books::read(&books.path_of_running()).unwrap();
        assert_eq!((running.len(), running[0].used.peak_sessions), (1, 50));
        let (rows, is_cut) = books.hours(START + HOUR..START + 3 * HOUR, |_| true, 1).unwrap();
        assert_eq!((rows.len(), is_cut, rows[0].hour), (1, true, START + HOUR));
        let (none, _) = books.hours(START..START + 100 * HOUR, |_| false, 1000).unwrap();
        assert!(none.is_empty());
    }

    #[test]
    fn a_restart_goes_on_with_the_running_hour() {
        let directory = scratch::Directory::new();
        let settings =
            config::Metering { path: directory.path().join("new"), keep: Duration::from_hours(24) };
        let now = time::now();
        let books = Books::open(&settings).unwrap();
        use_some(&books, now, 9);
        books.write(now).unwrap();
        drop(books);
        let books = Books::open(&settings).unwrap();
        use_some(&books, now, 4);
        let (rows, _) = books.hours(now - 2 * HOUR..now + HOUR, |_| true, 10).unwrap();
        // Where an hour ends while this runs there are two.
        assert_eq!(rows.iter().map(|row| row.used.bytes_out).sum::<u64>(), 200);
        assert_eq!(rows.iter().map(|row| row.used.peak_sessions).max(), Some(9));
    }

    #[test]
    fn a_line_that_was_cut_off_harms_no_other() {
        let directory = scratch::Directory::new();
        let books = open(directory.path());
        let month = books.path_of_month(START);
        fs::write(&month, format!("{HEAD}\n2023-11-14T22:00:00Z,eip,203.0.113.16,1,1,1,1\n2023-11-14T2"))
            .unwrap();
        books.running().turn(START);
        use_some(&books, START, 5);
        books.write(START + HOUR).unwrap();
        let text = fs::read_to_string(&month).unwrap();
        assert_eq!(text.lines().count(), 4, "{text}");
        let (rows, _) = books.hours(0..u64::MAX / 2, |_| true, 10).unwrap_or_default();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].used.peak_sessions, 5);
    }

    #[test]
    fn old_months_are_removed() {
        let directory = scratch::Directory::new();
        let books = open(directory.path());
        books.running().turn(START);
        for day in 0..200 {
            use_some(&books, START + day * 24 * HOUR, 1);
            books.write(START + day * 24 * HOUR + HOUR).unwrap();
        }
        let months = books.months().unwrap();
        assert!((2..=3).contains(&months.len()), "{months:?}");
    }
}
