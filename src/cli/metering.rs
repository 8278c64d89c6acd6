//! `natgate metering`.

use std::net::Ipv4Addr;

use clap::{Args, ValueEnum};

use crate::cli::Console;
use crate::cli::args::ClientArgs;
use crate::cli::ask::{Failed, ask};
use crate::cli::output::{Table, bytes};
use crate::control::protocol::{Answer, MeteredHour, MeteringRequest, Request};

/// Arguments of `metering`.
#[derive(Clone, Debug, Args)]
pub struct MeteringArgs {
    /// Hours that begin at this time or later, in UTC; otherwise those of the last 24 hours.
    #[arg(
        long,
        value_name = "TIME",
        help = "Hours that begin at this time or later, in UTC, such as 2026-01-31T00:00:00Z; otherwise those of the last 24 hours"
    )]
    pub from: Option<String>,
    /// Hours that begin before this time.
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// Of this gateway alone.
    #[arg(long, value_name = "NAME", conflicts_with = "eip")]
    pub gateway: Option<String>,
    /// Of this EIP alone.
    #[arg(long, value_name = "ADDRESS")]
    pub eip: Option<Ipv4Addr>,
    /// Print a table, CSV or JSON.
    #[arg(long, short = 'o', value_enum, default_value_t = Form::Table)]
    pub output: Form,
    /// The management socket of the gateway.
    #[arg(long, value_name = "PATH", env = "NATGATE_SOCKET", default_value = "/run/natgate/natgate.sock")]
    pub socket: std::path::PathBuf,
}

/// How hours are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people.
    Table,
    /// Comma-separated values with a line of heads.
    Csv,
    /// An object a line.
    Json,
}

const CSV: &str = "hour,kind,name,peak_new_sessions,peak_sessions,bytes_out,bytes_in,capacity_units,complete";

/// Prints what was used.
pub(super) fn execute(args: &MeteringArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    let MeteringArgs { from, to, gateway, eip, output, socket } = args.clone();
    let client = ClientArgs { socket, json: output == Form::Json };
    let request = MeteringRequest { from, to, gateway, eip, limit: None };
    let mut table =
        Table::new(["HOUR", "KIND", "NAME", ">NEW/S", ">SESSIONS", ">OUT", ">IN", ">UNITS", "STATE"]);
    let mut head = output == Form::Csv;
    let end = ask(&client, Request::Metering(request), |answer| {
        let Answer::Metered(row) = answer else { return Ok(()) };
        if std::mem::take(&mut head) {
            writeln!(console.out, "{CSV}")?;
        }
        match output {
            Form::Json => {
                serde_json::to_writer(&mut *console.out, &row)?;
                writeln!(console.out)
            }
            Form::Csv => {
                let MeteredHour { hour, kind, name, peak_new_sessions, peak_sessions, .. } = &*row;
                let MeteredHour { bytes_out, bytes_in, capacity_units, complete, .. } = &*row;
                writeln!(
                    console.out,
                    "{hour},{kind},{name},{peak_new_sessions},{peak_sessions},{bytes_out},{bytes_in},{capacity_units},{complete}"
                )
            }
            Form::Table => {
                let state = if row.complete { "" } else { "runs" };
                table.row([
                    row.hour,
                    row.kind,
                    row.name,
                    row.peak_new_sessions.to_string(),
                    row.peak_sessions.to_string(),
                    bytes(row.bytes_out),
                    bytes(row.bytes_in),
                    format!("{:.3}", row.capacity_units),
                    state.into(),
                ]);
                Ok(())
            }
        }
    })?;
    if head {
        writeln!(console.out, "{CSV}")?;
    }
    if output == Form::Table {
        if end.count == 0 {
            console.note("nothing was used in these hours");
        } else {
            write!(console.out, "{table}")?;
        }
    }
    if end.truncated {
        console.out.flush()?;
        console.note(format_args!("there are more hours than these {}", end.count));
    }
    Ok(())
}
