//! What operators see and do of sessions while real connections live: usage, metering, top on a terminal, watching and ending them,
//! and what becomes of them when their entry changes.

use std::fs;

use serde_json::Value;

use crate::common::need_root;
use crate::configuration::{base, port, system};
use crate::gateway::{Gateway, socket};
use crate::lab::{Background, Lab, wait_for};

/// A connection that lasts for some seconds: a download that no buffer on its way holds as a whole.
fn slow_download(lab: &Lab, url: &str) -> Background {
    lab.spawn("client", &format!("exec curl -sS --fail --limit-rate 2M -o slow {url}"))
}

fn make_slow(lab: &Lab, hosts: &[&str]) {
    // What is in the client's buffer comes as if nothing had happened.
    lab.run("client", "sysctl -qw net.ipv4.tcp_rmem='4096 65536 262144'");
    for host in hosts {
        lab.run(host, &format!("head -c 16M /dev/urandom >{}", lab.files(host).join("slow").display()));
    }
}

/// Lines of JSON.
fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

fn natgate(lab: &Lab, arguments: &str) -> String {
    format!("NATGATE_SOCKET={} exec {} {arguments}", socket(lab).display(), env!("CARGO_BIN_EXE_natgate"))
}

#[test]
fn sessions_are_watched_and_ended_with_resets_and_their_usage_is_told() {
    need_root!();
    let lab = Lab::new();
    lab.web_server("web", &[8080]);
    lab.web_server("server", &[80]);
    make_slow(&lab, &["web"]);
    let books = lab.directory().join("metering");
    let configuration =
        base("af_packet", &socket(&lab)) + &format!("\n[metering]\npath = \"{}\"\n", books.display());
    let gateway = Gateway::start(&lab, &configuration);

    let watch = lab.spawn("gw", &natgate(&lab, "session watch --json --timeout 20 --eip 203.0.113.16"));
    std::thread::sleep(std::time::Duration::from_secs(1));
    // It watches, so another may not.
    assert!(wait_for(50, || gateway.attempt("session watch --timeout 0.01").is_err()), "{}", watch.output());
    let download = slow_download(&lab, "http://203.0.113.16/files/slow");
    let bytes_in = |by: &str| -> u64 {
        let rows = lines(&gateway.ask(&format!("stats --by {by} --json")));
        rows.iter().filter(|row| row["sessions"] != 0).filter_map(|row| row["bytes_out"].as_u64()).sum()
    };
    for by in ["gateway", "eip", "entry", "host"] {
        assert!(wait_for(50, || bytes_in(by) > 50_000), "{}", gateway.ask(&format!("stats --by {by}")));
    }
    let metrics = gateway.ask("metrics");
    for sample in ["natgate_gateway_sessions{gateway=\"gw1\"}", "natgate_entry_bytes_total{table=\"dnat\","] {
        assert!(metrics.contains(sample), "{sample} is missing in\n{metrics}");
    }
    let refused = gateway.attempt("session kill").expect_err("no condition");
    assert!(refused.contains("--all"), "{refused}");
    assert_eq!(gateway.ask("session kill --eip 203.0.113.19"), "0 sessions ended\n");

    let ended = gateway.ask("session kill --eip 203.0.113.16:80 --inside 10.0.1.10:8080 --reset");
    assert!(ended.ends_with(" ended\n") && !ended.starts_with('0'), "{ended}");
    let error = download.finish(10).expect_err("a connection that was reset");
    assert!(error.contains("reset by peer"), "{error}");
    // The other end knows, too.
    let left = || lab.run("web", "ss -Hnt state established 'sport = :8080'");
    assert!(wait_for(30, || left().is_empty()), "{}", left());
    assert!(wait_for(50, || watch.output().contains("\"killed\"")), "{}", watch.output());
    let events = lines(&watch.output());
    assert_eq!((&events[0]["event"], &events[0]["entry"]), (&"created".into(), &"page".into()));
    let killed = events.iter().find(|event| event["ending"] == "killed").expect("an end");
    assert!(killed["bytes_out"].as_u64() > Some(50_000), "{killed}");
    drop(watch);

    // The books have the hour when the gateway has ended, and a new one goes on with them.
    gateway.finish();
    let running = fs::read_to_string(books.join("running.csv")).expect("the books");
    assert!(running.contains(",gateway,gw1,") && running.contains(",eip,203.0.113.16,"), "{running}");
    let gateway = Gateway::start(&lab, &configuration);
    let metered = lines(&gateway.ask("metering -o json --eip 203.0.113.16"));
    let bytes: u64 = metered.iter().filter_map(|hour| hour["bytes_out"].as_u64()).sum();
    assert!(bytes > 50_000 && metered[0]["peak_sessions"].as_u64() >= Some(1), "{metered:?}");
    let csv = gateway.ask("metering -o csv");
    assert!(csv.starts_with("hour,kind,name,") && csv.contains("203.0.113.16"), "{csv}");
    gateway.finish();
}

