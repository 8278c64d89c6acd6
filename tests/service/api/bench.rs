//! A gateway with its API, and ways to ask it.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::daemon::Site;

const SETTINGS: &str = r#"
[store]
path = "DIRECTORY/natgate.redb"
[api]
listen = "127.0.0.1:8443"
tls_certificate = "DIRECTORY/cert.pem"
tls_key = "DIRECTORY/key.pem"
"#;

/// What the API said.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: String,
    pub body: Value,
}

impl Reply {
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
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

/// A gateway with a store and an API on a Unix socket and on TCP with TLS.
pub fn started(name: &str) -> Site {
    let mut site = Site::new(name, SETTINGS);
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
        .current_dir(&site.directory)
        .stderr(Stdio::null())
        .status();
    assert!(made.expect("openssl").success());
    site.start_api();
    site
}

impl Site {
    fn start_api(&mut self) {
        self.start();
        assert!(eventually(|| self.get("/healthz").status == 200), "the API does not answer");
    }

    pub fn restart(&mut self) {
        self.kill();
        self.start_api();
    }

    pub fn curl(&self, arguments: &[&str]) -> Reply {
        let output = self
            .namespace
            .command("curl")
            .args(["--silent", "--show-error", "--max-time", "20", "--include", "--cacert"])
            .arg(self.path("cert.pem"))
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

    pub fn local(&self, arguments: &[&str], path: &str) -> Reply {
        let socket = self.path("api.sock");
        let socket = socket.to_str().expect("UTF-8");
        self.curl(&[&["--unix-socket", socket], arguments, &[&format!("http://natgate{path}")]].concat())
    }

    pub fn get(&self, path: &str) -> Reply {
        self.local(&[], path)
    }

    pub fn send(&self, method: &str, path: &str, body: &Value, headers: &[&str]) -> Reply {
        let body = body.to_string();
        let mut arguments =
            vec!["--request", method, "--data", &body, "--header", "Content-Type: application/json"];
        arguments.extend(headers.iter().flat_map(|header| ["--header", header]));
        self.local(&arguments, path)
    }

    pub fn create(&self, path: &str, body: &Value) -> String {
        let created = self.send("POST", path, body, &[]).expect(201);
        created["id"].as_str().expect("an identifier").to_owned()
    }

    /// By TCP and TLS, with the secret of a key.
    pub fn remote(&self, secret: Option<&str>, arguments: &[&str], path: &str) -> Reply {
        let header = format!("Authorization: Bearer {}", secret.unwrap_or_default());
        let authorization: &[&str] = if secret.is_some() { &["--header", &header] } else { &[] };
        self.curl(&[authorization, arguments, &[&format!("https://127.0.0.1:8443{path}")]].concat())
    }

    pub fn key(&self, role: &str) -> (String, String) {
        let created =
            self.send("POST", "/v1/keys", &json!({"role": role, "name": format!("the-{role}")}), &[]);
        let created = created.expect(201);
        let text = |member: &str| created[member].as_str().expect("a text").to_owned();
        (text("id"), text("secret"))
    }

    /// A VPC, a vSwitch, a gateway, an EIP.
    pub fn furnish(&self) -> String {
        self.create("/v1/vpcs", &json!({"name": "prod", "cidr": "10.0.0.0/16"}));
        let vswitch = json!({"name": "web", "vpc": "prod", "cidr": "10.0.1.0/24", "port": "lan", "address": "10.0.1.1"});
        self.create("/v1/vswitches", &vswitch);
        self.create("/v1/gateways", &json!({"name": "gw1", "vpc": "prod", "vswitch": "web"}));
        self.create("/v1/eips", &json!({"address": "203.0.113.16", "gateway": "gw1"}))
    }
}

pub fn eventually(mut is_so: impl FnMut() -> bool) -> bool {
    (0..100).any(|_| {
        is_so() || {
            std::thread::sleep(Duration::from_millis(50));
            false
        }
    })
}

pub fn entry(port: u16) -> Value {
    json!({
        "gateway": "gw1", "eip": "203.0.113.16", "public_port": port, "private_ip": "10.0.1.10", "private_port": port, "protocol": "TCP"
    })
}
