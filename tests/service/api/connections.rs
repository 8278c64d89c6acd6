//! Listeners and connections, and what clients may do with them.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use natgate::base::time::Clock;

use super::bench;
use crate::common::need_root;

#[test]
fn slow_clients_cost_nobody_else() {
    need_root!();
    let bench = bench::started("api-slow");
    let socket = bench.path("api.sock");
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

/// A second gateway on the same machine, or a wrong certificate, is told which key of the file to change.
#[test]
fn what_the_api_cannot_have_is_named() {
    need_root!();
    let bench = bench::started("api-start");
    let text = fs::read_to_string(bench.path("natgate.toml")).expect("a configuration");
    let at = |name: &str| bench.path(name).display().to_string();
    let other = text.replace("natgate.sock", "other.sock").replace("natgate.redb", "other.redb");
    let elsewhere = other.replace("[api]", &format!("[api]\nsocket = \"{}\"", at("other-api.sock")));
    fs::write(bench.path("empty.pem"), "").expect("a file");
    for (text, words) in [
        (other.clone(), ["api.socket", "another natgate"]),
        (elsewhere.clone(), ["api.listen 127.0.0.1:8443", "another address or port"]),
        (elsewhere.replace("cert.pem", "empty.pem"), ["api.tls_certificate", "no certificate"]),
        (elsewhere.replace("key.pem", "empty.pem"), ["api.tls_key", "empty.pem"]),
    ] {
        fs::write(bench.path("other.toml"), text).expect("a configuration");
        let mut command = bench.namespace.command("timeout");
        command.args(["20", env!("CARGO_BIN_EXE_natgate"), "run", "--config"]);
        let output = command.arg(bench.path("other.toml")).output().expect("natgate");
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
    let bench = bench::started("api-odd");
    for bytes in
        [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", &vec![0; 70_000]]
    {
        let mut stream = UnixStream::connect(bench.path("api.sock")).expect("the socket");
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