#[test]
fn top_shows_what_happens_and_gives_the_terminal_back() {
    need_root!();
    let lab = Lab::new();
    lab.web_server("web", &[8080]);
    make_slow(&lab, &["web"]);
    let gateway = Gateway::start(&lab, &base("af_packet", &socket(&lab)));
    let download = slow_download(&lab, "http://203.0.113.16/files/slow");
    let plain = gateway.ask("top --interval 1");
    for word in ["WORKER", "HOST", "10.0.1.10"] {
        assert!(plain.contains(word), "\"{word}\" is missing in\n{plain}");
    }
    assert!(!plain.contains('\x1b'), "{plain:?}");
    // On a terminal, until a key, an interrupt from the keyboard, or a signal; how it ends, and what the terminal is then.
    let ways = [
        ("sleep 3; printf e; sleep 2; printf q", "true"),
        ("sleep 3; printf '\\003'", "true"),
        ("sleep 6", "sleep 3; kill -TERM $(cat pid)"),
    ];
    for (keys, meanwhile) in ways {
        let shown = lab.directory().join("top.sh");
        let top = natgate(&lab, "top --interval 0.5");
        let script = format!(
            "stty cols 100 rows 40\n(echo $BASHPID >pid; export {top})\necho \"ended $?\"\nstty -a\n"
        );
        fs::write(&shown, script.replace(" exec ", "; exec ")).expect("a script");
        let command =
            format!("({meanwhile}) & ({keys}) | timeout 20 script -qec 'bash {}' /dev/null", shown.display());
        let text = lab.run("gw", &command);
        for word in ["\x1b[?1049h", "\x1b[?25l", "WORKER", "natgate 0.", "\x1b[?25h\x1b[?1049l", "ended 0"] {
            assert!(text.contains(word), "{keys}: {word:?} is missing in\n{text}");
        }
        let (_, after) = text.rsplit_once("ended 0").expect("an end");
        let is_sane = ["icanon", "echo", "isig", "opost"]
            .iter()
            .all(|flag| after.split_whitespace().any(|word| word.trim_end_matches(';') == *flag));
        assert!(is_sane, "{keys}: {after}");
    }
    drop(download);
    gateway.finish();
}

/// The lab's gateway with its resources in a store.
fn stored(lab: &Lab) -> Gateway<'_> {
    let store = lab.directory().join("store.redb");
    let mut text = format!("{}\n[store]\npath = \"{}\"\n", system(&socket(lab)), store.display());
    text += &(port("wan", "af_packet") + &port("lan", "af_packet"));
    text += "\n[[outside]]\nport = \"wan\"\naddress = \"203.0.113.2/24\"\ngateway = \"203.0.113.1\"\npublic = [\"203.0.113.16/28\"]\n";
    let gateway = Gateway::start(lab, &text);
    for command in [
        "vpc create --name prod --cidr 10.0.0.0/16",
        "vswitch create --name servers --vpc prod --cidr 10.0.1.0/24 --port lan --address 10.0.1.1",
        "gateway create --name gw1 --vpc prod --vswitch servers",
        "eip create --gateway gw1 --address 203.0.113.16",
        "dnat create --name page --gateway gw1 --eip 203.0.113.16 --public-port 80 --private-ip 10.0.1.10 \
         --private-port 8080 --protocol TCP",
    ] {
        gateway.ask(command);
    }
    gateway
}

#[test]
fn a_change_of_an_entry_keeps_drains_or_kills_its_sessions() {
    need_root!();
    let lab = Lab::new();
    for host in ["web", "app"] {
        lab.web_server(host, &[8080]);
    }
    make_slow(&lab, &["web", "app"]);
    let gateway = stored(&lab);
    let url = "http://203.0.113.16/files/slow";
    let begun = |host: &str| {
        let download = slow_download(&lab, url);
        let lives = || !lab.run(host, "ss -Hnt state established 'sport = :8080'").is_empty();
        assert!(wait_for(50, lives), "{}", download.output());
        // More than its beginning.
        std::thread::sleep(std::time::Duration::from_millis(500));
        download
    };

    // Kept: the download goes on from the old server, what is new goes to the new one.
    let download = begun("web");
    gateway.ask("dnat update page --private-ip 10.0.1.20 --live-sessions keep");
    lab.page("client", "http://203.0.113.16/", &["the page of app"]);
    download.finish(20).unwrap_or_else(|error| panic!("{error}"));
    lab.run("client", &format!("cmp slow {}", lab.files("web").join("slow").display()));

    // Drained: it goes on for two seconds, and is reset then.
    let download = begun("app");
    gateway.ask("dnat delete page --live-sessions drain --drain 2s --reset");
    assert!(lab.attempt("client", "curl -sS --max-time 0.5 http://203.0.113.16/").is_err());
    let lives = || !lab.run("app", "ss -Hnt state established 'sport = :8080'").is_empty();
    assert!(lives(), "{}", download.output());
    let error = download.finish(12).expect_err("a connection that was reset");
    assert!(error.contains("reset by peer"), "{error}");
    assert!(wait_for(30, || !lives()));

    // Killed, with resets, while the entry changes.
    gateway.ask(
        "dnat create --name page --gateway gw1 --eip 203.0.113.16 --public-port 80 --private-ip 10.0.1.10 \
         --private-port 8080 --protocol TCP",
    );
    let download = begun("web");
    gateway.ask("dnat update page --private-ip 10.0.1.20 --live-sessions kill --reset");
    let error = download.finish(10).expect_err("a connection that was reset");
    assert!(error.contains("reset by peer"), "{error}");

    for (command, words) in [
        ("dnat update page --live-sessions keep --reset --name page2", "not reset"),
        ("gateway update gw1 --live-sessions keep --name gw2", "DNAT and SNAT entries"),
    ] {
        let refused = gateway.attempt(command).expect_err("a contradiction");
        assert!(refused.contains(words), "{refused}");
    }
    gateway.finish();
}
