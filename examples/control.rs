//! What the management side carries, measured on a natgate of its own between devices that lead nowhere: the start with many
//! entries in the store, and changes of entries through the HTTP API at a rate, each answered when it is on the disk and in
//! force on all workers.
//!
//! As root, with a release build: `cargo build --release && cargo run --release --example control`. Arguments, all optional: the
//! binary (target/release/natgate), DNAT entries in the store (100000), changes a second (10000), seconds (10), the folder of the
//! store (a temporary one).

use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use hdrhistogram::Histogram;
use natgate::base::Moment;
use natgate::base::time::Clock;
use natgate::control::client::Client;
use natgate::control::protocol::Request;
use serde_json::{Value, json};
use tokio::net::UnixStream;

type Error = Box<dyn std::error::Error>;

/// Entries on one EIP.
const ON_ONE: usize = 50;
/// Connections to the API: each has one request on its way.
const CONNECTIONS: usize = 200;
const CONFIGURATION: &str = r#"
[system]
workers = 1
sessions = 65536
control = "DIRECTORY/natgate.sock"
log = "warn"
[store]
path = "DIRECTORY/natgate.redb"
[quotas]
dnat_entries_per_gateway = "10M"
eips_per_gateway = "1M"
[[port]]
name = "wan"
device = "wan"
backend = "af_packet"
[[port]]
name = "lan"
device = "lan"
backend = "af_packet"
[[outside]]
port = "wan"
address = "203.0.113.2/24"
gateway = "203.0.113.1"
public = ["100.64.0.0/10"]
"#;

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |n: usize, default: &str| arguments.get(n).map_or(default, String::as_str).to_owned();
    let (binary, entries) = (argument(0, "target/release/natgate"), argument(1, "100000").parse::<usize>()?);
    let (rate, seconds) = (argument(2, "10000").parse::<f64>()?, argument(3, "10").parse::<f64>()?);
    let directory = std::env::temp_dir().join(format!("natgate-control-{}", std::process::id()));
    let directory = arguments.get(4).map_or(directory, PathBuf::from);
    fs::create_dir_all(&directory)?;
    let directory = fs::canonicalize(directory)?;
    let lab = Lab::new(fs::canonicalize(&binary)?, directory)?;

    let clock = Clock::start();
    let gateway = lab.start(clock)?.0;
    let file = lab.directory.join("all.json");
    fs::write(&file, document(entries).to_string())?;
    let begin = clock.now();
    let applied = Command::new(&lab.binary)
        .args(["apply", "--yes"])
        .arg(&file)
        .env("NATGATE_SOCKET", lab.directory.join("natgate.sock"))
        .stdout(Stdio::null())
        .status()?;
    if !applied.success() {
        return Err("natgate apply failed".into());
    }
    println!("{entries} DNAT entries applied from a file in {:.2} s", clock.now().since(begin).as_secs_f64());
    stop(gateway)?;
    let mut starts = Vec::new();
    let mut gateway = None;
    for _ in 0..3 {
        gateway.take().map_or(Ok(()), stop)?;
        let (started, took) = lab.start(clock)?;
        gateway = Some(started);
        starts.push(took);
    }
    let starts: Vec<_> = starts.iter().map(|took| format!("{:.2} s", took.as_secs_f64())).collect();
    println!("started with them in {}", starts.join(", "));

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let times = local.block_on(&runtime, changes(lab.directory.join("api.sock"), clock, rate, seconds))?;
    let at = |q| times.value_at_quantile(q) as f64 / 1e3;
    println!(
        "{} changes in {seconds} s: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, longest {:.2} ms from when it was due to the answer",
        times.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        times.max() as f64 / 1e3,
    );
    let Some(gateway) = gateway else { return Ok(()) };
    for (thread, seconds) in processor_time(gateway.id())? {
        println!(
            "  thread {thread}: {:.1} us of its core for each change",
            seconds * 1e6 / times.len() as f64
        );
    }
    stop(gateway)
}

