//! One trial: packets at a rate for a time, and what became of them.

use std::io;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::base::time::Clock;
use crate::base::{Moment, Rng};
use crate::nic::{BURST, Cache, Frame, Mac};
use crate::pktgen::flows::{FlowPlan, Flows};
use crate::pktgen::probe::{self, FCS, Way};
use crate::pktgen::station::Station;

/// Frames that are written at once; they share one time stamp.
const GROUP: u64 = 32;
/// How far the sender catches up after it was held back: more would be a burst that nobody asked for.
const BEHIND: u64 = 4 * BURST as u64;
/// After the last packet is sent: how long silence must last, and how long to wait for it.
const SILENCE: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest latency that is told apart: 100 seconds.
const LONGEST: u64 = 100_000_000_000;

/// Sizes of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// All alike, in bytes with the checksum.
    Fixed(u16),
    /// 64, 594 and 1518 bytes as 7 : 4 : 1.
    Imix,
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("imix", _) => Ok(Self::Imix),
            (_, Ok(size)) if (64..=1518).contains(&size) => Ok(Self::Fixed(size)),
            _ => Err("neither imix nor a number of bytes from 64 to 1518".into()),
        }
    }
}

impl Size {
    /// Bytes in memory of frame number `n`.
    fn of(self, n: u64) -> usize {
        const IMIX: [u16; 12] = [64, 594, 64, 64, 594, 64, 1518, 64, 594, 64, 594, 64];
        let size = match self {
            Self::Fixed(size) => size,
            Self::Imix => IMIX[(n % 12) as usize],
        };
        usize::from(size) - FCS
    }
}

/// What a trial is about, beside its rate.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// The flows.
    pub flows: FlowPlan,
    /// The sizes of frames.
    pub size: Size,
    /// Whether the receiver returns each packet to where it came from.
    pub both_ways: bool,
    /// For how long to send.
    pub duration: Duration,
    /// The Ethernet address to send to.
    pub gateway: Mac,
}

/// Latencies in nanoseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// Lowest.
    pub min: u64,
    /// Mean.
    pub mean: f64,
    /// Half of the packets are faster.
    pub p50: u64,
    /// 90 % are.
    pub p90: u64,
    /// 99 % are.
    pub p99: u64,
    /// 99.9 % are.
    pub p999: u64,
    /// Highest.
    pub max: u64,
}

/// What became of the packets of a trial.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Trial {
    /// The rate asked for, in packets a second; none: as fast as possible.
    pub offered_pps: Option<f64>,
    /// How long packets were sent.
    pub seconds: f64,
    /// Packets sent.
    pub sent: u64,
    /// Packets received at the other end.
    pub received: u64,
    /// Packets that the other end returned.
    pub returned: u64,
    /// Returned packets that came back.
    pub back: u64,
    /// Share of packets that were lost, there or on their way back.
    pub loss: f64,
    /// Rate at which packets were sent.
    pub sent_pps: f64,
    /// Rate at which packets of both ways arrived.
    pub received_pps: f64,
    /// Gigabits of received Ethernet frames a second, checksums included.
    pub gbps: f64,
    /// Frames that arrived and were no packets of the trial.
    pub others: u64,
    /// Frames that the generator's own kernel or device dropped: such a loss is not the tested device's.
    pub missed: u64,
    /// Latency there.
    pub latency_ns: Latency,
    /// Latency there and back.
    pub round_trip_ns: Option<Latency>,
}

/// Counts arrivals at one end.
struct Arrivals {
    packets: u64,
    others: u64,
    bytes: u64,
    latency: Histogram<u64>,
}

impl Arrivals {
    fn new() -> io::Result<Self> {
        // Three digits within fixed bounds: memory that never grows.
        let latency = Histogram::new_with_bounds(1, LONGEST, 3).map_err(io::Error::other)?;
        Ok(Self { packets: 0, others: 0, bytes: 0, latency })
    }

    /// Whether a frame is a packet of the trial on this way; it is counted.
    fn take(&mut self, frame: &Frame, trial: u16, way: Way, now: Moment) -> bool {
        match probe::read(frame.bytes()) {
            Some(probe) if probe.trial == trial && probe.way == way => {
                self.packets += 1;
                self.bytes += (frame.len() + FCS) as u64;
                self.latency.saturating_record(now.since(probe.sent).as_nanos() as u64);
                true
            }
            _ => {
                self.others += 1;
                false
            }
        }
    }

    fn latency(&self) -> Latency {
        let at = |share| self.latency.value_at_quantile(share);
        Latency {
            min: self.latency.min(),
            mean: self.latency.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: self.latency.max(),
        }
    }
}

/// Sender and receiver, with what they share.
#[derive(Debug)]
pub struct Lab {
    /// Where packets start.
    pub sender: Station,
    /// Where they arrive.
    pub receiver: Station,
    /// Packet buffers of both.
    pub cache: Cache,
    /// The clock of all time stamps.
    pub clock: Clock,
    /// The number of the next trial: packets that come late belong to none.
    pub trials: u16,
}

