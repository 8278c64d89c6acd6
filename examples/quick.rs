use natgate::speed::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let scenario: Scenario = a[1].parse().unwrap();
    for n in a[2].split(',') {
        let plan = Plan {
            scenario,
            sessions: n.parse().unwrap(),
            packet_bytes: 60,
            batch: a.get(3).map_or(256, |b| b.parse().unwrap()),
            seconds: 1.0,
            seed: 7,
        };
        for _ in 0..2 {
            let m = run(&plan).unwrap();
            println!(
                "{} {:>9} batch {} {:.1} Mpps {:.1} cycles {:.1} B/session",
                m.scenario, m.sessions, m.batch, m.mpps, m.cycles_per_packet, m.bytes_per_session
            );
        }
    }
}
