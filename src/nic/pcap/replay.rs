//! Ports that read frames from captures and write what is transmitted to others: the gateway without any privilege.
//!
//! All ports of a [`Replay`] share one timeline: a frame is received when no port has an earlier one left, so an answer
//! that was captured on one port does not overtake its request on another. The timeline is not that of the worker:
//! frames follow each other as fast as they are taken. Frames that are written have the time of the latest
//! frame received, so the same input gives the same files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::read::Source;
use super::write::Sink;
use crate::base::{Checksum, PortIndex};
use crate::nic::{Burst, Cache, Mac, Port, PortCounters, PortInfo, Queue};

/// A port that is made of captures.
#[derive(Clone, Debug)]
pub struct Options {
    /// Frames to receive, pcap or pcapng; without, there are none.
    pub input: Option<PathBuf>,
    /// Where transmitted frames are written, as pcap; without, they are counted as sent and lost.
    pub output: Option<PathBuf>,
    /// The port's own Ethernet address.
    pub mac: Mac,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
}

/// Captures that are replayed together.
#[derive(Clone, Debug, Default)]
pub struct Replay(Arc<Mutex<Timeline>>);

#[derive(Debug, Default)]
struct Timeline {
    /// The time of each port's next frame; `None` when it has none left.
    next: Vec<Option<Duration>>,
    /// The time of the latest frame received.
    now: Duration,
}

