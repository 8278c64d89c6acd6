//! Who had an external address and port at a time: a directory with one redb file for each hour, so that what is too old goes
//! file by file.
//!
//! A session stands in it from its beginning, and once more with its end, in the file of the hour of each. One that has no end
//! ended when natgate did, at the latest when it began anew; or it lives.
//!
//! What is found is durable: rows are committed by a thread of their own, all that has come since the commit before, so that the
//! disk holds up no other place. redb rather than a format of our own: ordered keys that survive a crash in the middle of a write.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redb::{Database, ReadOnlyDatabase, ReadableDatabase, TableDefinition};

use super::line::Origin;
use crate::base::Tick;
use crate::control::address::Protocol;
use crate::control::manager::names;
use crate::control::time;
use crate::nat::ports::blocks::PortBlock;

/// Sessions by external endpoint, beginning, private endpoint and peer.
pub(super) const SESSIONS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("sessions");
/// Blocks of ports by EIP, first port, beginning, private host and last port.
pub(super) const BLOCKS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("blocks");
/// When natgate started.
pub(super) const STARTS: TableDefinition<'_, u64, ()> = TableDefinition::new("starts");

pub(super) const HOUR: u64 = 3_600_000;
/// To which a beginning is told, in milliseconds.
const TICK: u64 = Tick::NANOS / 1_000_000;
/// Bytes of memory for pages of the present hour's file, and of an earlier one that is looked at.
const CACHE: usize = 64 << 20;
const SMALL_CACHE: usize = 1 << 20;
/// What a file is called: the hour that it begins with, such as `2026-11-25T21.redb`.
const SUFFIX: &str = ".redb";

pub(super) type Failure = redb::Error;

/// A session that had an external endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// When it began, in milliseconds since 1970.
    pub began: u64,
    /// When it ended; none if it lives, as far as is known.
    pub ended: Option<u64>,
    /// The private address and port.
    pub inside: String,
    /// The peer.
    pub peer: String,
    /// The VPC of the private address.
    pub vpc: String,
    /// The gateway.
    pub gateway: String,
    /// The entry.
    pub entry: String,
}

/// The index of all hours.
#[derive(Debug)]
pub struct Index {
    directory: PathBuf,
    keep: Duration,
    /// When this was opened, in milliseconds since 1970: what has no end by then ended, whether that start stands in a file yet or not.
    opened: u64,
    /// The file of the present hour.
    present: Mutex<Option<Segment>>,
}

/// The file of one hour.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    hour: u64,
    pub(super) database: Arc<Database>,
}

/// A key: what is asked for comes first.
pub(super) fn key(
    external: (u32, u16),
    protocol: u8,
    began: u64,
    inside: (u32, u16),
    peer: (u32, u16),
) -> [u8; 27] {
    let mut key = [0; 27];
    key[0..4].copy_from_slice(&external.0.to_be_bytes());
    key[4..6].copy_from_slice(&external.1.to_be_bytes());
    key[6] = protocol;
    key[7..15].copy_from_slice(&began.to_be_bytes());
    key[15..19].copy_from_slice(&inside.0.to_be_bytes());
    key[19..21].copy_from_slice(&inside.1.to_be_bytes());
    key[21..25].copy_from_slice(&peer.0.to_be_bytes());
    key[25..27].copy_from_slice(&peer.1.to_be_bytes());
    key
}

/// The key of a block.
pub(super) fn block_key(block: &PortBlock, began: u64) -> [u8; 20] {
    let mut key = [0; 20];
    key[0..4].copy_from_slice(&block.external.to_be_bytes());
    key[4..6].copy_from_slice(&block.ports.first.to_be_bytes());
    key[6..14].copy_from_slice(&began.to_be_bytes());
    key[14..18].copy_from_slice(&block.inside.to_be_bytes());
    key[18..20].copy_from_slice(&block.ports.last.to_be_bytes());
    key
}

/// The end of a session or block, or zero, and the names of what made it.
pub(super) fn value(ended: u64, origin: &Origin) -> Vec<u8> {
    let mut value = ended.to_be_bytes().to_vec();
    value.extend_from_slice([&*origin.vpc, &*origin.gateway, &*origin.entry].join("\n").as_bytes());
    value
}

/// The parts of a row.
fn read(key: &[u8], value: &[u8]) -> Option<(Flow, u64, u64, [String; 3])> {
    let flow: Flow = key.get(15..)?.try_into().ok()?;
    let began = u64::from_be_bytes(key.get(7..15)?.try_into().ok()?);
    let (ended, origin) = value.split_first_chunk::<8>()?;
    let mut names = str::from_utf8(origin).ok()?.split('\n').map(str::to_owned);
    let names = [names.next()?, names.next()?, names.next()?];
    Some((flow, began, u64::from_be_bytes(*ended), names))
}

