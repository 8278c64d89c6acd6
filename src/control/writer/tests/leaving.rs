//! Sessions whose entry changes or goes: kept, drained, killed.

use super::*;

/// What the snapshot says about the sessions of all entries.
fn leaving(bench: &Bench) -> Vec<Leaving> {
    let current = bench.shelf.current();
    (0..100).filter_map(|entry| current.leaving(EntryId(entry))).collect()
}

#[test]
fn the_sessions_of_a_changed_entry_are_kept_drained_or_killed_as_the_change_says() {
    let bench = Bench::new();
    bench.furnish();
    let id = bench.create("dnat", entry(1));
    let with = |request: ChangeRequest, policy, drain_seconds, reset| {
        let sessions = Some(LiveSessions { policy, drain_seconds, reset });
        bench.ask(ChangeRequest { sessions, ..request })
    };
    let to = |host: &str| update("dnat", &id, json!({ "private_ip": host }));
    let (keep, drain, kill) = (SessionPolicy::Keep, SessionPolicy::Drain, SessionPolicy::Kill);

    with(to("10.0.0.11"), keep, None, false).unwrap();
    assert_eq!(leaving(&bench), [Leaving::Kept]);
    // The next change says nothing: they end.
    bench.ask(to("10.0.0.12")).unwrap();
    assert_eq!(leaving(&bench), []);
    with(to("10.0.0.13"), kill, None, true).unwrap();
    assert_eq!(leaving(&bench), [Leaving::Reset]);
    with(to("10.0.0.14"), kill, None, false).unwrap();
    assert_eq!(leaving(&bench), []);

    // Drained, also when the entry is gone; at the deadline its EIP's sessions are looked at again.
    with(delete("dnat", &id, false), drain, Some(1), true).unwrap();
    assert_eq!(leaving(&bench), [Leaving::Kept]);
    let eip = bench.shelf.current().eip(0xc612_0001).unwrap().index;
    let before = bench.shelf.current().eip_changed(eip);
    std::thread::sleep(std::time::Duration::from_millis(600));
    assert_eq!(leaving(&bench), [Leaving::Kept]);
    std::thread::sleep(std::time::Duration::from_millis(900));
    assert_eq!(leaving(&bench), [Leaving::Reset]);
    assert!(bench.shelf.current().eip_changed(eip) > before);

    let id = bench.create("dnat", entry(2));
    let renamed = || update("dnat", &id, json!({"name": "other"}));
    for refused in [
        with(renamed(), keep, None, true),
        with(renamed(), keep, Some(9), false),
        with(renamed(), drain, Some(0), false),
        with(create("dnat", entry(3)), keep, None, false),
        with(update("gateway", "gw1", json!({"name": "other"})), keep, None, false),
    ] {
        assert_eq!(refused.unwrap_err().code, FaultCode::BadRequest);
    }
    assert_eq!(leaving(&bench), [Leaving::Reset]);
    bench.assert_consistent();
}

#[test]
fn an_apply_says_what_becomes_of_the_sessions_that_it_leaves() {
    let bench = Bench::new();
    bench.furnish();
    bench.create("dnat", entry(1));
    let apply = |reset| {
        let sessions = Some(LiveSessions { policy: SessionPolicy::Keep, drain_seconds: None, reset });
        let document = Document::new();
        bench.desk().apply("user 0", ApplyRequest { document, sessions, ..ApplyRequest::default() })
    };
    assert_eq!(apply(true).unwrap_err().code, FaultCode::BadRequest);
    assert_eq!(leaving(&bench), []);
    // All goes, and what the entry has carried so far goes on.
    apply(false).unwrap();
    assert_eq!(leaving(&bench), [Leaving::Kept]);
}

/// An SNAT entry of two EIPs of which the first has left it, drained for so many seconds.
fn drained(bench: &Bench, seconds: u64) -> (String, crate::base::EipIndex) {
    let id = bench.create("snat", json!({"gateway": "gw1", "source": "vpc", "eips": ["198.18.0.1"]}));
    let request = update("snat", &id, json!({"eips": ["198.18.0.2"]}));
    let policy = SessionPolicy::Drain;
    let sessions = Some(LiveSessions { policy, drain_seconds: Some(seconds), reset: false });
    bench.ask(ChangeRequest { sessions, ..request }).unwrap();
    assert_eq!(leaving(bench), [Leaving::Kept]);
    (id, bench.shelf.current().eip(0xc612_0001).unwrap().index)
}

#[test]
fn a_later_change_that_takes_no_sessions_leaves_a_deadline_as_it_is() {
    let bench = Bench::new();
    bench.furnish();
    let (id, eip) = drained(&bench, 1);
    let before = bench.shelf.current().eip_changed(eip);
    for body in [
        json!({"description": "for people"}),
        json!({"name": "other"}),
        json!({"timeouts": {"udp": "9m"}}),
        json!({"eips": ["198.18.0.2", "198.18.0.3"]}),
    ] {
        if body.get("eips").is_some() {
            bench.create("eip", json!({"address": "198.18.0.3", "gateway": "gw1"}));
        }
        bench.ask(update("snat", &id, body)).unwrap();
        assert_eq!(leaving(&bench), [Leaving::Kept]);
    }
    assert_eq!(bench.shelf.current().eip_changed(eip), before);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(leaving(&bench), []);
    assert!(bench.shelf.current().eip_changed(eip) > before);
}

