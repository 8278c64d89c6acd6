//! Sessions: listed, counted, watched, ended.

use super::*;

#[test]
fn usage_counts_sessions_and_bytes_of_gateways_eips_entries_and_hosts() {
    let mut bench = Bench::new(BASE);
    // As many as may wait for the router's address.
    for port in 1000..1004 {
        bench.send_out(port);
    }
    eventually(|| bench.sessions(&SessionsRequest::default()).len() == 4);
    let usage = |by| bench.manager.usage(&UsageRequest { by: Some(by), limit: None }).unwrap();
    let names = [
        (UsageBy::Gateway, "gw1"),
        (UsageBy::Eip, "203.0.113.17"),
        (UsageBy::Entry, "all"),
        (UsageBy::Host, "10.0.1.10"),
    ];
    for (by, name) in names {
        let [row] = usage(by).try_into().unwrap();
        assert_eq!((row.name.as_str(), row.sessions, row.bytes_out, row.bytes_in), (name, 4, 4 * 36, 0));
        assert_eq!(row.sessions_created, (by != UsageBy::Host).then_some(4));
        assert_eq!((row.packets_out, row.packets_in), (Some(4), Some(0)));
    }
    let [entry] = usage(UsageBy::Entry).try_into().unwrap();
    assert_eq!((entry.table.as_deref(), entry.gateway.as_deref()), (Some("snat"), Some("gw1")));
    // Bytes that were brought to the totals are still the session's, and are not counted again.
    assert!(bench.sessions(&SessionsRequest::default()).iter().all(|session| session.bytes_out == 36));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(usage(UsageBy::Gateway)[0].bytes_out, 4 * 36);
    let all = bench.manager.usage(&UsageRequest::default()).unwrap();
    let kinds: Vec<_> = all.iter().map(|row| row.by).collect();
    assert_eq!(kinds, [UsageBy::Gateway, UsageBy::Eip, UsageBy::Entry, UsageBy::Host]);
    assert_eq!((all[3].vpc.as_deref(), all[3].sessions, all[3].bytes_out), (Some("prod"), 4, 4 * 36));
    let ports = &bench.manager.status().external_ports;
    assert_eq!((ports.len(), ports[0].taken, ports[0].limit), (1, 4, 64_512));
    bench.stop();
}

#[test]
fn a_session_that_the_specification_refuses_counts_for_its_gateway_and_entry() {
    let limited = BASE.replace("vswitch = \"web\"\n", "vswitch = \"web\"\nhost_sessions = 2\n");
    let mut bench = Bench::new(&limited);
    for port in 1000..1005 {
        bench.send_out(port);
    }
    let usage = |by| bench.manager.usage(&UsageRequest { by: Some(by), limit: None }).unwrap();
    eventually(|| usage(UsageBy::Gateway)[0].refused.unwrap().host_quota == 3);
    for by in [UsageBy::Gateway, UsageBy::Entry] {
        let row = &usage(by)[0];
        assert_eq!((row.sessions, row.sessions_created, row.refused.unwrap().total()), (2, Some(2), 3));
    }
    bench.stop();
}

#[test]
fn sessions_are_watched_and_ended_on_request() {
    let mut bench = Bench::new(BASE);
    let caller = Caller::local(0);
    for port in 1000..1005 {
        bench.send_out(port);
    }
    let all = SessionsRequest::default();
    eventually(|| bench.sessions(&all).len() == 5);
    let kill = |sessions: &SessionsRequest, all| {
        let request = KillRequest { sessions: sessions.clone(), reset: true, all };
        bench.manager.kill(&caller, &request)
    };
    for fault in [
        kill(&all, false).unwrap_err(),
        kill(&SessionsRequest { vpc: Some("prod".into()), ..all.clone() }, true).unwrap_err(),
        kill(&SessionsRequest { limit: Some(1), vpc: Some("prod".into()), ..all.clone() }, false)
            .unwrap_err(),
    ] {
        assert_eq!(fault.code, FaultCode::BadRequest, "{fault}");
    }
    let (sender, events) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let request =
            WatchRequest { events: Some(4), timeout_seconds: Some(20.0), ..WatchRequest::default() };
        let watch = |event| {
            let _ = sender.send(event);
            ControlFlow::Continue(())
        };
        let manager = &bench.manager;
        let watcher = scope.spawn(move || manager.watch(&request, &mut { watch }).unwrap());
        assert_eq!(events.recv().unwrap(), None);
        let second = WatchRequest { timeout_seconds: Some(0.1), ..WatchRequest::default() };
        let busy = manager.watch(&second, &mut |_| ControlFlow::Break(())).unwrap_err();
        assert_eq!(busy.code, FaultCode::Busy);

        let of = |text: &str| SessionsRequest { inside: Some(text.parse().unwrap()), ..all.clone() };
        assert_eq!(kill(&of("10.0.1.10:1002"), false).unwrap(), Killed { ended: 1 });
        assert_eq!(kill(&of("10.0.1.11"), false).unwrap(), Killed { ended: 0 });
        let named =
            SessionsRequest { entry: Some("all".into()), peer: Some(":53".parse().unwrap()), ..all.clone() };
        assert_eq!(kill(&named, false).unwrap(), Killed { ended: 4 });
        let end = watcher.join().unwrap();
        assert_eq!((end.count, end.truncated), (4, false));
    });
    let told: Vec<_> = events.try_iter().flatten().collect();
    assert_eq!(told.len(), 4);
    let words = ["event", "ending", "inside", "entry"].map(|key| told[0][key].as_str().unwrap());
    assert_eq!(words, ["ended", "killed", "10.0.1.10:1002", "all"]);
    assert!(bench.sessions(&all).is_empty());
    let status = bench.manager.status();
    assert_eq!((status.gateways[0].snat_sessions, status.external_ports.len()), (0, 0));
    // The watch is over: another one may begin.
    let request = WatchRequest { timeout_seconds: Some(0.01), ..WatchRequest::default() };
    bench.manager.watch(&request, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(kill(&all, true).unwrap(), Killed { ended: 0 });
    bench.stop();
}

