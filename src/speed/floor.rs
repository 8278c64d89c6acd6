//! What this machine's memory allows at best: a loop that only touches one cache line a flow, at random, with all of a
//! batch on their way before the first is needed. No engine is faster, and two machines compare by it.

use std::hint::black_box;
use std::io;

use zerocopy::FromZeros;

use crate::base::Rng;
use crate::base::hugepage::HugeSlice;
use crate::base::prefetch::prefetch;
use crate::base::time::Clock;
use crate::nat::BATCH;
use crate::speed::cycles;
use crate::speed::picker::{Picker, below};

/// A cache line.
#[derive(Debug, FromZeros)]
#[repr(C, align(64))]
struct Line([u64; 8]);

/// Touches lines for so many seconds, and says how many cycles one takes; zero where the counter's rate is not known.
///
/// # Errors
/// The kernel's, when it gives no memory.
pub fn run(lines: usize, seconds: f64) -> io::Result<f64> {
    let lines = lines.max(1);
    let mut memory = HugeSlice::<Line>::zeroed(lines)?;
    memory.iter_mut().for_each(|line| line.0[0] = 1);
    let mut picker = Picker::new(&mut Rng::from_seed(1));
    let clock = Clock::start();
    let start = clock.now();
    let mut touched = 0u64;
    loop {
        for _ in 0..64 {
            let mut picks = [0; BATCH];
            for pick in &mut picks {
                *pick = below(picker.next_u64(), lines as u32) as usize;
                memory.get(*pick).into_iter().for_each(prefetch);
            }
            for pick in picks {
                memory.get_mut(pick).into_iter().for_each(|line| line.0[0] += 1);
            }
            touched += BATCH as u64;
        }
        black_box(&mut memory);
        let nanos = clock.now().since(start).as_nanos() as f64;
        if nanos >= seconds * 1e9 {
            return Ok(cycles(nanos / touched as f64));
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_touch_takes_time() {
        let cycles = super::run(1000, 0.001).unwrap();
        assert!(cycles > 0.5 && cycles < 10_000.0, "{cycles}");
    }
}
