//! What operators do while traffic flows.

use serde_json::Value;

use crate::common::need_root;
use crate::configuration::{base, dnat, eip};
use crate::gateway::{Gateway, socket};
use crate::lab::{Lab, wait_for};
use crate::with_all_back_ends;

with_all_back_ends! { reload_under_traffic sessions_under_traffic explain_and_trace capture hangup_reloads }

/// XDP sockets alone can leave to the kernel what is not the gateway's.
#[test]
fn a_shared_port_leaves_the_kernel_its_addresses() {
    need_root!();
    let lab = Lab::new();
    lab.web_server("web", &[8080]);
    lab.run("gw", "ip address add 203.0.113.3/24 dev wan && ip route add default via 203.0.113.1");
    lab.web_server("gw", &[22]);
    let shared = base("af_xdp", &socket(&lab)).replace("device = \"wan\"", "device = \"wan\"\nshare = true");
    let gateway = Gateway::start(&lab, &shared);
    lab.page("client", "http://203.0.113.3:22/", &["of gw", "client 198.51.100.10\n"]);
    lab.page("client", "http://203.0.113.16/", &["of web", "client 198.51.100.10\n"]);
    // An EIP that is new is the gateway's as well.
    gateway.reload(&(shared + &eip(20, "gw1") + &dnat("late", "gw1", 20, "81", "10.0.1.10", "8090", "TCP")));
    let report = lab.run("client", "ping -q -c 5 -i 0.01 -W 2 203.0.113.20");
    assert!(report.contains("5 received"), "{report}");
    lab.page("client", "http://203.0.113.3:22/", &["of gw"]);
    gateway.finish();
}

/// Sessions as the command lists them, one JSON document or one a line.
fn sessions(text: &str) -> Vec<Value> {
    let values: Vec<Value> = serde_json::Deserializer::from_str(text)
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| panic!("{error}: {text}"));
    values
        .into_iter()
        .flat_map(|value| match value {
            Value::Array(list) => list,
            Value::Object(mut object) => match object.remove("sessions") {
                Some(Value::Array(list)) => list,
                _ => vec![Value::Object(object)],
            },
            other => vec![other],
        })
        .filter(|value| value.get("inside").is_some())
        .collect()
}

/// How many answers `ping -q` had.
fn received(report: &str) -> u64 {
    let count =
        report.split(" received").next().and_then(|text| text.split_whitespace().last()?.parse().ok());
    count.unwrap_or_else(|| panic!("no report of ping: {report}"))
}

/// Packets so far that found a buffer full on their way: a socket's, a device's, a core's.
fn no_room(lab: &Lab, gateway: &Gateway<'_>) -> u64 {
    let stats = gateway.stats();
    let ports = stats["ports"].as_array().expect("the ports' counters").iter();
    let missed: u64 = ports.map(|port| port["rx_missed"].as_u64().expect("a counter")).sum();
    // The second number of a core's line is in hexadecimal.
    let cores: u64 = lab
        .run("gw", "cat /proc/net/softnet_stat")
        .lines()
        .map(|line| line.split_whitespace().nth(1).and_then(|count| u64::from_str_radix(count, 16).ok()))
        .sum::<Option<u64>>()
        .expect("a count for each core");
    let devices: u64 = ["gw", "internet", "vpc", "client", "server", "web", "app"]
        .map(|host| lab.run(host, "cat /sys/class/net/*/statistics/tx_dropped"))
        .iter()
        .flat_map(|counts| counts.lines())
        .map(|count| count.parse::<u64>().expect("a count"))
        .sum();
    missed + cores + devices
}

