//! Commands that ask a running gateway.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::Duration;

use clap::CommandFactory;
use serde::Serialize;

use crate::base::time::Clock;
use crate::cli::args::{
    CheckArgs, Cli, ClientArgs, CompletionsArgs, ExplainArgs, ManArgs, MetricsArgs, ReloadArgs, SessionsArgs,
    StatsArgs, StatusArgs, TraceArgs, WhoArgs,
};
use crate::cli::output::Table;
use crate::cli::{
    Command, Console, Exit, apply, capture, conformance, doctor, keys, metering, nouns, pktgen, render,
    session, speed, top,
};
use crate::config;
use crate::control::client::{Client, ClientError};
use crate::control::describe::PacketDescription;
use crate::control::metrics;
use crate::control::protocol::{
    Answer, End, Fault, FaultCode, Owner, ReloadRequest, Request, SessionsRequest, Stats, TraceRequest,
    Usage, UsageBy, UsageRequest, WhoRequest,
};

/// Why a command did not end well.
pub(super) enum Failed {
    Client(ClientError),
    Print(io::Error),
    Input(String),
    Other(String),
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Print(error)
    }
}

/// Carries out a command. `run` is the daemon's, and nothing here.
pub fn execute(command: &Command, console: &mut Console<'_>) -> Exit {
    let (result, json) = match command {
        Command::Reload(args) => (reload(args, console), args.client.json),
        Command::Status(args) => (status(args, console), args.client.json),
        Command::Stats(args) => (stats(args, console), args.client.json),
        Command::Metrics(args) => (print_metrics(args, console), false),
        Command::Top(args) => (top::execute(args, console), false),
        Command::Metering(args) => (metering::execute(args, console), false),
        Command::Sessions(args) => (sessions(args, console), args.client.json),
        Command::Session(verb) => (session::execute(verb, console), verb.json()),
        Command::Who(args) => (who(args, console), args.client.json),
        Command::Trace(args) => (trace(args, console), args.client.json),
        Command::Capture(args) => (capture::execute(args, console), false),
        Command::Explain(args) => (explain(args, console), args.client.json),
        Command::Vpc(verb) => nouns::execute("vpc", verb, console),
        Command::Vswitch(verb) => nouns::execute("vswitch", verb, console),
        Command::Gateway(verb) => nouns::execute("gateway", verb, console),
        Command::Plan(verb) => nouns::execute("plan", verb, console),
        Command::Eip(verb) => nouns::execute("eip", verb, console),
        Command::Dnat(verb) => nouns::execute("dnat", verb, console),
        Command::Snat(verb) => nouns::execute("snat", verb, console),
        Command::Export(args) => (apply::export(args, console), args.client.json),
        Command::Apply(args) => (apply::apply(args, console), args.client.json),
        Command::Confirm(args) => (apply::confirm(args, console), args.client.json),
        Command::Rollback(args) => (apply::rollback(args, console), args.client.json),
        Command::Key(verb) => keys::execute(verb, console),
        Command::Audit(args) => keys::audit(args, console),
        Command::Completions(args) => (completions(args, console), false),
        Command::Man(args) => (man(args, console), false),
        Command::Check(args) => return check(args, console),
        Command::Doctor(args) => return doctor::execute(args, console),
        Command::Conformance(args) => return conformance::execute(args, console),
        Command::Pktgen(args) => return pktgen::execute(args, console),
        Command::Speed(args) => return speed::execute(args, console),
        Command::Run(_) => (Ok(()), false),
    };
    let result = result.and_then(|()| console.out.flush().map_err(Failed::Print));
    match result {
        Ok(()) => Exit::Success,
        Err(Failed::Print(error)) => console.broken(&error),
        Err(Failed::Input(message)) => {
            console.error(message, None);
            Exit::Input
        }
        Err(Failed::Other(message)) => {
            console.error(message, None);
            Exit::Failure
        }
        Err(Failed::Client(error)) => refused(&error, json, console),
    }
}

/// Checks a file: all its errors, or a line that says it is good.
fn check(args: &CheckArgs, console: &mut Console<'_>) -> Exit {
    let checked = config::load(&args.config);
    let printed = match &checked {
        _ if args.json => {
            let errors =
                checked.as_ref().err().map_or(serde_json::json!([]), |errors| serde_json::json!(errors));
            let answer = serde_json::json!({ "valid": checked.is_ok(), "errors": errors });
            document(console.out, true, &answer, String::new)
        }
        Ok(_) => writeln!(console.out, "{}: no errors", args.config.display()),
        Err(errors) => {
            console.error_lines(errors);
            Ok(())
        }
    };
    match printed.and_then(|()| console.out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => console.broken(&error),
        _ if checked.is_ok() => Exit::Success,
        _ => Exit::Input,
    }
}

