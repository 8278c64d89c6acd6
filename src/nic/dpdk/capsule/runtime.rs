//! capsule's runtime on a thread of its own, and the pipelines on its cores.

use std::collections::HashMap;
use std::ffi::CString;
use std::future::Future;
use std::io;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use capsule::batch::Pipeline;
use capsule::config::RuntimeConfig;
use capsule::{PortQueue, Runtime};
use signal_hook::consts::SIGHUP;

use super::queue::Place;
use super::sys;
use crate::nic::crew::Work;
use crate::nic::dpdk::sys as dpdk;

/// How often capsule's main core looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(10);
/// How long a core without work waits before it looks again.
const NAP: Duration = Duration::from_millis(1);
/// How long stopping may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Queues of one core, by the name of their port.
pub(super) type Places = Vec<(String, Place)>;

/// What is done on a core.
pub(super) struct Post {
    pub(super) core: usize,
    pub(super) work: Receiver<Work>,
    pub(super) places: Places,
}

/// Keeps capsule's runtime with its buffers until it is dropped; ports may be stopped before.
#[derive(Debug)]
pub(super) struct Keeper {
    stop: Arc<AtomicBool>,
    /// Dropped, it lets the runtime end.
    leave: Mutex<Option<Sender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // In case that no port ever was at work.
        self.stop.store(true, Ordering::Release);
        drop(self.leave.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(thread) = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take()
            && thread.join().is_err()
        {
            log::warn!("capsule's runtime died when it was to end");
        }
    }
}

/// Ports at work. Their queues hold it; with the last of them they are stopped.
#[derive(Debug)]
pub(super) struct Running {
    stop: Arc<AtomicBool>,
    /// Says how the run has ended.
    ended: Mutex<Receiver<io::Result<()>>>,
    is_stopped: bool,
    /// Held by whoever reads the counters of ports: some drivers add up registers that reading clears.
    pub(super) reading: Mutex<()>,
}

impl Running {
    /// Stops the ports; what their rings held goes back to the pool.
    pub(super) fn stop(mut self) -> io::Result<()> {
        self.halt()
    }

    fn halt(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.is_stopped, true) {
            return Ok(());
        }
        self.stop.store(true, Ordering::Release);
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        match ended.recv_timeout(PATIENCE) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => Err(io::Error::other("capsule's runtime does not stop")),
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("capsule's runtime died")),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.halt() {
            log::warn!("capsule: {error}");
        }
    }
}

/// Starts capsule's runtime, with a pipeline on each core that waits for its work. The ports are started when it returns.
pub(super) fn start(config: RuntimeConfig, main: usize, posts: Vec<Post>) -> io::Result<(Keeper, Running)> {
    let (started, is_started) = channel();
    let (end, ended) = channel();
    let (leave, may_leave) = channel();
    let stop = Arc::new(AtomicBool::new(false));
    let to_stop = Arc::clone(&stop);
    let ports = posts.first().map(|post| post.places.iter().map(|(port, _)| port.clone()).collect());
    let ports: Vec<String> = ports.unwrap_or_default();
    let life = move || {
        let mut runtime = match build(config, main, posts, &to_stop, &started) {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = started.send(Err(error));
                return;
            }
        };
        let executed = runtime.execute().map_err(explained);
        let closed = ports.iter().map(|port| close(port)).fold(Ok(()), Result::and);
        // Nobody listens any more to how it started, unless it did not.
        if let Err(error) = &executed {
            let _ = started.send(Err(io::Error::new(error.kind(), error.to_string())));
        }
        let _ = end.send(executed.and(closed));
        // capsule frees its buffers with the rest: it may do so when the gateway has none of them any more.
        let _ = may_leave.recv();
    };
    let thread = std::thread::Builder::new().name("natgate-capsule".into()).spawn(life)?;
    let keeper =
        Keeper { stop: Arc::clone(&stop), leave: Mutex::new(Some(leave)), thread: Mutex::new(Some(thread)) };
    is_started.recv().map_err(|_| io::Error::other("the thread that starts capsule died"))??;
    let running = Running { stop, ended: Mutex::new(ended), is_stopped: false, reading: Mutex::default() };
    Ok((keeper, running))
}

