//! The durable store: every resource, API key, audit record and idempotency key, in one file.
//!
//! It is [redb]: an embedded, copy-on-write B-tree in pure Rust. A commit is one `fdatasync` after which all of it is there,
//! and a process or machine that dies in the middle leaves the state before; nothing is replayed at the start. SQLite does
//! the same but is a C library, and an LSM tree (fjall, RocksDB) spends threads and memory on a load of writes that a
//! gateway's configuration is not. A file of its own would have to prove what these have proven.
//!
//! Values are JSON in the words of the API, so that an older store can be read by a newer natgate field by field, and by
//! people in need.
//!
//! Whatever is wrong with the file, it is refused and left as it is: damaged, made by a newer natgate, or no store at all. A
//! store of an older version is migrated in one transaction when it is opened.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::control::protocol::Json;

/// The version of what is in the file.
pub const VERSION: u64 = 2;

/// Audit records that are kept at least, once there are so many; the oldest go.
const AUDIT: u64 = 100_000;
/// Audit records that are written as one row, at most. A row costs about the same however many are in it.
const ROW: usize = 64;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const RESOURCES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("resources");
const KEYS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("keys");
const ANSWERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("answers");
/// Audit records by the number of the first of them: JSON documents that follow each other.
const AUDITED: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("audit");

/// The store cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("store {path}: another natgate has it open; stop it, or give this one another file (store.path)")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It was made by a newer natgate.
    #[error(
        "store {path}: it has version {found}, and this natgate knows versions up to {VERSION}; run the natgate that wrote it, or restore an export of the older one into another file (store.path)"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// It cannot be read.
    #[error(
        "store {path}: it is damaged or no store ({reason}); it was left as it is. Restore a copy of it, or move it away, start anew and run natgate apply with the last export"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The operating system refused.
    #[error("store {path}: {action} failed: {reason}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The reason.
        reason: String,
    },
}

/// A key or an answer that is to be written, or taken away.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// Which.
    pub key: String,
    /// Its new value, or none.
    pub value: Option<Value>,
}

/// Who changed what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Its number; records follow each other without gaps.
    #[serde(default)]
    pub number: u64,
    /// When, in seconds since 1970.
    pub time: u64,
    /// Who: a user of this machine, or an API key.
    pub who: String,
    /// What was done: `create`, `update`, `delete`, `apply`.
    pub action: String,
    /// The identifier of what changed.
    pub id: String,
    /// What it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Json>,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Json>,
}

/// Everything that one commit writes.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    /// Resources that changed, in order: what each is afterwards is stored, and the record is kept. The store numbers them.
    pub audit: Vec<AuditRecord>,
    /// Records of what is no resource.
    pub notes: Vec<AuditRecord>,
    /// API keys by identifier.
    pub keys: Vec<Write>,
    /// Answers by idempotency key.
    pub answers: Vec<Write>,
    /// What is to happen if an apply is not confirmed.
    pub pending: Pending,
}

/// What becomes of that which is to happen if an apply is not confirmed.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Pending {
    /// It stays what it was.
    #[default]
    Unchanged,
    /// It is this.
    Set(Value),
    /// It is nothing any more.
    Cleared,
}

/// All that is in a store, without the audit records.
#[derive(Debug, Default)]
pub struct Contents {
    /// Resources by identifier, as JSON: whoever reads them makes more of it than a tree of values.
    pub resources: Vec<(String, Vec<u8>)>,
    /// Answers by idempotency key.
    pub answers: Vec<(String, Value)>,
    /// What is to happen if the last apply is not confirmed.
    pub pending: Option<Value>,
}

/// An open store. One process has it at a time.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    database: Database,
    /// Held by whoever writes: one after the other. Readers wait for nobody.
    audited: Mutex<Audited>,
}

/// The numbers of audit records.
#[derive(Debug, Default)]
struct Audited {
    first: u64,
    /// That of the next record.
    next: u64,
}

type Failure = redb::Error;

