use clap::Parser;

use super::*;
use crate::cli::{Cli, Command};
use crate::speed::Measured;

/// Runs the command with a machine on which a packet takes 26 cycles and as many more as the table has digits.
fn run(arguments: &[&str]) -> (Exit, String, String) {
    let cli = Cli::try_parse_from(["natgate", "speed"].iter().chain(arguments)).unwrap();
    let Command::Speed(args) = &cli.command else { panic!("another command") };
    let mut measure = |plan: &Plan| {
        if plan.sessions > 5_000_000 {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        if plan.workers > 2 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many"));
        }
        let ns_per_packet = 10.0 * (1 + plan.sessions.ilog10()) as f64;
        let workers = plan.workers as f64;
        let measured = Measured {
            scenario: plan.scenario.name(),
            sessions: plan.sessions,
            packet_bytes: plan.packet_bytes,
            batch: plan.batch,
            workers: plan.workers,
            packets: 1_000_000,
            seconds: plan.seconds,
            mpps: 900.0 * workers / ns_per_packet,
            gbps: 0.9 * workers * plan.packet_bytes as f64 * 8.0 / ns_per_packet,
            cycles_per_packet: ns_per_packet * 2.6,
            ns_per_packet,
            bytes_per_session: 216.4,
        };
        let stages = plan.stages.then_some([1.0, 2.0, 6.5, 0.5].map(|share| share / 10.0 * ns_per_packet));
        Ok(Outcome { measured, stages, misses: (plan.packet_bytes > 64).then_some(2.25) })
    };
    let mut floor = |lines: usize, _| Ok(f64::from(lines.ilog2()));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = execute_with(args, &mut Console { out: &mut out, err: &mut err }, &mut measure, &mut floor);
    (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn text(arguments: &[&str]) -> String {
    let (exit, out, err) = run(arguments);
    assert_eq!((exit, err.as_str()), (Exit::Success, ""));
    out
}

#[test]
fn all_scenarios_by_default() {
    insta::assert_snapshot!(text(&[]));
}

#[test]
fn scaling_stages_and_misses_are_shown() {
    let arguments = ["--scenario", "snat,imix", "--workers", "2", "--stages", "--packet-size", "128"];
    insta::assert_snapshot!(text(&arguments));
}

#[test]
fn json_has_exactly_the_promised_fields() {
    let out = text(&["--scenario", "snat", "--scenario", "hairpin", "--sessions", "1000", "--json"]);
    let objects: Vec<serde_json::Map<String, serde_json::Value>> =
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<_> = objects.iter().map(|object| object["scenario"].as_str().unwrap()).collect();
    assert_eq!(names, ["snat", "hairpin"]);
    let mut fields = [
        "scenario",
        "sessions",
        "packet_bytes",
        "batch",
        "workers",
        "packets",
        "seconds",
        "mpps",
        "gbps",
        "cycles_per_packet",
        "ns_per_packet",
        "bytes_per_session",
    ];
    fields.sort_unstable();
    for object in &objects {
        let mut found: Vec<_> = object.keys().map(String::as_str).collect();
        found.sort_unstable();
        assert_eq!(found, fields);
    }
}

#[test]
fn the_table_has_all_rows_even_without_memory_for_the_largest() {
    let (exit, out, err) = run(&["--table"]);
    assert_eq!(exit, Exit::Success);
    insta::assert_snapshot!(out);
    assert_eq!(err.lines().count(), 2, "{err}");
    let (exit, out, _) = run(&["--table", "--json"]);
    assert_eq!((exit, out.lines().count()), (Exit::Success, 13));
}

#[test]
fn wrong_wishes_are_wrong_input() {
    assert_eq!(run(&["--workers", "3"]).0, Exit::Input);
    for wrong in [
        &["--scenario", "everything"] as &[_],
        &["--packet-size", "63"],
        &["--packet-size", "1519"],
        &["--batch", "0"],
        &["--batch", "257"],
        &["--sessions", "0"],
        &["--table", "--sessions", "5"],
        &["--stages", "--json"],
    ] {
        let arguments = ["natgate", "speed"].iter().chain(wrong);
        assert!(Cli::try_parse_from(arguments).is_err(), "{wrong:?}");
    }
}
