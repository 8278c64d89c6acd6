//! The `natgate` binary.
fn main() {}