fn reload_under_traffic(back_end: &str) {
    let lab = Lab::alone();
    lab.web_server("web", &[8080, 8090]);
    lab.web_server("server", &[80]);
    let original = base(back_end, &socket(&lab));
    let gateway = Gateway::start(&lab, &original);
    lab.run("web", &format!("head -c 8M /dev/urandom >{}", lab.files("web").join("slow").display()));
    // The next hops are known then: before, only a few packets wait for them.
    for (host, address) in [("client", "203.0.113.17"), ("web", "198.51.100.20")] {
        lab.run(host, &format!("ping -q -c 2 -W 5 {address}"));
    }
    let before = no_room(&lab, &gateway);
    // One way by DNAT, one by SNAT, every 5 ms; and a TCP connection that lasts as long.
    let pings = [
        lab.spawn("client", "exec ping -q -c 1000 -i 0.005 -W 2 203.0.113.17"),
        lab.spawn("web", "exec ping -q -c 1000 -i 0.005 -W 2 198.51.100.20"),
    ];
    let download = lab.spawn("client", "curl -sS --fail --limit-rate 1500k -o slow http://203.0.113.16/files/slow && cmp slow web/files/slow");

    let mut more = original.clone() + &eip(20, "gw1");
    more += &dnat("late", "gw1", 20, "8088", "10.0.1.10", "8090", "TCP");
    let less =
        original.replace(&dnat("range", "gw1", 16, "\"8000/8002\"", "10.0.1.10", "\"9000/9002\"", "TCP"), "");
    for _ in 0..5 {
        gateway.reload(&more);
        lab.page("client", "http://203.0.113.20:8088/", &["of web"]);
        gateway.reload(&less);
        assert!(lab.attempt("client", "curl -sS --max-time 0.5 http://203.0.113.20:8088/").is_err());
    }
    // A file with an error changes nothing.
    gateway.configure(&(more.clone() + "\n[[eip]]\naddress = \"192.0.2.1\"\ngateway = \"nobody\"\n"));
    let refused = gateway.attempt("reload").expect_err("a file with errors");
    assert!(refused.contains("nobody") && refused.contains("192.0.2.1"), "{refused}");
    assert!(lab.attempt("client", "curl -sS --max-time 0.5 http://203.0.113.20:8088/").is_err());
    gateway.reload(&original);

    let reports = pings.map(|ping| ping.finish(30).unwrap_or_else(|error| panic!("{error}")));
    download.finish(30).unwrap_or_else(|error| panic!("{error}"));
    // A packet that no buffer had room for is lost because the machine is too slow for the test, and counted where that was.
    let slow = no_room(&lab, &gateway) - before;
    let lost: u64 = reports.iter().map(|report| 1000 - received(report)).sum();
    assert!(lost <= slow, "{lost} echoes are lost, and {slow} packets had no room: {reports:?}");
    gateway.finish();
}

fn sessions_under_traffic(back_end: &str) {
    let lab = Lab::new();
    lab.serve("server", "exec iperf3 -s", 5201);
    lab.serve("web", "exec iperf3 -s", 5201);
    let gateway = Gateway::start(&lab, &base(back_end, &socket(&lab)));
    let traffic = [
        lab.spawn("web", "exec iperf3 -c 198.51.100.20 -t 3"),
        lab.spawn("client", "exec iperf3 -c 203.0.113.16 -t 3"),
    ];
    let bytes = |list: &[Value]| -> u64 {
        list.iter()
            .filter_map(|session| Some(session["bytes_out"].as_u64()? + session["bytes_in"].as_u64()?))
            .sum()
    };
    let list = |filter: &str| sessions(&gateway.ask(&format!("sessions --json {filter}")));
    let mut first = Vec::new();
    assert!(
        wait_for(20, || {
            first = list("--protocol tcp --kind snat --inside 10.0.1.10");
            bytes(&first) > 1_000_000
        }),
        "{first:?}"
    );
    for session in &first {
        assert!(
            session["inside"].as_str().is_some_and(|inside| inside.starts_with("10.0.1.10:")),
            "{session}"
        );
        assert!(session["peer"].as_str().is_some_and(|peer| peer == "198.51.100.20:5201"), "{session}");
        assert_eq!(session["entry"], "everyone", "{session}");
        assert_eq!((&session["gateway"], &session["vpc"]), (&"gw1".into(), &"prod".into()), "{session}");
    }
    let inbound = list("--kind dnat --eip 203.0.113.16:5201");
    assert!(inbound.iter().any(|session| session["inside"] == "10.0.1.10:5201"), "{inbound:?}");
    assert!(
        wait_for(20, || bytes(&list("--protocol tcp --kind snat")) > bytes(&first)),
        "the bytes do not grow"
    );
    assert!(list("--protocol udp").is_empty());
    assert!(gateway.ask("sessions").contains("10.0.1.10"));
    for traffic in traffic {
        traffic.finish(20).unwrap_or_else(|error| panic!("{error}"));
    }
    let status: Value = serde_json::from_str(&gateway.ask("status --json")).expect("the status as JSON");
    assert!(status["sessions"]["used"].as_u64() > Some(0), "{status}");
    gateway.finish();
}