impl Store {
    /// Opens a store, or makes an empty one where there is no file.
    ///
    /// # Errors
    /// It is in use, damaged, newer, or cannot be reached. It is left as it is then.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let io = |action| {
            move |error: std::io::Error| StoreError::Io {
                path: path.to_owned(),
                action,
                reason: error.to_string(),
            }
        };
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            fs::create_dir_all(directory).map_err(io("making its directory"))?;
        }
        let is_new = match fs::metadata(path) {
            Ok(_) => false,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
            Err(error) => return Err(io("looking at it")(error)),
        };
        if is_new {
            return Self::make(path);
        }
        // Looked at without writing first: opening for writing makes notes in the file.
        if let Some(found) = guarded(path, || Ok(peek(path)))?.filter(|found| *found > VERSION) {
            return Err(StoreError::Newer { path: path.to_owned(), found });
        }
        let database = guarded(path, || {
            let mut builder = Database::builder();
            builder.set_check_integrity_on_open(true).set_repair_callback(|_| {});
            builder.open(path).map_err(|error| match error {
                redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.to_owned() },
                redb::DatabaseError::Storage(redb::StorageError::Io(error))
                    if error.kind() == std::io::ErrorKind::PermissionDenied =>
                {
                    io("opening it")(error)
                }
                error => damaged(path, &error),
            })
        })?;
        guarded(path, || Self::read(path, database))
    }

    /// Makes an empty store beside its place and moves it there, so that its place never holds half of one.
    fn make(path: &Path) -> Result<Self, StoreError> {
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        let failed = |action: &'static str| {
            move |reason: String| StoreError::Io { path: path.to_owned(), action, reason }
        };
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed("removing what an earlier start left")(error.to_string()));
            }
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&fresh);
        let file = file.map_err(|error| failed("making it")(error.to_string()))?;
        let made = || -> Result<Database, Failure> {
            let database =
                Database::builder().create_with_backend(redb::backends::FileBackend::new(file)?)?;
            let transaction = database.begin_write()?;
            transaction.open_table(META)?.insert("version", VERSION.to_be_bytes().as_slice())?;
            transaction.open_table(RESOURCES)?;
            transaction.open_table(KEYS)?;
            transaction.open_table(ANSWERS)?;
            transaction.open_table(AUDITED)?;
            transaction.commit()?;
            Ok(database)
        };
        let database = made().map_err(|error| failed("making it")(error.to_string()))?;
        fs::rename(&fresh, path).map_err(|error| failed("giving it its name")(error.to_string()))?;
        if let Some(directory) = path.parent() {
            let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
            let synced = fs::File::open(directory).and_then(|directory| directory.sync_all());
            synced.map_err(|error| failed("making its name durable")(error.to_string()))?;
        }
        Ok(Self { path: path.to_owned(), database, audited: Mutex::default() })
    }

    fn read(path: &Path, database: Database) -> Result<Self, StoreError> {
        let wrong = |error: Failure| damaged(path, &error);
        let found = version(&database).map_err(wrong)?;
        let found = found.ok_or_else(|| damaged(path, &"it has no version"))?;
        if found > VERSION {
            return Err(StoreError::Newer { path: path.to_owned(), found });
        }
        migrate(&database, found).map_err(wrong)?;
        let bounds = || -> Result<Audited, Failure> {
            let transaction = database.begin_read()?;
            let table = transaction.open_table(AUDITED)?;
            let first = table.first()?.map_or(0, |(number, _)| number.value());
            let last = table.last()?.map(|(_, row)| audited(row.value())).transpose()?;
            let next = last.iter().flatten().last().map_or(0, |record| record.number + 1);
            Ok(Audited { first, next })
        };
        let audited = Mutex::new(bounds().map_err(wrong)?);
        Ok(Self { path: path.to_owned(), database, audited })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything in it.
    ///
    /// # Errors
    /// It is damaged.
    pub fn contents(&self) -> Result<Contents, StoreError> {
        guarded(&self.path, || {
            let read = || -> Result<Contents, Failure> {
                let transaction = self.database.begin_read()?;
                let pending = transaction.open_table(META)?.get("pending")?;
                let pending = pending.map(|value| serde_json::from_slice(value.value())).transpose();
                let pending =
                    pending.map_err(|error| redb::StorageError::Corrupted(format!("pending: {error}")))?;
                let resources = documents(&transaction, RESOURCES)?;
                let answers = rows(&transaction, ANSWERS)?;
                Ok(Contents { resources, answers, pending })
            };
            read().map_err(|error| damaged(&self.path, &error))
        })
    }

    /// API keys by identifier.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn keys(&self) -> Result<Vec<(String, Value)>, StoreError> {
        let read = || rows(&self.database.begin_read()?, KEYS);
        read().map_err(|error: Failure| damaged(&self.path, &error))
    }

    /// Writes everything of a transaction, or nothing. When this returns it is on the disk.
    ///
    /// # Errors
    /// Nothing was written.
    pub fn commit(&self, transaction: &mut Transaction) -> Result<(), StoreError> {
        // Its numbers are set in one step.
        let mut audited = self.audited.lock().unwrap_or_else(PoisonError::into_inner);
        let Audited { first: mut first_audit, next: mut next_audit } = *audited;
        let mut written = || -> Result<(), Failure> {
            let write = self.database.begin_write()?;
            for (definition, writes) in [(KEYS, &transaction.keys), (ANSWERS, &transaction.answers)] {
                if writes.is_empty() {
                    continue;
                }
                let mut table = write.open_table(definition)?;
                for Write { key, value } in writes {
                    match value {
                        Some(value) => {
                            table.insert(key.as_str(), value.to_string().as_bytes())?;
                        }
                        None => {
                            table.remove(key.as_str())?;
                        }
                    }
                }
            }
            if !transaction.audit.is_empty() || !transaction.notes.is_empty() {
                let mut table = write.open_table(AUDITED)?;
                let mut records: Vec<_> =
                    transaction.audit.iter_mut().chain(&mut transaction.notes).collect();
                let mut row = Vec::with_capacity(ROW * 1024);
                for records in records.chunks_mut(ROW) {
                    let first = next_audit;
                    row.clear();
                    for record in records {
                        record.number = next_audit;
                        encode(record, &mut row)?;
                        next_audit += 1;
                    }
                    table.insert(first, row.as_slice())?;
                }
                while next_audit - first_audit >= AUDIT + ROW as u64 {
                    table.pop_first()?;
                    first_audit = table.first()?.map_or(next_audit, |(number, _)| number.value());
                }
                let mut resources = write.open_table(RESOURCES)?;
                for record in &transaction.audit {
                    match &record.after {
                        Some(after) => resources.insert(record.id.as_str(), after.text().as_bytes())?,
                        None => resources.remove(record.id.as_str())?,
                    };
                }
            }
            match &transaction.pending {
                Pending::Unchanged => {}
                Pending::Set(pending) => {
                    write.open_table(META)?.insert("pending", pending.to_string().as_bytes())?;
                }
                Pending::Cleared => {
                    write.open_table(META)?.remove("pending")?;
                }
            }
            write.commit()?;
            Ok(())
        };
        written().map_err(|error| StoreError::Io {
            path: self.path.clone(),
            action: "writing to it",
            reason: error.to_string(),
        })?;
        *audited = Audited { first: first_audit, next: next_audit };
        Ok(())
    }

    /// The disk takes no commit until what this gives is dropped.
    #[cfg(test)]
    pub(in crate::control) fn stand_still(&self) -> impl Drop {
        self.audited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Audit records before a number, the newest first.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn audit(&self, before: Option<u64>, most: usize) -> Result<Vec<AuditRecord>, StoreError> {
        let read = || -> Result<Vec<AuditRecord>, Failure> {
            let transaction = self.database.begin_read()?;
            let table = transaction.open_table(AUDITED)?;
            let mut records = Vec::new();
            let before = before.unwrap_or(u64::MAX);
            for row in table.range(..before)?.rev() {
                let (_, row) = row?;
                let older = audited(row.value())?.into_iter().rev().filter(|record| record.number < before);
                records.extend(older.take(most - records.len()));
                if records.len() == most {
                    break;
                }
            }
            Ok(records)
        };
        read().map_err(|error| damaged(&self.path, &error))
    }
}

