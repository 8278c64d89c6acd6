//! Sends packets through the engine for scripts/instructions, which counts the instructions of [`measured`] under
//! valgrind. Nothing here depends on the machine or on time: the engine's clock goes by the packets.
//!
//! Arguments: snat, dnat-port or new-session. Prints the number of packets that were measured.

use std::process::ExitCode;
use std::time::Duration;

use natgate::base::{Checksum, Moment, PortIndex, Rng};
use natgate::nat::{BATCH, Output, Verdict};
use natgate::speed::frames::Frames;
use natgate::speed::setup::Bed;
use natgate::speed::{Plan, Scenario};
use natgate::wire::Packet;

const BUFFER: usize = 2048;
const HEAD: usize = 256;
const SESSIONS: usize = 4096;
const BATCHES: usize = SESSIONS / BATCH;

fn main() -> ExitCode {
    let scenario = std::env::args().nth(1).unwrap_or_default();
    match scenario.parse().map_err(std::io::Error::other).and_then(run) {
        Ok(packets) => {
            println!("{packets}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(scenario: Scenario) -> std::io::Result<usize> {
    let plan = Plan { scenario, sessions: SESSIONS, ..Plan::default() };
    let mut bed = Bed::new(&plan, 1)?;
    let mut frames = Frames::new(&plan, Rng::from_seed(1));
    let mut memory = vec![0; BATCH * BUFFER];
    let mut out = Output::default();
    let mut now = Moment::from_secs(1);
    let mut send = |frames: &mut Frames, of: Option<usize>| {
        let mut lens = [(0, PortIndex(0)); BATCH];
        for (n, (buffer, len)) in memory.chunks_exact_mut(BUFFER).zip(&mut lens).enumerate() {
            let frame = &mut buffer[HEAD..];
            *len = match of {
                Some(batch) => frames.write((batch * BATCH + n) as u32, false, 60, frame),
                None => frames.write_next(frame),
            };
        }
        let buffers = memory.chunks_exact_mut(BUFFER).zip(lens);
        let mut packets: Vec<_> = buffers
            .map(|(buffer, (len, port))| Packet::new(buffer, HEAD, len.into(), port, Checksum::Unverified))
            .collect();
        now = now + Duration::from_micros(50);
        if scenario == Scenario::NewSession || of.is_none() {
            measured(&mut bed, &mut packets, now, &mut out);
        } else {
            bed.engine.process(&mut packets, &bed.snapshot, now, &mut out);
        }
        let sent = out.verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Send { .. })).count();
        if sent == BATCH { Ok(BATCH) } else { Err(std::io::Error::other("packets were dropped")) }
    };
    let mut made = 0;
    for batch in 0..BATCHES {
        made += send(&mut frames, Some(batch))?;
    }
    if scenario == Scenario::NewSession {
        return Ok(made);
    }
    let mut hit = 0;
    for _ in 0..BATCHES * 16 {
        hit += send(&mut frames, None)?;
    }
    Ok(hit)
}

/// What is counted: the engine, and nothing else.
#[inline(never)]
fn measured(bed: &mut Bed, packets: &mut [Packet<'_>], now: Moment, out: &mut Output) {
    bed.engine.process(packets, &bed.snapshot, now, out);
}
