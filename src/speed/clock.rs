//! The rate of the time stamp counter, so that times can be told in cycles.

/// Hertz of the time stamp counter: the kernel's BogoMIPS are twice its rate in MHz.
pub fn tsc_hertz() -> Option<f64> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("bogomips"))?;
    let value: f64 = line.split(':').nth(1)?.trim().parse().ok()?;
    Some(value / 2.0 * 1e6)
}
