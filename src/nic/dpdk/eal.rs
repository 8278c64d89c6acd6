//! DPDK's environment (EAL): started once a process from what the configuration says, ended when the last of its ports and
//! buffers is gone.

use std::collections::VecDeque;
use std::ffi::{CString, c_int};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::device::{DeviceName, invalid};
use super::sys;
use crate::base::hugepage::Pages;

/// Which pages DPDK's memory is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hugepages {
    /// Huge pages if enough of them are free, else ordinary ones.
    #[default]
    Auto,
    /// Huge pages, or DPDK is not started.
    Require,
    /// Ordinary pages.
    Off,
}

/// How DPDK is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The pages of its memory.
    pub hugepages: Hugepages,
    /// Memory in MiB; none: as the buffers need.
    pub memory: Option<u32>,
    /// Whether it opens its telemetry socket.
    pub telemetry: bool,
    /// Further arguments of the EAL.
    pub arguments: Vec<String>,
}

/// Memory beside the packet buffers, in bytes: descriptor rings, drivers' own.
const BESIDE: usize = 64 << 20;
/// Bytes of a MiB.
const MIB: usize = 1 << 20;
/// The level of an error.
const ERROR: c_int = 4;
/// Lines of DPDK's errors that are kept for an error message.
const KEPT: usize = 4;

/// Whether DPDK has been started in this process: it cannot be started twice.
static STARTED: AtomicBool = AtomicBool::new(false);
/// What DPDK complained of last.
static COMPLAINTS: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// DPDK at work in this process.
#[derive(Debug)]
pub(super) struct Eal {
    /// The pages of its memory.
    pub(super) pages: Pages,
}

impl Eal {
    /// Starts DPDK with room for `bytes` of packet buffers, and on these PCI devices.
    pub(super) fn start(options: &Options, devices: &[DeviceName], bytes: usize) -> io::Result<Arc<Self>> {
        let (memory, mut pages) = begin(options, bytes)?;
        let start = |pages| {
            initialise(arguments(options, devices, pages, memory, first_core()))
                .map_err(|error| in_words(&error))
        };
        let mut started = start(pages);
        if (options.hugepages, pages) == (Hugepages::Auto, Pages::Huge) {
            started = started.or_else(|error| {
                log::warn!("with huge pages {error}: it is tried with ordinary ones, which cost speed");
                pages = Pages::Small;
                telling(error, start(pages))
            });
        }
        started?;
        Ok(Arc::new(Self { pages }))
    }
}

impl Drop for Eal {
    fn drop(&mut self) {
        sys::end();
    }
}

/// What comes before a start, with room for `bytes` of packet buffers: how many bytes of which pages DPDK will take.
pub(super) fn begin(options: &Options, bytes: usize) -> io::Result<(usize, Pages)> {
    let memory = options.memory.map_or(bytes + BESIDE, |mib| mib as usize * MIB);
    let pages = pages(options.hugepages, memory, free_hugepages())?;
    if STARTED.swap(true, Ordering::AcqRel) {
        return Err(invalid("DPDK can be started only once in a process"));
    }
    sys::log_to_eal()?;
    Ok((memory, pages))
}

/// An error of starting, together with what DPDK said.
fn in_words(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("DPDK does not start: {}", explained(error)))
}

/// The outcome of a second try, with the error that says most. DPDK begins again if its first try failed before it came to its
/// memory, for instance because there was no file system of huge pages; later it says only that it was begun already.
fn telling(first: io::Error, second: io::Result<()>) -> io::Result<()> {
    second.map_err(|second| if second.kind() == io::ErrorKind::AlreadyExists { first } else { second })
}

/// Starts DPDK with these arguments.
fn initialise(arguments: Vec<String>) -> io::Result<()> {
    log::debug!("DPDK starts: {}", arguments.join(" "));
    let arguments: Vec<_> = arguments.into_iter().map(CString::new).collect::<Result<_, _>>()?;
    // DPDK pins the thread that starts it to a core. That shall be none of the gateway's.
    let starter = std::thread::Builder::new().name("natgate-dpdk".into());
    let started = starter.spawn(move || sys::start(&arguments))?.join();
    started.map_err(|_| io::Error::other("the thread that starts DPDK died"))?
}

/// An error together with what DPDK said before.
pub(super) fn explained(error: &io::Error) -> String {
    let complaints: Vec<_> = complaints().drain(..).collect();
    if complaints.is_empty() { error.to_string() } else { format!("{error} ({})", complaints.join("; ")) }
}

fn complaints() -> MutexGuard<'static, VecDeque<String>> {
    COMPLAINTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes what DPDK logs, at a level from 1 (emergency) to 8 (debug). Its complaints are repeated in an error message when
/// something fails, so they are not errors of their own: DPDK complains of much that is harmless.
pub(super) fn note(level: c_int, text: &str) {
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if level <= ERROR {
            log::warn!(target: "dpdk", "{line}");
            let mut kept = complaints();
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back(line.to_owned());
        } else {
            log::debug!(target: "dpdk", "{line}");
        }
    }
}

