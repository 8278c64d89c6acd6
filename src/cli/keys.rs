//! `natgate key create|list|show|update|delete` and `natgate audit`.

use std::io;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::Console;
use super::ask::{Failed, ask};
use super::nouns::{AskArgs, Format, cell, pretty};
use super::output::Table;
use crate::control::protocol::{Answer, AuditRequest, CreateKey, Key, KeyValues, Request};

/// What is done to API keys.
#[derive(Clone, Debug, Subcommand)]
pub enum KeyVerb {
    /// Make one. Its secret is shown now and never again.
    Create {
        /// What its owner may do: viewer (look), operator (change resources, too) or admin (make keys, too).
        #[arg(long, value_name = "ROLE")]
        role: String,
        /// A name for people.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        #[allow(missing_docs)]
        ask: AskArgs,
    },
    /// List all, without their secrets.
    List {
        #[command(flatten)]
        #[allow(missing_docs)]
        ask: AskArgs,
    },
    /// Show one, without its secret.
    Show {
        /// Its identifier, or its name if no other has it.
        id: String,
        #[command(flatten)]
        #[allow(missing_docs)]
        ask: AskArgs,
    },
    /// Change the name or the role of one. Its secret stays the same.
    #[command(group = clap::ArgGroup::new("values").required(true).multiple(true).args(["role", "name"]))]
    Update {
        /// Its identifier, or its name if no other has it.
        id: String,
        /// What its owner may do from now on: viewer, operator or admin.
        #[arg(long, value_name = "ROLE")]
        role: Option<String>,
        /// Its new name.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        #[allow(missing_docs)]
        ask: AskArgs,
    },
    /// Delete one. It opens nothing any more when this returns.
    Delete {
        /// Its identifier, or its name if no other has it.
        id: String,
        #[command(flatten)]
        #[allow(missing_docs)]
        ask: AskArgs,
    },
}

/// Arguments of `audit`.
#[derive(Clone, Debug, Args)]
pub struct AuditArgs {
    /// Those before this number.
    #[arg(long, value_name = "NUMBER")]
    pub before: Option<u64>,
    /// At most so many.
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    pub limit: u64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub ask: AskArgs,
}

/// Carries a verb out; also whether errors are to be JSON.
pub(super) fn execute(verb: &KeyVerb, console: &mut Console<'_>) -> (Result<(), Failed>, bool) {
    let (result, args) = match verb {
        KeyVerb::Create { role, name, ask } => (create(role, name.as_deref(), ask, console), ask),
        KeyVerb::List { ask } => (list(ask, console), ask),
        KeyVerb::Show { id, ask } => (show(id, ask, console), ask),
        KeyVerb::Update { id, role, name, ask } => {
            let values = KeyValues { role: role.clone(), name: name.clone() };
            (update(id, values, ask, console), ask)
        }
        KeyVerb::Delete { id, ask } => (delete(id, ask, console), ask),
    };
    (result, args.output == Format::Json)
}

fn create(role: &str, name: Option<&str>, args: &AskArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    let request = CreateKey { role: role.to_owned(), name: name.map(str::to_owned) };
    ask(&args.client(), Request::CreateKey(request), |answer| {
        let Answer::KeyCreated(created) = answer else { return Ok(()) };
        if args.output == Format::Json {
            return pretty(console, &serde_json::json!(created));
        }
        writeln!(console.out, "id      {}\nrole    {}", created.key.id, created.key.role)?;
        writeln!(console.out, "secret  {}", created.secret)?;
        console.note("the secret is not shown again: send it as Authorization: Bearer SECRET");
        Ok(())
    })?;
    Ok(())
}

fn list(args: &AskArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    let mut table = Table::new(["ID", "NAME", "ROLE", "CREATED AT"]);
    ask(&args.client(), Request::Keys, |answer| {
        let Answer::Key(key) = answer else { return Ok(()) };
        if args.output == Format::Json {
            serde_json::to_writer(&mut *console.out, &key)?;
            return writeln!(console.out);
        }
        let Key { id, name, role, created_at } = key;
        table.row([id, name.unwrap_or_else(|| "-".into()), role.to_string(), created_at]);
        Ok(())
    })?;
    if args.output == Format::Table {
        write!(console.out, "{table}")?;
    }
    Ok(())
}

