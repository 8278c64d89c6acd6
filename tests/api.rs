//! The HTTP API of a running gateway, used by curl.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::daemon::{Gateway, Namespace, PORTS};
use common::need_root;
use natgate::base::time::Clock;
use serde_json::{Value, json};

/// A gateway with a store and an API on a Unix socket and on TCP with TLS.
struct Bench {
    namespace: Namespace,
    directory: PathBuf,
    gateway: Option<Gateway>,
}

/// What the API said.
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: String,
    body: Value,
}

impl Reply {
    #[track_caller]
    fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        if status >= 400 {
            assert!(
                self.headers.to_lowercase().contains("content-type: application/problem+json"),
                "{self:?}"
            );
            assert_eq!(self.body["status"], status, "{self:?}");
            for member in ["title", "detail", "code"] {
                assert!(self.body[member].is_string(), "no {member}: {self:?}");
            }
        }
        self.body
    }
}

impl Bench {
    fn new(name: &str) -> Self {
        let namespace = Namespace::new(name);
        assert!(namespace.command("ip").args(["link", "set", "lo", "up"]).status().expect("ip").success());
        let directory =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).expect("a directory");
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
            ])
            .args([
                "-subj",
                "/CN=natgate",
                "-addext",
                "subjectAltName=IP:127.0.0.1",
                "-keyout",
                "key.pem",
                "-out",
            ])
            .arg("cert.pem")
            .current_dir(&directory)
            .stderr(Stdio::null())
            .status();
        assert!(made.expect("openssl").success());
        let here = directory.display();
        let text = format!(
            r#"
[system]
workers = 1
control = "{here}/natgate.sock"
[store]
path = "{here}/natgate.redb"
[api]
listen = "127.0.0.1:8443"
tls_certificate = "{here}/cert.pem"
tls_key = "{here}/key.pem"
{PORTS}
"#
        );
        fs::write(directory.join("natgate.toml"), text).expect("a configuration");
        let gateway = Some(Gateway::start(&namespace, &directory));
        let bench = Self { namespace, directory, gateway };
        assert!(eventually(|| bench.get("/healthz").status == 200), "the API does not answer");
        bench
    }

    fn restart(&mut self) {
        self.gateway.take().expect("a gateway").kill();
        self.gateway = Some(Gateway::start(&self.namespace, &self.directory));
        assert!(eventually(|| self.get("/healthz").status == 200), "the API does not answer");
    }

    fn curl(&self, arguments: &[&str]) -> Reply {
        let output = self
            .namespace
            .command("curl")
            .args(["--silent", "--show-error", "--max-time", "20", "--include", "--cacert"])
            .arg(self.directory.join("cert.pem"))
            .args(arguments)
            .output()
            .expect("curl");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let (headers, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = headers.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        // Lines of JSON become a list.
        let lines = || serde_json::Deserializer::from_str(body).into_iter().collect::<Result<_, _>>();
        let body = serde_json::from_str(body).or_else(|_| lines().map(Value::Array)).unwrap_or_default();
        Reply { status, headers: headers.to_owned(), body }
    }

    fn local(&self, arguments: &[&str], path: &str) -> Reply {
        let socket = self.directory.join("api.sock");
        let socket = socket.to_str().expect("UTF-8");
        self.curl(&[&["--unix-socket", socket], arguments, &[&format!("http://natgate{path}")]].concat())
    }

    fn get(&self, path: &str) -> Reply {
        self.local(&[], path)
    }

    fn send(&self, method: &str, path: &str, body: &Value, headers: &[&str]) -> Reply {
        let body = body.to_string();
        let mut arguments =
            vec!["--request", method, "--data", &body, "--header", "Content-Type: application/json"];
        arguments.extend(headers.iter().flat_map(|header| ["--header", header]));
        self.local(&arguments, path)
    }

    fn create(&self, path: &str, body: &Value) -> String {
        let created = self.send("POST", path, body, &[]).expect(201);
        created["id"].as_str().expect("an identifier").to_owned()
    }

    /// By TCP and TLS, with the secret of a key.
    fn remote(&self, secret: Option<&str>, arguments: &[&str], path: &str) -> Reply {
        let header = format!("Authorization: Bearer {}", secret.unwrap_or_default());
        let authorization: &[&str] = if secret.is_some() { &["--header", &header] } else { &[] };
        self.curl(&[authorization, arguments, &[&format!("https://127.0.0.1:8443{path}")]].concat())
    }

    fn key(&self, role: &str) -> (String, String) {
        let created =
            self.send("POST", "/v1/keys", &json!({"role": role, "name": format!("the-{role}")}), &[]);
        let created = created.expect(201);
        let text = |member: &str| created[member].as_str().expect("a text").to_owned();
        (text("id"), text("secret"))
    }

    /// A VPC, a vSwitch, a gateway, an EIP.
    fn furnish(&self) -> String {
        self.create("/v1/vpcs", &json!({"name": "prod", "cidr": "10.0.0.0/16"}));
        let vswitch = json!({"name": "web", "vpc": "prod", "cidr": "10.0.1.0/24", "port": "lan", "address": "10.0.1.1"});
        self.create("/v1/vswitches", &vswitch);
        self.create("/v1/gateways", &json!({"name": "gw1", "vpc": "prod", "vswitch": "web"}));
        self.create("/v1/eips", &json!({"address": "203.0.113.16", "gateway": "gw1"}))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        drop(self.gateway.take());
        if std::thread::panicking() {
            let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            eprintln!("the gateway's log:\n{log}");
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn eventually(mut is_so: impl FnMut() -> bool) -> bool {
    (0..100).any(|_| {
        is_so() || {
            std::thread::sleep(Duration::from_millis(50));
            false
        }
    })
}

fn entry(port: u16) -> Value {
    json!({
        "gateway": "gw1", "eip": "203.0.113.16", "public_port": port, "private_ip": "10.0.1.10", "private_port": port, "protocol": "TCP"
    })
}

#[test]
fn resources_are_created_listed_changed_and_deleted() {
    need_root!();
    let mut bench = Bench::new("api-resources");
    let eip = bench.furnish();
    let reply = bench.send("POST", "/v1/dnat-entries", &entry(80), &[]);
    let id = reply.body["id"].as_str().expect("an identifier").to_owned();
    assert!(reply.headers.to_lowercase().contains(&format!("location: /v1/dnat-entries/{id}")), "{reply:?}");
    assert_eq!(reply.expect(201)["public_ip"], "203.0.113.16");
    let snat = bench.create("/v1/snat-entries", &json!({"gateway": "gw1", "source": "vpc", "eips": [eip]}));

    let changed = bench.send(
        "PATCH",
        &format!("/v1/dnat-entries/{id}"),
        &json!({"private_port": 8080, "description": "the web"}),
        &[],
    );
    assert_eq!(changed.expect(200)["private_port"], 8080);
    let changed = bench.send("PATCH", &format!("/v1/dnat-entries/{id}"), &json!({"description": null}), &[]);
    assert_eq!(changed.expect(200).get("description"), None);
    assert_eq!(bench.get(&format!("/v1/dnat-entries/{id}")).expect(200)["private_port"], 8080);

    // Pages follow each other without a gap.
    for port in 1000..1005 {
        bench.create("/v1/dnat-entries", &entry(port));
    }
    let (mut path, mut seen) = ("/v1/dnat-entries?limit=2".to_owned(), Vec::new());
    for _ in 0..3 {
        let page = bench.get(&path).expect(200);
        let items = page["items"].as_array().expect("items");
        assert_eq!(items.len(), 2);
        seen.extend(items.iter().map(|item| item["id"].as_str().expect("an identifier").to_owned()));
        path = page["next"].as_str().unwrap_or_default().to_owned();
    }
    seen.dedup();
    assert_eq!((seen.len(), path.as_str()), (6, ""));

    // What is in use is not deleted; with force all goes.
    let refused = bench.local(&["--request", "DELETE"], &format!("/v1/eips/{eip}")).expect(409);
    let conflicts = refused["conflicts"].as_array().expect("conflicts");
    assert!(conflicts.contains(&json!(id)) && conflicts.contains(&json!(snat)), "{refused}");
    let gone = bench.local(&["--request", "DELETE"], &format!("/v1/eips/{eip}?force=true")).expect(200);
    assert!(gone["deleted"].as_array().expect("identifiers").len() >= 7, "{gone}");
    bench.get(&format!("/v1/dnat-entries/{id}")).expect(404);

    // What was answered is there after a kill.
    bench.restart();
    assert_eq!(bench.get("/v1/gateways").expect(200)["items"][0]["name"], "gw1");
    let audit = bench.get("/v1/audit?limit=3").expect(200);
    assert_eq!(audit["items"][0]["who"], "user 0", "{audit}");
    assert_eq!(audit["items"][0]["action"], "delete");
}

#[test]
fn mistakes_are_named() {
    need_root!();
    let bench = Bench::new("api-mistakes");
    bench.furnish();
    let problem = bench.send("POST", "/v1/dnat-entries", &json!({"gateway": "gw1", "eip": "203.0.113.16", "public_port": "Any", "private_ip": "10.0.1.10", "private_port": "Any", "protocol": "TCP"}), &[]);
    let problem = problem.expect(422);
    assert!(problem["parameter"].is_string() && problem["rule"].is_string(), "{problem}");
    let problem = bench.send("POST", "/v1/eips", &json!({"address": "192.0.2.1"}), &[]).expect(422);
    assert_eq!((&problem["parameter"], &problem["value"]), (&json!("address"), &json!("192.0.2.1")));
    bench.create("/v1/dnat-entries", &entry(80));
    let problem = bench.send("POST", "/v1/dnat-entries", &entry(80), &[]).expect(409);
    assert!(problem["conflicts"][0].as_str().expect("an identifier").starts_with("fwd-"), "{problem}");
    let problem = bench.send("POST", "/v1/eips", &json!({"adress": "203.0.113.17"}), &[]).expect(422);
    assert!(problem["detail"].as_str().expect("a text").contains("adress"), "{problem}");
    for body in [json!([]), json!("eip"), json!(7), json!(null)] {
        let refused = bench.send("POST", "/v1/eips", &body, &[]);
        assert!((400..500).contains(&refused.status), "{refused:?}");
    }
    let broken = bench.local(&["--data", "{", "--header", "Content-Type: application/json"], "/v1/eips");
    assert_eq!(broken.expect(400).get("parameter"), None);
    let problem = bench.send("POST", "/v1/keys", &json!({"role": "viewer", "rank": 1}), &[]).expect(400);
    assert_eq!(
        (&problem["code"], &problem["parameter"]),
        (&json!("UnknownKey"), &json!("rank")),
        "{problem}"
    );
    let problem = bench.send("POST", "/v1/keys", &json!({"role": 7}), &[]).expect(400);
    assert_eq!((&problem["code"], &problem["parameter"]), (&json!("WrongType"), &json!("role")), "{problem}");
    // Its secret cannot be told again, so a repetition would make another key.
    bench.send("POST", "/v1/keys", &json!({"role": "viewer"}), &["Idempotency-Key: a"]).expect(400);
    assert_eq!(bench.get("/v1/keys").expect(200)["items"], json!([]));
    bench.local(&["--data", "{}", "--header", "Content-Type: text/plain"], "/v1/eips").expect(415);
    let problem = bench.get("/v1/eips?limt=3").expect(400);
    assert_eq!((&problem["parameter"], &problem["value"]), (&json!("limt"), &json!("3")), "{problem}");
    let problem = bench.get("/v1/eips?limit=many").expect(400);
    assert_eq!((&problem["parameter"], &problem["value"]), (&json!("limit"), &json!("many")), "{problem}");
    bench.get("/v1/eips?limit=0").expect(400);
    bench.get("/v1/eips/%FF").expect(400);
    bench.get("/v1/eips?after=nothing").expect(422);
    bench.get("/v1/nothing").expect(404);
    bench.get("/v1/eips/eip-0000000000000").expect(404);
    bench.local(&["--request", "PUT"], "/v1/eips").expect(405);
    let long = format!("{{\"description\": \"{}\"}}", "x".repeat(80_000));
    fs::write(bench.directory.join("long"), long).expect("a file");
    let file = format!("@{}", bench.directory.join("long").display());
    bench
        .local(&["--data-binary", &file, "--header", "Content-Type: application/json"], "/v1/eips")
        .expect(413);
    assert_eq!(
        bench.get("/v1/eips").expect(200)["items"].as_array().expect("items").len(),
        1,
        "nothing was changed"
    );
    assert!(bench.get("/v1/openapi.json").expect(200)["paths"]["/v1/eips"].is_object());
    assert!(bench.get("/v1/status").expect(200)["workers"].is_array());
    assert!(bench.get("/v1/stats").expect(200)["total"].is_object());
    assert_eq!(bench.get("/v1/sessions?count=true").expect(200)["count"], 0);
    assert!(bench.get("/v1/sessions?protocol=tcp&limit=5").expect(200)["items"].is_array());
    let explained = bench
        .send("POST", "/v1/explain", &json!({"packet": "tcp 198.51.100.1:5000 > 203.0.113.16:80"}), &[])
        .expect(200);
    assert!(explained.to_string().contains("10.0.1.10"), "{explained}");
}

#[test]
fn a_request_with_a_key_is_made_once() {
    need_root!();
    let mut bench = Bench::new("api-repeat");
    bench.furnish();
    let once =
        |bench: &Bench| bench.send("POST", "/v1/dnat-entries", &entry(80), &["Idempotency-Key: first-try"]);
    let first = once(&bench).expect(201);
    let again = once(&bench);
    assert!(again.headers.to_lowercase().contains("idempotency-replayed: true"), "{again:?}");
    assert_eq!(again.expect(201), first);
    bench.restart();
    assert_eq!(once(&bench).expect(201), first, "the store remembers");
    let other =
        bench.send("POST", "/v1/dnat-entries", &entry(81), &["Idempotency-Key: first-try"]).expect(422);
    assert_eq!(other["parameter"], "idempotency_key", "{other}");
    assert_eq!(bench.get("/v1/dnat-entries").expect(200)["items"].as_array().expect("items").len(), 1);
}

#[test]
fn roles_decide_who_may_do_what() {
    need_root!();
    let mut bench = Bench::new("api-roles");
    bench.furnish();
    let (viewer_id, viewer) = bench.key("viewer");
    let (_, operator) = bench.key("operator");
    let (_, admin) = bench.key("admin");
    let body = entry(80).to_string();
    let create = ["--data", body.as_str(), "--header", "Content-Type: application/json"];
    let new_key = ["--data", "{\"role\":\"viewer\"}", "--header", "Content-Type: application/json"];

    let stranger = bench.remote(None, &[], "/v1/eips");
    assert!(stranger.headers.to_lowercase().contains("www-authenticate: bearer"), "{stranger:?}");
    stranger.expect(401);
    bench.remote(Some("ngk_0000"), &[], "/v1/eips").expect(401);
    bench.remote(Some(&viewer), &[], "/v1/eips").expect(200);
    let refused = bench.remote(Some(&viewer), &create, "/v1/dnat-entries").expect(403);
    assert!(refused["detail"].as_str().expect("a text").contains("takes the role operator"), "{refused}");
    bench.remote(Some(&operator), &create, "/v1/dnat-entries").expect(201);
    bench.remote(Some(&operator), &new_key, "/v1/keys").expect(403);
    bench.remote(Some(&operator), &[], "/v1/keys").expect(403);
    bench.remote(Some(&admin), &new_key, "/v1/keys").expect(201);

    // The audit log names the key, and knows neither secrets nor hashes.
    let audit = bench.get("/v1/audit").expect(200);
    let who: Vec<_> =
        audit["items"].as_array().expect("items").iter().map(|record| record["who"].to_string()).collect();
    assert!(who.iter().any(|who| who.contains("(the-operator)")), "{audit}");
    assert!(!audit.to_string().contains(&operator) && !audit.to_string().contains("hash"), "{audit}");
    let store = fs::read(bench.directory.join("natgate.redb")).expect("the store");
    assert!(
        !store.windows(operator.len()).any(|bytes| bytes == operator.as_bytes()),
        "the secret is in the store"
    );

    bench.restart();
    bench.remote(Some(&viewer), &[], "/v1/eips").expect(200);
    let shown = bench.get(&format!("/v1/keys/{viewer_id}")).expect(200);
    assert_eq!((&shown["role"], shown.get("secret")), (&json!("viewer"), None));
    bench.get("/v1/keys/nobody").expect(404);
    bench.remote(Some(&admin), &["--request", "DELETE"], &format!("/v1/keys/{viewer_id}")).expect(200);
    bench.remote(Some(&viewer), &[], "/v1/eips").expect(401);
    bench.remote(Some(&admin), &["--request", "DELETE"], "/v1/keys/nobody").expect(404);
    // A local user may act as somebody less.
    let header = format!("Authorization: Bearer {operator}");
    bench.local(&["--header", &header], "/v1/keys").expect(403);
    bench.send("POST", "/v1/keys", &json!({"role": "king"}), &[]).expect(422);
    assert!(
        !bench
            .namespace
            .command("curl")
            .args(["-s", "-m", "5", "http://127.0.0.1:8443/healthz"])
            .output()
            .expect("curl")
            .status
            .success(),
        "plain HTTP where TLS is configured"
    );
}

#[test]
fn all_resources_are_one_document() {
    need_root!();
    let bench = Bench::new("api-whole");
    let eip = bench.furnish();
    bench.create("/v1/dnat-entries", &entry(80));
    let (_, viewer) = bench.key("viewer");
    let (_, operator) = bench.key("operator");
    let all = bench.remote(Some(&viewer), &[], "/v1/export").expect(200);
    assert_eq!((&all["version"], &all["eip"][0]["id"]), (&json!(1), &json!(eip)));
    assert!(all["eip"][0].get("status").is_none() && all["dnat"][0].get("public_ip").is_none(), "{all}");
    let unchanged = bench.send("POST", "/v1/apply", &all, &[]).expect(200);
    assert_eq!(unchanged["changes"], json!([]));

    let mut other = all.clone();
    other["dnat"][0]["public_port"] = json!(81);
    other["eip"].as_array_mut().expect("EIPs").push(json!({"address": "203.0.113.17"}));
    let text = other.to_string();
    let send = ["--data", text.as_str(), "--header", "Content-Type: application/json"];
    let refused = bench.remote(Some(&viewer), &send, "/v1/apply?dry_run=true").expect(403);
    assert!(refused["detail"].as_str().expect("a text").contains("takes the role operator"), "{refused}");
    let shown = bench.remote(Some(&operator), &send, "/v1/apply?dry_run=true").expect(200);
    assert_eq!((shown["changes"].as_array().map(Vec::len), &shown["dry_run"]), (Some(2), &json!(true)));
    assert_eq!(bench.get("/v1/export").expect(200), all);
    let generation = shown["generation"].as_u64().expect("a number");
    let outdated = format!("/v1/apply?generation={}", generation - 1);
    assert_eq!(bench.remote(Some(&operator), &send, &outdated).expect(409)["code"], "Outdated");
    let path = format!("/v1/apply?generation={generation}&confirm_seconds=600");
    let applied = bench.remote(Some(&operator), &send, &path).expect(200);
    assert!(applied["unconfirmed"]["who"].as_str().expect("a text").contains("the-operator"), "{applied}");
    assert_eq!(bench.send("POST", "/v1/eips", &json!({}), &[]).expect(409)["code"], "Unconfirmed");
    let post = ["--request", "POST"];
    bench.remote(Some(&viewer), &post, "/v1/apply/rollback").expect(403);
    bench.remote(Some(&operator), &post, "/v1/apply/rollback").expect(200);
    assert_eq!(bench.get("/v1/export").expect(200), all);
    bench.remote(Some(&operator), &send, "/v1/apply?confirm_seconds=600").expect(200);
    bench.remote(Some(&operator), &post, "/v1/apply/confirm").expect(200);
    bench.remote(Some(&operator), &post, "/v1/apply/confirm").expect(409);
    assert_eq!(bench.get("/v1/dnat-entries").expect(200)["items"][0]["public_port"], 81);

    // Mistakes, in a small document and in one that other paths would not take.
    other["snat"] = json!([{"gateway": "gw1", "source": "192.0.2.0/24", "eips": [eip]}]);
    let problem = bench.send("POST", "/v1/apply", &other, &[]).expect(422);
    assert_eq!(
        (&problem["parameter"], &problem["value"]),
        (&json!("snat[0].source"), &json!("192.0.2.0/24"))
    );
    assert_eq!(problem["findings"][0]["key"], "snat[0].source", "{problem}");
    assert_eq!(
        bench.send("POST", "/v1/apply", &json!({"version": 1, "eips": []}), &[]).expect(400)["parameter"],
        "eips"
    );
    bench.send("POST", "/v1/apply?confirm_seconds=0", &all, &[]).expect(422);
    other["snat"] = json!([]);
    other["dnat"] = (1..=101).map(entry).collect();
    let text = json!({"version": 1, "vpc": [{"name": "large", "cidr": "10.0.0.0/16", "description": "x".repeat(80_000)}]});
    fs::write(bench.directory.join("large"), text.to_string()).expect("a file");
    let file = format!("@{}", bench.directory.join("large").display());
    let large = ["--data-binary", &file, "--header", "Content-Type: application/json"];
    assert_eq!(bench.local(&large, "/v1/apply").expect(422)["parameter"], "vpc[0].description");
    let problem = bench.send("POST", "/v1/apply", &other, &[]).expect(422);
    assert_eq!(problem["code"], "QuotaDnat", "{problem}");
}

#[test]
fn concurrent_creations_all_succeed() {
    need_root!();
    let bench = Bench::new("api-concurrent");
    bench.furnish();
    std::thread::scope(|scope| {
        for client in 0..8_u16 {
            let bench = &bench;
            scope.spawn(move || {
                (0..10).for_each(|n| drop(bench.create("/v1/dnat-entries", &entry(1000 + client * 10 + n))));
            });
        }
    });
    assert_eq!(
        bench.get("/v1/dnat-entries?limit=1000").expect(200)["items"].as_array().expect("items").len(),
        80
    );
}

#[test]
fn slow_clients_cost_nobody_else() {
    need_root!();
    let bench = Bench::new("api-slow");
    let socket = bench.directory.join("api.sock");
    let connect = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(&socket).expect("the socket");
        stream.write_all(bytes).expect("to write");
        stream
    };
    let half = b"GET /v1/status HT";
    let bodiless = b"POST /v1/eips HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{";
    let unread = b"GET /v1/openapi.json HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100);
    // More of them than there are places.
    let mut slow: Vec<UnixStream> = Vec::new();
    for _ in 0..100 {
        slow.extend([connect(half), connect(bodiless), connect(&unread)]);
    }
    let clock = Clock::start();
    let start = clock.now();
    for _ in 0..5 {
        bench.get("/v1/status").expect(200);
    }
    assert!(clock.now().since(start) < Duration::from_secs(5), "it took {:?}", clock.now().since(start));
    drop(slow);
    // Where nobody else wants its place, half a header is given up after ten seconds.
    let start = clock.now();
    let mut first = connect(half);
    first.set_read_timeout(Some(Duration::from_secs(15))).expect("a timeout");
    let mut answer = Vec::new();
    let _ = first.read_to_end(&mut answer);
    let waited = clock.now().since(start);
    assert!((Duration::from_secs(9)..Duration::from_secs(14)).contains(&waited), "{waited:?}");
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
}

#[test]
fn sessions_are_counted_to_the_last_and_filtered_by_name() {
    need_root!();
    let bench = Bench::new("api-sessions");
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

/// A second gateway on the same machine, or a wrong certificate, is told which key of the file to change.
#[test]
fn what_the_api_cannot_have_is_named() {
    need_root!();
    let bench = Bench::new("api-start");
    let text = fs::read_to_string(bench.directory.join("natgate.toml")).expect("a configuration");
    let at = |name: &str| bench.directory.join(name).display().to_string();
    let other = text.replace("natgate.sock", "other.sock").replace("natgate.redb", "other.redb");
    let elsewhere = other.replace("[api]", &format!("[api]\nsocket = \"{}\"", at("other-api.sock")));
    fs::write(bench.directory.join("empty.pem"), "").expect("a file");
    for (text, words) in [
        (other.clone(), ["api.socket", "another natgate"]),
        (elsewhere.clone(), ["api.listen 127.0.0.1:8443", "another address or port"]),
        (elsewhere.replace("cert.pem", "empty.pem"), ["api.tls_certificate", "no certificate"]),
        (elsewhere.replace("key.pem", "empty.pem"), ["api.tls_key", "empty.pem"]),
    ] {
        fs::write(bench.directory.join("other.toml"), text).expect("a configuration");
        let mut command = bench.namespace.command("timeout");
        command.args(["20", env!("CARGO_BIN_EXE_natgate"), "run", "--config"]);
        let output = command.arg(bench.directory.join("other.toml")).output().expect("natgate");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(words.iter().all(|word| errors.contains(word)), "{errors}");
        // It was found out before any port was touched.
        assert!(!errors.contains("port wan"), "{errors}");
    }
    bench.get("/v1/status").expect(200);
}

/// What curl cannot be made to send.
#[test]
fn what_is_no_http_is_refused() {
    need_root!();
    let bench = Bench::new("api-odd");
    for bytes in
        [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", &vec![0; 70_000]]
    {
        let mut stream =
            UnixStream::connect(Path::new(&bench.directory).join("api.sock")).expect("the socket");
        stream.set_read_timeout(Some(Duration::from_secs(15))).expect("a timeout");
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
    bench.get("/healthz").expect(200);
}

/// Prometheus itself finds the metrics well formed, and scrapes them by TLS with a viewer's key.
#[test]
fn prometheus_scrapes_the_metrics() {
    need_root!();
    let bench = Bench::new("api-metrics");
    bench.furnish();
    let (_, secret) = bench.key("viewer");
    bench.remote(None, &[], "/metrics").expect(401);
    let printed = Command::new(env!("CARGO_BIN_EXE_natgate"))
        .args(["metrics", "--socket"])
        .arg(bench.directory.join("natgate.sock"))
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
    fs::write(bench.directory.join("secret"), secret).expect("a file");
    let configuration = format!(
        "scrape_configs:\n  - job_name: natgate\n    scrape_interval: 1s\n    scheme: https\n    tls_config: {{ ca_file: {here}/cert.pem }}\n    \
         authorization: {{ credentials_file: {here}/secret }}\n    static_configs: [{{ targets: ['127.0.0.1:8443'] }}]\n"
    );
    fs::write(bench.directory.join("prometheus.yml"), configuration).expect("a file");
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