fn refused(error: &ClientError, json: bool, console: &mut Console<'_>) -> Exit {
    match error {
        ClientError::Refused(fault) => {
            if json {
                let _ = writeln!(console.err, "{}", serde_json::json!({ "error": fault }));
            } else {
                for finding in &fault.findings {
                    let _ = writeln!(console.err, "{finding}");
                }
                console.error(fault, fault.hint.as_deref());
            }
            exit_of(fault)
        }
        ClientError::NotReachable { error: reason, .. } => {
            let hint = match reason.kind() {
                io::ErrorKind::PermissionDenied => "run this as root or as the user that the gateway runs as",
                _ => {
                    "start it with natgate run, or say with --socket or NATGATE_SOCKET where it listens (system.control)"
                }
            };
            console.error(error, Some(hint));
            Exit::Unreachable
        }
        ClientError::Broken { .. } => {
            console.error(error, None);
            Exit::Failure
        }
    }
}

fn exit_of(fault: &Fault) -> Exit {
    match fault.code {
        FaultCode::Refused
        | FaultCode::BadRequest
        | FaultCode::TooLong
        | FaultCode::Configuration
        | FaultCode::NeedsRestart => Exit::Input,
        _ => Exit::Failure,
    }
}

/// Asks, and gives each answer to `each`. A failure to print ends the conversation.
pub(super) fn ask(
    args: &ClientArgs,
    request: Request,
    mut each: impl FnMut(Answer) -> io::Result<()>,
) -> Result<End, Failed> {
    let mut broken = Ok(());
    // Not an argument: others see those.
    let key = std::env::var("NATGATE_KEY").ok().filter(|key| !key.is_empty());
    let end = Client::connect(&args.socket)?.with_key(key).ask(request, |answer| {
        broken = each(answer);
        if broken.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    broken?;
    Ok(end?)
}

/// Prints one document.
pub(super) fn document(
    out: &mut dyn Write,
    json: bool,
    value: &impl Serialize,
    text: impl FnOnce() -> String,
) -> io::Result<()> {
    if json {
        serde_json::to_writer_pretty(&mut *out, value)?;
        return writeln!(out);
    }
    out.write_all(text().as_bytes())
}

/// Prints one JSON line of many.
fn json_line(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}

fn reload(args: &ReloadArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    let request = Request::Reload(ReloadRequest { dry_run: args.dry_run, sessions: args.sessions.request() });
    ask(&args.client, request, |answer| match answer {
        Answer::Reload(reloaded) => {
            document(console.out, args.client.json, &reloaded, || render::reloaded(&reloaded))
        }
        _ => Ok(()),
    })?;
    Ok(())
}

fn status(args: &StatusArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    ask(&args.client, Request::Status, |answer| match answer {
        Answer::Status(status) => {
            document(console.out, args.client.json, &status, || render::status(&status))
        }
        _ => Ok(()),
    })?;
    Ok(())
}

fn print_metrics(args: &MetricsArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    let client = ClientArgs { socket: args.socket.clone(), json: false };
    let (mut status, mut stats, mut usage) = (Box::default(), Box::default(), Vec::new());
    for request in [Request::Status, Request::Stats, Request::Usage(metrics::USAGE)] {
        ask(&client, request, |answer| {
            match answer {
                Answer::Status(answer) => status = answer,
                Answer::Stats(answer) => stats = answer,
                Answer::Usage(answer) => usage.push(*answer),
                _ => {}
            }
            Ok(())
        })?;
    }
    Ok(console.out.write_all(metrics::render(&status, &stats, &usage).as_bytes())?)
}

fn stats(args: &StatsArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    if let Some(by) = args.by {
        return usage(args, by, console);
    }
    let json = args.client.json;
    let now = || {
        let mut stats = Stats::default();
        ask(&args.client, Request::Stats, |answer| {
            if let Answer::Stats(answer) = answer {
                stats = *answer;
            }
            Ok(())
        })?;
        Ok::<_, Failed>(stats)
    };
    let mut before = now()?;
    let Some(interval) = args.interval else {
        document(console.out, json, &before, || render::stats(&before, None))?;
        return Ok(());
    };
    let mut times = 0;
    while args.times.is_none_or(|most| times < most) {
        std::thread::sleep(Duration::from_secs_f64(interval));
        let stats = now()?;
        if json {
            json_line(console.out, &stats)?;
        } else {
            let gap = if times > 0 { "\n" } else { "" };
            write!(console.out, "{gap}{}", render::stats(&stats, Some(&before)))?;
        }
        console.out.flush()?;
        before = stats;
        times += 1;
    }
    Ok(())
}

/// What gateways, EIPs, entries or private hosts carry: once, or as rates again and again.
fn usage(args: &StatsArgs, by: UsageBy, console: &mut Console<'_>) -> Result<(), Failed> {
    let clock = Clock::start();
    let now = || {
        let mut rows = Vec::new();
        ask(&args.client, Request::Usage(UsageRequest { by: Some(by), limit: args.limit }), |answer| {
            if let Answer::Usage(row) = answer {
                rows.push(*row);
            }
            Ok(())
        })?;
        Ok::<_, Failed>((rows, clock.now()))
    };
    let print = |console: &mut Console<'_>, rows: &[Usage], before: Option<(&[Usage], f64)>| {
        if args.client.json {
            return rows.iter().try_for_each(|row| json_line(console.out, row));
        }
        console.out.write_all(render::usage(by, rows, before).as_bytes())
    };
    let (mut before, mut then) = now()?;
    let Some(interval) = args.interval else { return Ok(print(console, &before, None)?) };
    let mut times = 0;
    while args.times.is_none_or(|most| times < most) {
        std::thread::sleep(Duration::from_secs_f64(interval));
        let (rows, at) = now()?;
        if times > 0 && !args.client.json {
            writeln!(console.out)?;
        }
        print(console, &rows, Some((&before, at.since(then).as_secs_f64())))?;
        console.out.flush()?;
        (before, then) = (rows, at);
        times += 1;
    }
    Ok(())
}

pub(super) fn sessions(args: &SessionsArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    let SessionsArgs { conditions, limit, count, client } = args.clone();
    let json = client.json;
    let request = SessionsRequest { limit, count, ..conditions.request() };
    if !json && !count {
        console.out.write_all(render::sessions_head().as_bytes())?;
    }
    let end = ask(&client, Request::Sessions(request), |answer| match answer {
        Answer::Session(session) if json => json_line(console.out, &session),
        Answer::Session(session) => console.out.write_all(render::session(&session).as_bytes()),
        _ => Ok(()),
    })?;
    if count {
        document(console.out, json, &end, || format!("{}\n", end.count))?;
    }
    console.out.flush()?;
    if end.truncated && !json {
        console.note(format_args!("there may be more than these {}", end.count));
    }
    if end.unmerged > 0 {
        console.note(format_args!(
            "{} rows may be the other direction of a DNAT session shown before",
            end.unmerged
        ));
    }
    Ok(())
}

fn who(args: &WhoArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    let WhoArgs { external, at, client } = args;
    let request = WhoRequest {
        address: external.endpoint.address,
        port: external.endpoint.port.unwrap_or(0),
        protocol: external.protocol,
        at: at.clone(),
    };
    let mut is_computed = false;
    let mut table = Table::new(["INSIDE", "VPC", "PEER", "BEGAN AT", "ENDED AT", "GATEWAY", "ENTRY"]);
    let end = ask(client, Request::Who(request), |answer| match answer {
        Answer::Owner(owner) if client.json => json_line(console.out, &owner),
        Answer::Owner(owner) => {
            let Owner { inside, vpc, peer, began_at, ended_at, gateway, entry } = *owner;
            is_computed |= began_at == "computed";
            table.row([inside, vpc, peer, began_at, ended_at.unwrap_or_else(|| "-".into()), gateway, entry]);
            Ok(())
        }
        _ => Ok(()),
    })?;
    if end.count == 0 {
        console.note("nobody had it then, as far as the index tells");
    } else if !client.json {
        write!(console.out, "{table}")?;
    }
    if is_computed && at.is_some() {
        console.note("computed from the present configuration, as no log tells of that time");
    }
    Ok(())
}

fn trace(args: &TraceArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    let TraceArgs { protocol, source, destination, host, port, dropped, packets, timeout, client } =
        args.clone();
    let request = TraceRequest {
        protocol,
        source,
        destination,
        host,
        port,
        dropped,
        packets,
        timeout_seconds: timeout,
    };
    let mut number = 0;
    let end = ask(&client, Request::Trace(request), |answer| {
        let Answer::Trace(trace) = answer else { return Ok(()) };
        number += 1;
        if client.json {
            json_line(console.out, &trace)?;
        } else {
            console.out.write_all(render::trace(number, &trace).as_bytes())?;
        }
        // They come one by one: each is shown at once, in a pipe too.
        console.out.flush()
    })?;
    if end.truncated {
        console.note(format_args!("{} matching packets came within {timeout} seconds", end.count));
    }
    Ok(())
}

fn explain(args: &ExplainArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    let packet: PacketDescription = args.packet.join(" ").parse().map_err(Failed::Input)?;
    ask(&args.client, Request::Explain(packet), |answer| match answer {
        Answer::Explanation(explanation) => {
            document(console.out, args.client.json, &explanation, || render::explanation(&explanation))
        }
        _ => Ok(()),
    })?;
    Ok(())
}

fn man(args: &ManArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    let folder = args.folder.display();
    let written = std::fs::create_dir_all(&args.folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), &args.folder));
    written.map_err(|error| Failed::Other(format!("man pages cannot be written to {folder}: {error}")))?;
    console.note(format_args!("man pages are in {folder}; man {folder}/natgate.1 shows the first"));
    Ok(())
}

fn completions(args: &CompletionsArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "natgate", &mut script);
    console.out.write_all(&script)?;
    Ok(())
}