/// The processor time of each thread since its start, in seconds; those that have none worth naming are left out.
fn processor_time(process: u32) -> Result<Vec<(String, f64)>, Error> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{process}/task"))?.flatten() {
        let stat = fs::read_to_string(entry.path().join("stat"))?;
        let (name, rest) = stat.rsplit_once(')').ok_or("no name of a thread")?;
        let name = name.split_once('(').map_or(name, |(_, name)| name).to_owned();
        let ticks: u64 =
            rest.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
        // A tick of these numbers is a hundredth of a second (`USER_HZ`).
        threads.push((name, ticks as f64 / 100.0));
    }
    threads.retain(|(_, seconds)| *seconds >= 0.1);
    Ok(threads)
}

/// All resources as one file: an EIP for so many entries each, and a private host for each entry.
fn document(entries: usize) -> Value {
    let eip = |n: usize| Ipv4Addr::from(0x6440_0100 + n as u32).to_string();
    let eips: Vec<_> =
        (0..entries.div_ceil(ON_ONE)).map(|n| json!({"address": eip(n), "gateway": "gw1"})).collect();
    let dnat: Vec<_> = (0..entries)
        .map(|n| {
            json!({
                "name": format!("entry-{n}"),
                "gateway": "gw1",
                "eip": eip(n / ON_ONE),
                "public_port": 8000 + n % ON_ONE,
                "private_ip": Ipv4Addr::from(0x0a01_0000 + n as u32).to_string(),
                "private_port": 80,
                "protocol": "TCP",
            })
        })
        .collect();
    json!({
        "version": 1,
        "vpc": [{"name": "prod", "cidr": "10.0.0.0/8"}],
        "vswitch": [{"name": "web", "vpc": "prod", "cidr": "10.0.0.0/16", "port": "lan", "address": "10.0.0.1"}],
        "gateway": [{"name": "gw1", "vpc": "prod", "vswitch": "web"}],
        "eip": eips,
        "dnat": dnat,
    })
}

/// A network namespace and a folder, gone at the end.
struct Lab {
    binary: PathBuf,
    directory: PathBuf,
    namespace: String,
}

impl Lab {
    fn new(binary: PathBuf, directory: PathBuf) -> Result<Self, Error> {
        let namespace = format!("ng-control-{}", std::process::id());
        let text = CONFIGURATION.replace("DIRECTORY", directory.to_str().ok_or("no UTF-8")?);
        fs::write(directory.join("natgate.toml"), text)?;
        ip(&["netns", "add", &namespace])?;
        let lab = Self { binary, directory, namespace };
        for device in ["wan", "lan"] {
            let far = format!("{device}-far");
            ip(&["-n", &lab.namespace, "link", "add", device, "type", "veth", "peer", "name", &far])?;
            for end in [device, &far] {
                ip(&["-n", &lab.namespace, "link", "set", end, "up"])?;
            }
        }
        Ok(lab)
    }

    /// Whether it says what runs. Its socket is there before that: what connects then waits.
    fn answers(&self) -> bool {
        let client = Client::connect(&self.directory.join("natgate.sock"));
        client.and_then(|mut client| client.ask(Request::Status, |_| ControlFlow::Continue(()))).is_ok()
    }