#[test]
fn sessions_are_listed_in_the_words_of_the_configuration() {
    let mut bench = Bench::new(BASE);
    for port in 1000..1005 {
        bench.send_out(port);
    }
    let all = SessionsRequest::default();
    eventually(|| bench.sessions(&all).len() == 5);
    let of_port = SessionsRequest { inside: Some(":1003".parse().unwrap()), ..all.clone() };
    let [session] = bench.sessions(&of_port).try_into().unwrap();
    let words = [&session.kind, &session.protocol, &session.inside, &session.peer, &session.state];
    assert_eq!(words, ["snat", "udp", "10.0.1.10:1003", "198.51.100.7:53", "active"]);
    assert!(session.external.starts_with("203.0.113.17:"), "{}", session.external);
    assert_eq!(
        (session.entry.as_str(), session.gateway.as_str(), session.vpc.as_str()),
        ("all", "gw1", "prod")
    );
    assert_eq!((session.bytes_out, session.bytes_in), (36, 0));
    assert!(session.expires_seconds > 200.0 && session.age_seconds < 100.0);

    let count =
        |request: &SessionsRequest| bench.manager.sessions(request, &mut |_| panic!("only counted")).unwrap();
    assert_eq!(count(&SessionsRequest { count: true, ..all.clone() }).count, 5);
    let named = SessionsRequest { entry: Some("all".into()), gateway: Some("gw1".into()), ..all.clone() };
    assert_eq!(bench.sessions(&named).len(), 5);
    let nobody = SessionsRequest { peer: Some("192.0.2.0/24".parse().unwrap()), ..all.clone() };
    assert!(bench.sessions(&nobody).is_empty());
    let dnat = SessionsRequest { kind: Some(crate::control::protocol::KindFilter::Dnat), ..all.clone() };
    assert!(bench.sessions(&dnat).is_empty());
    for request in [
        SessionsRequest { entry: Some("web".into()), ..all.clone() },
        SessionsRequest { gateway: Some("gw2".into()), ..all.clone() },
        SessionsRequest { vpc: Some("test".into()), ..all.clone() },
    ] {
        let fault = bench.manager.sessions(&request, &mut |_| ControlFlow::Continue(())).unwrap_err();
        assert_eq!(fault.code, FaultCode::BadRequest);
    }
    let status = bench.manager.status();
    assert_eq!(status.gateways[0].snat_sessions, 5);
    bench.stop();
}

#[test]
fn blocks_of_ports_are_counted_while_hosts_have_them() {
    let blocks = "source = \"vpc\"\nport_blocks = 1024";
    let mut bench = Bench::new(&BASE.replace("source = \"vpc\"", blocks));
    assert_eq!(bench.manager.status().port_blocks, []);
    for port in 2000..2010 {
        bench.send_out(port);
    }
    eventually(|| bench.manager.stats().total.sessions_created == 10);
    let [blocks] = bench.manager.status().port_blocks.try_into().unwrap();
    assert_eq!((blocks.eip.as_str(), blocks.taken, blocks.limit), ("203.0.113.17", 1, 63));
    bench.stop();
}

/// More happens than the ring of a watch holds while nobody takes anything: what is missing is told, to the last event, although the time is up.
#[test]
fn a_watch_that_falls_behind_is_told_how_much_is_missing() {
    const PORTS: std::ops::Range<u16> = 1000..1500;
    const ROUNDS: u64 = 20;
    let mut bench = Bench::new(BASE);
    let Bench { manager, lan, lan_mac, .. } = &mut bench;
    let manager = &*manager;
    let (begin, begun) = std::sync::mpsc::channel();
    let (resume, resumed) = std::sync::mpsc::channel::<()>();
    let (told, missing) = std::thread::scope(|scope| {
        let watcher = scope.spawn(move || {
            let (mut told, mut missing, mut is_first) = (0, 0, true);
            let request = WatchRequest { timeout_seconds: Some(0.1), ..WatchRequest::default() };
            let mut each = |event: Option<serde_json::Value>| {
                if std::mem::take(&mut is_first) {
                    begin.send(()).unwrap();
                    resumed.recv().unwrap();
                }
                match event {
                    Some(event) if event["event"] == "lost" => missing += event["count"].as_u64().unwrap(),
                    Some(_) => told += 1,
                    None => {}
                }
                ControlFlow::Continue(())
            };
            manager.watch(&request, &mut each).unwrap();
            (told, missing)
        });
        begun.recv().unwrap();
        let all = SessionsRequest::default();
        let count = || {
            let request = SessionsRequest { count: true, ..all.clone() };
            manager.sessions(&request, &mut |_| ControlFlow::Continue(())).unwrap().count
        };
        let kill = KillRequest { sessions: all.clone(), reset: false, all: true };
        for _ in 0..ROUNDS {
            for port in PORTS {
                let frame = question(*lan_mac, port);
                eventually(|| lan.send(&frame));
            }
            eventually(|| count() == PORTS.len() as u64);
            assert_eq!(manager.kill(&Caller::local(0), &kill).unwrap().ended, PORTS.len() as u64);
        }
        resume.send(()).unwrap();
        watcher.join().unwrap()
    });
    assert!(told > 0 && missing > 0, "{told} told, {missing} missing");
    assert_eq!(told + missing, 2 * ROUNDS * PORTS.len() as u64);
    bench.stop();
}
