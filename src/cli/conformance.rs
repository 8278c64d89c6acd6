//! `natgate conformance`: what [`crate::conformance`] measures, as a table or as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;

use serde::Serialize;

use super::args::{ConformanceArgs, Measured};
use super::output::Table;
use super::progress::Progress;
use super::{Console, Exit};
use crate::conformance::{self, Failure, Gateway, Outcome, Row};

/// A row of what `--json` prints.
#[derive(Serialize)]
struct Line<'a> {
    gateway: Gateway,
    #[serde(flatten)]
    row: &'a Row,
    passed: bool,
    evidence: &'a str,
}

/// Why it did not end well.
enum Failed {
    Measure(Failure),
    Print(io::Error),
}

/// Measures what is asked for and prints what came out. Ends with a failure if natgate misses a row.
pub fn execute(args: &ConformanceArgs, console: &mut Console<'_>) -> Exit {
    if let Some(order) = &args.inside {
        return match conformance::run_inside(order, console.out) {
            Ok(()) => Exit::Success,
            Err(failure) => {
                console.error(failure, None);
                Exit::Failure
            }
        };
    }
    let rows = Row::measured();
    if let Some(unknown) = args.row.iter().find(|only| !rows.iter().any(|row| begins(row, only))) {
        console.error(
            format_args!("no row that is measured begins with \"{unknown}\""),
            Some("natgate conformance --list names them"),
        );
        return Exit::Input;
    }
    let done = if args.list { list(console, &rows) } else { measure(args, console, &rows) };
    match done {
        Ok(exit) => exit,
        Err(Failed::Print(error)) => console.broken(&error),
        Err(Failed::Measure(failure)) => {
            console.error(failure, None);
            Exit::Failure
        }
    }
}

fn begins(row: &Row, only: &str) -> bool {
    row.id.starts_with(&only.to_uppercase())
}

fn list(console: &mut Console<'_>, rows: &[Row]) -> Result<Exit, Failed> {
    let mut table = Table::new(["row", "level", "clause", "requirement"]);
    for row in rows {
        table.row([row.id, row.level, row.clause, row.requirement].map(str::to_owned));
    }
    write!(console.out, "{table}").map_err(Failed::Print)?;
    Ok(Exit::Success)
}

fn measure(args: &ConformanceArgs, console: &mut Console<'_>, rows: &[Row]) -> Result<Exit, Failed> {
    let gateways: &[Gateway] = match args.gateway {
        Measured::Natgate => &[Gateway::Natgate],
        Measured::Nftables => &[Gateway::Nftables],
        Measured::Both => &[Gateway::Natgate, Gateway::Nftables],
    };
    let asked =
        rows.iter().filter(|row| args.row.is_empty() || args.row.iter().any(|only| begins(row, only)));
    let mut progress = Progress::new(console.err, asked.count() * gateways.len());
    let mut results = Vec::new();
    for &gateway in gateways {
        let mut outcomes = BTreeMap::new();
        conformance::run(gateway, &args.row, |outcome: Outcome| {
            progress.step(&outcome.id);
            outcomes.insert(outcome.id.clone(), outcome);
        })
        .map_err(Failed::Measure)?;
        results.push((gateway, outcomes));
    }
    drop(progress);
    let text = if args.json {
        json(rows, &results)
    } else if args.markdown {
        markdown(rows, &results)
    } else {
        tables(rows, &results)
    };
    console.out.write_all(text.as_bytes()).map_err(Failed::Print)?;
    let missed = results.iter().any(|(gateway, outcomes)| {
        *gateway == Gateway::Natgate && outcomes.values().any(|outcome| !outcome.passed)
    });
    Ok(if missed { Exit::Failure } else { Exit::Success })
}

type Results = [(Gateway, BTreeMap<String, Outcome>)];

fn word(passed: bool) -> &'static str {
    if passed { "pass" } else { "fail" }
}

fn sum(outcomes: &BTreeMap<String, Outcome>) -> String {
    let passed = outcomes.values().filter(|outcome| outcome.passed).count();
    format!("{passed} of {}", outcomes.len())
}

fn json(rows: &[Row], results: &Results) -> String {
    let mut lines = String::new();
    for (gateway, outcomes) in results {
        for (row, outcome) in rows.iter().filter_map(|row| Some((row, outcomes.get(row.id)?))) {
            let line = Line { gateway: *gateway, row, passed: outcome.passed, evidence: &outcome.evidence };
            // Texts and booleans can always be written.
            lines += &serde_json::to_string(&line).unwrap_or_default();
            lines.push('\n');
        }
    }
    lines
}

fn tables(rows: &[Row], results: &Results) -> String {
    let mut text = String::new();
    for (gateway, outcomes) in results {
        let mut table = Table::new(["row", "clause", gateway.name(), "evidence"]);
        for (row, outcome) in rows.iter().filter_map(|row| Some((row, outcomes.get(row.id)?))) {
            let cells = [row.id, row.clause, word(outcome.passed), &outcome.evidence];
            table.row(cells.map(str::to_owned));
        }
        let _ = writeln!(text, "{table}{}: {} rows passed", gateway.name(), sum(outcomes));
    }
    text
}

fn markdown(rows: &[Row], results: &Results) -> String {
    let mut text = String::from("| row | requirement |");
    for (gateway, _) in results {
        let _ = write!(text, " {} |", gateway.name());
    }
    text += "\n| --- | --- |";
    text += &" --- |".repeat(results.len());
    text.push('\n');
    for row in rows.iter().filter(|row| results.iter().any(|(_, outcomes)| outcomes.contains_key(row.id))) {
        let _ = write!(text, "| {} | {} ({}) |", row.id, row.requirement, row.clause);
        for (_, outcomes) in results {
            let cell = outcomes.get(row.id).map_or("", |outcome| word(outcome.passed));
            let mark = if cell == "fail" { "**" } else { "" };
            let _ = write!(text, " {mark}{cell}{mark} |");
        }
        text.push('\n');
    }
    text += "| | rows passed |";
    for (_, outcomes) in results {
        let _ = write!(text, " {} |", sum(outcomes));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Vec<(Gateway, BTreeMap<String, Outcome>)> {
        let outcome = |id: &str, passed| {
            let evidence = if passed { "seen" } else { "nothing arrived" };
            (id.to_owned(), Outcome { id: id.to_owned(), passed, evidence: evidence.to_owned() })
        };
        vec![
            (Gateway::Natgate, BTreeMap::from([outcome("UDP-01", true), outcome("UDP-04", true)])),
            (Gateway::Nftables, BTreeMap::from([outcome("UDP-01", true), outcome("UDP-04", false)])),
        ]
    }

    #[test]
    fn results_stand_beside_each_other() {
        insta::assert_snapshot!(markdown(&Row::measured(), &results()));
        insta::assert_snapshot!(tables(&Row::measured(), &results()));
        insta::assert_snapshot!(json(&Row::measured(), &results()));
    }

    #[test]
    fn unknown_rows_are_wrong_input() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let args = ConformanceArgs {
            gateway: Measured::Natgate,
            row: vec!["udp".into(), "tpc".into()],
            list: false,
            markdown: false,
            json: false,
            inside: None,
        };
        let exit = execute(&args, &mut Console { out: &mut out, err: &mut err });
        assert_eq!(exit, Exit::Input);
        assert!(String::from_utf8_lossy(&err).contains("\"tpc\""));
    }
}
