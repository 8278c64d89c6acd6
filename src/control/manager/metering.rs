//! What gateways and EIPs used, hour by hour; and what the thread that meters asks.

use std::sync::Arc;

use crate::base::time::Clock;
use crate::base::{EipIndex, GatewayIndex};
use crate::config::{Code, Name};
use crate::control::inventory::{Kind, Refusal};
use crate::control::manager::Manager;
use crate::control::metering::{Books, Metered, Source, Subject};
use crate::control::protocol::{End, Fault, FaultCode, MeteredHour, MeteringRequest};
use crate::control::time;
use crate::control::writer::refused;
use crate::nat::{self, UsageKind};

/// Hours that are told where a request says nothing, in seconds.
const LATELY: u64 = 24 * 3600;
/// Lines that are told at most where a request says nothing.
const LINES: u64 = 1_000_000;

impl Source for Manager {
    fn clock(&self) -> Clock {
        self.facts.clock
    }

    fn look_around(&self) {
        self.watch_ports();
    }

    fn settle(&self) -> Result<(), String> {
        Manager::settle(self).map_err(|fault| fault.message)
    }

    fn totals(&self) -> Result<Vec<(Subject, nat::Usage)>, String> {
        let directory = &self.view().directory;
        let of = |kind| self.totals_of(kind).map_err(|fault| fault.message);
        let gateways = of(UsageKind::Gateway)?.into_iter().filter_map(|(index, total)| {
            let name = directory.gateway(GatewayIndex(index))?;
            Some((Subject::Gateway(Name::new(name)?), total))
        });
        let eips = of(UsageKind::Eip)?
            .into_iter()
            .filter_map(|(index, total)| Some((Subject::Eip(directory.eip(EipIndex(index))?), total)));
        Ok(gateways.chain(eips).collect())
    }
}

impl Manager {
    /// From now on these books answer what was used.
    pub fn attach_books(&self, books: Arc<Books>) {
        // Once, at the start.
        let _ = self.books.set(books);
    }

    /// What gateways and EIPs used, hour by hour.
    ///
    /// # Errors
    /// No books are kept, they cannot be read, or a time is none.
    pub fn metering(&self, request: &MeteringRequest) -> Result<(Vec<MeteredHour>, End), Fault> {
        let books = self.books.get().ok_or_else(|| {
            Fault::new(FaultCode::BadRequest, "usage is not metered").hint("give [metering] a path")
        })?;
        let moment = |parameter, text: &Option<String>| {
            let parse = |text: &String| {
                let hint = "write the time in UTC, such as 2026-01-31T23:00:00Z";
                time::parse(text)
                    .ok_or_else(|| refused(Refusal::new(Code::InvalidTime, parameter).value(text)).hint(hint))
            };
            text.as_ref().map(parse).transpose()
        };
        let from = moment("from", &request.from)?;
        let to = moment("to", &request.to)?;
        let end = to.unwrap_or_else(|| time::now() + 1);
        let start = from.unwrap_or_else(|| end.saturating_sub(LATELY));
        let gateway = request.gateway.as_deref();
        // One that is gone has its hours still, under the name that it had.
        let called = |name: &str| self.called(Kind::Gateway, "gateway", name).unwrap_or_else(|_| name.into());
        let gateway = gateway.map(called);
        let wanted = |subject: &Subject| match (subject, &gateway, request.eip) {
            (_, None, None) => true,
            (Subject::Gateway(name), Some(wanted), None) => name.as_str() == wanted,
            (Subject::Eip(address), None, Some(wanted)) => *address == wanted,
            _ => false,
        };
        if gateway.is_some() && request.eip.is_some() {
            return Err(Fault::new(FaultCode::BadRequest, "gateway and eip cannot both be given")
                .hint("an EIP's usage is told by the EIP alone"));
        }
        let limit = usize::try_from(request.limit.unwrap_or(LINES)).unwrap_or(usize::MAX);
        let running = books.running_hour();
        let (rows, truncated) = books
            .hours(start..end, wanted, limit)
            .map_err(|error| Fault::new(FaultCode::Failed, format!("metering: {error}")))?;
        let rows: Vec<_> = rows.into_iter().map(|row| told(row, running)).collect();
        let count = rows.len() as u64;
        Ok((rows, End { count, truncated, ..End::default() }))
    }
}

fn told(Metered { hour, subject, used }: Metered, running: u64) -> MeteredHour {
    MeteredHour {
        hour: time::format(hour),
        kind: subject.kind().to_owned(),
        name: subject.name(),
        peak_new_sessions: used.peak_new_sessions,
        peak_sessions: used.peak_sessions,
        bytes_out: used.bytes_out,
        bytes_in: used.bytes_in,
        capacity_units: used.capacity_units(),
        complete: hour < running,
    }
}
