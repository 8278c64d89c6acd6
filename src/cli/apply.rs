//! `natgate export`, `apply`, `confirm` and `rollback`: all resources as one file.

use std::io::{self, BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::Args;

use super::args::ClientArgs;
use super::ask::{Failed, ask, document};
use super::nouns::SessionArgs;
use super::{Console, place, render};
use crate::cli::output::counted;
use crate::config::units;
use crate::control::client::ClientError;
use crate::control::protocol::{Answer, Applied, ApplyRequest, Document, LONGEST_TRIAL, Request};

/// What stands at the head of an export.
const HEAD: &str = "# All resources of a natgate store. `natgate apply FILE` makes them what this file says: adds, changes and removes.\n";

/// Arguments of `export`.
#[derive(Clone, Debug, Args)]
pub struct ExportArgs {
    /// Where to write it; as JSON if the name ends in .json, else as TOML. - is the standard output.
    #[arg(value_name = "FILE", default_value = "-")]
    pub file: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// Arguments of `apply`.
#[derive(Clone, Debug, Args)]
pub struct ApplyArgs {
    /// The file, TOML or JSON; - is the standard input.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Only print what would change.
    #[arg(long, conflicts_with_all = ["confirm", "yes"])]
    pub dry_run: bool,
    /// Take it back after this time, such as 60s or 5m, unless natgate confirm comes by then; also if natgate was killed meanwhile.
    #[arg(long, value_name = "TIME", value_parser = trial)]
    pub confirm: Option<u32>,
    /// Do not ask, even on a terminal.
    #[arg(short, long)]
    pub yes: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub sessions: SessionArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// Arguments of `confirm`.
#[derive(Clone, Debug, Args)]
pub struct ConfirmArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// Arguments of `rollback`.
#[derive(Clone, Debug, Args)]
pub struct RollbackArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// A time to confirm in, in seconds.
fn trial(text: &str) -> Result<u32, String> {
    let seconds = units::duration(text).filter(|time| time.subsec_nanos() == 0);
    let seconds = seconds.and_then(|time| u32::try_from(time.as_secs()).ok());
    seconds
        .filter(|seconds| (1..=LONGEST_TRIAL).contains(seconds))
        .ok_or_else(|| "not a time of whole seconds from 1s to 1d, such as 60s or 5m".into())
}

fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

pub(super) fn export(args: &ExportArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    let mut all = Document::new();
    ask(&args.client, Request::Export, |answer| {
        if let Answer::Exported(spec) = answer {
            all.push(*spec);
        }
        Ok(())
    })?;
    let is_json = args.client.json || args.file.extension().is_some_and(|extension| extension == "json");
    let text = if is_json {
        serde_json::to_string_pretty(&all).map(|text| text + "\n").map_err(io::Error::from)?
    } else {
        let text = toml::to_string(&all).map_err(io::Error::other)?;
        format!("{HEAD}{text}")
    };
    if is_standard(&args.file) {
        return Ok(console.out.write_all(text.as_bytes())?);
    }
    replace(&args.file, &text)
        .map_err(|error| Failed::Other(format!("{} cannot be written: {error}", args.file.display())))?;
    console.note(format_args!("{} in {}", counted(all.len(), "resource"), args.file.display()));
    Ok(())
}

/// Writes a file whole or not at all.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    std::fs::write(&fresh, text)?;
    std::fs::rename(&fresh, path).inspect_err(|_| drop(std::fs::remove_file(&fresh)))
}

pub(super) fn apply(args: &ApplyArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    let shown =
        if is_standard(&args.file) { "standard input".into() } else { args.file.display().to_string() };
    let text = if is_standard(&args.file) {
        let mut text = String::new();
        io::stdin().lock().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(&args.file)
    };
    let text = text.map_err(|error| Failed::Input(format!("{shown} cannot be read: {error}")))?;
    let all = read(&text).map_err(|reason| Failed::Input(format!("{shown}: {reason}")))?;
    let request = |document, dry_run, generation| ApplyRequest {
        document,
        dry_run,
        confirm_seconds: args.confirm,
        generation,
        sessions: args.sessions.request(),
    };
    let send = |request| send(&args.client, request, &shown, &text);
    let is_asked = !args.dry_run && !args.yes && !is_standard(&args.file) && io::stdin().is_terminal();
    if !is_asked {
        let applied = send(request(all, args.dry_run, None))?;
        return Ok(document(console.out, args.client.json, &applied, || render::applied(&applied))?);
    }
    let shown = send(request(all.clone(), true, None))?;
    if !shown.changes.is_empty() {
        write!(console.err, "{}apply? [y/N] ", render::applied(&shown))?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            return Err(Failed::Other("nothing was changed".to_owned()));
        }
    }
    // Nothing else than what was shown.
    let applied = send(request(all, false, Some(shown.generation)))?;
    Ok(document(console.out, args.client.json, &applied, || {
        let lines = render::applied(&applied);
        lines.split_inclusive('\n').skip(applied.changes.len()).collect()
    })?)
}

/// Asks for an apply. Errors of the file get its name and their lines.
fn send(client: &ClientArgs, request: ApplyRequest, file: &str, text: &str) -> Result<Applied, Failed> {
    let mut applied = Applied::default();
    let asked = ask(client, Request::Apply(Box::new(request)), |answer| {
        if let Answer::Applied(answer) = answer {
            applied = *answer;
        }
        Ok(())
    });
    match asked {
        Err(Failed::Client(ClientError::Refused(mut fault))) => {
            place::findings(&mut fault.findings, file, text);
            Err(ClientError::Refused(fault).into())
        }
        asked => asked.map(|_| applied),
    }
}

pub(super) fn confirm(args: &ConfirmArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    ask(&args.client, Request::Confirm, |answer| match answer {
        Answer::Applied(applied) => document(console.out, args.client.json, &applied, || {
            format!("confirmed: generation {} stays\n", applied.generation)
        }),
        _ => Ok(()),
    })?;
    Ok(())
}

pub(super) fn rollback(args: &RollbackArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    ask(&args.client, Request::RollBack, |answer| match answer {
        Answer::Applied(applied) => {
            document(console.out, args.client.json, &applied, || render::applied(&applied))
        }
        _ => Ok(()),
    })?;
    Ok(())
}

/// Reads a file: JSON if it begins with a brace, as no TOML does.
fn read(text: &str) -> Result<Document, String> {
    if text.trim_start().starts_with('{') {
        let mut reader = serde_json::Deserializer::from_str(text);
        let read = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let path = error.path().to_string();
            format!("{path}: {}", error.into_inner())
        })?;
        reader.end().map_err(|error| error.to_string())?;
        return Ok(read);
    }
    toml::from_str(text).map_err(|error| error.to_string())
}