/// The pages to be used for `memory` bytes.
fn pages(wish: Hugepages, memory: usize, free: usize) -> io::Result<Pages> {
    let enough = free >= memory;
    match wish {
        Hugepages::Off => Ok(Pages::Small),
        Hugepages::Auto | Hugepages::Require if enough => Ok(Pages::Huge),
        Hugepages::Auto => {
            log::warn!(
                "DPDK takes ordinary pages, which cost speed: it needs {} MiB of huge pages and {} MiB are free; \
                 `dpdk-env/setup hugepages` sets them",
                memory.div_ceil(MIB),
                free / MIB
            );
            Ok(Pages::Small)
        }
        Hugepages::Require => Err(io::Error::new(
            io::ErrorKind::OutOfMemory,
            format!(
                "{} MiB of huge pages are needed and {} MiB are free: `dpdk-env/setup hugepages --mib {}` sets them; or \
                 dpdk.hugepages = \"off\"",
                memory.div_ceil(MIB),
                free / MIB,
                memory.div_ceil(MIB)
            ),
        )),
    }
}

/// The arguments of the EAL.
fn arguments(
    options: &Options,
    devices: &[DeviceName],
    pages: Pages,
    memory: usize,
    core: usize,
) -> Vec<String> {
    // One thread of DPDK's own, which sleeps; the workers are the gateway's.
    let mut all =
        vec!["natgate".to_owned(), format!("--lcores=0@{core}"), "--file-prefix=natgate".to_owned()];
    all.extend(memory_arguments(options, devices, pages, memory));
    let before = all.len();
    for device in devices {
        if let DeviceName::Pci(address) = device {
            all.extend(["-a".to_owned(), address.clone()]);
        }
    }
    if all.len() == before {
        all.push("--no-pci".to_owned());
    }
    all.extend(options.arguments.iter().cloned());
    all
}

/// Those that say what memory DPDK takes and who may see it.
pub(super) fn memory_arguments(
    options: &Options,
    devices: &[DeviceName],
    pages: Pages,
    memory: usize,
) -> Vec<String> {
    let mut all = Vec::new();
    if pages == Pages::Small {
        // Without files nobody else can take part, and without them two gateways do not meet.
        all.extend(["--no-huge".to_owned(), "--no-shconf".to_owned()]);
        all.push(format!("-m{}", memory.div_ceil(MIB)));
    } else {
        all.push("--in-memory".to_owned());
        // It shares its memory with its peer, which takes only a few pieces.
        if devices.iter().any(|device| device.name().starts_with("net_virtio_user")) {
            all.push("--single-file-segments".to_owned());
        }
        if options.memory.is_some() {
            all.push(format!("-m{}", memory.div_ceil(MIB)));
        }
    }
    if !options.telemetry {
        all.push("--no-telemetry".to_owned());
    }
    all
}

/// The first core that the process may run on.
fn first_core() -> usize {
    core_affinity::get_core_ids().and_then(|cores| cores.first().map(|core| core.id)).unwrap_or(0)
}

/// Bytes of huge pages of all sizes that are free.
fn free_hugepages() -> usize {
    let sizes = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    sizes.filter_map(|size| free_of_size(&size.path())).sum()
}

fn free_of_size(directory: &Path) -> Option<usize> {
    let name = directory.file_name()?.to_str()?;
    let kib: usize = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    let read = |file: &str| -> Option<usize> {
        std::fs::read_to_string(directory.join(file)).ok()?.trim().parse().ok()
    };
    Some(read("free_hugepages")?.saturating_sub(read("resv_hugepages")?) * kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_taken_if_there_are_enough() {
        assert_eq!(pages(Hugepages::Auto, 100 * MIB, 100 * MIB).unwrap(), Pages::Huge);
        assert_eq!(pages(Hugepages::Auto, 100 * MIB, 99 * MIB).unwrap(), Pages::Small);
        assert_eq!(pages(Hugepages::Off, 1, 100 * MIB).unwrap(), Pages::Small);
        let error = pages(Hugepages::Require, 100 * MIB, 2 * MIB).unwrap_err().to_string();
        assert!(error.contains("100 MiB of huge pages are needed and 2 MiB are free"), "{error}");
    }

    #[test]
    fn a_second_try_that_dpdk_refuses_does_not_hide_why_the_first_failed() {
        let first = || io::Error::from(io::ErrorKind::OutOfMemory);
        let of = |second: io::ErrorKind| telling(first(), Err(second.into())).unwrap_err().kind();
        assert_eq!(of(io::ErrorKind::AlreadyExists), io::ErrorKind::OutOfMemory);
        assert_eq!(of(io::ErrorKind::PermissionDenied), io::ErrorKind::PermissionDenied);
        telling(first(), Ok(())).unwrap();
    }

    #[test]
    fn only_named_pci_devices_are_touched() {
        let options = Options { arguments: vec!["--iova-mode=va".into()], ..Options::default() };
        let virtual_one = DeviceName::parse("net_null0,size=64").unwrap();
        let text = arguments(&options, &[virtual_one], Pages::Small, 70 * MIB, 3).join(" ");
        assert_eq!(
            text,
            "natgate --lcores=0@3 --file-prefix=natgate --no-huge --no-shconf -m70 --no-telemetry --no-pci --iova-mode=va"
        );
        let shared = DeviceName::parse("net_virtio_user0,path=wan.sock").unwrap();
        let text = arguments(&options, &[shared], Pages::Huge, 70 * MIB, 0).join(" ");
        assert!(text.contains("--in-memory --single-file-segments"), "{text}");
        let real = DeviceName::parse("0000:03:00.1").unwrap();
        let options = Options { telemetry: true, ..Options::default() };
        let text = arguments(&options, &[real], Pages::Huge, 70 * MIB, 0).join(" ");
        assert_eq!(text, "natgate --lcores=0@0 --file-prefix=natgate --in-memory -a 0000:03:00.1");
    }
}