/// The state of a trial that runs.
struct Running<'a> {
    traffic: &'a Traffic,
    trial: u16,
    written: u64,
    sent: u64,
    returned: u64,
    there: Arrivals,
    back: Arrivals,
}

impl Lab {
    /// Runs one trial, at a rate in packets a second or as fast as possible.
    ///
    /// # Errors
    /// There is no memory for histograms.
    pub fn run(&mut self, traffic: &Traffic, rate: Option<f64>) -> io::Result<Trial> {
        self.trials = self.trials.wrapping_add(1);
        let missed = self.missed();
        let mut flows = Flows::new(traffic.flows.clone(), Rng::from_seed(1), self.clock.now());
        let mut run = Running {
            traffic,
            trial: self.trials,
            written: 0,
            sent: 0,
            returned: 0,
            there: Arrivals::new()?,
            back: Arrivals::new()?,
        };
        let start = self.clock.now();
        let mut now = start;
        // What was not sent in time is given up, so that the rate is not made up for by a burst.
        let mut given_up = 0;
        while now.since(start) < traffic.duration {
            let due = match rate {
                Some(rate) => (now.since(start).as_secs_f64() * rate) as u64 - given_up,
                None => u64::MAX,
            };
            if rate.is_some() && due > run.written + BEHIND {
                given_up += due - run.written - BEHIND;
            }
            self.send(&mut run, &mut flows, due, now);
            self.receive(&mut run);
            now = self.clock.now();
        }
        let seconds = now.since(start).as_secs_f64();
        self.drain(&mut run);
        let arrived = run.there.packets + run.back.packets;
        let expected = run.sent + run.returned;
        Ok(Trial {
            offered_pps: rate,
            seconds,
            sent: run.sent,
            received: run.there.packets,
            returned: run.returned,
            back: run.back.packets,
            loss: if expected == 0 { 0.0 } else { expected.saturating_sub(arrived) as f64 / expected as f64 },
            sent_pps: run.sent as f64 / seconds,
            received_pps: arrived as f64 / seconds,
            gbps: (run.there.bytes + run.back.bytes) as f64 * 8.0 / seconds / 1e9,
            others: run.there.others + run.back.others,
            missed: self.missed() - missed,
            latency_ns: run.there.latency(),
            round_trip_ns: traffic.both_ways.then(|| run.back.latency()),
        })
    }

    fn missed(&mut self) -> u64 {
        self.sender.missed() + self.receiver.missed()
    }

    /// Sends what is due, at most a group.
    fn send(&mut self, run: &mut Running<'_>, flows: &mut Flows, due: u64, now: Moment) {
        // Frames of earlier groups go first; they alone are probes, for ARP waits nowhere while packets flow.
        if self.sender.waiting() == 0 {
            for _ in 0..due.saturating_sub(run.written).min(GROUP) {
                let Some(mut frame) = self.cache.take() else { break };
                let head = frame.head();
                frame.set_bounds(head, run.traffic.size.of(run.written));
                let macs = (run.traffic.gateway, self.sender.info().mac);
                probe::write(frame.bytes_mut(), macs, &flows.next(now), run.trial, now);
                self.sender.push(&mut self.cache, frame);
                run.written += 1;
            }
        }
        self.sender.flush(&mut self.cache);
        run.sent = run.written - (self.sender.waiting() as u64).min(run.written);
    }

    /// Receives at both ends once; how many frames there were.
    fn receive(&mut self, run: &mut Running<'_>) -> usize {
        let Self { sender, receiver, cache, clock, .. } = self;
        let now = clock.now();
        let (trial, both_ways) = (run.trial, run.traffic.both_ways);
        // Where returned packets find no room, more are not taken.
        let mut count = 0;
        if receiver.waiting() == 0 {
            count += receiver.receive(cache, |station, cache, mut frame| {
                if run.there.take(&frame, trial, Way::There, now) && both_ways && station.has_room() {
                    probe::turn(frame.bytes_mut(), station.info().mac);
                    station.push(cache, frame);
                    run.returned += 1;
                } else {
                    cache.give(frame);
                }
            });
        }
        receiver.flush(cache);
        count += sender.receive(cache, |_, cache, frame| {
            run.back.take(&frame, trial, Way::Back, now);
            cache.give(frame);
        });
        count
    }

    /// Waits for what is under way.
    fn drain(&mut self, run: &mut Running<'_>) {
        let start = self.clock.now();
        let mut last = start;
        loop {
            let now = self.clock.now();
            self.sender.flush(&mut self.cache);
            if self.receive(run) > 0 {
                last = now;
            }
            if now.since(last) > SILENCE || now.since(start) > PATIENCE {
                break;
            }
        }
        run.sent = run.written - (self.sender.waiting() as u64).min(run.written);
    }
}
