use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use clap::{CommandFactory, Parser};

use super::*;
use crate::control::access::{Caller, Role};
use crate::control::protocol::{
    ActivityStats, Answer, Applied, Change, ChangeKind, ChangeRequest, Changed, Counts, CrowdedDestination,
    End, Explanation, ExternalPorts, Fault, FaultCode, Finding, GatewayStatus, Key, KeyValues, Killed,
    LiveSessions, MemoryStatus, MeteredHour, Occupancy, PortStats, PortStatus, Refused, Reloaded, Request,
    Session, SessionLogTotals, SessionPolicy, Stats, Status, Step, Trace, Unconfirmed, Usage, UsageBy,
    UsageRequest, WorkerStats, WorkerStatus,
};
use crate::control::service::{Interrupted, Service, Sink, Waiting};
use crate::control::socket::scratch::Directory;
use crate::control::socket::{Limits, Listener, Server};

/// A gateway that notes what it is asked and answers what it was given.
#[derive(Default)]
struct Fake {
    asked: Mutex<Vec<Request>>,
    answers: Mutex<Vec<Answer>>,
    last: Mutex<Option<Result<End, Fault>>>,
}

impl Service for Fake {
    fn owner_of(&self, _: &str) -> Option<Caller> {
        None
    }

    fn change(&self, _: &Caller, _: ChangeRequest, _: Waiting<Changed>) -> Result<(), Fault> {
        Err(Fault::new(FaultCode::BadRequest, "not faked"))
    }

    fn answer(&self, _: &Caller, request: Request, sink: &mut dyn Sink) -> Result<End, Interrupted> {
        self.asked.lock().unwrap().push(request);
        let answers = self.answers.lock().unwrap().clone();
        for answer in &answers {
            sink.send(answer)?;
        }
        let count = answers.len() as u64;
        let last = self.last.lock().unwrap().clone();
        Ok(last.unwrap_or(Ok(End { count, ..End::default() }))?)
    }
}

struct Bench {
    directory: Directory,
    fake: Arc<Fake>,
    _server: Server,
}

impl Bench {
    fn new(answers: Vec<Answer>) -> Self {
        let directory = Directory::new();
        let fake = Arc::new(Fake { answers: Mutex::new(answers), ..Fake::default() });
        let listener = Listener::bind(&directory.socket()).unwrap();
        let server = Server::start(listener, Arc::clone(&fake) as _, Limits::default()).unwrap();
        Self { directory, fake, _server: server }
    }

    fn ends(self, last: Result<End, Fault>) -> Self {
        *self.fake.last.lock().unwrap() = Some(last);
        self
    }

    fn run(&self, arguments: &[&str]) -> (Exit, String, String) {
        let socket = self.directory.socket();
        let arguments = ["natgate"].into_iter().chain(arguments.iter().copied());
        let cli = Cli::try_parse_from(arguments.chain(["--socket", socket.to_str().unwrap()])).unwrap();
        run(&cli)
    }

    /// What the command printed, and that it ended well.
    fn text(&self, arguments: &[&str]) -> String {
        let (exit, out, err) = self.run(arguments);
        assert_eq!((exit, err.as_str()), (Exit::Success, ""));
        out
    }

    fn asked(&self) -> Request {
        self.fake.asked.lock().unwrap().last().unwrap().clone()
    }
}