/// The records of a row.
fn audited(row: &[u8]) -> Result<Vec<AuditRecord>, Failure> {
    let records = serde_json::Deserializer::from_slice(row).into_iter();
    let read: Result<_, _> = records.collect();
    Ok(read.map_err(|error| redb::StorageError::Corrupted(format!("audit: {error}")))?)
}

/// All rows of a table, as they are written.
fn documents(
    transaction: &redb::ReadTransaction,
    definition: TableDefinition<'_, &str, &[u8]>,
) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let mut all = Vec::new();
    for row in transaction.open_table(definition)?.iter()? {
        let (key, value) = row?;
        serde_json::from_slice::<serde::de::IgnoredAny>(value.value())
            .map_err(|error| redb::StorageError::Corrupted(format!("{}: {error}", key.value())))?;
        all.push((key.value().to_owned(), value.value().to_vec()));
    }
    Ok(all)
}

/// All rows of a table, read.
fn rows(
    transaction: &redb::ReadTransaction,
    definition: TableDefinition<'_, &str, &[u8]>,
) -> Result<Vec<(String, Value)>, Failure> {
    let mut all = Vec::new();
    for row in transaction.open_table(definition)?.iter()? {
        let (key, value) = row?;
        let value = serde_json::from_slice(value.value())
            .map_err(|error| redb::StorageError::Corrupted(format!("{}: {error}", key.value())))?;
        all.push((key.value().to_owned(), value));
    }
    Ok(all)
}

