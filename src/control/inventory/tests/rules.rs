//! Every rule, broken.

use super::*;

#[test]
fn every_broken_rule_is_named_with_parameter_and_conflict() {
    let mut bench = Bench::furnished();
    let any = Value::from("Any");
    let web = bench.create(Kind::Dnat, dnat(json!(80), "10.0.1.10", json!(8080), "TCP"));
    let range = bench.create(Kind::Dnat, dnat(json!("1000/1999"), "10.0.1.10", json!("1000/1999"), "UDP"));
    let snat =
        bench.create(Kind::Snat, json!({"gateway": "gw1", "source": "vswitch:web", "eips": ["second"]}));
    let ids = |ids: &[Id]| ids.iter().map(Id::to_string).collect::<Vec<_>>();
    let (vpc, eip) = (Id::new(Kind::Vpc, 1), Id::new(Kind::Eip, 4));
    let vswitch = Id::new(Kind::VSwitch, 2);
    let cases: Vec<(Kind, Value, Code, &str, Vec<String>)> = vec![
        (Kind::Vpc, json!({"name": "x", "cidr": "10.0.0.0/16"}), Code::InvalidName, "name", vec![]),
        (Kind::Vpc, json!({"cidr": "10.0.0.1/16"}), Code::InvalidPrefix, "cidr", vec![]),
        (Kind::Vpc, json!({}), Code::MissingKey, "cidr", vec![]),
        (Kind::Vpc, json!({"cidr": 7}), Code::WrongType, "cidr", vec![]),
        (Kind::Vpc, json!({"cidr": "10.0.0.0/8", "cdir": "x"}), Code::UnknownKey, "cdir", vec![]),
        (Kind::Vpc, json!({"cidr": "203.0.113.0/24"}), Code::PublicRangeInVpc, "cidr", vec![]),
        (Kind::Vpc, json!({"cidr": "10.0.0.0/8", "id": "vpc-1"}), Code::ReadOnly, "id", vec![]),
        (
            Kind::Vpc,
            json!({"cidr": "10.0.0.0/8", "description": "https://x"}),
            Code::InvalidDescription,
            "description",
            vec![],
        ),
        (
            Kind::VSwitch,
            json!({"vpc": "prod", "cidr": "10.1.0.0/24"}),
            Code::VSwitchOutsideVpc,
            "cidr",
            ids(&[vpc]),
        ),
        (
            Kind::VSwitch,
            json!({"vpc": "prod", "cidr": "10.0.0.0/23"}),
            Code::VSwitchOverlap,
            "cidr",
            ids(&[vswitch]),
        ),
        (Kind::VSwitch, json!({"vpc": "nope", "cidr": "10.0.0.0/23"}), Code::NotFound, "vpc", vec![]),
        (
            Kind::VSwitch,
            json!({"vpc": "prod", "cidr": "10.0.2.0/24", "port": "lan", "address": "10.0.2.1"}),
            Code::InterfaceConflict,
            "port",
            ids(&[vswitch]),
        ),
        (
            Kind::VSwitch,
            json!({"vpc": "prod", "cidr": "10.0.2.0/24", "port": "lan"}),
            Code::VSwitchLink,
            "address",
            vec![],
        ),
        (
            Kind::VSwitch,
            json!({"vpc": "prod", "cidr": "10.0.2.0/24", "port": "lan", "vlan": 7, "mtu": 9000, "address": "10.0.2.1"}),
            Code::MtuAbovePort,
            "mtu",
            vec![],
        ),
        (
            Kind::Gateway,
            json!({"vpc": "prod", "vswitch": "web", "specification": "Small", "sessions": 5}),
            Code::SpecificationLimits,
            "sessions",
            vec![],
        ),
        (Kind::Eip, json!({"address": "203.0.113.16"}), Code::EipDuplicate, "address", ids(&[eip])),
        (Kind::Eip, json!({"address": "192.0.2.1"}), Code::EipOutsideRanges, "address", vec![]),
        (Kind::Eip, json!({"bandwidth": "fast"}), Code::InvalidRate, "bandwidth", vec![]),
        (Kind::Eip, json!({"plan": "nobody"}), Code::NotFound, "plan", vec![]),
        (Kind::Plan, json!({"name": "shared"}), Code::MissingKey, "bandwidth", vec![]),
        (Kind::Plan, json!({"bandwidth": "0"}), Code::InvalidRate, "bandwidth", vec![]),
        (
            Kind::Dnat,
            dnat(json!(80), "10.0.1.11", json!(80), "TCP"),
            Code::DnatPortConflict,
            "public_port",
            ids(&[web]),
        ),
        (
            Kind::Dnat,
            dnat(json!("1999/2000"), "10.0.1.11", json!("1/2"), "UDP"),
            Code::DnatPortConflict,
            "public_port",
            ids(&[range]),
        ),
        (
            Kind::Dnat,
            dnat(json!("1/3"), "10.0.1.10", json!("8079/8081"), "TCP"),
            Code::DnatPrivateConflict,
            "private_port",
            ids(&[web]),
        ),
        (
            Kind::Dnat,
            dnat(any.clone(), "10.0.1.11", any.clone(), "Any"),
            Code::DnatAnyPortConflict,
            "eip",
            ids(&[web]),
        ),
        (
            Kind::Dnat,
            dnat(any.clone(), "10.0.1.11", any.clone(), "TCP"),
            Code::DnatProtocol,
            "protocol",
            vec![],
        ),
        (
            Kind::Dnat,
            dnat(json!("1/2"), "10.0.1.11", json!("1/3"), "TCP"),
            Code::DnatRangeLength,
            "private_port",
            vec![],
        ),
        (
            Kind::Dnat,
            dnat(json!(1), "10.1.1.11", json!(1), "TCP"),
            Code::DnatPrivateOutsideVpc,
            "private_ip",
            ids(&[vpc]),
        ),
        (
            Kind::Dnat,
            dnat(json!(1), "10.0.1.1", json!(1), "TCP"),
            Code::DnatPrivateUnusable,
            "private_ip",
            ids(&[vswitch]),
        ),
        (Kind::Dnat, dnat(json!(0), "10.0.1.11", json!(1), "TCP"), Code::InvalidPorts, "public_port", vec![]),
        (
            Kind::Snat,
            json!({"gateway": "gw1", "source": "10.0.1.0/24", "eips": ["second"]}),
            Code::SnatSourceConflict,
            "source",
            ids(&[snat]),
        ),
        (
            Kind::Snat,
            json!({"gateway": "gw1", "source": "10.1.1.0/24", "eips": ["second"]}),
            Code::SnatSourceOutsideVpc,
            "source",
            ids(&[vpc]),
        ),
        (
            Kind::Snat,
            json!({"gateway": "gw1", "source": "vpc", "eips": []}),
            Code::SnatPoolSize,
            "eips",
            vec![],
        ),
        (
            Kind::Snat,
            json!({"gateway": "gw1", "source": "vpc", "eips": ["second", "203.0.113.17"]}),
            Code::SnatPoolDuplicate,
            "eips[1]",
            vec![],
        ),
        (
            Kind::Snat,
            json!({"gateway": "gw1", "source": "vpc", "eips": ["second"], "mapping": "endpoint-dependent", "filtering": "address-dependent"}),
            Code::SnatFiltering,
            "filtering",
            vec![],
        ),
        (
            Kind::Snat,
            json!({"gateway": "gw1", "source": "vpc", "eips": ["second"], "mapping": "endpoint-dependent", "ftp": true}),
            Code::SnatFtp,
            "ftp",
            vec![],
        ),
        (
            Kind::Snat,
            json!({"gateway": "gw1", "source": "vpc", "eips": ["second"], "timeouts": {"udp": "5"}}),
            Code::InvalidDuration,
            "timeouts.udp",
            vec![],
        ),
    ];
    for (kind, spec, code, parameter, conflicts) in cases {
        let refusal = bench.refused(kind, spec.clone());
        assert_eq!((refusal.code, &*refusal.parameter), (code, parameter), "{spec}: {refusal}");
        assert_eq!(refusal.conflicts, conflicts, "{spec}: {refusal}");
    }
    let unbound = bench.create(Kind::Eip, json!({}));
    let refusal =
        bench.refused(Kind::Snat, json!({"gateway": "gw1", "source": "vpc", "eips": [unbound.to_string()]}));
    assert_eq!((refusal.code, refusal.conflicts), (Code::EipNotBound, ids(&[unbound])));
    // An EIP that belongs to an any-port entry serves nobody else.
    bench.inventory.update(unbound, &json!({"gateway": "gw1"})).unwrap();
    let mapping = json!({"gateway": "gw1", "eip": unbound.to_string(), "public_port": "Any", "private_ip": "10.0.1.20", "private_port": "any", "protocol": "Any"});
    let mapping = bench.create(Kind::Dnat, mapping);
    let pool = json!({"gateway": "gw1", "source": "vpc", "eips": [unbound.to_string()]});
    let refusal = bench.refused(Kind::Snat, pool);
    assert_eq!((refusal.code, refusal.conflicts), (Code::DnatAnyPortConflict, ids(&[mapping])));
}
