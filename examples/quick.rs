use natgate::speed::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let scenario: Scenario = a[1].parse().unwrap();
    let seconds = std::env::var("SECS").map_or(1.0, |s| s.parse().unwrap());
    for n in a[2].split(',') {
        let plan = Plan {
            scenario,
            sessions: n.parse().unwrap(),
            packet_bytes: 60,
            batch: a.get(3).map_or(256, |b| b.parse().unwrap()),
            seconds,
            seed: 7,
        };
        let m = run(&plan).unwrap();
        println!(
            "{} {} sessions, batch {}: {:.1} Mpps {:.1} cycles, {} packets",
            m.scenario, m.sessions, m.batch, m.mpps, m.cycles_per_packet, m.packets
        );
    }
}
