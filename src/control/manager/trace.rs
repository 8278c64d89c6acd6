//! Showing what becomes of the next packets.

use std::ops::ControlFlow;
use std::time::Duration;

use crate::control::address::{AddressFilter, Protocol};
use crate::control::manager::{Manager, View, names};
use crate::control::protocol::{End, Fault, FaultCode, Step, Trace, TraceRequest};
use crate::nat::lane::Next;
use crate::nat::{TraceFilter, TraceRecord, Verdict};
use crate::wire::Arrival;
use crate::worker::ask::TraceError;

/// Pause between two looks at what was recorded.
const PAUSE: Duration = Duration::from_millis(10);
/// The longest that a trace may wait, in seconds.
const LONGEST: f64 = 86_400.0;

impl Manager {
    /// Follows the next packets that match: gives each to `each` as it comes. `waiting` is asked now and then whether to
    /// go on.
    ///
    /// # Errors
    /// A name that is not configured, another trace in progress, or a worker that does not answer.
    pub fn trace(
        &self,
        request: &TraceRequest,
        each: &mut dyn FnMut(Option<Trace>) -> ControlFlow<()>,
    ) -> Result<End, Fault> {
        let view = self.view();
        let TraceRequest { packets, timeout_seconds, .. } = *request;
        let timeout = Duration::try_from_secs_f64(timeout_seconds.min(LONGEST)).map_err(|_| {
            let message = format!("timeout_seconds {timeout_seconds} is no time");
            Fault::new(FaultCode::BadRequest, message).hint("write a number of seconds from 0 to 86400")
        })?;
        let filter = filter(&view, request)?;
        let mut trace = self.running.trace(filter).map_err(|error| match error {
            TraceError::Busy => {
                Fault::new(FaultCode::Busy, error.to_string()).hint("try again when it has ended")
            }
            TraceError::Silent(_) => Fault::new(FaultCode::Unavailable, error.to_string()),
        })?;
        let mut end = End::default();
        let start = self.facts.clock.now();
        while end.count < u64::from(packets) {
            if self.is_stopping() || self.facts.clock.now().since(start) >= timeout {
                end.truncated = true;
                break;
            }
            std::thread::sleep(PAUSE);
            let records =
                trace.look().map_err(|silent| Fault::new(FaultCode::Unavailable, silent.to_string()))?;
            for record in records.iter().filter(|record| admits(request, record)) {
                end.count += 1;
                if each(Some(self.told(&view, record))).is_break() {
                    return Ok(end);
                }
                if end.count >= u64::from(packets) {
                    break;
                }
            }
            if each(None).is_break() {
                return Ok(end);
            }
        }
        Ok(end)
    }

    fn told(&self, view: &View, record: &TraceRecord) -> Trace {
        Trace {
            worker: record.worker.0,
            at_seconds: record.at.since(self.started).as_secs_f64(),
            port: names::port(&view.directory, record.port),
            packet: names::packet(&record.before),
            steps: steps(view, record),
            verdict: verdict(view, record.verdict),
        }
    }
}

/// What the workers' filter can say of the request; it knows no direction.
fn filter(view: &View, request: &TraceRequest) -> Result<TraceFilter, Fault> {
    let TraceRequest { protocol, source, destination, host, port, .. } = request;
    let prefix = |filter: &Option<AddressFilter>| filter.and_then(|filter| filter.prefix);
    let number = |filter: &Option<AddressFilter>| filter.and_then(|filter| filter.port);
    // The end that says most comes first.
    let mut ends: Vec<_> = [host, source, destination].into_iter().filter(|end| end.is_some()).collect();
    ends.sort_by_key(|end| prefix(end).is_none());
    let first = ends.first().copied().unwrap_or(&None);
    // With `host` the other end is not that of source or destination for sure.
    let second = if host.is_some() { &None } else { ends.get(1).copied().unwrap_or(&None) };
    Ok(TraceFilter {
        port: port.as_deref().map(|name| view.port_named(name)).transpose()?,
        protocol: protocol.map(|Protocol(protocol)| protocol),
        address: prefix(first),
        other: prefix(second),
        transport_port: number(first),
    })
}

/// Whether a packet that passed the workers' filter is one that was asked for.
fn admits(request: &TraceRequest, record: &TraceRecord) -> bool {
    let key = &record.key;
    let source = (key.source, key.source_port);
    let destination = (key.destination, key.destination_port);
    let matches = |filter: &Option<AddressFilter>, (address, port): (u32, u16)| {
        filter.is_none_or(|filter| {
            filter.prefix.is_none_or(|prefix| prefix.contains(address))
                && filter.port.is_none_or(|wanted| wanted == port)
        })
    };
    matches(&request.source, source)
        && matches(&request.destination, destination)
        && (matches(&request.host, source) || matches(&request.host, destination))
        && (!request.dropped || matches!(record.verdict, Verdict::Drop(_)))
}

