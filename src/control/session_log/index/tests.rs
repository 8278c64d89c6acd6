use super::*;
use crate::base::Moment;
use crate::base::{EntryId, GatewayIndex, VpcIndex, WorkerIndex};
use crate::control::session_log::Place;
use crate::control::session_log::indexer::{Indexer, Pending};
use crate::control::session_log::line::{Line, Session, What};
use crate::nat::session::SessionKind;
use crate::nat::{Ending, SessionRow, SessionState};

const EIP: (u32, u16) = (0xcb00_7110, 4000);
/// The beginning of an hour.
const BASE: u64 = 1_000_000 * HOUR;

struct Bench {
    directory: PathBuf,
    index: Index,
}

impl Bench {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("natgate-index-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        // Without the file of the present hour, which is later than all of the test's.
        let keep = Duration::from_hours(3);
        let index = Index { directory: directory.clone(), keep, opened: 0, present: Mutex::new(None) };
        Self { directory, index }
    }

    fn write(&mut self, time: u64, what: What) {
        let mut pending = Pending::default();
        pending.add(&Line { time, worker: None, what });
        self.index.commit(&pending).unwrap();
    }

    fn who(&self, at: u64) -> Vec<(String, Option<u64>)> {
        let external = (Ipv4Addr::from(EIP.0), EIP.1);
        let owners = self.index.who(external, Protocol::TCP, at).unwrap();
        owners.into_iter().map(|owner| (owner.inside, owner.ended)).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn session(host: u8, began: u64) -> Session {
    let row = SessionRow {
        worker: WorkerIndex(0),
        kind: SessionKind::Snat,
        vpc: VpcIndex(0),
        protocol: 6,
        inside: (0x0a00_0100 + u32::from(host), 1000),
        external: EIP,
        peer: (0xc633_6401, 443),
        state: SessionState::Active,
        entry: EntryId(0),
        gateway: GatewayIndex(0),
        bytes_out: 0,
        bytes_in: 0,
        age: 0,
        idle: 0,
        expires: 0,
    };
    let origin = Origin { vpc: "prod".into(), gateway: "gw1".into(), entry: "all".into() };
    Session { row, began, origin: Arc::new(origin) }
}

#[test]
fn an_endpoint_has_one_owner_at_a_time() {
    let mut bench = Bench::new("owners");
    bench.write(BASE, What::Started);
    bench.write(BASE + 1000, What::Created(session(1, BASE + 1000)));
    bench.write(BASE + 9000, What::Ended(session(1, BASE + 1000), Ending::Expired));
    bench.write(BASE + 20_000, What::Created(session(2, BASE + 20_000)));
    let first = ("10.0.1.1:1000".to_owned(), Some(BASE + 9000));
    assert_eq!(bench.who(BASE + 999), []);
    assert_eq!(bench.who(BASE + 1000), std::slice::from_ref(&first));
    assert_eq!(bench.who(BASE + 9000), [first]);
    assert_eq!(bench.who(BASE + 9001), []);
    assert_eq!(bench.who(BASE + 30_000), [("10.0.1.2:1000".to_owned(), None)]);
    // Another endpoint has nobody.
    let other = bench.index.who((Ipv4Addr::from(EIP.0), 4001), Protocol::TCP, BASE + 5000).unwrap();
    assert_eq!(other, []);
    assert_eq!(bench.index.who((Ipv4Addr::from(EIP.0), 4000), Protocol::UDP, BASE + 5000).unwrap(), []);
}

#[test]
fn a_port_is_of_the_host_that_has_the_block() {
    let mut bench = Bench::new("blocks");
    let block = |host: u8, first: u16, began: u64| {
        let row = PortBlock {
            tenant: 1,
            inside: 0x0a00_0100 + u32::from(host),
            external: EIP.0,
            ports: crate::policy::PortRange { first, last: first + 99 },
            entry: EntryId(0),
            since: Tick(0),
        };
        let origin = Arc::clone(&session(1, 0).origin);
        crate::control::session_log::line::Block { row, began, origin }
    };
    bench.write(BASE, What::Started);
    bench.write(BASE + 1000, What::Block(block(1, 3950, BASE + 1000), true));
    bench.write(BASE + 1000, What::Block(block(2, 4050, BASE + 1000), true));
    bench.write(BASE + 9000, What::Block(block(1, 3950, BASE + 1000), false));
    bench.write(BASE + 9500, What::Block(block(3, 3950, BASE + 9500), true));
    // Any protocol, and each port of it.
    for (port, protocol) in [(3950, Protocol::TCP), (4000, Protocol::UDP), (4049, Protocol::TCP)] {
        let who = |at| bench.index.who((Ipv4Addr::from(EIP.0), port), protocol, at).unwrap();
        let owners = who(BASE + 5000);
        assert_eq!((owners.len(), &*owners[0].inside), (1, "10.0.1.1"), "{port}");
        assert_eq!((&*owners[0].peer, owners[0].ended), ("any, by ports 3950-4049", Some(BASE + 9000)));
        assert_eq!(who(BASE + 9200), []);
        assert_eq!(who(BASE + 9600)[0].inside, "10.0.1.3");
    }
    let next = bench.index.who((Ipv4Addr::from(EIP.0), 4050), Protocol::TCP, BASE + 5000).unwrap();
    assert_eq!((next.len(), &*next[0].inside), (1, "10.0.1.2"));
    assert_eq!(bench.index.who((Ipv4Addr::from(EIP.0), 4150), Protocol::TCP, BASE + 5000).unwrap(), []);
}

#[test]
fn a_session_goes_on_into_the_next_hour_and_old_hours_go() {
    let mut bench = Bench::new("hours");
    bench.write(BASE, What::Created(session(1, BASE)));
    bench.write(BASE + HOUR + 5, What::Ended(session(1, BASE), Ending::Expired));
    assert_eq!(bench.who(BASE + HOUR), [("10.0.1.1:1000".to_owned(), Some(BASE + HOUR + 5))]);
    assert_eq!(bench.index.files().unwrap().len(), 2);
    bench.write(BASE + 4 * HOUR, What::Created(session(2, BASE + 4 * HOUR)));
    let hours: Vec<_> = bench.index.files().unwrap().into_keys().map(|hour| hour - BASE / HOUR).collect();
    assert_eq!(hours, [1, 4]);
}

#[test]
fn a_restart_ends_what_has_no_end() {
    let mut bench = Bench::new("restart");
    bench.write(BASE, What::Created(session(1, BASE)));
    bench.write(BASE + 5000, What::Started);
    assert_eq!(bench.who(BASE + 4000), [("10.0.1.1:1000".to_owned(), Some(BASE + 5000))]);
    assert_eq!(bench.who(BASE + 6000), []);
    // One that began right after the start.
    bench.write(BASE + 5020, What::Created(session(2, BASE + 4950)));
    assert_eq!(bench.who(BASE + 6000), [("10.0.1.2:1000".to_owned(), None)]);
}

#[test]
fn a_start_counts_before_it_is_written() {
    let mut bench = Bench::new("opened");
    bench.write(BASE, What::Created(session(1, BASE)));
    bench.index.opened = BASE + 5000;
    assert_eq!(bench.who(BASE + 4000), [("10.0.1.1:1000".to_owned(), Some(BASE + 5000))]);
    assert_eq!(bench.who(BASE + 6000), []);
}

/// What is left of a file when natgate is killed.
#[test]
fn a_file_that_was_not_closed_is_read() {
    let mut bench = Bench::new("crash");
    bench.write(BASE, What::Started);
    bench.write(BASE, What::Created(session(1, BASE)));
    let copy = Bench::new("crash-copy");
    let name = file_name(BASE / HOUR);
    fs::copy(bench.directory.join(&name), copy.directory.join(&name)).unwrap();
    assert_eq!(copy.who(BASE + 10).len(), 1);
    assert_eq!(copy.who(BASE + 10).len(), 1);
}

/// What cannot be committed is kept and committed later; at the end nothing waits.
#[test]
fn the_thread_commits_all_that_it_was_given() {
    let bench = Bench::new("thread");
    let index = Arc::new(Index {
        directory: bench.directory.join("later"),
        keep: Duration::from_hours(3),
        opened: 0,
        present: Mutex::new(None),
    });
    let mut indexer = Indexer::start(Arc::clone(&index)).unwrap();
    let line = |host| Line { time: BASE, worker: None, what: What::Created(session(host, BASE)) };
    indexer.write(&line(1)).unwrap();
    let mut failed = Ok(());
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(20));
        failed = indexer.flush(Moment::default());
        if failed.is_err() {
            break;
        }
    }
    assert!(failed.is_err(), "there is no directory");
    fs::create_dir_all(&index.directory).unwrap();
    indexer.write(&line(2)).unwrap();
    drop(indexer);
    let external = (Ipv4Addr::from(EIP.0), EIP.1);
    assert_eq!(index.who(external, Protocol::TCP, BASE).unwrap().len(), 2);
}