fn run(cli: &Cli) -> (Exit, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = execute(&cli.command, &mut Console { out: &mut out, err: &mut err });
    (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn session() -> Session {
    Session {
        kind: "snat".into(),
        protocol: "tcp".into(),
        inside: "10.0.1.10:40000".into(),
        external: "203.0.113.17:51234".into(),
        peer: "198.51.100.7:443".into(),
        state: "established".into(),
        entry: "all".into(),
        gateway: "gw1".into(),
        vpc: "prod".into(),
        bytes_out: 1234,
        bytes_in: 5_678_901,
        age_seconds: 61.5,
        idle_seconds: 0.3,
        expires_seconds: 7439.7,
        workers: vec![0, 1],
    }
}

fn counts(packets: u64) -> Counts {
    Counts {
        received: packets,
        forwarded: packets - 3,
        dropped: 3,
        bytes_out: packets * 100,
        drops: [("no-mapping".to_owned(), 2), ("host-quota".to_owned(), 1), ("not-ours".to_owned(), 0)]
            .into(),
        ..Counts::default()
    }
}

fn stats(uptime_seconds: f64, packets: u64) -> Stats {
    Stats {
        uptime_seconds,
        total: counts(packets),
        workers: vec![WorkerStats {
            worker: 0,
            counts: counts(packets),
            activity: ActivityStats { busy_seconds: 1.0, idle_seconds: 3.0, ..ActivityStats::default() },
        }],
        ports: vec![PortStats {
            name: "wan".into(),
            rx_packets: packets,
            rx_bytes: 60 * packets,
            ..PortStats::default()
        }],
    }
}

fn status() -> Status {
    Status {
        external_ports: vec![],
        port_blocks: vec![],
        crowded_destinations: vec![],
        session_log: vec![SessionLogTotals { place: "file".into(), written: 12, lost: 3 }],
        version: "0.1.0".into(),
        process: 4242,
        uptime_seconds: 93_784.0,
        config: "/etc/natgate/natgate.toml".into(),
        generation: 7,
        ports: vec![PortStatus {
            name: "wan".into(),
            device: "eth0".into(),
            mode: "af_xdp, zero-copy: the driver supports it".into(),
            mac: "02:00:00:00:00:01".into(),
            mtu: 1500,
            queues: 2,
        }],
        workers: vec![
            WorkerStatus {
                worker: 0,
                core: Some(1),
                generation: 7,
                alive: true,
                sessions: Occupancy { used: 1234, capacity: 524_288 },
                ..WorkerStatus::default()
            },
            WorkerStatus { worker: 1, generation: 6, ..WorkerStatus::default() },
        ],
        sessions: Occupancy { used: 1234, capacity: 1_048_576 },
        neighbours: Occupancy { used: 3, capacity: 32_768 },
        memory: vec![MemoryStatus { name: "packet buffers".into(), pages: "huge".into(), bytes: 67_108_864 }],
        gateways: vec![
            GatewayStatus { name: "gw1".into(), snat_sessions: 100, limit: Some(10_000) },
            GatewayStatus { name: "gw2".into(), snat_sessions: 5, limit: None },
        ],
        resources: [("eip".to_owned(), 3), ("dnat".to_owned(), 12)].into(),
        unconfirmed: None,
    }
}

#[test]
fn every_help_is_as_reviewed() {
    let mut root = Cli::command().term_width(100);
    // The environment of the test must not show.
    root = root.mut_subcommands(|command| command.mut_args(|arg| arg.hide_env_values(true)));
    root.build();
    insta::assert_snapshot!("help", root.render_long_help().to_string());
    for command in root.get_subcommands_mut() {
        let name = format!("help_{}", command.get_name());
        insta::assert_snapshot!(name, command.render_long_help().to_string());
    }
    for verb in root.find_subcommand_mut("session").unwrap().get_subcommands_mut() {
        let name = format!("help_session_{}", verb.get_name());
        insta::assert_snapshot!(name, verb.render_long_help().to_string());
    }
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn wrong_arguments_name_the_option_the_value_and_the_rule() {
    let errors: Vec<_> = [
        &["sessions", "--inside", "10.0.0"][..],
        &["sessions", "--protocol", "tpc"],
        &["sessions", "--kind", "nat"],
        &["sessions", "--limit", "-1"],
        &["stats", "--interval", "0"],
        &["stats", "--times", "3"],
        &["stats", "--limit", "3"],
        &["trace", "-n", "0"],
        &["explain"],
        &["fly"],
    ]
    .iter()
    .map(|arguments| {
        let error = Cli::try_parse_from(["natgate"].iter().chain(*arguments)).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    })
    .collect();
    insta::assert_snapshot!(errors.join("----\n"));
}

#[test]
fn without_a_gateway_the_exit_code_is_3_and_the_hint_helps() {
    let cli = Cli::try_parse_from(["natgate", "status", "--socket", "/nonexistent/natgate.sock"]).unwrap();
    let (exit, out, err) = run(&cli);
    assert_eq!((exit, out.as_str()), (Exit::Unreachable, ""));
    insta::assert_snapshot!(err);
}

#[test]
fn sessions_are_listed() {
    let bench = Bench::new(vec![Answer::Session(Box::new(session()))]);
    insta::assert_snapshot!(bench.text(&["sessions"]));
}

#[test]
fn a_session_is_shown_whole() {
    let bench = Bench::new(vec![Answer::Session(Box::new(session()))]);
    insta::assert_snapshot!(bench.text(&["session", "show", "--inside", "10.0.1.10:40000"]));
    let json = bench.text(&["session", "show", "--eip", "203.0.113.17", "--json"]);
    assert_eq!(serde_json::from_str::<Session>(&json).unwrap(), session());
    let Request::Sessions(request) = bench.asked() else { panic!("{:?}", bench.asked()) };
    assert!(request.eip.is_some() && request.limit.is_some());
    let (exit, out, err) = bench.run(&["session", "show"]);
    assert!(exit == Exit::Input && out.is_empty() && err.contains("no condition is given"), "{err}");
}

#[test]
fn keys_are_shown_and_changed() {
    let key = |id: &str, name: &str| Key {
        id: id.into(),
        name: Some(name.into()),
        role: Role::Operator,
        created_at: "2026-01-31T23:00:00Z".into(),
    };
    let bench = Bench::new(vec![Answer::Key(key("key-1", "ci")), Answer::Key(key("key-2", "twice"))]);
    let shown = bench.text(&["key", "show", "ci"]);
    assert_eq!(
        shown,
        "id          key-1\nname        ci\nrole        operator\ncreated at  2026-01-31T23:00:00Z\n"
    );
    let (exit, _, err) = bench.run(&["key", "show", "nobody"]);
    assert!(exit == Exit::Input && err.contains("there is no key nobody"), "{err}");
    bench.text(&["key", "update", "ci", "--role", "viewer"]);
    let values = KeyValues { role: Some("viewer".into()), name: None };
    assert_eq!(bench.asked(), Request::UpdateKey { id: "ci".into(), values });
    assert!(Cli::try_parse_from(["natgate", "key", "update", "ci"]).is_err());
}

#[test]
fn all_session_filters_reach_the_gateway() {
    let bench = Bench::new(vec![]);
    let arguments = "sessions --protocol udp --inside 10.0.0.0/8 --eip 203.0.113.17:53 --peer :443 --entry all \
                     --gateway gw1 --vpc prod --kind dnat --limit 5 --count";
    bench.text(&arguments.split_whitespace().collect::<Vec<_>>());
    insta::assert_snapshot!(serde_json::to_string_pretty(&bench.asked()).unwrap());
}

#[test]
fn sessions_are_ended_and_watched() {
    let bench = Bench::new(vec![Answer::Killed(Killed { ended: 3 })]);
    let arguments = "session kill --protocol tcp --eip 203.0.113.17:53 --entry all --reset";
    assert_eq!(bench.text(&arguments.split_whitespace().collect::<Vec<_>>()), "3 sessions ended\n");
    let Request::Kill(request) = bench.asked() else { panic!("{:?}", bench.asked()) };
    assert!(request.reset && !request.all && request.sessions.entry.as_deref() == Some("all"));

    let session = serde_json::json!({
        "time": "2026-01-31T23:00:00.123Z", "event": "created", "worker": 0, "kind": "snat", "protocol": "tcp",
        "inside": "10.0.1.17:40000", "external": "203.0.113.18:41234", "peer": "198.51.100.7:443", "vpc": "prod",
        "gateway": "gw1", "entry": "all",
    });
    let mut ended = session.clone();
    ended["event"] = "ended".into();
    ended["ending"] = "expired".into();
    ended["state"] = "closed".into();
    ended["bytes_out"] = 4140.into();
    ended["bytes_in"] = 93_012.into();
    let lost = serde_json::json!({"time": "2026-01-31T23:00:01.000Z", "event": "lost", "count": 12});
    let bench = Bench::new([session.clone(), ended, lost].map(Answer::Event).to_vec());
    insta::assert_snapshot!(bench.text(&["session", "watch", "-n", "3", "--gateway", "gw1"]));
    let Request::Watch(request) = bench.asked() else { panic!("{:?}", bench.asked()) };
    assert_eq!((request.events, request.sessions.gateway.as_deref()), (Some(3), Some("gw1")));
    let json = bench.text(&["session", "watch", "--json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(json.lines().next().unwrap()).unwrap(), session);
}

#[test]
fn an_entry_is_changed_with_a_word_about_its_sessions() {
    let bench = Bench::new(vec![]);
    let asked = |arguments: &str| {
        bench.run(&arguments.split_whitespace().collect::<Vec<_>>());
        let Request::Change(request) = bench.asked() else { panic!("{:?}", bench.asked()) };
        request.sessions.map(|LiveSessions { policy, drain_seconds, reset }| (policy, drain_seconds, reset))
    };
    assert_eq!(asked("dnat delete web"), None);
    assert_eq!(asked("dnat delete web --live-sessions keep"), Some((SessionPolicy::Keep, None, false)));
    let drained = asked("snat update all --name every --live-sessions drain --drain 2h --reset");
    assert_eq!(drained, Some((SessionPolicy::Drain, Some(7200), true)));
    assert!(Cli::try_parse_from(["natgate", "dnat", "delete", "web", "--reset"]).is_err());
    assert!(
        Cli::try_parse_from("natgate dnat delete web --live-sessions drain --drain 0s".split(' ')).is_err()
    );
}

#[test]
fn a_listing_that_was_cut_says_so_beside_the_list() {
    let end = End { count: 1, truncated: true, unmerged: 2, ..End::default() };
    let bench = Bench::new(vec![Answer::Session(Box::new(session()))]).ends(Ok(end));
    let (exit, out, err) = bench.run(&["sessions", "--json"]);
    assert_eq!(exit, Exit::Success);
    assert_eq!(serde_json::from_str::<Session>(&out).unwrap(), session());
    assert_eq!(err, "natgate: 2 rows may be the other direction of a DNAT session shown before\n");
    let (_, _, err) = bench.run(&["sessions"]);
    assert!(err.starts_with("natgate: there may be more than these 1\n"), "{err}");
}

#[test]
fn stats_show_conservation_and_drops() {
    let bench = Bench::new(vec![Answer::Stats(Box::new(stats(10.0, 1000)))]);
    insta::assert_snapshot!(bench.text(&["stats"]));
    assert!(bench.text(&["stats", "--interval", "0.01", "--times", "2"]).matches("PER SECOND").count() >= 4);
}

#[test]
fn rates_are_differences_over_the_gateways_own_time() {
    insta::assert_snapshot!(render::stats(&stats(12.0, 3000), Some(&stats(10.0, 1000))));
}

#[test]
fn the_status_is_shown() {
    let bench = Bench::new(vec![Answer::Status(Box::new(status()))]);
    insta::assert_snapshot!(bench.text(&["status"]));
    let json = bench.text(&["status", "--json"]);
    assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status());
}

fn usage(by: UsageBy, name: &str, sessions: u64) -> Usage {
    let is_entry = by == UsageBy::Entry;
    Usage {
        by,
        name: name.into(),
        table: is_entry.then(|| "snat".into()),
        gateway: is_entry.then(|| "gw1".into()),
        vpc: (by == UsageBy::Host).then(|| "prod".into()),
        sessions,
        sessions_created: (by != UsageBy::Host).then_some(10 * sessions),
        bytes_out: 1000 * sessions,
        bytes_in: 2_000_000 * sessions,
        packets_out: (by != UsageBy::Host).then_some(20 * sessions),
        packets_in: (by != UsageBy::Host).then_some(1500 * sessions),
        refused: (by != UsageBy::Host).then_some(Refused { host_quota: 7, ..Refused::default() }),
    }
}

#[test]
fn usage_is_shown_as_totals_and_as_rates() {
    let totals = [(UsageBy::Gateway, "gw1"), (UsageBy::Entry, "all"), (UsageBy::Host, "10.0.1.10")].map(
        |(by, name)| {
            let bench = Bench::new(vec![Answer::Usage(Box::new(usage(by, name, 3)))]);
            let text = bench.text(&["stats", "--by", by.name(), "--limit", "5"]);
            assert_eq!(bench.asked(), Request::Usage(UsageRequest { by: Some(by), limit: Some(5) }));
            let json = bench.text(&["stats", "--by", by.name(), "--json"]);
            assert_eq!(serde_json::from_str::<Usage>(&json).unwrap(), usage(by, name, 3));
            text
        },
    );
    let rates = render::usage(
        UsageBy::Eip,
        &[usage(UsageBy::Eip, "203.0.113.17", 9), usage(UsageBy::Eip, "203.0.113.18", 2)],
        Some((&[usage(UsageBy::Eip, "203.0.113.17", 3)], 2.0)),
    );
    insta::assert_snapshot!(format!("{}\n{rates}", totals.join("\n")));
}

#[test]
fn metering_is_shown_as_a_table_csv_and_json() {
    let hour = MeteredHour {
        hour: "2026-01-31T23:00:00Z".into(),
        kind: "gateway".into(),
        name: "gw1".into(),
        peak_new_sessions: 2500,
        peak_sessions: 40_000,
        bytes_out: 1_000_000_000,
        bytes_in: 500_000_000,
        capacity_units: 4.0,
        complete: false,
    };
    let bench = Bench::new(vec![Answer::Metered(Box::new(hour.clone()))]);
    let table = bench.text(&["metering", "--gateway", "gw1", "--from", "2026-01-31T00:00:00Z"]);
    let Request::Metering(request) = bench.asked() else { panic!("{:?}", bench.asked()) };
    assert_eq!((request.gateway.as_deref(), request.eip), (Some("gw1"), None));
    let csv = bench.text(&["metering", "-o", "csv"]);
    insta::assert_snapshot!(format!("{table}\n{csv}"));
    let json = bench.text(&["metering", "-o", "json"]);
    assert_eq!(serde_json::from_str::<MeteredHour>(&json).unwrap(), hour);
    // A program that reads CSV gets its heads in any case.
    let (_, csv, _) = Bench::new(vec![]).run(&["metering", "-o", "csv"]);
    assert_eq!(csv.lines().count(), 1);
    let (exit, out, err) = Bench::new(vec![]).run(&["metering"]);
    assert_eq!((exit, out.as_str()), (Exit::Success, ""));
    assert_eq!(err, "natgate: nothing was used in these hours\n");
}

#[test]
fn top_prints_text_where_there_is_no_terminal() {
    let mut status = status();
    status.external_ports = vec![ExternalPorts {
        eip: "203.0.113.17".into(),
        protocol: "tcp".into(),
        taken: 32_256,
        limit: 64_512,
        seconds_to_full: Some(90.0),
    }];
    status.crowded_destinations = vec![CrowdedDestination {
        eip: "203.0.113.17".into(),
        protocol: "tcp".into(),
        peer: "198.51.100.7:443".into(),
        taken: 64_000,
        limit: 64_512,
    }];
    let answers = vec![
        Answer::Status(Box::new(status)),
        Answer::Stats(Box::new(stats(10.0, 1000))),
        Answer::Usage(Box::new(usage(UsageBy::Host, "10.0.1.10", 3))),
    ];
    let bench = Bench::new(answers);
    let text = bench.text(&["top", "--interval", "0.01", "--once"]);
    // The time between two looks is not always the same.
    let (head, rest) = text.split_once('\n').unwrap();
    assert!(head.starts_with("natgate ") && head.ends_with(" s"), "{head}");
    insta::assert_snapshot!(rest);
    let twice = bench.text(&["top", "--interval", "0.01", "--count", "2"]);
    assert_eq!(twice.matches("WORKER").count(), 2);
}

#[test]
fn a_reload_shows_what_it_changed() {
    let change = |change, name: &str, detail: &str| Change {
        change,
        resource: "dnat".into(),
        name: name.into(),
        detail: detail.into(),
    };
    let reloaded = Reloaded {
        generation: 8,
        dry_run: false,
        changes: vec![
            change(ChangeKind::Added, "web", ""),
            change(ChangeKind::Changed, "mail", "public_port 25 -> 2525"),
            change(ChangeKind::Removed, "old", ""),
        ],
    };
    let bench = Bench::new(vec![Answer::Reload(reloaded)]);
    insta::assert_snapshot!(bench.text(&["reload"]));
    bench.text(&["reload", "--dry-run"]);
    assert!(matches!(bench.asked(), Request::Reload(request) if request.dry_run));
    bench.text(&["reload", "--live-sessions", "drain", "--drain", "2m", "--reset"]);
    let drain = LiveSessions { policy: SessionPolicy::Drain, drain_seconds: Some(120), reset: true };
    assert!(matches!(bench.asked(), Request::Reload(request) if request.sessions == Some(drain)));
}

#[test]
fn a_file_is_applied_and_its_errors_have_its_lines() {
    let applied = Applied {
        generation: 8,
        changes: vec![Change {
            change: ChangeKind::Added,
            resource: "eip".into(),
            name: "203.0.113.16".into(),
            detail: "not bound".into(),
        }],
        unconfirmed: Some(Unconfirmed {
            who: "user 0".into(),
            until: "2026-01-31T12:00:00Z".into(),
            changes: 1,
        }),
        ..Applied::default()
    };
    let bench = Bench::new(vec![Answer::Applied(Box::new(applied.clone()))]);
    let file = bench.directory.path().join("all.toml");
    std::fs::write(&file, "version = 1\n\n[[eip]]\naddress = \"203.0.113.16\"\n").unwrap();
    let file = file.to_str().unwrap();
    insta::assert_snapshot!("apply", bench.text(&["apply", file, "--yes", "--confirm", "1m"]));
    let Request::Apply(request) = bench.asked() else { panic!("{:?}", bench.asked()) };
    assert_eq!((request.confirm_seconds, request.document.eip.len()), (Some(60), 1));
    assert_eq!(
        serde_json::from_str::<Applied>(&bench.text(&["apply", file, "--yes", "--json"])).unwrap(),
        applied
    );
    bench.text(&["confirm"]);
    assert_eq!(bench.asked(), Request::Confirm);
    bench.text(&["rollback"]);
    assert_eq!(bench.asked(), Request::RollBack);

    let finding = Finding {
        code: "EipOutsideRanges".into(),
        file: "file".into(),
        line: None,
        key: "eip[0].address".into(),
        value: Some("203.0.113.16".into()),
        rule: "an EIP comes out of a public range".into(),
        conflict: None,
        hint: None,
    };
    let fault = Fault { findings: vec![finding], ..Fault::new(FaultCode::Refused, "the file has 1 error") };
    let bench = Bench::new(vec![]).ends(Err(fault));
    let (exit, _, err) = bench.run(&["apply", file, "--yes"]);
    assert_eq!(exit, Exit::Input);
    assert!(err.starts_with(&format!("{file}:4: eip[0].address = 203.0.113.16: an EIP comes out")), "{err}");
}

#[test]
fn a_refused_reload_prints_every_error_and_exits_with_2() {
    let finding = Finding {
        code: "EipDuplicate".into(),
        file: "natgate.toml".into(),
        line: Some(12),
        key: "eip[1].address".into(),
        value: Some("\"203.0.113.16\"".into()),
        rule: "an EIP is declared once".into(),
        conflict: Some("eip[0] at line 8".into()),
        hint: Some("remove one of the two".into()),
    };
    let fault = Fault {
        findings: vec![finding.clone(), Finding { line: None, hint: None, conflict: None, ..finding }],
        ..Fault::new(FaultCode::Configuration, "natgate.toml has 2 errors; nothing was changed")
    };
    let bench = Bench::new(vec![]).ends(Err(fault));
    let (exit, out, err) = bench.run(&["reload"]);
    assert_eq!((exit, out.as_str()), (Exit::Input, ""));
    insta::assert_snapshot!(err);
    let (_, _, err) = bench.run(&["reload", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&err).unwrap();
    assert_eq!(json["error"]["findings"][0]["line"], 12);
}

#[test]
fn traces_and_explanations_are_shown() {
    let steps = vec![
        Step { stage: "classify".into(), decision: "from vpc prod to the outside".into() },
        Step { stage: "nat".into(), decision: "new session".into() },
    ];
    let trace = Trace {
        worker: 1,
        at_seconds: 12.5,
        port: "lan".into(),
        packet: "tcp 10.0.1.10:40000 > 198.51.100.7:443".into(),
        steps: steps.clone(),
        verdict: "sent by wan".into(),
    };
    let explanation = Explanation {
        packet: trace.packet.clone(),
        from: "vpc prod".into(),
        steps,
        verdict: "sent by wan".into(),
        becomes: Some("tcp 203.0.113.17:51234 > 198.51.100.7:443".into()),
        entry: Some("snat all".into()),
    };
    let bench = Bench::new(vec![Answer::Trace(Box::new(trace))]);
    insta::assert_snapshot!(
        "trace",
        bench.text(&["trace", "--source", "10.0.0.0/8", "--port", "lan", "-n", "1"])
    );
    insta::assert_snapshot!("trace_request", serde_json::to_string_pretty(&bench.asked()).unwrap());
    let bench = Bench::new(vec![Answer::Explanation(Box::new(explanation))]);
    // Quoted as one argument or not, it is the same packet.
    insta::assert_snapshot!(
        "explanation",
        bench.text(&["explain", "tcp 10.0.1.10:40000 > 198.51.100.7:443"])
    );
    let quoted = bench.asked();
    bench.text(&["explain", "tcp", "10.0.1.10:40000", "to", "198.51.100.7:443"]);
    assert_eq!(bench.asked(), quoted);
}

#[test]
fn a_wrong_packet_description_is_wrong_input() {
    let bench = Bench::new(vec![]);
    let (exit, out, err) = bench.run(&["explain", "tcp 10.0.1.10 > 198.51.100.7:443"]);
    assert_eq!((exit, out.as_str()), (Exit::Input, ""));
    assert!(err.contains("source \"10.0.1.10\" has no port, which tcp needs"), "{err}");
    assert!(bench.fake.asked.lock().unwrap().is_empty());
}

/// Takes some bytes and then says that nobody reads any more.
struct Pipe(usize);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_has_had_enough_is_no_error() {
    let bench = Bench::new(vec![Answer::Session(Box::new(session())); 1000]);
    let socket = bench.directory.socket();
    let cli = Cli::try_parse_from(["natgate", "sessions", "--socket", socket.to_str().unwrap()]).unwrap();
    let mut err = Vec::new();
    let exit = execute(&cli.command, &mut Console { out: &mut Pipe(500), err: &mut err });
    assert_eq!((exit, err), (Exit::Success, Vec::new()));
}

#[test]
fn completions_know_the_commands() {
    let (exit, out, _) = run(&Cli::try_parse_from(["natgate", "completions", "bash"]).unwrap());
    assert_eq!(exit, Exit::Success);
    assert!(out.contains("--dry-run") && out.contains("explain"));
}

#[test]
fn every_command_has_a_man_page() {
    let directory = Directory::new();
    let folder = directory.path().join("man");
    let (exit, _, err) = run(&Cli::try_parse_from(["natgate", "man", folder.to_str().unwrap()]).unwrap());
    assert_eq!(exit, Exit::Success, "{err}");
    let read = |name: &str| {
        std::fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let mut commands = vec![("natgate".to_owned(), Cli::command())];
    let mut count = 0;
    while let Some((name, command)) = commands.pop() {
        assert!(read(&format!("{name}.1")).starts_with(".ie"), "{name}");
        count += 1;
        let below = command.get_subcommands();
        commands.extend(below.map(|below| (format!("{name}-{}", below.get_name()), below.clone())));
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), count);
    assert!(read("natgate-dnat-create.1").contains("private"));
}
