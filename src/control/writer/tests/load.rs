//! Many entries, and many changes.

use super::*;

/// Many entries, a hundred an EIP (`NATGATE_ENTRIES` says how many): the time to start, and the time from a request to its answer at 10,000 changes a second. Prints what it
/// measures; the bounds are wide, as this is not an optimised build and the machine has other work.
#[test]
fn many_entries() {
    let mut bench = Bench::new();
    bench.furnish();
    let many: u32 = std::env::var("NATGATE_ENTRIES").map_or(10_000, |text| text.parse().unwrap());
    for eip in 3..=many / 100 {
        let address = std::net::Ipv4Addr::from(0xc612_0000 + eip);
        bench.create("eip", json!({"address": address, "gateway": "gw1"}));
    }
    let clock = Clock::start();
    let start = clock.now();
    let desk = bench.desk();
    let (sender, answers) = channel();
    // Queued without waiting for each answer, as many connections would.
    let queue = |number: u32, answer: &Sender<(u32, Receiver<_>)>| {
        let (reply, answered) = sync_channel(1);
        let request = create("dnat", entry(number));
        desk.begin("user 0", request, Box::new(move |answer| drop(reply.send(answer)))).unwrap();
        answer.send((number, answered)).unwrap();
    };
    for number in 0..many {
        queue(number, &sender);
    }
    for _ in 0..many {
        let (_, answered): (u32, Receiver<Result<Changed, Fault>>) = answers.recv().unwrap();
        answered.recv().unwrap().unwrap();
    }
    let took = clock.now().since(start);
    println!("{many} entries made in {took:?}");
    drop(desk);
    bench.writer = None;
    let before = clock.now();
    let store = Store::open(&bench.directory.path().join("store.redb")).unwrap();
    let opened = clock.now();
    drop(store.contents().unwrap());
    println!("opened in {:?}, read in {:?}", opened.since(before), clock.now().since(opened));
    drop(store);
    let before = clock.now();
    bench.reopen();
    let took = clock.now().since(before);
    println!("started with {many} entries in {took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    // Updates at a fixed rate, each with its time from request to answer.
    let ids: Vec<String> = bench.desk().read(|inventory| {
        inventory
            .after(Kind::Dnat, None)
            .take(many as usize / 5)
            .map(|resource| resource.id().to_string())
            .collect()
    });
    let desk = bench.desk();
    let (sender, waiting) = channel::<(crate::base::Moment, Receiver<Result<Changed, Fault>>)>();
    let collector = std::thread::spawn(move || {
        let mut times: Vec<Duration> = Vec::new();
        while let Ok((sent, answered)) = waiting.recv() {
            answered.recv().unwrap().unwrap();
            times.push(clock.now().since(sent));
        }
        times
    });
    let start = clock.now();
    for (n, id) in ids.iter().enumerate() {
        let due = Duration::from_micros(n as u64 * 100);
        while clock.now().since(start) < due {
            std::thread::sleep(Duration::from_micros(50));
        }
        let (reply, answered) = sync_channel(1);
        let host = std::net::Ipv4Addr::from(0x0a40_0000 + n as u32);
        let request = update("dnat", id, json!({ "private_ip": host }));
        desk.begin("user 0", request, Box::new(move |answer| drop(reply.send(answer)))).unwrap();
        sender.send((clock.now(), answered)).unwrap();
    }
    let span = clock.now().since(start);
    drop(sender);
    let mut times = collector.join().unwrap();
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "{} updates in {span:?}: median {:?}, p99 {:?}, most {:?}",
        times.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
    drop(desk);
    bench.assert_consistent();
}