fn steps(view: &View, record: &TraceRecord) -> Vec<Step> {
    let directory = &view.directory;
    let step = |stage: &str, decision: String| Step { stage: stage.to_owned(), decision };
    let arrival = match record.arrival {
        Arrival::Wire => "from the wire",
        Arrival::Fragment => "a fragment, handed over by another worker",
        Arrival::Handed => "handed over by another worker",
        Arrival::Hairpin => "turned round inside the gateway by another worker",
    };
    let interface = names::interface(directory, record.interface);
    let mut steps = vec![step("arrival", format!("{arrival}, on interface {interface}"))];
    let parsed = match record.next {
        Next::Plain | Next::Flow => "a packet of a flow".to_owned(),
        Next::IcmpError => "an ICMP error".to_owned(),
        Next::LaterFragment => "a fragment, not the first".to_owned(),
        Next::Arp => "an ARP packet".to_owned(),
        Next::Drop(reason) => format!("refused: {reason}"),
    };
    steps.push(step("parse", parsed));
    if let Some(flow) = &record.flow {
        let known = if record.had_session { "known" } else { "new" };
        let end = |end| names::endpoint(flow.protocol, end);
        let ends = format!("{} as {} with {}", end(flow.inside), end(flow.external), end(flow.peer));
        steps.push(step("session", format!("{known} {}: {ends}", names::kind(flow.kind))));
        steps.push(step("entry", names::entry(directory, flow.entry)));
    } else if record.next.is_flow() {
        steps.push(step("session", "none".to_owned()));
    }
    if let Some(after) = &record.after {
        steps.push(step("rewrite", names::packet(after)));
    }
    steps
}

fn verdict(view: &View, verdict: Verdict) -> String {
    match verdict {
        Verdict::Send { port, len, .. } => {
            format!("sent by port {}, {len} bytes", names::port(&view.directory, port))
        }
        Verdict::Hand { to, .. } => format!("handed to worker {to}"),
        Verdict::Consumed => "meant for the gateway itself, which has taken note".to_owned(),
        Verdict::Held => "waits for the next hop's Ethernet address".to_owned(),
        Verdict::Drop(reason) => format!("dropped, {reason}: {}", reason.description()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{DropReason, InterfaceIndex, Moment, PortIndex, WorkerIndex};
    use crate::config;
    use crate::nat::key::FlowKey;
    use crate::wire::Datagram;

    fn view() -> View {
        let text =
            "[[port]]\nname = \"wan\"\ndevice = \"eth0\"\n[[port]]\nname = \"lan\"\ndevice = \"eth1\"\n";
        View { model: config::parse(text, "test.toml").unwrap().into(), directory: std::sync::Arc::default() }
    }

    fn request() -> TraceRequest {
        serde_json::from_str("{\"packets\":1,\"timeout_seconds\":1}").unwrap()
    }

    fn with(change: impl FnOnce(&mut TraceRequest)) -> TraceRequest {
        let mut request = request();
        change(&mut request);
        request
    }

    fn at(text: &str) -> AddressFilter {
        text.parse().unwrap()
    }

    /// A packet from 10.0.0.1:1000 to 192.0.2.1:80 that is dropped.
    fn record() -> TraceRecord {
        let before = Datagram {
            source: 0x0a00_0001,
            source_port: 1000,
            destination: 0xc000_0201,
            destination_port: 80,
            protocol: 6,
            ..Datagram::default()
        };
        TraceRecord {
            worker: WorkerIndex(0),
            at: Moment::default(),
            arrival: Arrival::Wire,
            port: PortIndex(1),
            interface: InterfaceIndex(0),
            key: FlowKey::of(&before, 1),
            before,
            next: Next::Flow,
            had_session: false,
            flow: None,
            verdict: Verdict::Drop(DropReason::NoSnatEntry),
            after: None,
        }
    }

    #[test]
    fn the_direction_counts() {
        let record = record();
        for (request, expected) in [
            (request(), true),
            (with(|r| r.source = Some(at("10.0.0.0/8:1000"))), true),
            (with(|r| r.source = Some(at("192.0.2.1"))), false),
            (with(|r| r.destination = Some(at(":80"))), true),
            (with(|r| r.destination = Some(at(":1000"))), false),
            (with(|r| r.host = Some(at("192.0.2.1:80"))), true),
            (with(|r| r.host = Some(at("192.0.2.1:1000"))), false),
            (with(|r| r.dropped = true), true),
        ] {
            assert_eq!(admits(&request, &record), expected, "{request:?}");
        }
        let sent = TraceRecord { verdict: Verdict::Consumed, ..record };
        assert!(!admits(&with(|r| r.dropped = true), &sent));
    }

    #[test]
    fn the_workers_filter_never_excludes_what_is_asked_for() {
        // Each of these admits `record`, so what the workers compare must agree with it in one direction or the other.
        let view = view();
        let filter = |request: TraceRequest| filter(&view, &request).unwrap();
        let both =
            filter(with(|r| (r.source, r.destination) = (Some(at(":1000")), Some(at("192.0.2.1:80")))));
        assert_eq!((both.address, both.transport_port, both.other), (at("192.0.2.1").prefix, Some(80), None));
        let both =
            filter(with(|r| (r.source, r.destination) = (Some(at("10.0.0.1")), Some(at("192.0.2.1")))));
        assert_eq!((both.address, both.other), (at("10.0.0.1").prefix, at("192.0.2.1").prefix));
        let mixed = filter(with(|r| (r.host, r.source) = (Some(at("10.0.0.1")), Some(at("10.0.0.1")))));
        assert_eq!(mixed.other, None);
        assert_eq!(filter(with(|r| r.port = Some("lan".into()))).port, Some(PortIndex(1)));
        let fault = super::filter(&view, &with(|r| r.port = Some("dmz".into()))).unwrap_err();
        assert_eq!(fault.hint.as_deref(), Some("configured: lan, wan"));
    }
}
