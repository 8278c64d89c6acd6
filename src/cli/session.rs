//! `natgate session`: sessions listed, shown, ended, watched.

use std::io;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::cli::Console;
use crate::cli::args::{ClientArgs, SessionConditions, SessionsArgs, seconds};
use crate::cli::ask::{self, Failed, ask};
use crate::cli::output::bytes;
use crate::cli::render;
use crate::control::protocol::{Answer, KillRequest, Request, SessionsRequest, WatchRequest};

/// Sessions that are shown whole, at most.
const SHOWN: u64 = 100;

/// What to do with sessions.
#[derive(Clone, Debug, Subcommand)]
pub enum SessionVerb {
    /// List live sessions, as natgate sessions does.
    List(SessionsArgs),
    /// Show all that is known of sessions, a line for each value. At least one condition must be given, and all that are must hold.
    Show(ShowArgs),
    /// End sessions. All conditions that are given must hold; without any, --all must be given.
    ///
    /// A connection whose host goes on sending gets a new session: a DNAT entry makes one at once, an SNAT entry of UDP with another
    /// port. With --reset both ends of TCP connections are told, and end too.
    Kill(KillArgs),
    /// Show sessions that begin and end, as it happens, until it is interrupted. All conditions that are given must hold.
    ///
    /// Where more happens than can be shown, a line says how much is missing. One command can watch at a time.
    Watch(WatchArgs),
}

/// Arguments of `session show`.
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub conditions: SessionConditions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// Arguments of `session kill`.
#[derive(Clone, Debug, Args)]
pub struct KillArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub conditions: SessionConditions,
    /// All sessions of all gateways.
    #[arg(long)]
    pub all: bool,
    /// Send TCP resets to both ends.
    #[arg(long)]
    pub reset: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// Arguments of `session watch`.
#[derive(Clone, Debug, Args)]
pub struct WatchArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub conditions: SessionConditions,
    /// End after so many events.
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub events: Option<u64>,
    /// End after this time.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<f64>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

impl SessionVerb {
    /// Whether JSON is asked for.
    pub(super) const fn json(&self) -> bool {
        match self {
            Self::List(args) => args.client.json,
            Self::Show(args) => args.client.json,
            Self::Kill(args) => args.client.json,
            Self::Watch(args) => args.client.json,
        }
    }
}

/// Does it.
pub(super) fn execute(verb: &SessionVerb, console: &mut Console<'_>) -> Result<(), Failed> {
    match verb {
        SessionVerb::List(args) => ask::sessions(args, console),
        SessionVerb::Show(args) => show(args, console),
        SessionVerb::Kill(args) => kill(args, console),
        SessionVerb::Watch(args) => watch(args, console),
    }
}

fn show(args: &ShowArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    let ShowArgs { conditions, client } = args.clone();
    let request = SessionsRequest { limit: Some(SHOWN), ..conditions.request() };
    if request.is_of_all() {
        let rule = "no condition is given: say which sessions, such as --inside 10.0.1.10:40000; natgate session list has all";
        return Err(Failed::Input(rule.to_owned()));
    }
    let mut is_first = true;
    let end = ask(&client, Request::Sessions(request), |answer| match answer {
        Answer::Session(session) if client.json => {
            serde_json::to_writer(&mut *console.out, &session)?;
            writeln!(console.out)
        }
        Answer::Session(session) => {
            let space = if std::mem::take(&mut is_first) { "" } else { "\n" };
            console.out.write_all(format!("{space}{}", render::whole_session(&session)).as_bytes())
        }
        _ => Ok(()),
    })?;
    console.out.flush()?;
    if end.count == 0 {
        console.note("no session matches");
    }
    if end.truncated {
        console.note(format_args!("there may be more than these {}", end.count));
    }
    Ok(())
}

fn kill(args: &KillArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    let KillArgs { conditions, all, reset, client } = args.clone();
    let request = KillRequest { sessions: conditions.request(), reset, all };
    ask(&client, Request::Kill(request), |answer| match answer {
        Answer::Killed(killed) => ask::document(console.out, client.json, &killed, || {
            let plural = if killed.ended == 1 { "" } else { "s" };
            format!("{} session{plural} ended\n", killed.ended)
        }),
        _ => Ok(()),
    })?;
    Ok(())
}

fn watch(args: &WatchArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    let WatchArgs { conditions, events, timeout, client } = args.clone();
    let request = WatchRequest { sessions: conditions.request(), events, timeout_seconds: timeout };
    ask(&client, Request::Watch(request), |answer| {
        let Answer::Event(event) = answer else { return Ok(()) };
        if client.json {
            serde_json::to_writer(&mut *console.out, &event)?;
            writeln!(console.out)?;
        } else {
            line(console.out, &event)?;
        }
        // They come one by one: each is shown at once, in a pipe too.
        console.out.flush()
    })?;
    Ok(())
}

/// An event for people.
fn line(out: &mut dyn io::Write, event: &Value) -> io::Result<()> {
    let text = |key: &str| event.get(key).and_then(Value::as_str).unwrap_or_default();
    let number = |key: &str| event.get(key).and_then(Value::as_u64).unwrap_or_default();
    let (time, kind) = (text("time"), text("event"));
    if kind == "lost" {
        return writeln!(out, "{time} {} events are missing here", number("count"));
    }
    write!(
        out,
        "{time} {kind:<7} {} {} {} > {} > {} by {} of {}",
        text("kind"),
        text("protocol"),
        text("inside"),
        text("external"),
        text("peer"),
        text("entry"),
        text("gateway"),
    )?;
    if kind == "ended" {
        let (bytes_out, bytes_in) = (bytes(number("bytes_out")), bytes(number("bytes_in")));
        write!(out, ", {}, {}, {bytes_out} out, {bytes_in} in", text("ending"), text("state"))?;
    }
    writeln!(out)
}