/// The parts of a block's row, as those of a session: the private host, and in the places of the ports the block's.
fn read_block(key: &[u8], value: &[u8]) -> Option<(Flow, u64, u64, [String; 3])> {
    let mut flow = Flow::default();
    flow[0..4].copy_from_slice(key.get(14..18)?);
    flow[4..6].copy_from_slice(key.get(4..6)?);
    flow[10..12].copy_from_slice(key.get(18..20)?);
    let began = u64::from_be_bytes(key.get(6..14)?.try_into().ok()?);
    let (ended, origin) = value.split_first_chunk::<8>()?;
    let mut names = str::from_utf8(origin).ok()?.split('\n').map(str::to_owned);
    let names = [names.next()?, names.next()?, names.next()?];
    Some((flow, began, u64::from_be_bytes(*ended), names))
}

/// The private endpoint and the peer, as in the key.
type Flow = [u8; 12];

fn file_name(hour: u64) -> String {
    let start = time::format(hour * HOUR / 1000);
    format!("{}{SUFFIX}", start.get(..13).unwrap_or_default())
}

/// The hour of a file.
fn hour_of(path: &Path) -> Option<u64> {
    let start = path.file_name()?.to_str()?.strip_suffix(SUFFIX)?;
    Some(time::parse(&format!("{start}:00:00Z"))? * 1000 / HOUR)
}

impl Index {
    /// Opens an index, or makes an empty one.
    ///
    /// # Errors
    /// The directory or its present file cannot be written, in words.
    pub fn open(directory: PathBuf, keep: Duration) -> Result<Self, String> {
        fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
        let index =
            Self { directory, keep, opened: time::now_nanos() / 1_000_000, present: Mutex::new(None) };
        index.segment(time::now() * 1000 / HOUR)?;
        Ok(index)
    }

    fn present(&self) -> MutexGuard<'_, Option<Segment>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file of an hour, made where it is not there; earlier ones that are too old go.
    pub(super) fn segment(&self, hour: u64) -> Result<Segment, String> {
        let mut present = self.present();
        // A clock that was set back does not open an earlier file: the present one takes what comes.
        if let Some(segment) = present.as_ref().filter(|segment| segment.hour >= hour) {
            return Ok(segment.clone());
        }
        *present = None;
        let path = self.directory.join(file_name(hour));
        let opened = Database::builder().set_cache_size(CACHE).create(&path).map_err(Failure::from);
        let database = opened.and_then(|database| {
            let transaction = database.begin_write()?;
            transaction.open_table(SESSIONS)?;
            transaction.open_table(BLOCKS)?;
            transaction.open_table(STARTS)?;
            transaction.commit()?;
            Ok(database)
        });
        let database = database.map_err(|error| format!("{}: {error}", path.display()))?;
        let segment = Segment { hour, database: Arc::new(database) };
        *present = Some(segment.clone());
        drop(present);
        self.forget(hour);
        Ok(segment)
    }

    /// Removes files of hours that are over for longer than the index is kept.
    fn forget(&self, present: u64) {
        let keep = self.keep.as_millis() as u64 / HOUR;
        for (hour, path) in self.files().unwrap_or_default() {
            if hour + 1 + keep <= present
                && let Err(error) = fs::remove_file(&path)
            {
                log::warn!("session log: {}: it is too old and cannot be removed: {error}", path.display());
            }
        }
    }

    /// All files by their hour.
    fn files(&self) -> io::Result<BTreeMap<u64, PathBuf>> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if let Some(hour) = hour_of(&path) {
                files.insert(hour, path);
            }
        }
        Ok(files)
    }

    /// The sessions that had an external endpoint at a time, in milliseconds since 1970; the earliest first.
    ///
    /// # Errors
    /// A file cannot be read, in words.
    pub fn who(&self, external: (Ipv4Addr, u16), protocol: Protocol, at: u64) -> Result<Vec<Owned>, String> {
        let external = (u32::from(external.0), external.1);
        let mut found = Found { starts: vec![self.opened], ..Found::default() };
        // In this order: when the hour changes in between, the file that was the present one is closed.
        let files = self.files().map_err(|error| error.to_string())?;
        let present = self.present().clone();
        for (hour, path) in files {
            let looked = match &present {
                Some(segment) if segment.hour == hour => found.look(&*segment.database, external, protocol.0),
                _ => earlier(&path).and_then(|database| found.look(&database, external, protocol.0)),
            };
            looked.map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(found.at(at, protocol.0))
    }
}

