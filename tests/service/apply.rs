//! `natgate export` and `apply` with a gateway as a process: the whole of its resources as one file, changed as one step, on
//! trial where that is asked for, whatever becomes of the gateway meanwhile.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::common::daemon::Site;
use crate::common::need_root;
use natgate::base::rng::Rng;
use serde_json::Value;

const SETTINGS: &str = r#"
sessions = 1024
log = "warn"
[store]
path = "DIRECTORY/natgate.redb"
[quotas]
dnat_entries_per_gateway = "100k"
"#;

const FILE: &str = r#"version = 1
[[vpc]]
name = "prod"
cidr = "10.0.0.0/16"
tags = { team = "web" }

[[vswitch]]
name = "web"
vpc = "prod"
cidr = "10.0.1.0/24"
port = "lan"
address = "10.0.1.1"

[[gateway]]
name = "gw1"
vpc = "prod"
vswitch = "web"

[[eip]]
address = "203.0.113.16"
gateway = "gw1"

[[eip]]
address = "203.0.113.17"
gateway = "gw1"
description = "for the way out"

[[dnat]]
name = "site"
gateway = "gw1"
eip = "203.0.113.16"
public_port = 80
private_ip = "10.0.1.10"
private_port = 8080
protocol = "TCP"
[dnat.timeouts]
tcp_established = "1h"

[[snat]]
name = "all"
gateway = "gw1"
source = "vpc"
eips = ["203.0.113.17"]
"#;

fn started(name: &str) -> Site {
    let mut bench = Site::new(name, SETTINGS);
    bench.start();
    bench
}