    /// Starts natgate; says how long it took until it answered.
    fn start(&self, clock: Clock) -> Result<(Child, Duration), Error> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(&self.binary).args(["run", "--config"]);
        command.arg(self.directory.join("natgate.toml"));
        let begin = clock.now();
        let mut child = command.spawn()?;
        while !self.answers() {
            if child.try_wait()?.is_some() || clock.now().since(begin) > Duration::from_mins(1) {
                return Err("natgate does not start".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok((child, clock.now().since(begin)))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = ip(&["netns", "delete", &self.namespace]);
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn ip(arguments: &[&str]) -> Result<(), Error> {
    let status = Command::new("ip").args(arguments).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("ip {}: {status}; are you root?", arguments.join(" ")).into())
    }
}

fn stop(mut child: Child) -> Result<(), Error> {
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?;
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(format!("natgate ended with {status}").into()) }
}

/// Changes private ports of entries at a rate; gives microseconds from when each was due to its answer.
async fn changes(socket: PathBuf, clock: Clock, rate: f64, seconds: f64) -> Result<Histogram<u64>, Error> {
    let ids = Rc::new(identifiers(&socket).await?);
    let begin = clock.now() + Duration::from_millis(200);
    let all = (rate * seconds) as usize;
    let mut tasks = Vec::new();
    for first in 0..CONNECTIONS {
        let (socket, ids) = (socket.clone(), Rc::clone(&ids));
        tasks.push(tokio::task::spawn_local(async move {
            let mut connection = Connection::open(&socket).await?;
            let mut times = Vec::new();
            for n in (first..all).step_by(CONNECTIONS) {
                let due = begin + Duration::from_secs_f64(n as f64 / rate);
                sleep_until(clock, due).await;
                let (id, port) = (&ids[n % ids.len()], 81 + n / ids.len());
                let body = format!("{{\"private_port\":{port}}}");
                connection.ask("PATCH", &format!("/v1/dnat-entries/{id}"), &body).await?;
                times.push(clock.now().since(due).as_micros() as u64);
            }
            Ok::<_, Error>(times)
        }));
    }
    let mut histogram = Histogram::new(3)?;
    for task in tasks {
        for micros in task.await?? {
            histogram.record(micros)?;
        }
    }
    Ok(histogram)
}

async fn sleep_until(clock: Clock, due: Moment) {
    let left = due.since(clock.now());
    if !left.is_zero() {
        tokio::time::sleep(left).await;
    }
}

/// The identifiers of all DNAT entries.
async fn identifiers(socket: &Path) -> Result<Vec<String>, Error> {
    let mut connection = Connection::open(socket).await?;
    let mut ids: Vec<String> = Vec::new();
    loop {
        let after = ids.last().map_or_else(String::new, |id| format!("&after={id}"));
        let page = connection.ask("GET", &format!("/v1/dnat-entries?limit=1000{after}"), "").await?;
        let items = page["items"].as_array().ok_or("no items in the list")?;
        if items.is_empty() {
            return Ok(ids);
        }
        ids.extend(items.iter().filter_map(|item| item["id"].as_str().map(str::to_owned)));
    }
}

/// A connection to the API that is kept: one request after the other.
struct Connection {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(socket: &Path) -> Result<Self, Error> {
        Ok(Self { stream: UnixStream::connect(socket).await?, buffer: Vec::new() })
    }

    async fn ask(&mut self, method: &str, target: &str, body: &str) -> Result<Value, Error> {
        let request = format!(
            "{method} {target} HTTP/1.1\r\nhost: natgate\r\ncontent-type: application/merge-patch+json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut rest = request.as_bytes();
        while !rest.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.buffer.clear();
        loop {
            if let Some((status, body)) = answer(&self.buffer)? {
                let body = serde_json::from_slice(body)?;
                return if status == 200 {
                    Ok(body)
                } else {
                    Err(format!("{method} {target}: {status} {body}").into())
                };
            }
            self.stream.readable().await?;
            let mut chunk = [0; 8192];
            match self.stream.try_read(&mut chunk) {
                Ok(0) => return Err("the API has hung up".into()),
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Status and body of an answer, when it is whole.
fn answer(bytes: &[u8]) -> Result<Option<(u16, &[u8])>, Error> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end])?;
    let status = head.split(' ').nth(1).ok_or("no status")?.parse()?;
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let length: usize = length.ok_or("no content-length")?;
    Ok(bytes.get(end + 4..end + 4 + length).map(|body| (status, body)))
}
