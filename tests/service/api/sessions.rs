//! Sessions, usage and metrics of traffic.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use super::bench::{self, eventually};
use crate::common::need_root;

#[test]
fn sessions_are_counted_to_the_last_and_filtered_by_name() {
    need_root!();
    let bench = bench::started("api-sessions");
    let eip = bench.furnish();
    bench.create(
        "/v1/snat-entries",
        &json!({"name": "all", "gateway": "gw1", "source": "vpc", "eips": [eip]}),
    );
    let sent = bench
        .namespace
        .command(env!("CARGO_BIN_EXE_natgate"))
        .args("pktgen --send lan-far --receive wan-far --backend af_packet --gateway 10.0.1.1 --source 10.0.1.16/28".split(' '))
        .args("--destination 198.18.0.0/24 --answer 203.0.113.1 --flows 300 --order sequential --rate 2k --seconds 1".split(' '))
        .output()
        .expect("natgate pktgen");
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let count = |filter: &str| bench.get(&format!("/v1/sessions?count=true{filter}")).expect(200);
    assert_eq!(count(""), json!({"count": 300, "truncated": false, "unmerged": 0}));
    for (filter, wanted) in [("gateway=gw1", 300), ("vpc=prod", 300), ("entry=all", 300), ("kind=dnat", 0)] {
        assert_eq!(count(&format!("&{filter}"))["count"], wanted, "{filter}");
    }
    let page = bench.get("/v1/sessions?vpc=prod&limit=5").expect(200);
    assert_eq!((page["items"].as_array().expect("items").len(), &page["truncated"]), (5, &json!(true)));
    let problem = bench.get("/v1/sessions?gateway=gw2").expect(422);
    assert_eq!((&problem["parameter"], &problem["value"]), (&json!("gateway"), &json!("gw2")), "{problem}");
    let packet = json!({"packet": "udp 10.0.1.16:1000 > 198.18.0.1:9 from vpc prod"});
    let explained = bench.send("POST", "/v1/explain", &packet, &[]).expect(200);
    assert!(explained["entry"].as_str().expect("an entry").starts_with("snat all"), "{explained}");

    for (by, sessions) in [("gateway", 300), ("eip", 300), ("entry", 300)] {
        let usage = bench.get(&format!("/v1/usage?by={by}")).expect(200);
        assert_eq!(usage["items"][0]["sessions"], sessions, "{usage}");
        assert!(usage["items"][0]["bytes_out"].as_u64() > Some(300 * 28), "{usage}");
    }
    let hosts = bench.get("/v1/usage?by=host&limit=1").expect(200);
    let [host] = &hosts["items"].as_array().expect("items")[..] else { panic!("{hosts}") };
    let (address, sessions) = (host["name"].as_str().expect("a name"), host["sessions"].as_u64());
    let sessions = sessions.filter(|sessions| (1..300).contains(sessions)).expect("a part of the sessions");
    bench.get("/v1/usage").expect(400);
    bench.get("/v1/usage?by=colour").expect(400);
    let problem = bench.get("/v1/metering").expect(400);
    assert!(problem["hint"].as_str().expect("a hint").contains("[metering]"), "{problem}");

    // Whoever watches sees each of them end.
    let watch = |query: &str| bench.local(&["--no-buffer"], &format!("/v1/sessions/watch{query}"));
    watch("?timeout_seconds=61").expect(422);
    watch("?gateway=gw2").expect(422);
    let (events, refused) = std::thread::scope(|scope| {
        // One can watch at a time: as soon as others are told so, it does.
        let watching = scope.spawn(|| {
            let tries = (0..50).map(|_| {
                let reply = watch("?kind=snat&events=300&timeout_seconds=15");
                // The other one has it for a second, if it came first.
                if reply.status == 503 {
                    std::thread::sleep(Duration::from_millis(100));
                }
                reply
            });
            tries.into_iter().find(|reply| reply.status != 503)
        });
        let refused = eventually(|| watch("?kind=dnat&timeout_seconds=1").status == 503);
        let kill = |query: &str| bench.local(&["--request", "DELETE"], &format!("/v1/sessions{query}"));
        kill("").expect(400);
        kill("?limit=3").expect(400);
        assert_eq!(kill(&format!("?inside={address}&reset=true")).expect(200)["ended"], sessions);
        assert_eq!(kill("?all=true").expect(200)["ended"], 300 - sessions);
        (watching.join().expect("a watch").expect("a stream").expect(200), refused)
    });
    assert!(refused, "two watch");
    let ended = events.as_array().expect("lines").iter().filter(|line| line["event"] == "ended").count();
    assert_eq!(ended, 300, "{events}");
    assert_eq!(count("")["count"], 0);
    let (_, viewer) = bench.key("viewer");
    bench.remote(Some(&viewer), &["--request", "DELETE"], "/v1/sessions?all=true").expect(403);
}

/// Prometheus itself finds the metrics well formed, and scrapes them by TLS with a viewer's key.
#[test]
fn prometheus_scrapes_the_metrics() {
    need_root!();
    let bench = bench::started("api-metrics");
    bench.furnish();
    let (_, secret) = bench.key("viewer");
    bench.remote(None, &[], "/metrics").expect(401);
    let printed = Command::new(env!("CARGO_BIN_EXE_natgate"))
        .args(["metrics", "--socket"])
        .arg(bench.path("natgate.sock"))
        .output()
        .expect("natgate");
    let text = String::from_utf8(printed.stdout).expect("UTF-8");
    assert!(text.contains("natgate_resources{kind=\"eip\"} 1\n"), "{text}");
    let mut checker = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    checker.stdin.take().expect("its input").write_all(text.as_bytes()).expect("to write");
    let checked = checker.wait_with_output().expect("promtool");
    let complaints = String::from_utf8_lossy(&checked.stderr) + String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && complaints.is_empty(), "{complaints}");

    let here = bench.directory.display();
    fs::write(bench.path("secret"), secret).expect("a file");
    let configuration = format!(
        "scrape_configs:\n  - job_name: natgate\n    scrape_interval: 1s\n    scheme: https\n    tls_config: {{ ca_file: {here}/cert.pem }}\n    \
         authorization: {{ credentials_file: {here}/secret }}\n    static_configs: [{{ targets: ['127.0.0.1:8443'] }}]\n"
    );
    fs::write(bench.path("prometheus.yml"), configuration).expect("a file");
    let mut prometheus = bench
        .namespace
        .command("prometheus")
        .arg(format!("--config.file={here}/prometheus.yml"))
        .arg(format!("--storage.tsdb.path={here}/tsdb"))
        .arg("--web.listen-address=127.0.0.1:9090")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("prometheus");
    let ask = |query: &str| {
        let query = format!("query={query}");
        bench.curl(&["--get", "--data-urlencode", &query, "http://127.0.0.1:9090/api/v1/query"]).body
    };
    let value = |query: &str| ask(query)["data"]["result"][0]["value"][1].as_str().map(str::to_owned);
    let scraped = eventually(|| value("up{job=\"natgate\"}").as_deref() == Some("1"));
    let answers =
        ["natgate_resources{kind=\"gateway\"}", "natgate_worker_up", "sum(natgate_drops_total) >= 0"]
            .map(value);
    let _ = prometheus.kill();
    let _ = prometheus.wait();
    assert!(scraped, "Prometheus does not scrape");
    assert_eq!([answers[0].as_deref(), answers[1].as_deref()], [Some("1"), Some("1")]);
    assert!(answers[2].is_some());
}
