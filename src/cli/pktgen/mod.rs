//! `natgate pktgen`: from arguments to trials. The sending is [`crate::pktgen`]'s, the look of its results [`render`]'s.

mod render;

use std::io;
use std::time::Duration;

use serde::Serialize;

use super::args::{PktgenArgs, PktgenBackend};
use super::{Console, Exit};
use crate::nic::open::Backend;
use crate::pktgen::trial::{Lab, Trial};
use crate::pktgen::{FlowPlan, Found, Gateway, Goal, Ports, Traffic};

/// Why it did not end well.
#[derive(Debug)]
enum Failed {
    Input(String),
    Run(io::Error),
    Print(io::Error),
}

/// What `--json` prints: a trial or a search, and between which ports.
#[derive(Serialize)]
struct Report<'a, T> {
    sender: &'a str,
    receiver: &'a str,
    flows: u64,
    #[serde(flatten)]
    result: T,
}

/// Sends what is asked for and prints what became of it.
pub fn execute(args: &PktgenArgs, console: &mut Console<'_>) -> Exit {
    match run(args, console).and_then(|()| console.out.flush().map_err(Failed::Print)) {
        Ok(()) => Exit::Success,
        Err(Failed::Print(error)) => console.broken(&error),
        Err(Failed::Input(message)) => {
            console.error(message, None);
            Exit::Input
        }
        Err(Failed::Run(error)) => {
            console.error(&error, None);
            Exit::Failure
        }
    }
}

fn run(args: &PktgenArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    let plan = plan(args).map_err(Failed::Input)?;
    let goal = Goal { limit: args.rate.0, loss: args.loss, resolution: args.resolution };
    let mut hosts = [args.answer.clone(), args.answer.clone()];
    hosts[0].push(args.source);
    let mut lab = Lab::open(&plan.ports, hosts).map_err(Failed::Run)?;
    let result = measure(args, &plan, goal, &mut lab, console);
    let closed = lab.close().map_err(Failed::Run);
    result.and(closed)
}

fn measure(
    args: &PktgenArgs,
    plan: &Plan,
    goal: Goal,
    lab: &mut Lab,
    console: &mut Console<'_>,
) -> Result<(), Failed> {
    let gateway = lab.gateway(plan.gateway).map_err(Failed::Run)?;
    let traffic = Traffic { gateway, ..plan.traffic.clone() };
    let modes = [&lab.sender, &lab.receiver].map(|station| {
        let info = station.info();
        format!("{} ({})", info.device, info.mode)
    });
    if !args.json {
        let heading = render::heading(&modes, &traffic);
        console.out.write_all(heading.as_bytes()).map_err(Failed::Print)?;
    }
    lab.warm_up(&traffic, args.warm_up.map(Duration::from_secs_f64)).map_err(Failed::Run)?;
    let mut broken = Ok(());
    let mut trial = |rate| {
        let trial = lab.run(&traffic, rate)?;
        if !args.json && broken.is_ok() {
            broken =
                console.out.write_all(render::trial(&trial).as_bytes()).and_then(|()| console.out.flush());
        }
        Ok(trial)
    };
    let result = if args.find_rate {
        Outcome::Found(goal.search(trial).map_err(Failed::Run)?)
    } else {
        Outcome::Trial(Box::new(trial(args.rate.0).map_err(Failed::Run)?))
    };
    broken.map_err(Failed::Print)?;
    let text = if args.json {
        let [sender, receiver] = &modes;
        let report = Report { sender, receiver, flows: args.flows, result };
        serde_json::to_string(&report).map_err(|error| Failed::Print(error.into()))? + "\n"
    } else {
        match &result {
            Outcome::Found(found) => render::found(found, goal.loss),
            Outcome::Trial(trial) => render::notes(trial),
        }
    };
    console.out.write_all(text.as_bytes()).map_err(Failed::Print)
}

#[derive(Serialize)]
#[serde(untagged)]
enum Outcome {
    Trial(Box<Trial>),
    Found(Found),
}

/// What the arguments mean.
#[derive(Debug)]
struct Plan {
    ports: Ports,
    gateway: Gateway,
    traffic: Traffic,
}

fn plan(args: &PktgenArgs) -> Result<Plan, String> {
    let devices = || match (&args.send, &args.receive) {
        (Some(sender), Some(receiver)) if sender != receiver => Ok((sender.clone(), receiver.clone())),
        (Some(_), Some(_)) => Err("--send and --receive must be two devices".to_owned()),
        _ => Err("--send and --receive say which devices are used (or --backend memory: none)".to_owned()),
    };
    let ports = match args.backend {
        PktgenBackend::Memory if args.send.is_some() || args.receive.is_some() => {
            return Err("with --backend memory there are no devices to --send or --receive".to_owned());
        }
        PktgenBackend::Memory => Ports::Cable,
        PktgenBackend::Dpdk => {
            let (sender, receiver) = devices()?;
            Ports::Dpdk { sender, receiver }
        }
        PktgenBackend::Auto | PktgenBackend::AfXdp | PktgenBackend::AfPacket => {
            let (sender, receiver) = devices()?;
            let backend = match args.backend {
                PktgenBackend::AfXdp => Backend::AfXdp,
                PktgenBackend::AfPacket => Backend::AfPacket,
                _ => Backend::Auto,
            };
            Ports::Devices { sender, receiver, backend }
        }
    };
    let gateway = match (&ports, args.gateway, args.gateway_mac) {
        (Ports::Cable, None, None) => Gateway::Receiver,
        (Ports::Cable, _, _) => return Err("with --backend memory there is no gateway".to_owned()),
        (_, _, Some(mac)) => Gateway::Mac(mac.0),
        (_, Some(address), None) => {
            let from = args.address.map_or_else(|| args.source.nth(0), u32::from);
            Gateway::Neighbour { from, address: address.into() }
        }
        (_, None, None) => return Err("--gateway or --gateway-mac says whom to send to".to_owned()),
    };
    let new_flows = args.new_flows.0.ok_or("--new-flows is a number, not max")?;
    let flows = FlowPlan {
        sources: args.source,
        destinations: args.destination,
        destination_port: args.port,
        flows: args.flows,
        order: args.order,
        new_flows,
    };
    if flows.flows > flows.room() {
        return Err(format!(
            "{} flows do not fit: the sources and destinations have room for {}",
            flows.flows,
            flows.room()
        ));
    }
    let traffic = Traffic {
        flows,
        size: args.size,
        both_ways: args.both_ways,
        duration: Duration::from_secs_f64(args.seconds),
        gateway: [0; 6],
    };
    Ok(Plan { ports, gateway, traffic })
}

#[cfg(test)]
mod tests;
