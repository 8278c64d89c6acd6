//! Tests of the configuration.

use super::*;
use crate::policy::Snapshot;

const EXAMPLE: &str = include_str!("example.toml");

fn model(text: &str) -> Model {
    parse(text, "natgate.toml").unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn the_example_is_valid_and_compiles() {
    let model = model(EXAMPLE);
    let facts = [PortFacts { mac: [2, 0, 0, 0, 0, 1], mtu: 1500 }; 2];
    let mut compiler = Compiler::new();
    let snapshot = compiler.compile(&model, &facts, &Snapshot::default()).unwrap();
    assert_eq!(snapshot.eip_count(), 3);
}
