//! Ports, interfaces, routes, VPCs and gateways.

use std::sync::Arc;

use super::{Compiler, PortFacts};
use crate::base::GatewayIndex;
use crate::config::model::{Link, Model, Outside, SegmentSize};
use crate::config::words::Vlan;
use crate::policy::{Edit, Gateway, Interface, Meter, PortVlans, Prefix, Realm, Route, Topology, Vpc};

impl Compiler {
    pub(super) fn topology(&self, model: &Model, ports: &[PortFacts], edit: &mut Edit) {
        let mut interfaces: Vec<Option<Interface>> = vec![None; self.interface_slots()];
        let mut topology = Topology {
            ports: vec![PortVlans::default(); ports.len()],
            vpcs: vec![Vpc::default(); self.vpcs.len()],
            ..Topology::default()
        };
        let mut add = |link: &Link,
                       prefix: Prefix,
                       realm: Realm,
                       tcp_mss: Option<SegmentSize>,
                       vlans: &mut [PortVlans]| {
            let index = self.interface_index(link);
            let vlan = link.vlan.map(Vlan::get);
            let facts = ports[link.port.index()];
            vlans[link.port.index()].attach(vlan, index);
            interfaces[index.index()] = Some(Interface {
                port: link.port,
                vlan,
                mac: facts.mac,
                address: link.address.into(),
                prefix,
                realm,
                mtu: link.mtu.unwrap_or(facts.mtu),
                tcp_mss: tcp_mss.map(|size| match size {
                    // No more than the MTU has room for goes across it in any case.
                    SegmentSize::Mtu => u16::MAX,
                    SegmentSize::Bytes(bytes) => bytes,
                }),
            });
            index
        };
        for outside in model.outside() {
            let Outside { link, prefix, gateway, routes, tcp_mss, public } = outside;
            let interface = add(link, *prefix, Realm::Outside, *tcp_mss, &mut topology.ports);
            topology.outside_routes.insert(*prefix, Route { interface, next_hop: None });
            let by_hop = routes.iter().map(|route| (route.to, route.via));
            for (to, via) in by_hop.chain(gateway.map(|gateway| (Prefix::ALL, gateway))) {
                topology.outside_routes.insert(to, Route { interface, next_hop: Some(via.into()) });
            }
            for range in public {
                topology.public_ranges.insert(*range, interface);
            }
        }
        for vpc in model.vpcs() {
            let index = self.vpc_index(&vpc.name);
            let compiled = &mut topology.vpcs[index.index()];
            compiled.cidr = Some(vpc.cidr);
            for (vswitch, link) in vpc.vswitches.iter().filter_map(|v| Some((v, v.link.as_ref()?))) {
                let interface = add(link, vswitch.cidr, Realm::Vpc(index), None, &mut topology.ports);
                compiled.routes.insert(vswitch.cidr, Route { interface, next_hop: None });
            }
            for route in &vpc.routes {
                let Some((_, link)) = vpc.link_of(route.via) else { continue };
                let interface = self.interface_index(&link);
                compiled.routes.insert(route.to, Route { interface, next_hop: Some(route.via.into()) });
            }
        }
        // A place that is free until the next interface comes holds a copy of one that is there: no frame and no route
        // leads to it.
        if let Some(stand_in) = interfaces.iter().flatten().next().cloned() {
            let filled = interfaces.into_iter().map(|i| i.unwrap_or_else(|| stand_in.clone()));
            topology.interfaces = filled.collect();
        }
        if *edit.snapshot().topology() != topology {
            edit.set_topology(topology);
        }
    }

    pub(super) fn gateways(&mut self, model: &Model, edit: &mut Edit) {
        let mut changed = edit.snapshot().gateway(GatewayIndex(0)).is_none() && !model.gateways().is_empty();
        for gateway in model.gateways() {
            let index = self.gateway_index(&gateway.name).index();
            let (vpc, limits) = (self.vpc_index(&gateway.vpc), gateway.specification.limits());
            let fresh = || Gateway { vpc, limits, meter: Arc::new(Meter::default()) };
            if self.compiled_gateways.len() <= index {
                self.compiled_gateways.resize_with(index + 1, fresh);
                changed = true;
            }
            let compiled = &mut self.compiled_gateways[index];
            if (compiled.vpc, compiled.limits) != (vpc, limits) {
                (compiled.vpc, compiled.limits) = (vpc, limits);
                changed = true;
            }
        }
        if changed {
            edit.set_gateways(self.compiled_gateways.clone());
        }
    }
}