impl Replay {
    /// No captures yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens a port. All frames come to its first queue; any queue writes to the output. All ports of a replay must be
    /// open before the first frame is received, and each must be polled for the others to go on.
    ///
    /// # Errors
    /// A file cannot be read or created, or it does not hold Ethernet frames; with the file's name.
    pub fn open(&self, port: PortIndex, queues: usize, options: &Options) -> io::Result<Port> {
        let mut input = match &options.input {
            Some(path) => Input::open(path, port)?,
            None => None,
        };
        let output = match &options.output {
            Some(path) => Some(Arc::new(Mutex::new(Sink::create(path)?))),
            None => None,
        };
        let place = {
            let mut timeline = self.lock();
            timeline.next.push(input.as_ref().map(|input| input.time));
            timeline.next.len() - 1
        };
        let queue = |_| {
            let input = input.take();
            let rx_errors = input.as_ref().map_or(0, |input| input.source.refused());
            Box::new(ReplayQueue {
                replay: self.clone(),
                place,
                input,
                output: output.clone(),
                counters: PortCounters { rx_errors, ..PortCounters::default() },
                error: None,
            }) as Box<dyn Queue>
        };
        let name = |path: &Option<PathBuf>| {
            path.as_ref().map_or_else(|| "nothing".to_owned(), |path| path.display().to_string())
        };
        let device = name(if options.input.is_some() { &options.input } else { &options.output });
        let mode = format!("pcap, from {} to {}", name(&options.input), name(&options.output));
        Ok(Port {
            index: port,
            info: PortInfo { device, mode, mac: options.mac, mtu: options.mtu },
            queues: (0..queues).map(queue).collect(),
            rss: None,
            monitor: None,
            guard: None,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Timeline> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A capture with its next frame read ahead.
#[derive(Debug)]
struct Input {
    source: Source,
    frame: Vec<u8>,
    time: Duration,
    port: PortIndex,
}

impl Input {
    /// `None` if the capture is empty.
    fn open(path: &Path, port: PortIndex) -> io::Result<Option<Self>> {
        let mut source = Source::open(path)?;
        let mut frame = Vec::new();
        match source.next(&mut frame)? {
            Some(time) => Ok(Some(Self { source, frame, time, port })),
            None if source.refused() == 0 => Ok(None),
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the capture {} holds no whole Ethernet frame", path.display()),
            )),
        }
    }
}

#[derive(Debug)]
struct ReplayQueue {
    replay: Replay,
    /// The port's place in the timeline.
    place: usize,
    /// `None` at the end, and on all queues but the first.
    input: Option<Input>,
    output: Option<Arc<Mutex<Sink>>>,
    counters: PortCounters,
    /// Why the input ended early.
    error: Option<io::Error>,
}

impl ReplayQueue {
    /// Reads ahead.
    fn advance(&mut self, timeline: &mut Timeline) {
        let Some(input) = &mut self.input else { return };
        let refused = input.source.refused();
        let next = input.source.next(&mut input.frame);
        self.counters.rx_errors += input.source.refused() - refused;
        match next {
            // Captures may be out of order by a little: the timeline never goes back.
            Ok(Some(time)) => input.time = time.max(input.time),
            Ok(None) => self.input = None,
            Err(error) => {
                self.counters.rx_errors += 1;
                (self.input, self.error) = (None, Some(error));
            }
        }
        timeline.next[self.place] = self.input.as_ref().map(|input| input.time);
    }
}

impl Queue for ReplayQueue {
    fn receive(&mut self, cache: &mut Cache, burst: &mut Burst) -> usize {
        let before = burst.len();
        let replay = self.replay.clone();
        let mut timeline = replay.lock();
        while let Some(input) = &self.input
            && !burst.is_full()
            && timeline.next.iter().flatten().all(|&other| input.time <= other)
        {
            let Some(mut frame) = cache.take() else { break };
            timeline.now = timeline.now.max(input.time);
            if frame.fill(&input.frame) {
                frame.port = input.port;
                frame.checksum = Checksum::Unverified;
                burst.push(frame);
            } else {
                self.counters.rx_errors += 1;
                cache.give(frame);
            }
            self.advance(&mut timeline);
        }
        burst.len() - before
    }

    fn transmit(&mut self, cache: &mut Cache, burst: &mut Burst) -> usize {
        let count = burst.len();
        if count > 0
            && let Some(output) = &self.output
        {
            let now = self.replay.lock().now;
            let mut sink = output.lock().unwrap_or_else(PoisonError::into_inner);
            let written = burst.iter().filter(|frame| sink.write(now, frame.bytes())).count();
            self.counters.tx_errors += (count - written) as u64;
        }
        burst.drain(..).for_each(|frame| cache.give(frame));
        count
    }

    fn counters(&mut self) -> PortCounters {
        self.counters
    }

    fn finished(&self) -> bool {
        self.input.is_none()
    }

    fn close(&mut self, _cache: &mut Cache) -> io::Result<()> {
        if self.input.take().is_some() {
            self.replay.lock().next[self.place] = None;
        }
        let closed = match self.output.take().and_then(Arc::into_inner) {
            Some(sink) => sink.into_inner().unwrap_or_else(PoisonError::into_inner).close(),
            None => Ok(()),
        };
        self.error.take().map_or(Ok(()), Err).and(closed)
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::fs::{self, File};

    use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
    use pcap_file::pcapng::PcapNgWriter;
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
    use pcap_file::pcapng::blocks::interface_description::{
        InterfaceDescriptionBlock, InterfaceDescriptionOption,
    };
    use pcap_file::{DataLink, TsResolution};

    use super::*;
    use crate::nic::Pool;

    /// A directory of its own for a test.
    struct Directory(PathBuf);

    impl Directory {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("natgate-replay-{test}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn options(input: Option<PathBuf>, output: Option<PathBuf>) -> Options {
        Options { input, output, mac: [2, 0, 0, 0, 0, 1], mtu: 1500 }
    }

    /// Writes a capture with frames of one byte at the given microseconds.
    fn pcap(path: &Path, frames: &[(u64, u8)]) {
        let header = PcapHeader { ts_resolution: TsResolution::MicroSecond, ..PcapHeader::default() };
        let mut writer = PcapWriter::with_header(File::create(path).unwrap(), header).unwrap();
        for &(micros, byte) in frames {
            writer.write_packet(&PcapPacket::new(Duration::from_micros(micros), 1, &[byte])).unwrap();
        }
    }

    fn read(path: &Path) -> Vec<(Duration, Vec<u8>)> {
        let mut source = Source::open(path).unwrap();
        let (mut frames, mut frame) = (Vec::new(), Vec::new());
        while let Some(time) = source.next(&mut frame).unwrap() {
            frames.push((time, frame.clone()));
        }
        frames
    }

    #[test]
    fn two_captures_are_one_timeline_and_come_to_an_end() {
        let directory = Directory::new("timeline");
        let [a, b, out] = ["a", "b", "out"].map(|name| directory.file(name));
        pcap(&a, &[(10, 1), (20, 2), (2_000_050, 5)]);
        pcap(&b, &[(20, 3), (30, 4), (2_000_060, 6)]);
        let pool = Pool::new(256, 2048).unwrap();
        let mut cache = pool.cache();
        let replay = Replay::new();
        let mut ports = [
            replay.open(PortIndex(0), 2, &options(Some(b.clone()), None)).unwrap(),
            replay.open(PortIndex(1), 2, &options(Some(a.clone()), Some(out.clone()))).unwrap(),
        ];
        assert_eq!(ports[0].info.mode, format!("pcap, from {} to nothing", b.display()));
        assert_eq!(ports[1].info.mode, format!("pcap, from {} to {}", a.display(), out.display()));

        let mut order = Vec::new();
        let mut burst = Burst::new();
        let mut turns = 0;
        while ports.iter().any(|port| !port.queues.iter().all(Queue::finished)) {
            for port in 0..2 {
                for queue in 0..2 {
                    ports[port].queues[queue].receive(&mut cache, &mut burst);
                    for frame in &burst {
                        assert_eq!((frame.port.index(), queue), (port, 0));
                        order.push(frame.bytes()[0]);
                    }
                    // All goes out by the second port, from its other queue.
                    let count = burst.len();
                    assert_eq!(ports[1].queues[1].transmit(&mut cache, &mut burst), count);
                }
            }
            turns += 1;
            assert!(turns < 10);
        }
        assert_eq!(order, [1, 2, 3, 4, 5, 6]);
        for queue in ports.iter_mut().flat_map(|port| &mut port.queues) {
            assert_eq!(queue.counters(), PortCounters::default());
            queue.close(&mut cache).unwrap();
        }
        assert_eq!(pool.spare_slots() + cache.len(), pool.slots());

        let micros = [20, 20, 30, 30, 2_000_050, 2_000_060];
        let written = read(&out);
        assert_eq!(written.iter().map(|(_, frame)| frame[0]).collect::<Vec<_>>(), order);
        // The first two left together, as they had arrived.
        assert_eq!(written.iter().map(|(time, _)| time.as_micros()).collect::<Vec<_>>(), micros);
    }

    #[test]
    fn pcapng_with_its_units_and_what_it_cannot_use() {
        let directory = Directory::new("pcapng");
        let path = directory.file("capture.pcapng");
        let mut writer = PcapNgWriter::new(File::create(&path).unwrap()).unwrap();
        let interface = |linktype, options| InterfaceDescriptionBlock { linktype, snaplen: 0, options };
        for block in [
            interface(DataLink::ETHERNET, vec![]),
            interface(DataLink::RAW, vec![]),
            interface(DataLink::ETHERNET, vec![InterfaceDescriptionOption::IfTsResol(9)]),
            interface(DataLink::ETHERNET, vec![InterfaceDescriptionOption::IfTsResol(0x8a)]),
        ] {
            writer.write_pcapng_block(block).unwrap();
        }
        let packet = |interface_id, stamp, data: &'static [u8], original_len| EnhancedPacketBlock {
            interface_id,
            // The crate writes nanoseconds where units of the interface belong.
            timestamp: Duration::from_nanos(stamp),
            original_len,
            data: Cow::Borrowed(data),
            options: vec![],
        };
        for block in [
            packet(1, 0, b"an IP packet", 12),
            packet(0, 1_500_000, b"micro", 5),
            packet(0, 1_600_000, b"cut off", 100),
            packet(2, 1_700_000_000, b"nano", 4),
            packet(3, 2048 + 512, b"power of two", 12),
        ] {
            writer.write_pcapng_block(block).unwrap();
        }
        let times: Vec<_> = read(&path).into_iter().map(|(time, frame)| (time.as_millis(), frame)).collect();
        assert_eq!(
            times,
            [(1500, b"micro".to_vec()), (1700, b"nano".to_vec()), (2500, b"power of two".to_vec())]
        );
        let pool = Pool::new(256, 2048).unwrap();
        let mut cache = pool.cache();
        let mut port = Replay::new().open(PortIndex(0), 1, &options(Some(path), None)).unwrap();
        let mut burst = Burst::new();
        assert_eq!(port.queues[0].receive(&mut cache, &mut burst), 3);
        assert!(port.queues[0].finished());
        assert_eq!(port.queues[0].counters().rx_errors, 2);
        burst.drain(..).for_each(|frame| cache.give(frame));
    }

    #[test]
    fn what_is_no_capture_is_refused_and_damage_is_told() {
        let directory = Directory::new("refused");
        let open = |path: &Path| Replay::new().open(PortIndex(0), 1, &options(Some(path.to_owned()), None));
        let path = directory.file("x");
        let refusal = |what: &str| {
            let error = open(&path).unwrap_err().to_string();
            let start = format!("cannot read the capture {}: ", path.display());
            assert!(error.starts_with(&start) && error.contains(what), "{error}");
        };
        refusal("No such file");
        fs::write(&path, "some text that is no capture").unwrap();
        refusal("it is neither pcap nor pcapng");
        let header = PcapHeader { datalink: DataLink::RAW, ..PcapHeader::default() };
        PcapWriter::with_header(File::create(&path).unwrap(), header).unwrap();
        refusal("link type 101");

        pcap(&path, &[]);
        assert!(open(&path).unwrap().queues[0].finished());

        pcap(&path, &[(1, 1), (2, 2)]);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let pool = Pool::new(256, 2048).unwrap();
        let mut cache = pool.cache();
        let mut port = open(&path).unwrap();
        let mut burst = Burst::new();
        assert_eq!(port.queues[0].receive(&mut cache, &mut burst), 1);
        burst.drain(..).for_each(|frame| cache.give(frame));
        assert!(port.queues[0].finished());
        assert_eq!(port.queues[0].counters().rx_errors, 1);
        let error = port.queues[0].close(&mut cache).unwrap_err().to_string();
        assert!(error.contains("is damaged"), "{error}");
    }

    #[test]
    fn a_frame_larger_than_a_slot_is_counted() {
        let directory = Directory::new("large");
        let path = directory.file("x");
        let mut writer = PcapWriter::new(File::create(&path).unwrap()).unwrap();
        for len in [2000, 100] {
            writer.write_packet(&PcapPacket::new_owned(Duration::ZERO, len, vec![0; len as usize])).unwrap();
        }
        drop(writer);
        let pool = Pool::new(64, 2048).unwrap();
        let mut cache = pool.cache();
        let mut port = Replay::new().open(PortIndex(0), 1, &options(Some(path), None)).unwrap();
        let mut burst = Burst::new();
        assert_eq!(port.queues[0].receive(&mut cache, &mut burst), 1);
        assert_eq!(burst[0].len(), 100);
        assert_eq!(port.queues[0].counters().rx_errors, 1);
        burst.drain(..).for_each(|frame| cache.give(frame));
    }
}
