//! A changed configuration file, applied.

use super::*;
use crate::control::protocol::{LiveSessions, SessionPolicy};

#[test]
fn a_reload_is_in_force_when_it_returns_and_says_what_it_changed() {
    let bench = Bench::new(BASE);
    let question = "tcp 198.51.100.7:999 > 203.0.113.16:80";
    assert!(bench.explain(question).verdict.starts_with("dropped, "));
    bench.write(&format!("{BASE}{DNAT}"));
    let reloaded = bench.reload().unwrap();
    assert_eq!(reloaded.changes.len(), 1);
    let Change { change, resource, name, .. } = &reloaded.changes[0];
    assert_eq!((*change, resource.as_str(), name.as_str()), (ChangeKind::Added, "dnat", "web"));
    let explanation = bench.explain(question);
    assert_eq!(explanation.entry.as_deref(), Some("dnat web (203.0.113.16:80 TCP -> 10.0.1.10:8080)"));
    let status = bench.manager.status();
    assert_eq!((status.generation, status.workers[0].generation), (reloaded.generation, reloaded.generation));
    assert_eq!(status.resources["dnat"], 1);

    // Nothing new: no new generation.
    let again = bench.reload().unwrap();
    assert_eq!((again.generation, again.changes.len()), (reloaded.generation, 0));

    bench.write(BASE);
    assert_eq!(bench.reload().unwrap().changes[0].change, ChangeKind::Removed);
    assert!(bench.explain(question).verdict.starts_with("dropped, "));
    let notes = bench.notes.lock().unwrap().clone();
    let [applied, nothing] = [&["reloading", "in force", "reloaded"][..], &["reloading", "reloaded"]];
    assert_eq!(notes, [applied, nothing, applied].concat());
    bench.stop();
}

#[test]
fn a_dry_run_says_what_would_change_and_changes_nothing() {
    let bench = Bench::new(BASE);
    bench.write(&format!("{BASE}{DNAT}"));
    for _ in 0..2 {
        let reloaded =
            bench.manager.reload(&ReloadRequest { dry_run: true, ..ReloadRequest::default() }).unwrap();
        assert_eq!((reloaded.changes.len(), reloaded.dry_run), (1, true));
    }
    assert!(bench.explain("tcp 198.51.100.7:999 > 203.0.113.16:80").verdict.starts_with("dropped"));
    assert!(bench.notes.lock().unwrap().is_empty());
    bench.stop();
}

#[test]
fn a_file_with_errors_changes_nothing_and_all_errors_are_told() {
    let bench = Bench::new(BASE);
    let before = bench.manager.status().generation;
    bench.write(&format!(
        "{BASE}{}",
        DNAT.replace("10.0.1.10", "10.9.9.9").replace("203.0.113.16", "203.0.113.18")
    ));
    let fault = bench.reload().unwrap_err();
    assert_eq!(fault.code, FaultCode::Configuration);
    assert!(!fault.findings.is_empty(), "{fault:?}");
    assert!(fault.findings.iter().all(|finding| finding.line.is_some() && !finding.rule.is_empty()));
    std::fs::remove_file(bench.config()).unwrap();
    assert_eq!(bench.reload().unwrap_err().code, FaultCode::Configuration);
    assert_eq!(bench.manager.status().generation, before);
    bench.stop();
}

#[test]
fn what_needs_a_restart_is_refused() {
    let bench = Bench::new(BASE);
    bench.write(&BASE.replace("workers = 1", "workers = 2").replace("eth1", "eth7"));
    let fault = bench.reload().unwrap_err();
    assert_eq!((fault.code, fault.findings.len()), (FaultCode::NeedsRestart, 2));
    bench.stop();
}

/// An SNAT entry that moves to another EIP, and a DNAT entry that moves to another host: their sessions are kept, drained or killed as the
/// request says, and end where it says nothing.
#[test]
fn a_reload_says_what_becomes_of_the_sessions_that_it_leaves() {
    let mut bench = Bench::new(BASE);
    let moved = BASE.replace("eips = [\"203.0.113.17\"]", "eips = [\"203.0.113.16\"]");
    let of = |policy, drain_seconds, reset| {
        let sessions = Some(LiveSessions { policy, drain_seconds, reset });
        ReloadRequest { sessions, ..ReloadRequest::default() }
    };
    let all = SessionsRequest::default();
    let externals = |bench: &Bench| {
        let sessions = bench.sessions(&all).into_iter();
        let mut externals: Vec<_> =
            sessions.map(|it| it.external.split(':').next().unwrap_or_default().to_owned()).collect();
        externals.sort_unstable();
        externals
    };
    bench.send_out(1000);
    eventually(|| externals(&bench) == ["203.0.113.17"]);

    // What does not go together changes nothing, nor does a dry run.
    bench.write(&moved);
    for wrong in [of(SessionPolicy::Keep, None, true), of(SessionPolicy::Kill, Some(5), false)] {
        assert_eq!(bench.manager.reload(&wrong).unwrap_err().code, FaultCode::BadRequest);
    }
    let dry = ReloadRequest { dry_run: true, ..of(SessionPolicy::Drain, Some(1), false) };
    assert_eq!(bench.manager.reload(&dry).unwrap().changes.len(), 1);
    assert_eq!(externals(&bench), ["203.0.113.17"]);

    // Kept: new sessions leave with the other EIP, and the old one goes on.
    bench.manager.reload(&of(SessionPolicy::Keep, None, false)).unwrap();
    bench.send_out(1001);
    bench.send_out(1000);
    eventually(|| externals(&bench).len() == 2);
    assert_eq!(externals(&bench), ["203.0.113.16", "203.0.113.17"]);
    bench.manager.look_at_departures();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(externals(&bench).len(), 2);

    // A reload that takes no session from the entry leaves them alone, one that does and says nothing ends them.
    bench.write(&format!("{moved}mapping = \"endpoint-independent\"\ndescription = \"the same\"\n"));
    bench.reload().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(externals(&bench).len(), 2);
    bench.write(BASE);
    bench.reload().unwrap();
    eventually(|| externals(&bench) == ["203.0.113.17"]);

    // Drained: they go on for the time, then end.
    bench.write(&moved);
    bench.manager.reload(&of(SessionPolicy::Drain, Some(1), false)).unwrap();
    bench.manager.look_at_departures();
    assert_eq!(externals(&bench), ["203.0.113.17"]);
    eventually(|| {
        bench.manager.look_at_departures();
        externals(&bench).is_empty()
    });

    // Killed, with an entry that goes.
    bench.send_out(1002);
    eventually(|| externals(&bench) == ["203.0.113.16"]);
    bench.write(&moved[..moved.find("[[snat]]").unwrap()]);
    bench.manager.reload(&of(SessionPolicy::Kill, None, true)).unwrap();
    eventually(|| externals(&bench).is_empty());
    bench.stop();
}

/// Another entry, or none, could not say whose block a port is of.
#[test]
fn a_reload_does_not_keep_sessions_in_blocks_of_ports() {
    let bench = Bench::new(&format!("{BASE}port_blocks = 64\n"));
    bench.write(BASE);
    let sessions = LiveSessions { policy: SessionPolicy::Keep, drain_seconds: None, reset: false };
    let keep = ReloadRequest { sessions: Some(sessions), ..ReloadRequest::default() };
    let fault = bench.manager.reload(&keep).unwrap_err();
    assert_eq!(fault.refusal.map(|refusal| refusal.code), Some(Code::BlockSessions));
    assert_eq!(bench.reload().unwrap().changes.len(), 1);
    bench.stop();
}