/// Closes a port, started or not. capsule itself closes ports only when it ends, and some drivers (virtio, tap) keep the
/// buffers in their rings until then.
fn close(port: &str) -> io::Result<()> {
    let port = dpdk::port_of(&CString::new(port)?)?;
    dpdk::stop_port(port)
}

/// Sets up all that runs; `started` is told when it does.
fn build(
    config: RuntimeConfig,
    main: usize,
    posts: Vec<Post>,
    stop: &Arc<AtomicBool>,
    started: &Sender<io::Result<()>>,
) -> io::Result<Runtime> {
    let mut runtime = Runtime::build(config).map_err(explained)?;
    // Signals are the gateway's: capsule is stopped by one that it raises itself when it is told to stop, as it knows no
    // other way.
    let to_stop = Arc::clone(stop);
    runtime.set_on_signal(move |_| to_stop.load(Ordering::Acquire));
    let (to_stop, started) = (Arc::clone(stop), started.clone());
    let look = move || {
        // capsule has started its ports when it comes here first; afterwards nobody listens.
        let _ = started.send(Ok(()));
        if to_stop.load(Ordering::Acquire) && signal_hook::low_level::raise(SIGHUP).is_err() {
            log::warn!("capsule cannot be stopped: no signal can be raised");
        }
    };
    runtime.add_periodic_task_to_core(main, look, LOOK).map_err(explained)?;
    for Post { core, work, places } in posts {
        // capsule wants what it installs to be shareable, which a receiver is not.
        let work = Mutex::new(work);
        let install = move |mut queues: HashMap<String, PortQueue>| {
            for (port, place) in places {
                *place.lock().unwrap_or_else(PoisonError::into_inner) = queues.remove(&port);
            }
            Stage::new(core != main, work.into_inner().unwrap_or_else(PoisonError::into_inner))
        };
        runtime.add_pipeline_to_core(core, install).map_err(explained)?;
    }
    Ok(runtime)
}

/// An error of capsule's with its causes.
fn explained(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{error:#}"))
}

/// A pipeline whose one stage is a worker: it receives from all ports and sends by all, whole batches at a time, so what
/// capsule asks for each packet that goes from stage to stage is not asked.
struct Stage {
    work: Result<Work, Receiver<Work>>,
    /// Whether the thread was made known to DPDK here.
    is_registered: bool,
}

impl Stage {
    /// On the core's own thread. DPDK knows the main core's already.
    fn new(is_unknown: bool, work: Receiver<Work>) -> Self {
        sys::enter();
        let registered = if is_unknown { dpdk::register_thread() } else { Ok(()) };
        if let Err(error) = &registered {
            log::warn!("DPDK does not take a core of capsule's, so buffers have no cache: {error}");
        }
        Self { work: Err(work), is_registered: is_unknown && registered.is_ok() }
    }

    /// One run.
    fn run(&mut self) -> ControlFlow<()> {
        match &mut self.work {
            Ok(work) => work(),
            Err(waiting) => match waiting.try_recv() {
                Ok(work) => {
                    self.work = Ok(work);
                    ControlFlow::Continue(())
                }
                Err(TryRecvError::Empty) => {
                    std::thread::sleep(NAP);
                    ControlFlow::Continue(())
                }
                Err(TryRecvError::Disconnected) => ControlFlow::Break(()),
            },
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.is_registered {
            dpdk::unregister_thread();
        }
    }
}

impl Pipeline for Stage {
    fn name(&self) -> &'static str {
        "natgate"
    }

    fn run_once(&mut self) {
        let _ = self.run();
    }
}

impl Future for Stage {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match self.get_mut().run() {
            ControlFlow::Break(()) => Poll::Ready(()),
            ControlFlow::Continue(()) => {
                // Others of the core have their turn before the next run.
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}