fn show(id: &str, args: &AskArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    let mut found = Vec::new();
    ask(&args.client(), Request::Keys, |answer| {
        let Answer::Key(key) = answer else { return Ok(()) };
        if key.id == id || key.name.as_deref() == Some(id) {
            found.push(key);
        }
        Ok(())
    })?;
    match &found[..] {
        [key] => Ok(print(key, args, console)?),
        [] => Err(Failed::Input(format!("there is no key {id}; natgate key list shows all"))),
        several => {
            let ids: Vec<_> = several.iter().map(|key| key.id.as_str()).collect();
            Err(Failed::Input(format!("several keys have the name {id}: {}", ids.join(", "))))
        }
    }
}

fn update(id: &str, values: KeyValues, args: &AskArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    ask(&args.client(), Request::UpdateKey { id: id.to_owned(), values }, |answer| {
        let Answer::Key(key) = answer else { return Ok(()) };
        print(&key, args, console)
    })?;
    Ok(())
}

/// A key as it is now.
fn print(key: &Key, args: &AskArgs, console: &mut Console<'_>) -> io::Result<()> {
    if args.output == Format::Json {
        return pretty(console, &serde_json::json!(key));
    }
    let Key { id, name, role, created_at } = key;
    let name = name.as_deref().unwrap_or("-");
    writeln!(
        console.out,
        "id          {id}\nname        {name}\nrole        {role}\ncreated at  {created_at}"
    )
}

fn delete(id: &str, args: &AskArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    ask(&args.client(), Request::DeleteKey(id.to_owned()), |answer| {
        let Answer::Key(key) = answer else { return Ok(()) };
        match args.output {
            Format::Json => pretty(console, &serde_json::json!({ "deleted": [key.id] })),
            Format::Table => writeln!(console.out, "deleted {}", key.id),
        }
    })?;
    Ok(())
}

/// Shows who changed what, the newest first.
pub(super) fn audit(args: &AuditArgs, console: &mut Console<'_>) -> (Result<(), Failed>, bool) {
    let is_json = args.ask.output == Format::Json;
    let request = AuditRequest { before: args.before, limit: Some(args.limit) };
    let mut table = Table::new(["NUMBER", "AT", "WHO", "ACTION", "ID", "CHANGED"]);
    let asked = ask(&args.ask.client(), Request::Audit(request), |answer| {
        let Answer::Audit(record) = answer else { return Ok(()) };
        if is_json {
            serde_json::to_writer(&mut *console.out, &record)?;
            return writeln!(console.out);
        }
        let shown = ["number", "at", "who", "action", "id"].map(|key| cell(record.get(key)));
        table.row(shown.into_iter().chain([difference(&record)]));
        Ok(())
    });
    let printed = asked.and_then(|_| if is_json { Ok(()) } else { Ok(write!(console.out, "{table}")?) });
    (printed, is_json)
}

/// The values that a record changed, before and after.
fn difference(record: &Value) -> String {
    let side = |name| record.get(name).and_then(Value::as_object);
    let (before, after) = (side("before"), side("after"));
    let keys = before.into_iter().chain(after).flat_map(|side| side.keys());
    let keys: std::collections::BTreeSet<_> = keys.collect();
    let of =
        |side: Option<&serde_json::Map<String, Value>>, key: &str| cell(side.and_then(|side| side.get(key)));
    let changed = keys.into_iter().filter(|key| !matches!(key.as_str(), "id" | "created_at" | "status"));
    let changed = changed.filter_map(|key| {
        let (old, new) = (of(before, key), of(after, key));
        (old != new).then(|| match (before, after) {
            (None, _) => format!("{key}={new}"),
            (_, None) => format!("{key}={old}"),
            _ => format!("{key}: {old} -> {new}"),
        })
    });
    changed.collect::<Vec<_>>().join(", ")
}
