//! Copying the next frames, with what becomes of each.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::time::Duration;

use crate::control::address::Protocol;
use crate::control::manager::{Manager, View, names};
use crate::control::protocol::{CaptureRequest, Captured, End, Fault, FaultCode};
use crate::nat::{CaptureFilter, CaptureRecord, Verdict, Way};
use crate::wire::Arrival;
use crate::worker::ask::TraceError;

/// Pause between two looks at what was captured.
const PAUSE: Duration = Duration::from_millis(5);
/// The longest that a capture may last, in seconds.
const LONGEST: f64 = 86_400.0;
/// The fewest bytes of a frame that say anything: its Ethernet header.
const SHORTEST: u32 = 14;

impl Manager {
    /// Captures the next frames that match: gives each to `each` as it comes, and nothing now and then, to ask whether to go
    /// on.
    ///
    /// # Errors
    /// A name that is not configured, no frame wanted, another capture in progress, or a worker that does not answer.
    pub fn capture(
        &self,
        request: &CaptureRequest,
        each: &mut dyn FnMut(Option<Captured>) -> ControlFlow<()>,
    ) -> Result<End, Fault> {
        if request.packets == Some(0) {
            return Err(Fault::new(FaultCode::BadRequest, "packets = 0: a capture has at least one frame")
                .hint("write a number from 1, or none for as many as come"));
        }
        let view = self.view();
        let filter = filter(&view, request)?;
        let seconds = request.seconds.map_or(f64::MAX, |seconds| seconds.min(LONGEST));
        let most = Duration::try_from_secs_f64(seconds.min(LONGEST)).map_err(|_| {
            let message = format!("seconds {seconds} is no time");
            Fault::new(FaultCode::BadRequest, message).hint("write a number of seconds from 0 to 86400")
        })?;
        let mut capturing = self.running.capture(filter).map_err(|error| match error {
            TraceError::Busy => Fault::new(FaultCode::Busy, "another capture is in progress")
                .hint("try again when it has ended"),
            TraceError::Silent(_) => Fault::new(FaultCode::Unavailable, error.to_string()),
        })?;
        let wanted = request.packets.unwrap_or(u64::MAX);
        let start = self.facts.clock.now();
        let mut end = End::default();
        let mut bytes = Vec::new();
        let mut left = false;
        let mut is_last = false;
        loop {
            let mut take = |record: &CaptureRecord, bytes: &[u8]| {
                end.count += 1;
                end.lost += record.lost;
                left = each(Some(self.captured(&view, record, bytes))).is_break();
                if left || end.count >= wanted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let has_all = capturing.read(&mut bytes, &mut take).is_break();
            if has_all || is_last || left || each(None).is_break() {
                break;
            }
            if self.is_stopping() || request.seconds.is_some() && self.facts.clock.now().since(start) >= most
            {
                // What the workers have taken by now is read in one more round.
                end.lost += capturing.end();
                end.truncated = request.packets.is_some();
                is_last = true;
            } else {
                std::thread::sleep(PAUSE);
            }
        }
        if !is_last {
            end.lost += capturing.end();
        }
        Ok(end)
    }

    fn captured(&self, view: &View, record: &CaptureRecord, bytes: &[u8]) -> Captured {
        let at = self.facts.clock.unix(record.at);
        Captured {
            port: names::port(&view.directory, record.port),
            outbound: !matches!(record.way, Way::In { .. }),
            at_unix_nanoseconds: at.as_nanos() as u64,
            length: record.length,
            bytes: hex(bytes),
            comment: comment(view, record),
            lost: record.lost,
        }
    }
}

fn filter(view: &View, request: &CaptureRequest) -> Result<CaptureFilter, Fault> {
    let CaptureRequest { port, protocol, host, eip, dropped, snap_length, .. } = request;
    let all = CaptureFilter::default();
    let snap = match snap_length {
        Some(length) if *length < SHORTEST => {
            let message = format!("snap_length {length} is less than an Ethernet header");
            return Err(Fault::new(FaultCode::BadRequest, message)
                .hint(format!("write a number of bytes from {SHORTEST}, or none for all")));
        }
        Some(length) => (*length as usize).min(all.snap),
        None => all.snap,
    };
    Ok(CaptureFilter {
        port: port.as_deref().map(|name| view.port_named(name)).transpose()?,
        protocol: protocol.map(|Protocol(protocol)| protocol),
        address: host.and_then(|host| host.prefix),
        transport_port: host.and_then(|host| host.port),
        eip: eip.map(u32::from),
        dropped: *dropped,
        snap,
    })
}

/// What became of a frame, on one line.
fn comment(view: &View, record: &CaptureRecord) -> String {
    let directory = &view.directory;
    let mut text = match record.way {
        Way::In { arrival, verdict, interface } => {
            let mut text = told(view, verdict);
            if let Some(interface) = interface {
                let _ = write!(text, "; came in on {}", names::interface(directory, interface));
            }
            match arrival {
                Arrival::Wire => {}
                Arrival::Fragment | Arrival::Handed => text.push_str(", handed over by another worker"),
                Arrival::Hairpin => text.push_str(", turned round inside the gateway"),
            }
            text
        }
        Way::Out { from } => format!("sent; came in on port {}", names::port(directory, from)),
        Way::Own => "sent by the gateway itself".to_owned(),
        Way::Released => "sent after it had waited".to_owned(),
    };
    if let Some(flow) = &record.flow {
        let _ = write!(text, "; {}", names::entry(directory, flow.entry));
    }
    let _ = write!(text, "; worker {}", record.worker);
    text
}

fn told(view: &View, verdict: Verdict) -> String {
    match verdict {
        Verdict::Send { port, .. } => format!("sent by port {}", names::port(&view.directory, port)),
        Verdict::Hand { to, .. } => format!("handed to worker {to}"),
        Verdict::Consumed => "meant for the gateway itself".to_owned(),
        Verdict::Held => "held until its next hop or first fragment is known".to_owned(),
        Verdict::Drop(reason) => format!("dropped, {reason}: {}", reason.description()),
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}