#[test]
fn a_later_change_that_takes_sessions_ends_those_that_were_drained() {
    let bench = Bench::new();
    bench.furnish();
    bench.create("eip", json!({"address": "198.18.0.3", "gateway": "gw1"}));
    for last in [Some(json!({"eips": ["198.18.0.3"]})), None] {
        let (id, eip) = drained(&bench, 300);
        let before = bench.shelf.current().eip_changed(eip);
        bench.ask(last.map_or_else(|| delete("snat", &id, false), |body| update("snat", &id, body))).unwrap();
        assert_eq!(leaving(&bench), []);
        assert!(bench.shelf.current().eip_changed(eip) > before);
        if bench.desk().read(|inventory| inventory.get(id.parse().unwrap()).is_some()) {
            bench.ask(delete("snat", &id, false)).unwrap();
        }
    }
}

#[test]
fn a_second_deadline_holds_for_the_eips_of_the_first_one_too() {
    let bench = Bench::new();
    bench.furnish();
    bench.create("eip", json!({"address": "198.18.0.3", "gateway": "gw1"}));
    let (id, eip) = drained(&bench, 300);
    let with = |eips: &str, policy, drain_seconds| {
        let sessions = Some(LiveSessions { policy, drain_seconds, reset: false });
        bench.ask(ChangeRequest { sessions, ..update("snat", &id, json!({ "eips": [eips] })) }).unwrap();
    };
    with("198.18.0.3", SessionPolicy::Drain, Some(1));
    let before = bench.shelf.current().eip_changed(eip);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(leaving(&bench), []);
    assert!(bench.shelf.current().eip_changed(eip) > before);
    // They are killed with the others, too.
    with("198.18.0.1", SessionPolicy::Keep, None);
    let third = bench.shelf.current().eip(0xc612_0003).unwrap().index;
    let before = bench.shelf.current().eip_changed(third);
    with("198.18.0.2", SessionPolicy::Kill, None);
    assert_eq!(leaving(&bench), []);
    assert!(bench.shelf.current().eip_changed(third) > before);
}

#[test]
fn what_a_change_says_of_sessions_holds_beside_others_of_the_same_batch() {
    let bench = Bench::new();
    bench.furnish();
    let id = bench.create("snat", json!({"gateway": "gw1", "source": "vpc", "eips": ["198.18.0.1"]}));
    let sessions = Some(LiveSessions { policy: SessionPolicy::Keep, drain_seconds: None, reset: false });
    let moved = ChangeRequest { sessions, ..update("snat", &id, json!({"eips": ["198.18.0.2"]})) };
    let desk = bench.desk();
    // The writer waits for the inventory at the first of them, so that the others queue up behind it.
    let answers: Vec<Receiver<_>> = desk.read(|_| {
        let rename = |name: &str| update("snat", &id, json!({ "name": name }));
        let requests = [rename("one"), moved, rename("two"), rename("three")];
        let queued = requests.into_iter().map(|request| {
            let (reply, answered) = sync_channel(1);
            desk.begin("user 0", request, Box::new(move |answer| drop(reply.send(answer)))).unwrap();
            answered
        });
        let queued = queued.collect();
        std::thread::sleep(std::time::Duration::from_millis(100));
        queued
    });
    for answer in answers {
        answer.recv().unwrap().unwrap();
    }
    assert_eq!(leaving(&bench), [Leaving::Kept]);
}

#[test]
fn sessions_of_an_entry_with_port_blocks_are_neither_kept_nor_drained() {
    let bench = Bench::new();
    bench.furnish();
    let pool = json!({"gateway": "gw1", "source": "vpc", "eips": ["198.18.0.1"], "port_blocks": 512});
    let id = bench.create("snat", pool);
    let moved = || update("snat", &id, json!({"eips": ["198.18.0.2"]}));
    let ask = |request: ChangeRequest, policy| {
        let sessions = Some(LiveSessions { policy, drain_seconds: None, reset: false });
        bench.ask(ChangeRequest { sessions, ..request })
    };
    let generation = bench.shelf.current().generation();
    for policy in [SessionPolicy::Keep, SessionPolicy::Drain] {
        for request in [moved(), delete("snat", &id, false)] {
            let fault = ask(request, policy).unwrap_err();
            let refusal = fault.refusal.unwrap();
            assert_eq!((refusal.code, &*refusal.parameter), (Code::BlockSessions, "live_sessions"));
            assert_eq!((refusal.value.as_deref(), fault.hint.is_some()), (Some(policy.name()), true));
        }
    }
    // Nothing was changed.
    assert_eq!(bench.shelf.current().generation(), generation);
    bench.desk().read(|inventory| {
        let entry = inventory.snat(id.parse().unwrap()).unwrap();
        assert_eq!(entry.eips[0].1, std::net::Ipv4Addr::new(198, 18, 0, 1));
    });
    ask(moved(), SessionPolicy::Kill).unwrap();
    bench.ask(delete("snat", &id, false)).unwrap();
    bench.assert_consistent();
}
