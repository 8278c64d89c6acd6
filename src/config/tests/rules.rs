//! One case for every rule: what breaks it, and what is then said.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::*;

/// A file that breaks a rule, made from the example.
enum Case {
    /// A part replaced.
    Edit(&'static str, &'static str),
    /// Tables added.
    Add(&'static str),
    /// Both.
    Both(&'static str, &'static str, &'static str),
    /// Another file altogether.
    Whole(&'static str),
}
use Case::{Add, Both, Edit, Whole};

const SECOND_GATEWAY: &str = "[[gateway]]\nname = \"gw2\"\nvpc = \"prod\"\nvswitch = \"web\"\n";

macro_rules! dnat {
    ($eip:literal $public:literal $ip:literal $private:literal $protocol:literal) => {
        concat!(
            "[[dnat]]\nname = \"second\"\ngateway = \"gw1\"\neip = \"203.0.113.",
            $eip,
            "\"\npublic_port = ",
            $public,
            "\nprivate_ip = \"",
            $ip,
            "\"\nprivate_port = ",
            $private,
            "\nprotocol = \"",
            $protocol,
            "\"\n"
        )
    };
}

macro_rules! snat {
    ($source:literal $eips:literal) => {
        concat!(
            "[[snat]]\nname = \"second\"\ngateway = \"gw1\"\nsource = \"",
            $source,
            "\"\neips = [",
            $eips,
            "]\n"
        )
    };
}

fn cases() -> Vec<(Code, Case)> {
    vec![
        (Code::Syntax, Whole("[[port]]\nname = = 3\nname = 'x'\n[system\n")),
        (
            Code::StoreHasResources,
            Whole(
                "[store]\n[[port]]\nname = \"p0\"\ndevice = \"eth0\"\n[[vpc]]\nname = \"prod\"\ncidr = \"10.0.0.0/16\"\n",
            ),
        ),
        (Code::UnknownKey, Edit("workers = 2", "wrokers = 2")),
        (Code::UnknownKey, Add("[[dnats]]\n")),
        (Code::UnknownKey, Edit("via = \"10.0.1.254\"", "via = \"10.0.1.254\", metric = 3")),
        (Code::MissingKey, Edit("eip = \"203.0.113.16\"\n", "")),
        (Code::MissingKey, Edit("eips = [\"203.0.113.17\", \"203.0.113.18\"]\n", "")),
        (Code::WrongType, Edit("workers = 2", "workers = \"two\"")),
        (Code::WrongType, Edit("eips = [\"203.0.113.17\", \"203.0.113.18\"]", "eips = \"203.0.113.17\"")),
        (Code::WrongType, Edit("[timeouts]\nprofile = \"rfc\"\nudp = \"5m\"", "[[timeouts]]\n")),
        (Code::OutOfRange, Edit("workers = 2", "workers = 1000")),
        (Code::OutOfRange, Edit("workers = 2", "cores = []")),
        (Code::OutOfRange, Edit("vlan = 10\n", "vlan = 4095\n")),
        (Code::OutOfRange, Edit("mtu = 1500", "mtu = 68")),
        (Code::OutOfRange, Edit("udp = \"5m\"", "udp = \"999d\"")),
        (Code::OutOfRange, Edit("sessions = 1048576", "sessions = 123456789012345678901234567890")),
        (Code::InvalidChoice, Edit("specification = \"Unlimited\"", "specification = \"xlarge.1\"")),
        (Code::InvalidName, Edit("name = \"wan\"", "name = \"1wan\"")),
        (Code::InvalidName, Edit("name = \"all\"", "name = \"a\"")),
        (Code::InvalidDescription, Edit("description = \"...\"", "description = \"https://example.org\"")),
        (Code::InvalidAddress, Edit("private_ip = \"10.0.1.10\"", "private_ip = \"10.0.1.300\"")),
        (Code::InvalidAddress, Edit("private_ip = \"10.0.1.10\"", "private_ip = \"224.0.0.1\"")),
        (Code::InvalidAddress, Edit("address = \"203.0.113.2/24\"", "address = \"203.0.113.2\"")),
        (Code::InvalidPrefix, Edit("cidr = \"10.0.1.0/24\"", "cidr = \"10.0.1.1/24\"")),
        (Code::InvalidPrefix, Edit("cidr = \"10.0.0.0/16\"", "cidr = \"0.0.0.0/0\"")),
        (
            Code::InvalidMac,
            Whole("[[port]]\nname = \"wan\"\nreplay = \"a.pcap\"\nmac = \"01:00:00:00:00:00\"\n"),
        ),
        (Code::InvalidDuration, Edit("udp = \"5m\"", "udp = 300")),
        (Code::InvalidDuration, Edit("udp = \"5m\"", "udp = \"5 minutes\"")),
        (Code::InvalidCount, Edit("sessions = 1048576", "sessions = \"many\"")),
        (Code::InvalidRate, Add("[[plan]]\nname = \"shared\"\nbandwidth = \"fast\"\n")),
        (Code::InvalidRate, Edit("ping = true", "bandwidth = \"100\"")),
        (Code::InvalidPorts, Edit("public_port = 80", "public_port = 65536")),
        (Code::InvalidPorts, Edit("public_port = 80", "public_port = \"80-90\"")),
        (Code::InvalidPorts, Edit("public_port = 80", "public_port = \"90/80\"")),
        (Code::InvalidPath, Edit("control = \"/run/natgate/natgate.sock\"", "control = \"\"")),
        (Code::InvalidPath, Edit("device = \"eth0\"", "device = \"a-name-too-long-for-a-device\"")),
        (Code::InvalidListener, Add("[api]\nlisten = \"localhost\"\n")),
        (Code::InvalidPath, Add("[api]\nsocket = \"/run/natgate/natgate.sock\"\n")),
        (Code::ApiNeedsKeys, Add("[api]\nlisten = \"127.0.0.1:8080\"\n")),
        (
            Code::ApiNeedsTls,
            Whole("[store]\n[api]\nlisten = \"0.0.0.0:8443\"\n[[port]]\nname = \"p0\"\ndevice = \"eth0\"\n"),
        ),
        (Code::SessionLogNowhere, Add("[session_log]\nevents = 4096\n")),
        (Code::SessionLogKeep, Add("[session_log]\nfile = \"/var/log/sessions\"\nkeep = \"7d\"\n")),
        (Code::InvalidListener, Add("[session_log]\nsyslog = \"192.0.2.1\"\n")),
        (Code::OutOfRange, Add("[session_log]\nindex = \"/var/lib/natgate/log\"\nkeep = \"5m\"\n")),
        (Code::ApiTlsPair, Add("[api]\ntls_key = \"key.pem\"\n")),
        (Code::DuplicateName, Add("[[vpc]]\nname = \"prod\"\ncidr = \"10.9.0.0/16\"\n")),
        (
            Code::DuplicateName,
            Edit("[[gateway]]", "[[vpc.vswitch]]\nname = \"web\"\ncidr = \"10.0.2.0/24\"\n[[gateway]]"),
        ),
        (Code::UnknownPort, Edit("port = \"lan\"", "port = \"lam\"")),
        (Code::UnknownVpc, Edit("vpc = \"prod\"", "vpc = \"test\"")),
        (Code::UnknownVSwitch, Edit("vswitch = \"web\"", "vswitch = \"database\"")),
        (Code::UnknownVSwitch, Edit("source = \"vswitch:web\"", "source = \"vswitch:db\"")),
        (Code::UnknownGateway, Edit("gateway = \"gw1\"\neip", "gateway = \"gw9\"\neip")),
        (Code::UnknownEip, Edit("eip = \"203.0.113.16\"", "eip = \"203.0.113.19\"")),
        (Code::NoPort, Whole("")),
        (Code::WorkersOrCores, Edit("workers = 2", "workers = 2\ncores = [1]")),
        (Code::DuplicateCore, Edit("workers = 2", "cores = [1, 2, 1]")),
        (Code::BufferSize, Edit("workers = 2", "buffer_size = 3000")),
        (
            Code::BufferSize,
            Whole(
                "[system]\nbuffer_size = 8192\n[[port]]\nname = \"wan\"\nbackend = \"af_xdp\"\ndevice = \"eth0\"\n",
            ),
        ),
        (Code::PortKeys, Edit("device = \"eth0\"\n", "")),
        (Code::PortKeys, Edit("device = \"eth0\"", "device = \"eth0\"\ncapture = \"out.pcap\"")),
        (
            Code::PortKeys,
            Whole(
                "[[port]]\nname = \"wan\"\nbackend = \"pcap\"\ndevice = \"eth0\"\nmac = \"02:00:00:00:00:00\"\n",
            ),
        ),
        (Code::PortShare, Edit("backend = \"auto\"\nshare = false", "backend = \"af_packet\"\nshare = true")),
        (Code::PortPromiscuous, Edit("backend = \"auto\"\nshare = false", "promiscuous = false")),
        #[cfg(not(feature = "dpdk"))]
        (Code::DpdkNotBuilt, Whole(super::DPDK)),
        #[cfg(not(feature = "capsule"))]
        (
            Code::CapsuleNotBuilt,
            Whole("[[port]]\nname = \"wan\"\nbackend = \"capsule\"\ndevice = \"0000:03:00.0\"\n"),
        ),
        (
            Code::CapsuleMixed,
            Whole(concat!(
                "[[port]]\nname = \"wan\"\nbackend = \"dpdk\"\ndevice = \"0000:03:00.0\"\n",
                "[[port]]\nname = \"lan\"\nbackend = \"capsule\"\ndevice = \"0000:03:00.1\"\n",
            )),
        ),
        (
            Code::CapsuleRss,
            Whole(concat!(
                "[dpdk]\nrss = \"flow\"\n",
                "[[port]]\nname = \"wan\"\nbackend = \"capsule\"\ndevice = \"0000:03:00.0\"\n",
            )),
        ),
        (Code::DpdkUnused, Add("[dpdk]\nhugepages = \"off\"\n")),
        (Code::DpdkArgument, Add("[dpdk]\narguments = [\"-l1-3\", \"iova\", \"--vdev=net_null0\"]\n")),
        (
            Code::DpdkMixed,
            Whole(concat!(
                "[[port]]\nname = \"wan\"\nbackend = \"dpdk\"\ndevice = \"0000:03:00.0\"\n",
                "[[port]]\nname = \"lan\"\nbackend = \"af_xdp\"\ndevice = \"eth1\"\n",
                "[[port]]\nname = \"more\"\ndevice = \"eth2\"\n"
            )),
        ),
        (Code::InvalidPath, Whole("[[port]]\nname = \"wan\"\nbackend = \"dpdk\"\ndevice = \"eth0\"\n")),
        (Code::DuplicateDevice, Edit("device = \"eth1\"", "device = \"eth0\"")),
        (
            Code::DuplicateCapture,
            Whole(
                "[[port]]\nname = \"wan\"\ncapture = \"a.pcap\"\n[[port]]\nname = \"lan\"\nreplay = \"a.pcap\"\ncapture = \"a.pcap\"\n",
            ),
        ),
        (Code::TimeoutOrder, Edit("udp = \"5m\"", "tcp_established = \"1m\"")),
        (Code::TimeoutOrder, Edit("timeouts = { udp = \"1m\" }", "timeouts = { tcp_transitory = \"5h\" }")),
        (Code::InterfaceConflict, Edit("port = \"lan\"\nvlan = 10", "port = \"wan\"\nvlan = 100")),
        (Code::UnusableAddress, Edit("address = \"203.0.113.2/24\"", "address = \"203.0.113.255/24\"")),
        (Code::UnusableAddress, Edit("address = \"10.0.1.1\"", "address = \"10.0.1.0\"")),
        (Code::UnusableAddress, Edit("gateway = \"203.0.113.1\"", "gateway = \"203.0.113.255\"")),
        (Code::OutsideOverlap, Add("[[outside]]\nport = \"wan\"\naddress = \"203.0.113.130/25\"\n")),
        (Code::NextHopNotOnLink, Edit("gateway = \"203.0.113.1\"", "gateway = \"203.0.114.1\"")),
        (Code::NextHopNotOnLink, Edit("via = \"10.0.1.254\"", "via = \"10.0.2.254\"")),
        (Code::NextHopIsOwn, Edit("via = \"203.0.113.9\"", "via = \"203.0.113.2\"")),
        (Code::RouteConflict, Edit("to = \"198.51.100.0/24\"", "to = \"203.0.113.0/24\"")),
        (
            Code::RouteConflict,
            Add("[[outside]]\nport = \"wan\"\naddress = \"192.0.2.2/24\"\ngateway = \"192.0.2.1\"\n"),
        ),
        (Code::VpcDefaultRoute, Edit("to = \"10.0.9.0/24\"", "to = \"0.0.0.0/0\"")),
        (
            Code::PublicRangeOverlap,
            Edit("public = [\"203.0.113.16/28\"]", "public = [\"203.0.113.16/28\", \"203.0.113.24/29\"]"),
        ),
        (Code::PublicRangeInVpc, Add("[[vpc]]\nname = \"clash\"\ncidr = \"203.0.0.0/16\"\n")),
        (
            Code::VSwitchOutsideVpc,
            Edit("[[gateway]]", "[[vpc.vswitch]]\nname = \"db\"\ncidr = \"10.1.2.0/24\"\n[[gateway]]"),
        ),
        (
            Code::VSwitchOverlap,
            Edit("[[gateway]]", "[[vpc.vswitch]]\nname = \"db\"\ncidr = \"10.0.1.128/25\"\n[[gateway]]"),
        ),
        (Code::VSwitchAddress, Edit("address = \"10.0.1.1\"", "address = \"10.0.2.1\"")),
        (Code::VSwitchLink, Edit("address = \"10.0.1.1\"\n", "")),
        (
            Code::VSwitchLink,
            Edit(
                "[[gateway]]",
                "[[vpc.vswitch]]\nname = \"db\"\ncidr = \"10.0.2.0/24\"\nvlan = 3\n[[gateway]]",
            ),
        ),
        (
            Code::SpecificationLimits,
            Edit("specification = \"Unlimited\"", "specification = \"Small\"\nsessions = 20000"),
        ),
        (
            Code::QuotaGateways,
            Both("[timeouts]", "[quotas]\ngateways_per_vpc = 1\n[timeouts]", SECOND_GATEWAY),
        ),
        (Code::QuotaEips, Edit("[timeouts]", "[quotas]\neips_per_gateway = 2\n[timeouts]")),
        (
            Code::QuotaDnat,
            Both(
                "[timeouts]",
                "[quotas]\ndnat_entries_per_gateway = 1\n[timeouts]",
                dnat!("16" "81" "10.0.1.10" "8081" "TCP"),
            ),
        ),
        (
            Code::QuotaSnat,
            Both(
                "[timeouts]",
                "[quotas]\nsnat_entries_per_gateway = 1\n[timeouts]",
                snat!("vpc" "\"203.0.113.17\""),
            ),
        ),
        (Code::UnknownPlan, Edit("ping = true", "plan = \"shared\"")),
        (
            Code::EipLimits,
            Both(
                "ping = true",
                "plan = \"shared\"\nbandwidth = \"1Gbps\"",
                "[[plan]]\nname = \"shared\"\nbandwidth = \"1Gbps\"\n",
            ),
        ),
        (Code::EipDuplicate, Add("[[eip]]\naddress = \"203.0.113.16\"\n")),
        (Code::EipOutsideRanges, Add("[[eip]]\naddress = \"203.0.113.40\"\n")),
        (
            Code::EipIsOwnAddress,
            Both("203.0.113.16/28", "203.0.113.0/24", "[[eip]]\naddress = \"203.0.113.2\"\n"),
        ),
        (
            Code::EipIsOwnAddress,
            Both("203.0.113.16/28", "203.0.113.0/24", "[[eip]]\naddress = \"203.0.113.1\"\n"),
        ),
        (
            Code::UnusableAddress,
            Both("203.0.113.16/28", "203.0.113.0/24", "[[eip]]\naddress = \"203.0.113.255\"\n"),
        ),
        (
            Code::EipNotBound,
            Add(
                "[[eip]]\naddress = \"203.0.113.19\"\n[[snat]]\ngateway = \"gw1\"\nsource = \"vpc\"\neips = [\"203.0.113.19\"]\n",
            ),
        ),
        (Code::EipNotBound, Both("gateway = \"gw1\"\neip =", "gateway = \"gw2\"\neip =", SECOND_GATEWAY)),
        (Code::DnatProtocol, Edit("protocol = \"TCP\"", "protocol = \"Any\"")),
        (Code::DnatProtocol, Edit("public_port = 80", "public_port = \"Any\"")),
        (Code::DnatProtocol, Edit("private_port = 8080", "private_port = \"Any\"")),
        (Code::DnatProtocol, Add(dnat!("16" "\"Any\"" "10.0.1.20" "\"Any\"" "UDP"))),
        (Code::DnatRangeLength, Edit("public_port = 80", "public_port = \"80/90\"")),
        (Code::DnatPortConflict, Add(dnat!("16" "80" "10.0.1.11" "8080" "TCP"))),
        (Code::DnatPortConflict, Add(dnat!("16" "\"70/80\"" "10.0.1.11" "\"8070/8080\"" "TCP"))),
        (Code::DnatAnyPortConflict, Add(dnat!("16" "\"Any\"" "10.0.1.20" "\"Any\"" "Any"))),
        (Code::DnatAnyPortConflict, Add(dnat!("17" "\"Any\"" "10.0.1.20" "\"Any\"" "Any"))),
        (Code::DnatPrivateConflict, Add(dnat!("16" "81" "10.0.1.10" "8080" "TCP"))),
        (Code::DnatPrivateOutsideVpc, Edit("private_ip = \"10.0.1.10\"", "private_ip = \"10.1.1.10\"")),
        (Code::DnatPrivateUnusable, Edit("private_ip = \"10.0.1.10\"", "private_ip = \"10.0.1.1\"")),
        (Code::DnatPrivateUnusable, Edit("private_ip = \"10.0.1.10\"", "private_ip = \"10.0.1.255\"")),
        (Code::SnatSource, Edit("source = \"vswitch:web\"", "source = \"everyone\"")),
        (Code::SnatSourceOutsideVpc, Edit("source = \"vswitch:web\"", "source = \"10.0.0.0/15\"")),
        (Code::SnatSourceConflict, Add(snat!("10.0.1.0/24" "\"203.0.113.17\""))),
        (Code::SnatPoolSize, Edit("eips = [\"203.0.113.17\", \"203.0.113.18\"]", "eips = []")),
        (Code::SnatPoolDuplicate, Add(snat!("vpc" "\"203.0.113.17\", \"203.0.113.17\""))),
        (Code::SnatBlocks, Edit("ports = \"1024/65535\"", "ports = \"1024/65535\"\ndeterministic = true")),
        (
            Code::SnatDeterministic,
            Edit("ports = \"1024/65535\"", "ports = \"1024/65535\"\nport_blocks = 512\ndeterministic = true"),
        ),
        (
            Code::SnatBlocksShared,
            Both(
                "ports = \"1024/65535\"",
                "ports = \"1024/65535\"\nport_blocks = 512",
                snat!("10.0.2.0/24" "\"203.0.113.17\""),
            ),
        ),
        (
            Code::SnatFtp,
            Edit(
                "mapping = \"endpoint-independent\"\nfiltering = \"endpoint-independent\"",
                "mapping = \"endpoint-dependent\"\nftp = true",
            ),
        ),
        (Code::SnatFiltering, Edit("mapping = \"endpoint-independent\"", "mapping = \"endpoint-dependent\"")),
    ]
}

fn text(case: &Case) -> String {
    match case {
        Edit(from, to) => edited(&[(from, to)]),
        Add(tables) => format!("{EXAMPLE}{tables}"),
        Both(from, to, tables) => format!("{}{tables}", edited(&[(from, to)])),
        Whole(text) => (*text).to_owned(),
    }
}

fn errors(text: &str) -> Errors {
    match parse(text, "natgate.toml") {
        Err(errors) => errors,
        Ok(_) => panic!("this is valid:\n{text}"),
    }
}

#[test]
#[cfg_attr(feature = "dpdk", ignore = "what is said is recorded for a natgate without DPDK")]
fn every_rule_is_refused_with_its_code_and_place() {
    let mut rendered = String::new();
    for (code, case) in cases() {
        let text = text(&case);
        let Err(errors) = parse(&text, "natgate.toml") else { panic!("{code:?}: this is valid:\n{text}") };
        assert!(errors.iter().any(|e| e.code == code), "no {code:?} in\n{errors}");
        for error in &errors {
            let line = error.line.map(|line| text.lines().nth(line as usize - 1).unwrap_or_default());
            // The line that is named has the value that is named, unless that goes on over further lines.
            if let (Some(line), Some(value)) = (line, &error.value) {
                assert!(
                    line.contains(value.as_str()) || value.ends_with('…'),
                    "{error}\nnames line {line:?}"
                );
            }
        }
        let _ = writeln!(rendered, "{errors}\n");
    }
    insta::assert_snapshot!(rendered);
}

/// Rules that only many resources break.
#[test]
fn rules_about_many() {
    let many = |count: u32, line: fn(u32) -> String| (0..count).map(line).collect::<String>();
    let eips = |count| {
        many(count, |i| {
            format!("[[eip]]\naddress = \"198.18.{}.{}\"\ngateway = \"gw1\"\n", i / 250, i % 250 + 1)
        })
    };
    let base = edited(&[
        ("203.0.113.16/28\"", "203.0.113.16/28\", \"198.18.0.0/15\""),
        ("[timeouts]", "[quotas]\neips_per_gateway = 1000\n[timeouts]"),
        ("workers = 2", "workers = 2\nsnat_eips = 64"),
    ]);
    let pool = |count| many(count, |i| format!("\"198.18.{}.{}\",", i / 250, i % 250 + 1));
    let snat = |count| format!("[[snat]]\ngateway = \"gw1\"\nsource = \"vpc\"\neips = [{}]\n", pool(count));
    let codes = |text: &str| errors(text).iter().map(|e| e.code).collect::<BTreeSet<_>>();
    model(&format!("{base}{}{}", eips(62), snat(62)));
    assert_eq!(codes(&format!("{base}{}{}", eips(63), snat(63))), [Code::SnatEips].into());
    assert_eq!(
        codes(&format!("{base}{}{}", eips(65), snat(65))),
        [Code::SnatEips, Code::SnatPoolSize].into()
    );
    let ports = many(1025, |i| format!("[[port]]\nname = \"p{i}\"\ndevice = \"eth{i}\"\n"));
    assert_eq!(codes(&ports), [Code::TooMany].into());
    let interface = |i| {
        format!(
            "[[outside]]\nport = \"p0\"\nvlan = {}\naddress = \"10.{}.{}.1/24\"\n",
            i + 1,
            i / 250,
            i % 250
        )
    };
    let port = "[[port]]\nname = \"p0\"\ndevice = \"eth0\"\n";
    model(&format!("{port}{}", many(256, interface)));
    assert_eq!(codes(&format!("{port}{}", many(257, interface))), [Code::TooMany].into());
}

/// Each code is in some test: a rule that nothing can break would be no rule.
#[test]
fn every_code_is_tested() {
    // Faults of the file as a whole, of a reload or of opened ports, and rules about many, have tests of their own.
    let elsewhere = [
        Code::Unreadable,
        Code::TooMany,
        Code::SnatEips,
        Code::RestartNeeded,
        Code::DeletionProtected,
        Code::MtuAbovePort,
        Code::PortCount,
        Code::Exhausted,
        // Only where the back end is missing.
        Code::DpdkNotBuilt,
        Code::CapsuleNotBuilt,
        // Refusals of changes to the inventory, which has its own tests.
        Code::NotFound,
        Code::AmbiguousName,
        Code::InUse,
        Code::ReadOnly,
        Code::InvalidTag,
        Code::InvalidId,
        Code::NoFreeAddress,
        Code::IdempotencyKey,
        Code::BlockSessions,
        // Of a question to the index of sessions.
        Code::InvalidTime,
        Code::Unconfirmed,
        Code::NotUnconfirmed,
        Code::Outdated,
    ];
    let tested: BTreeSet<Code> = cases().into_iter().map(|(code, _)| code).chain(elsewhere).collect();
    let missing: Vec<_> = Code::ALL.iter().filter(|code| !tested.contains(code)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// One run finds all faults, in the order of the file.
#[test]
fn all_faults_at_once() {
    let text = edited(&[
        ("workers = 2", "workers = 0\nspeed = 11"),
        ("name = \"wan\"", "name = \"w\""),
        ("cidr = \"10.0.1.0/24\"", "cidr = \"10.0.1.0/33\""),
        ("public_port = 80", "public_port = \"http\""),
        ("mapping = \"endpoint-independent\"", "mapping = \"full-cone\""),
    ]);
    let errors = errors(&text);
    insta::assert_snapshot!(errors);
    let lines: Vec<_> = errors.iter().map(|e| e.line).collect();
    assert!(lines.is_sorted(), "{lines:?}");
}

/// Near misses: what the rules allow.
#[test]
fn what_is_allowed() {
    let allowed = [
        // The same port for the other protocol, and next to a range.
        Add(dnat!("16" "80" "10.0.1.10" "8080" "UDP")),
        Add(dnat!("16" "\"81/90\"" "10.0.1.10" "\"8081/8090\"" "TCP")),
        // Port entries and SNAT on one EIP.
        Add(dnat!("17" "80" "10.0.1.11" "80" "TCP")),
        // An any-port entry beside a port entry of the same host.
        Add(concat!(
            "[[eip]]\naddress = \"203.0.113.20\"\ngateway = \"gw1\"\n",
            "[[dnat]]\ngateway = \"gw1\"\neip = \"203.0.113.20\"\npublic_port = \"Any\"\n",
            "private_ip = \"10.0.1.10\"\nprivate_port = \"any\"\nprotocol = \"any\"\n"
        )),
        // A narrower source.
        Add(snat!("10.0.1.10" "\"203.0.113.17\"")),
        Add(snat!("vpc" "\"203.0.113.17\"")),
        // Another VPC with the same addresses on another VLAN.
        Add(concat!(
            "[[vpc]]\nname = \"twin\"\ncidr = \"10.0.0.0/16\"\n[[vpc.vswitch]]\nname = \"web\"\n",
            "cidr = \"10.0.1.0/24\"\nport = \"lan\"\nvlan = 11\naddress = \"10.0.1.1\"\n"
        )),
        // Point-to-point links (RFC 3021).
        Edit(
            "address = \"203.0.113.2/24\"\ngateway = \"203.0.113.1\"\nroutes = [{ to = \"198.51.100.0/24\", via = \"203.0.113.9\" }]",
            "address = \"203.0.113.2/31\"\ngateway = \"203.0.113.3\"",
        ),
        // The first and last address of a range that is routed to the gateway.
        Both(
            "203.0.113.16/28\"",
            "203.0.113.16/28\", \"198.51.100.0/30\"",
            "[[eip]]\naddress = \"198.51.100.0\"\n",
        ),
    ];
    for case in &allowed {
        model(&text(case));
    }
}

#[test]
fn errors_as_json() {
    let errors = errors(&text(&Add(dnat!("16" "80" "10.0.1.11" "8080" "TCP"))));
    insta::assert_snapshot!(serde_json::to_string_pretty(&errors).unwrap());
}
