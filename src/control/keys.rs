//! API keys: who may use the HTTP API from afar.
//!
//! A secret is 256 random bits that are shown once. What is kept is its SHA-256: nothing slower is needed against guessing what
//! cannot be guessed, and a look-up by the hash tells nothing about how much of a secret was right.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::base::Rng;
use crate::config::{Code, Name};
use crate::control::access::{Caller, Role};
use crate::control::inventory::Refusal;
use crate::control::protocol::{CreateKey, Fault, FaultCode, Json, Key, KeyCreated, KeyValues};
use crate::control::store::{AuditRecord, Transaction, Write};
use crate::control::time::{self, now};
use crate::control::writer::{Desk, refused};

/// What every secret begins with, so that one is recognised where it should not be.
const PREFIX: &str = "ngk_";
/// Keys that there may be.
const MOST: usize = 10_000;

/// A key as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    key: Key,
    /// SHA-256 of the secret, in hexadecimal.
    hash: String,
}

/// The keys of a store.
#[derive(Debug)]
pub struct Keys {
    desk: Desk,
    /// By the hash of the secret. Locked for writing only for a moment: whoever shows a key does not wait for the disk.
    known: RwLock<BTreeMap<String, Key>>,
    /// Held while keys are made or deleted: one after the other.
    changing: Mutex<()>,
}

impl Keys {
    /// Those that are in the store.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn load(desk: Desk) -> Result<Self, String> {
        let rows = desk.keys().map_err(|error| error.to_string())?;
        let read = |(id, value)| {
            let stored = serde_json::from_value::<Stored>(value);
            stored
                .map(|stored| (stored.hash, stored.key))
                .map_err(|error| format!("the store's key {id}: {error}"))
        };
        let known = rows.into_iter().map(read).collect::<Result<_, _>>()?;
        Ok(Self { desk, known: RwLock::new(known), changing: Mutex::new(()) })
    }

    /// Whose secret this is.
    pub fn owner(&self, secret: &str) -> Option<Caller> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let key = known.get(&hash(secret))?;
        let name = key.name.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
        Some(Caller { name: format!("key {}{name}", key.id), role: key.role })
    }

    /// All keys, the oldest first.
    pub fn list(&self) -> Vec<Key> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut keys: Vec<_> = known.values().cloned().collect();
        keys.sort_by(|a, b| (&a.created_at, &a.id).cmp(&(&b.created_at, &b.id)));
        keys
    }

    /// Makes a key. Only this answer tells its secret.
    ///
    /// # Errors
    /// What is wrong with the request, or it cannot be stored.
    pub fn create(&self, who: &str, request: &CreateKey) -> Result<KeyCreated, Fault> {
        judge_name(request.name.as_deref())?;
        let role = role(&request.role)?;
        let mut rng = Rng::from_system()
            .map_err(|error| Fault::new(FaultCode::Failed, format!("/dev/urandom: {error}")))?;
        let mut random = |words: usize| hex((0..words).flat_map(|_| rng.next_u64().to_be_bytes()).collect());
        let (id, secret) = (format!("key-{}", random(1)), format!("{PREFIX}{}", random(4)));
        let created_at = time::format(now());
        let key = Key { id, name: request.name.clone(), role, created_at };
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.known.read().unwrap_or_else(PoisonError::into_inner).len() >= MOST {
            let message = format!("there are {MOST} keys already");
            return Err(Fault::new(FaultCode::Refused, message).hint("delete those that nobody uses"));
        }
        let stored = Stored { key: key.clone(), hash: hash(&secret) };
        self.write(who, "create", None, Some(&stored))?;
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(stored.hash, key.clone());
        Ok(KeyCreated { key, secret })
    }

    /// Gives a key, by its identifier or the name that no other has, another name or role. Its secret stays, and opens what the role
    /// does from now on.
    ///
    /// # Errors
    /// There is no such key, what is wrong with the values, or the store cannot be written.
    pub fn update(&self, who: &str, id: &str, values: &KeyValues) -> Result<Key, Fault> {
        judge_name(values.name.as_deref())?;
        let role = values.role.as_deref().map(role).transpose()?;
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.find(id)?;
        let mut after = before.clone();
        after.key.role = role.unwrap_or(before.key.role);
        after.key.name = values.name.clone().or(after.key.name);
        self.write(who, "update", Some(&before), Some(&after))?;
        let Stored { key, hash } = after;
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(hash, key.clone());
        Ok(key)
    }

    /// Deletes a key, by its identifier or the name that no other has. It opens nothing any more when this returns.
    ///
    /// # Errors
    /// There is no such key, or the store cannot be written.
    pub fn delete(&self, who: &str, id: &str) -> Result<Key, Fault> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let stored = self.find(id)?;
        self.write(who, "delete", Some(&stored), None)?;
        let Stored { key, hash } = stored;
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(&hash);
        Ok(key)
    }

    /// The key of an identifier, or of the name that no other has.
    fn find(&self, id: &str) -> Result<Stored, Fault> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let found: Vec<_> =
            known.iter().filter(|(_, key)| key.id == id || key.name.as_deref() == Some(id)).collect();
        match found[..] {
            [(hash, key)] => Ok(Stored { key: key.clone(), hash: hash.clone() }),
            [] => Err(refused(Refusal::new(Code::NotFound, "id").value(id))),
            [..] => {
                let several = Refusal::new(Code::AmbiguousName, "id").value(id);
                Err(refused(found.iter().fold(several, |refusal, (_, key)| refusal.conflict(&key.id))))
            }
        }
    }

    fn write(
        &self,
        who: &str,
        action: &str,
        before: Option<&Stored>,
        after: Option<&Stored>,
    ) -> Result<(), Fault> {
        let Some(Stored { key: Key { id, .. }, .. }) = before.or(after) else { return Ok(()) };
        // The audit log never learns a hash.
        let told = |stored: Option<&Stored>| stored.map(|stored| Json::of(&stored.key));
        let note = AuditRecord {
            number: 0,
            time: now(),
            who: who.to_owned(),
            action: action.to_owned(),
            id: id.clone(),
            before: told(before),
            after: told(after),
        };
        let write = Write { key: id.clone(), value: after.map(|stored| json!(stored)) };
        let mut transaction = Transaction { keys: vec![write], notes: vec![note], ..Transaction::default() };
        self.desk
            .commit(&mut transaction)
            .map_err(|error| Fault::new(FaultCode::Failed, format!("{error}; nothing was changed")))
    }
}

fn judge_name(name: Option<&str>) -> Result<(), Fault> {
    match name.filter(|name| Name::new(name).is_none()) {
        None => Ok(()),
        Some(name) => Err(refused(Refusal::new(Code::InvalidName, "name").value(name))),
    }
}

fn role(word: &str) -> Result<Role, Fault> {
    Role::of(word).ok_or_else(|| {
        let known = Role::ALL.map(Role::name).join(", ");
        refused(Refusal::new(Code::InvalidChoice, "role").value(word).hint(known))
    })
}

fn hash(secret: &str) -> String {
    hex(Sha256::digest(secret.as_bytes()).to_vec())
}

fn hex(bytes: Vec<u8>) -> String {
    bytes.into_iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