/// The file of an hour that is over. One that was not closed, because natgate was killed, is brought in order first.
fn earlier(path: &Path) -> Result<ReadOnlyDatabase, Failure> {
    let open = || Database::builder().set_cache_size(SMALL_CACHE).open_read_only(path);
    match open() {
        Err(redb::DatabaseError::RepairAborted) => {
            drop(Database::builder().set_cache_size(SMALL_CACHE).open(path)?);
            Ok(open()?)
        }
        opened => Ok(opened?),
    }
}

/// What was found of one external endpoint in all files.
#[derive(Default)]
struct Found {
    /// By private endpoint and peer, and by beginning: the end, or zero, and what made it.
    sessions: BTreeMap<Flow, BTreeMap<u64, (u64, [String; 3])>>,
    /// The same of blocks of ports.
    blocks: BTreeMap<Flow, BTreeMap<u64, (u64, [String; 3])>>,
    starts: Vec<u64>,
}

impl Found {
    fn look(
        &mut self,
        database: &impl ReadableDatabase,
        external: (u32, u16),
        protocol: u8,
    ) -> Result<(), Failure> {
        let transaction = database.begin_read()?;
        let least = key(external, protocol, 0, (0, 0), (0, 0));
        let most = key(external, protocol, u64::MAX, (u32::MAX, u16::MAX), (u32::MAX, u16::MAX));
        for row in transaction.open_table(SESSIONS)?.range(&least[..]..=&most[..])? {
            let (key, value) = row?;
            let Some((flow, began, ended, names)) = read(key.value(), value.value()) else { continue };
            let known = self.sessions.entry(flow).or_default().entry(began).or_insert((0, names));
            known.0 = known.0.max(ended);
        }
        // Files of earlier versions have no blocks.
        match transaction.open_table(BLOCKS) {
            Ok(table) => {
                let mut least = [0; 20];
                least[0..4].copy_from_slice(&external.0.to_be_bytes());
                let mut most = [0xff; 20];
                most[0..4].copy_from_slice(&external.0.to_be_bytes());
                most[4..6].copy_from_slice(&external.1.to_be_bytes());
                for row in table.range(&least[..]..=&most[..])? {
                    let (key, value) = row?;
                    let Some((flow, began, ended, names)) = read_block(key.value(), value.value()) else {
                        continue;
                    };
                    if u16::from_be_bytes([flow[10], flow[11]]) >= external.1 {
                        let known = self.blocks.entry(flow).or_default().entry(began).or_insert((0, names));
                        known.0 = known.0.max(ended);
                    }
                }
            }
            Err(redb::TableError::TableDoesNotExist(_)) => {}
            Err(error) => return Err(error.into()),
        }
        for start in transaction.open_table(STARTS)?.range::<u64>(..)? {
            self.starts.push(start?.0.value());
        }
        Ok(())
    }

    /// Those of a time.
    fn at(self, at: u64, protocol: u8) -> Vec<Owned> {
        let mut owners = Vec::new();
        let sessions = self.sessions.into_iter().map(|(flow, rows)| (flow, rows, false));
        let blocks = self.blocks.into_iter().map(|(flow, rows)| (flow, rows, true));
        for (flow, rows, is_block) in sessions.chain(blocks) {
            for (&began, (ended, [vpc, gateway, entry])) in &rows {
                // Where the clock was set meanwhile, the end stands at another beginning: the first end after this one is its.
                let later = rows.range(began..).map(|(_, (ended, _))| *ended).filter(|ended| *ended > began);
                // A beginning is told to a tick: a start within that tick was before it.
                let restart = self.starts.iter().copied().filter(|start| *start >= began + TICK);
                let next = rows.range(began + 1..).map(|(began, _)| *began).next();
                let ended = match *ended {
                    0 => later.chain(restart).chain(next).min(),
                    ended => Some(ended),
                };
                if began > at || ended.is_some_and(|ended| ended < at) {
                    continue;
                }
                let number =
                    |from: usize| u32::from_be_bytes(flow[from..from + 4].try_into().unwrap_or_default());
                let port = |from: usize| u16::from_be_bytes([flow[from], flow[from + 1]]);
                let (inside, peer) = if is_block {
                    (Ipv4Addr::from(number(0)).to_string(), format!("any, by ports {}-{}", port(4), port(10)))
                } else {
                    (
                        names::endpoint(protocol, (number(0), port(4))),
                        names::endpoint(protocol, (number(6), port(10))),
                    )
                };
                owners.push(Owned {
                    began,
                    ended,
                    inside,
                    peer,
                    vpc: vpc.clone(),
                    gateway: gateway.clone(),
                    entry: entry.clone(),
                });
            }
        }
        owners.sort_by_key(|owner| owner.began);
        owners
    }
}

#[cfg(test)]
mod tests;
