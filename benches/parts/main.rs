//! The parts of the packet path by themselves, the session table beside general hash maps, and changes of the
//! configuration. Each is also run once with its calls of the allocator counted.

mod allocations;
mod engine;
mod snapshot;
mod table;
mod wire;

use std::time::Duration;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    wire::all(&mut criterion);
    table::all(&mut criterion);
    engine::all(&mut criterion);
    snapshot::all(&mut criterion);
    criterion.final_summary();
}