impl Site {
    /// A gateway that has nothing yet.
    fn start_anew(&mut self) {
        fs::remove_file(self.path("natgate.redb")).expect("the store");
        self.start();
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.natgate(arguments).output().expect("natgate")
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// What it says on standard error.
    #[track_caller]
    fn refused(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        String::from_utf8(output.stderr).expect("UTF-8")
    }

    fn apply(&self, path: &Path, more: &[&str]) -> String {
        self.ok(&[&["apply", path.to_str().expect("UTF-8")], more].concat())
    }

    fn export(&self) -> String {
        self.ok(&["export"])
    }

    fn audited(&self) -> Vec<Value> {
        let text = self.ok(&["audit", "-o", "json"]);
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

fn path_of(bench: &Site, name: &str) -> String {
    bench.path(name).to_str().expect("UTF-8").to_owned()
}

fn eventually(mut is_so: impl FnMut() -> bool) -> bool {
    (0..160).any(|_| {
        is_so() || {
            std::thread::sleep(Duration::from_millis(50));
            false
        }
    })
}

#[test]
fn a_file_is_applied_exported_and_applied_again() {
    need_root!();
    let mut bench = started("apply-file");
    let path = bench.file("all.toml", FILE);
    let shown = "\
+ vpc prod: 10.0.0.0/16
+ vswitch web: 10.0.1.0/24 in prod
+ gateway gw1: in prod/web
+ eip 203.0.113.16: bound to gw1
+ eip 203.0.113.17: bound to gw1
+ dnat site: 203.0.113.16:80 TCP -> 10.0.1.10:8080
+ snat all: 10.0.0.0/16 -> 203.0.113.17
";
    let dry = bench.apply(&path, &["--dry-run"]);
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let trial = format!("{shown}7 changes would be applied; generation 2 stays in force\n");
    assert_eq!(sorted(&dry), sorted(&trial));
    assert_eq!(bench.export().lines().filter(|line| line.starts_with('[')).count(), 0);
    let done = bench.apply(&path, &[]);
    let all = format!("{shown}7 changes applied; generation 3 is in force on all workers\n");
    assert_eq!(sorted(&done), sorted(&all));
    assert!(bench.audited().iter().all(|record| record["action"] == "apply" && record["who"] == "user 0"));
    assert_eq!(bench.audited().len(), 7);
    let explained = bench.ok(&["explain", "tcp 198.51.100.1:5000 > 203.0.113.16:80"]);
    assert!(explained.contains("10.0.1.10:8080"), "{explained}");

    // The same file again, what was exported, and a part of it by JSON: nothing changes.
    let unchanged = "nothing has changed; generation 3 stays in force\n";
    assert_eq!(bench.apply(&path, &[]), unchanged);
    let exported = bench.export();
    let toml = bench.path("export.toml");
    let json = bench.path("export.json");
    bench.ok(&["export", toml.to_str().expect("UTF-8")]);
    bench.ok(&["export", json.to_str().expect("UTF-8")]);
    assert_eq!(fs::read_to_string(&toml).expect("a file"), exported);
    serde_json::from_str::<Value>(&fs::read_to_string(&json).expect("a file")).expect("JSON");
    for file in [&toml, &json] {
        assert_eq!(bench.apply(file, &[]), unchanged);
    }

    // Another gateway becomes the same one, by either.
    for file in [&toml, &json] {
        bench.kill();
        bench.start_anew();
        assert!(
            bench
                .apply(file, &["--yes"])
                .ends_with("7 changes applied; generation 3 is in force on all workers\n")
        );
        assert_eq!(bench.export(), exported);
    }

    // A change, a removal, and what a pipe brings.
    let other = FILE.replace("10.0.1.10", "10.0.1.20");
    let other = &other[..other.find("[[snat]]").expect("an entry")];
    let mut child =
        bench.natgate(&["apply", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("natgate");
    child.stdin.take().expect("its input").write_all(other.as_bytes()).expect("to write");
    let text = String::from_utf8(child.wait_with_output().expect("natgate").stdout).expect("UTF-8");
    let expected = "~ dnat site: private_ip 10.0.1.10 -> 10.0.1.20\n- snat all: 10.0.0.0/16 -> 203.0.113.17\n\
                    2 changes applied; generation 4 is in force on all workers\n";
    assert_eq!(text, expected);
    assert_eq!(bench.ok(&["snat", "list", "-o", "json"]), "");
}

#[test]
fn a_file_that_breaks_rules_changes_nothing_and_all_of_them_are_told() {
    need_root!();
    let bench = started("apply-wrong");
    let path = bench.file("all.toml", FILE);
    bench.apply(&path, &[]);
    let before = bench.export();
    let wrong = FILE
        .replace("private_ip = \"10.0.1.10\"", "private_ip = \"10.9.1.10\"")
        .replace("\"vpc\"\n", "\"10.8.0.0/16\"\n");
    let path = bench.file("wrong.toml", &wrong);
    let said = bench.refused(&["apply", path.to_str().expect("UTF-8")], 2);
    // Each kind is judged by itself first; of the same kind all errors are told.
    let line = |needle: &str| wrong.lines().position(|line| line.contains(needle)).expect("a line") + 1;
    let start = format!(
        "{}:{}: snat[0].source = 10.8.0.0/16: the source lies in",
        path.display(),
        line("10.8.0.0/16")
    );
    assert!(said.starts_with(&start), "{said}");
    assert!(said.contains("natgate: the file has 1 error; nothing was changed"), "{said}");
    let wrong = wrong.replace("10.8.0.0/16", "10.0.9.0/24");
    let path = bench.file("wrong.toml", &wrong);
    let said = bench.refused(&["apply", path.to_str().expect("UTF-8"), "--dry-run"], 2);
    assert!(said.contains(&format!(":{}: dnat[0].private_ip = 10.9.1.10:", line("10.9.1.10"))), "{said}");
    let said = bench.refused(&["apply", path.to_str().expect("UTF-8"), "--json"], 2);
    let json: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(json["error"]["findings"][0]["code"], "DnatPrivateOutsideVpc");

    for (text, expected) in [
        ("version = 1\n[[vpcs]]\n", "unknown field `vpcs`"),
        ("[[vpc]]\nname = \"prod\"\n", "missing field `version`"),
        ("version = 1\n[[eip]]\nadress = \"203.0.113.16\"\n", "unknown field `adress`"),
        ("{\"version\": 1, \"eip\": [{\"ping\": \"yes\"}]}", "eip[0].ping"),
        ("version = ", "TOML parse error"),
    ] {
        let path = bench.file("unreadable", text);
        let said = bench.refused(&["apply", path.to_str().expect("UTF-8")], 2);
        assert!(said.contains(expected), "{text}: {said}");
    }
    let key = bench.ok(&["key", "create", "--role", "viewer", "-o", "json"]);
    let key: Value = serde_json::from_str(&key).expect("JSON");
    let as_viewer = |secret: &str| {
        let path = path_of(&bench, "all.toml");
        let output = bench.natgate(&["apply", &path]).env("NATGATE_KEY", secret).output().expect("natgate");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    assert!(as_viewer(key["secret"].as_str().expect("a secret")).contains("takes the role operator"));
    assert!(as_viewer("ngk_0").contains("no API key has this secret"));
    assert!(bench.refused(&["apply", "/nonexistent"], 2).contains("/nonexistent cannot be read"));
    assert!(bench.refused(&["apply", "x", "--confirm", "0s"], 2).contains("1s to 1d"));
    assert_eq!(bench.export(), before);
}

#[test]
fn an_apply_on_trial_is_taken_back_unless_it_is_confirmed() {
    need_root!();
    let mut bench = started("apply-trial");
    let path = bench.file("all.toml", FILE);
    bench.apply(&path, &[]);
    let before = bench.export();
    let other = bench.file("other.toml", &FILE.replace("public_port = 80", "public_port = 81"));

    // Not confirmed.
    let said = bench.apply(&other, &["--confirm", "3s"]);
    assert!(
        said.contains("~ dnat site: public_port 80 -> 81\n")
            && said.contains("unless natgate confirm comes before"),
        "{said}"
    );
    let after = bench.export();
    assert_ne!(after, before);
    assert!(bench.ok(&["status"]).contains("1 change by user 0, taken back at"));
    for arguments in
        [&["eip", "create"][..], &["dnat", "delete", "site"], &["apply", path.to_str().expect("UTF-8")]]
    {
        let said = bench.refused(arguments, 2);
        assert!(said.contains("waits until") && said.contains("natgate confirm keeps it"), "{said}");
    }
    bench.apply(&path, &["--dry-run"]);
    assert!(eventually(|| bench.export() == before), "it is not taken back");
    let last = &bench.audited()[0];
    assert_eq!(
        (last["action"].as_str(), last["who"].as_str()),
        (Some("rollback"), Some("natgate (not confirmed)"))
    );
    assert!(bench.refused(&["confirm"], 2).contains("[NotUnconfirmed]"));
    assert!(bench.refused(&["rollback"], 2).contains("[NotUnconfirmed]"));

    // Confirmed, and so for good.
    bench.apply(&other, &["--confirm", "2s"]);
    assert!(bench.ok(&["confirm"]).contains("stays"));
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(bench.export(), after);
    assert_eq!(bench.audited()[0]["action"], "confirm");
    bench.kill();
    bench.start();
    assert_eq!(bench.export(), after);

    // Taken back by hand.
    bench.apply(&path, &["--confirm", "1h"]);
    assert_eq!(bench.export(), before);
    assert!(bench.ok(&["rollback"]).contains("~ dnat site: public_port 80 -> 81"));
    assert_eq!(bench.export(), after);

    // Killed meanwhile: while there is time it stays and can be confirmed; when that is up it is taken back.
    bench.apply(&path, &["--confirm", "1h"]);
    bench.kill();
    bench.start();
    assert_eq!(bench.export(), before);
    assert!(bench.refused(&["eip", "create"], 2).contains("waits until"));
    bench.ok(&["confirm"]);
    bench.ok(&["eip", "create", "--address", "203.0.113.20"]);
    bench.ok(&["eip", "delete", "203.0.113.20"]);
    bench.apply(&other, &["--confirm", "2s"]);
    bench.kill();
    std::thread::sleep(Duration::from_millis(2100));
    bench.start();
    assert!(eventually(|| bench.export() == before), "it is not taken back after the start");
    bench.ok(&["eip", "create"]);
}

#[test]
fn a_trial_without_a_way_back_says_so_and_is_confirmed() {
    need_root!();
    let mut bench = started("apply-stuck");
    let path = bench.file("all.toml", FILE);
    let more = bench.file("more.toml", &format!("{FILE}\n[[eip]]\naddress = \"203.0.113.30\"\n"));
    bench.apply(&more, &[]);
    bench.apply(&path, &["--confirm", "1s"]);
    let after = bench.export();
    bench.kill();
    // The address that it would have to take back has gone from the public range meanwhile.
    let configuration = bench.path("natgate.toml");
    let text = fs::read_to_string(&configuration).expect("a configuration");
    fs::write(&configuration, text.replace("203.0.113.16/28", "203.0.113.16/29")).expect("to write");
    bench.start();
    let log = || fs::read_to_string(bench.path("log")).unwrap_or_default();
    assert!(eventually(|| log().contains("cannot be taken back")), "{}", log());
    let said = bench.refused(&["rollback"], 1);
    assert!(
        said.contains("an EIP comes out of a public range") && said.contains("natgate confirm"),
        "{said}"
    );
    bench.refused(&["eip", "create"], 2);
    bench.ok(&["confirm"]);
    assert_eq!(bench.export(), after);
    bench.ok(&["eip", "create"]);
}

#[test]
fn a_gateway_killed_in_the_middle_of_an_apply_has_all_of_it_or_nothing() {
    need_root!();
    let mut bench = started("apply-kill");
    let entries = |host: u8| {
        let mut text = FILE[..FILE.find("[[dnat]]").expect("an entry")].to_owned();
        for port in 1..=2000 {
            let entry = format!(
                "[[dnat]]\ngateway = \"gw1\"\neip = \"203.0.113.16\"\npublic_port = {port}\nprivate_ip = \"10.0.1.{host}\"\nprivate_port = {port}\nprotocol = \"UDP\"\n"
            );
            text += &entry;
        }
        text
    };
    let files = [bench.file("a.toml", &entries(10)), bench.file("b.toml", &entries(20))];
    bench.apply(&files[1], &[]);
    let second = bench.export();
    bench.apply(&files[0], &[]);
    let first = bench.export();
    let states = [first, second];
    let mut rng = Rng::from_system().expect("random numbers");
    let (mut now, mut changed) = (0, 0);
    for round in 0..8 {
        let mut command = bench.natgate(&["apply", files[1 - now].to_str().expect("UTF-8")]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("natgate");
        std::thread::sleep(Duration::from_millis(u64::from(rng.below(250))));
        bench.kill();
        let acknowledged = child.wait().expect("natgate").success();
        bench.start();
        let found = bench.export();
        let state = states.iter().position(|state| *state == found);
        let state = state.unwrap_or_else(|| panic!("round {round}: neither of the two"));
        assert!(!acknowledged || state == 1 - now, "round {round}: it was acknowledged and is gone");
        changed += usize::from(state != now);
        now = state;
    }
    println!("killed 8 times, {changed} times after it was made");
}

#[test]
fn on_a_terminal_it_asks_first() {
    need_root!();
    let bench = started("apply-asks");
    let path = bench.file("all.toml", FILE);
    let on_terminal = |arguments: &str, answer: &str| {
        let natgate = env!("CARGO_BIN_EXE_natgate");
        let socket = bench.path("natgate.sock");
        let line = format!("{natgate} apply {} {arguments} --socket {}", path.display(), socket.display());
        let mut child = Command::new("script")
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script");
        child.stdin.take().expect("its input").write_all(answer.as_bytes()).expect("to write");
        let output = child.wait_with_output().expect("script");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (is_done, text) = on_terminal("", "n\n");
    assert!(
        !is_done && text.contains("7 changes would be applied") && text.contains("apply? [y/N]"),
        "{text}"
    );
    assert!(text.contains("nothing was changed"), "{text}");
    assert_eq!(bench.ok(&["vpc", "list", "-o", "json"]), "");
    let (is_done, text) = on_terminal("", "y\n");
    assert!(
        is_done && text.contains("7 changes applied") && text.matches("+ vpc prod").count() == 1,
        "{text}"
    );
    let (is_done, text) = on_terminal("--yes", "");
    assert!(is_done && !text.contains("[y/N]"), "{text}");
}

#[test]
fn eips_share_a_bandwidth_plan() {
    need_root!();
    let bench = started("apply-plan");
    let file = FILE.replace(
        "[[eip]]\naddress = \"203.0.113.16\"",
        "[[plan]]\nname = \"shared\"\nbandwidth = \"100Mbps\"\n\n[[eip]]\nplan = \"shared\"\naddress = \"203.0.113.16\"",
    );
    let path = bench.file("all.toml", &file);
    let done = bench.apply(&path, &["--yes"]);
    assert!(done.contains("+ plan shared: 100Mbps\n"), "{done}");
    assert!(bench.apply(&path, &[]).starts_with("nothing has changed"));
    let json = |arguments: &[&str]| -> Value {
        serde_json::from_str(&bench.ok(&[arguments, &["-o", "json"]].concat())).expect("JSON")
    };
    let plan = json(&["plan", "show", "shared"])["id"].as_str().expect("an id").to_owned();
    assert!(plan.starts_with("bwp-"), "{plan}");
    assert_eq!(json(&["eip", "show", "203.0.113.16"])["plan"], plan);
    // The other one joins, by name, and a limit of its own is not for one that shares.
    bench.ok(&["eip", "update", "203.0.113.17", "--plan", "shared"]);
    let error = bench.refused(&["eip", "update", "203.0.113.17", "--bandwidth", "1Mbps"], 2);
    assert!(error.contains("limit of its own"), "{error}");
    bench.ok(&["plan", "update", "shared", "--bandwidth", "200Mbps"]);
    assert!(bench.ok(&["plan", "list"]).contains("200Mbps"));
    // Not deleted while it is shared, unless by force: they are without a limit then.
    let error = bench.refused(&["plan", "delete", "shared"], 2);
    assert!(error.contains("2 use it"), "{error}");
    bench.ok(&["plan", "delete", "shared", "--force"]);
    assert!(json(&["eip", "show", "203.0.113.16"]).get("plan").is_none());
    let unlimited = bench.ok(&["eip", "list"]);
    assert!(!unlimited.contains("bwp-"), "{unlimited}");
}