fn explain_and_trace(back_end: &str) {
    let lab = Lab::new();
    lab.web_server("web", &[8080, 8090]);
    let gateway = Gateway::start(&lab, &base(back_end, &socket(&lab)));
    let before = gateway.total("/forwarded");
    for (packet, words) in [
        ("tcp 198.51.100.10:5000 > 203.0.113.16:80", ["page", "10.0.1.10:8080"]),
        ("tcp 198.51.100.10:5000 > 203.0.113.16:8001", ["range", "10.0.1.10:9001"]),
        ("udp 198.51.100.10:5000 > 203.0.113.17:4500", ["own-eip", "10.0.1.20:4500"]),
        ("tcp 10.0.1.10:5000 > 198.51.100.20:443", ["everyone", "203.0.113.1"]),
        ("udp 198.51.100.10:5000 > 203.0.113.16:81", ["dropped", "no-mapping"]),
        ("tcp 198.51.100.10:5000 > 203.0.113.16:81", ["dropped", "unsolicited-syn"]),
    ] {
        let text = gateway.ask(&format!("explain '{packet}'"));
        for word in words {
            assert!(text.contains(word), "{packet}: \"{word}\" is missing in\n{text}");
        }
    }
    assert_eq!(gateway.total("/forwarded"), before, "explaining sends nothing");
    assert!(
        gateway.ask("sessions --json").trim().is_empty()
            || sessions(&gateway.ask("sessions --json")).is_empty()
    );

    let command = format!(
        "NATGATE_SOCKET={} exec {} trace --protocol tcp --destination 203.0.113.16 -n 2 --timeout 10",
        socket(&lab).display(),
        env!("CARGO_BIN_EXE_natgate")
    );
    let trace = lab.spawn("gw", &command);
    assert!(
        wait_for(10, || {
            lab.page("client", "http://203.0.113.16/", &["of web"]);
            trace.output().contains("10.0.1.10")
        }),
        "{}",
        trace.output()
    );
    let text = trace.finish(15).unwrap_or_else(|error| panic!("{error}"));
    assert!(text.contains("page"), "the entry is missing in\n{text}");
    gateway.finish();
}

fn capture(back_end: &str) {
    let lab = Lab::new();
    lab.web_server("web", &[8080, 8090]);
    let gateway = Gateway::start(&lab, &base(back_end, &socket(&lab)));
    let natgate =
        format!("NATGATE_SOCKET={} {} capture", socket(&lab).display(), env!("CARGO_BIN_EXE_natgate"));
    let fields = "-T fields -E separator='|' -e frame.interface_name -e frame.packet_flags_direction -e ip.src -e ip.dst -e \
                  tcp.dstport -e frame.comment -e ip.checksum.status -o ip.check_checksum:TRUE";
    // To a file while it runs, and by a pipe that an independent decoder reads.
    let file = lab.directory().join("all.pcapng");
    let mut whole =
        lab.spawn("gw", &format!("{natgate} --host 203.0.113.16 --seconds 2 -w {}", file.display()));
    let mut drops = lab.spawn(
        "gw",
        &format!("sleep 2.5; {natgate} --dropped --eip 203.0.113.16 -n 1 --seconds 20 -w - | tshark -n -r - {fields}"),
    );
    assert!(wait_for(200, || {
        lab.page("client", "http://203.0.113.16/", &["of web"]);
        whole.has_ended()
    }));
    let said = whole.finish(1).unwrap_or_else(|error| panic!("{error}"));
    assert!(said.contains(" captured, 0 lost"), "{said}");
    let text = lab.run("gw", &format!("tshark -n -r {} {fields}", file.display()));
    let has = |parts: &[&str]| text.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    // As it came and as it left, both ways, with the entry that did it.
    assert!(has(&["wan|", "|203.0.113.16|80|sent by port lan; ", "page", "worker "]), "{text}");
    assert!(has(&["lan|", "|10.0.1.10|8080|sent; came in on port wan; ", "page"]), "{text}");
    assert!(has(&["lan|", "|10.0.1.10|198.51.100.10|", "|sent by port wan; "]), "{text}");
    assert!(has(&["wan|", "|203.0.113.16|198.51.100.10|", "|sent; came in on port lan; "]), "{text}");
    assert!(!text.contains("|Bad") && !text.contains("dropped"), "{text}");

    assert!(
        wait_for(200, || {
            let _ = lab.attempt("client", "curl -sS --max-time 0.3 http://203.0.113.16:81/");
            drops.has_ended()
        }),
        "{}",
        drops.output()
    );
    let text = drops.finish(1).unwrap_or_else(|error| panic!("{error}"));
    assert!(text.contains("|81|dropped, unsolicited-syn: "), "{text}");
    assert!(text.contains("1 frame captured, 0 lost"), "{text}");
    for (arguments, words) in [
        ("--port dmz -w x.pcapng", "port \"dmz\" is not configured"),
        ("-w /nonexistent/x.pcapng", "/nonexistent/x.pcapng: "),
    ] {
        let error = gateway.attempt(&format!("capture {arguments}")).expect_err(arguments);
        assert!(error.contains(words), "{error}");
    }
    gateway.finish();
}

fn hangup_reloads(back_end: &str) {
    let lab = Lab::new();
    lab.web_server("web", &[8080, 8090]);
    let original = base(back_end, &socket(&lab));
    let gateway = Gateway::start(&lab, &original);
    gateway.configure(&(original + &dnat("late", "gw1", 16, "8088", "10.0.1.10", "8090", "TCP")));
    gateway.signal("HUP");
    let there = wait_for(50, || {
        lab.attempt("client", "curl -sS --fail --max-time 1 http://203.0.113.16:8088/").is_ok()
    });
    assert!(there, "SIGHUP did not apply the file");
    gateway.finish();
}
