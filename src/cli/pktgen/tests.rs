use clap::Parser;

use super::*;
use crate::cli::{Cli, Command};

fn run_with(arguments: &[&str]) -> (Exit, String, String) {
    let cli = Cli::try_parse_from(["natgate", "pktgen"].iter().chain(arguments)).unwrap();
    let Command::Pktgen(args) = &cli.command else { panic!("another command") };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = execute(args, &mut Console { out: &mut out, err: &mut err });
    (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

const CABLE: [&str; 4] = ["--backend", "memory", "--seconds", "0.05"];

#[test]
fn a_cable_loses_nothing() {
    let (exit, out, err) = run_with(&[&CABLE as &[_], &["--rate", "10k", "--json", "--both-ways"]].concat());
    assert_eq!((exit, err.as_str()), (Exit::Success, ""));
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["sender"], "memory0 (rings in memory)");
    assert_eq!((&report["loss"], &report["flows"]), (&0.0.into(), &1000.into()));
    assert_eq!(report["offered_pps"], 10_000.0);
    assert!(report["sent"].as_u64().unwrap() > 0);
    assert_eq!((&report["received"], &report["back"]), (&report["sent"], &report["sent"]));
    assert!(report["round_trip_ns"]["p99"].as_u64().unwrap() > 0);
}

#[test]
fn the_rate_of_a_cable_is_the_generators() {
    let (exit, out, _) =
        run_with(&[&CABLE as &[_], &["--find-rate", "--flows", "10", "--order", "zipf"]].concat());
    assert_eq!(exit, Exit::Success);
    assert!(
        out.starts_with("10 flows from memory0 (rings in memory) to memory1 (rings in memory)\n"),
        "{out}"
    );
    assert!(out.contains("(the generator was not faster)"), "{out}");
    let (exit, out, _) = run_with(&[&CABLE as &[_], &["--find-rate", "--rate", "2000", "--json"]].concat());
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((exit, report["trials"].as_array().map(Vec::len)), (Exit::Success, Some(1)));
    assert!(report["rate_pps"].as_f64().unwrap() > 0.0);
}

#[test]
fn wrong_wishes_are_wrong_input() {
    for (arguments, message) in [
        (&[] as &[_], "--send and --receive"),
        (&["--send", "a", "--receive", "a", "--gateway", "10.0.0.1"], "two devices"),
        (&["--send", "a", "--receive", "b"], "--gateway"),
        (&["--backend", "memory", "--send", "a"], "no devices"),
        (&["--backend", "memory", "--new-flows", "max"], "--new-flows"),
        (&["--backend", "memory", "--gateway", "10.0.0.1"], "no gateway"),
        (
            &["--backend", "memory", "--source", "10.0.0.1", "--destination", "10.0.0.2", "--flows", "64513"],
            "room for 64512",
        ),
    ] {
        let (exit, out, err) = run_with(arguments);
        assert_eq!((exit, out.as_str()), (Exit::Input, ""), "{arguments:?}");
        assert!(err.contains(message), "{arguments:?}: {err}");
    }
    let long = ["--size", "--rate", "--order", "--gateway-mac", "--source"];
    for (option, wrong) in long.iter().zip(["63", "fast", "none", "02:00:00:00:00", "10.0.0.0/4"]) {
        assert!(Cli::try_parse_from(["natgate", "pktgen", option, wrong]).is_err(), "{option} {wrong}");
    }
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let arguments =
        ["--send", "no-such-dev1", "--receive", "no-such-dev2", "--gateway-mac", "02:00:00:00:00:01"];
    let (exit, _, err) = run_with(&arguments);
    assert_eq!(exit, Exit::Failure);
    assert!(err.contains("no-such-dev1"), "{err}");
}