/// The version of a store that was closed well; one that was not is mended when it is opened for writing.
fn peek(path: &Path) -> Option<u64> {
    version(&redb::ReadOnlyDatabase::open(path).ok()?).ok()?
}

fn version(database: &impl ReadableDatabase) -> Result<Option<u64>, Failure> {
    let transaction = database.begin_read()?;
    let table = match transaction.open_table(META) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        table => table?,
    };
    let version = table.get("version")?;
    Ok(version.and_then(|version| Some(u64::from_be_bytes(version.value().try_into().ok()?))))
}

/// Brings a store of an older version to this one, in one transaction.
fn migrate(database: &Database, found: u64) -> Result<(), Failure> {
    if found == VERSION {
        return Ok(());
    }
    let transaction = database.begin_write()?;
    for step in found..VERSION {
        if let Some(migration) = MIGRATIONS.get(step as usize) {
            migration(&transaction)?;
        }
    }
    transaction.open_table(META)?.insert("version", VERSION.to_be_bytes().as_slice())?;
    transaction.commit()?;
    Ok(())
}

type Migration = fn(&redb::WriteTransaction) -> Result<(), Failure>;

/// What leads from each version to the next.
const MIGRATIONS: [Migration; VERSION as usize] = [
    // Version 0 was never in use.
    |transaction| {
        transaction.open_table(RESOURCES)?;
        transaction.open_table(KEYS)?;
        transaction.open_table(ANSWERS)?;
        transaction.open_table(AUDITED)?;
        Ok(())
    },
    // Version 1 has one audit record in each row.
    |_| Ok(()),
];

/// Appends a value as JSON.
fn encode(value: &impl Serialize, row: &mut Vec<u8>) -> Result<(), Failure> {
    Ok(serde_json::to_writer(row, value).map_err(|error| redb::StorageError::Corrupted(error.to_string()))?)
}

fn damaged(path: &Path, reason: &dyn std::fmt::Display) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), reason: reason.to_string() }
}

/// Reads a file that may hold anything: what the library does not expect ends in a panic there, and in an error here.
fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(damaged(path, &"its structure makes no sense")))
}

#[cfg(test)]
mod tests;
