//! What lies around the gateway: VPCs with the same addresses, VLANs, links of different width.

use crate::common;
use crate::configuration::{base, dnat, eip, gateway, port, snat, vpc};
use crate::gateway::{Gateway, socket};
use crate::lab::Lab;
use crate::with_all_back_ends;

with_all_back_ends! { several_ways_to_one_server two_vpcs_with_the_same_addresses vlans a_narrow_way_out }

/// What two VPCs with the same private addresses have to do: leave with EIPs of their own, and be told apart.
fn assert_two_vpcs(lab: &Lab) {
    for (host, eip) in [("web", 18), ("web2", 21)] {
        let words = format!("client 203.0.113.{eip}\n");
        lab.page(host, "http://198.51.100.20/", &["of server", &words]);
    }
    lab.page("client", "http://203.0.113.16/", &["of web\n".trim_end(), "server port 8080\n"]);
    lab.page("client", "http://203.0.113.20/", &["of web2", "server port 8080\n"]);
    // At the same time, from the same private address and port to the same peer.
    let pings: Vec<_> = ["web", "web2"]
        .iter()
        .map(|host| lab.spawn(host, "exec ping -q -c 100 -i 0.01 -W 2 198.51.100.20"))
        .collect();
    for host in ["web", "web2"] {
        let url = "http://198.51.100.20/";
        lab.run(
            host,
            &format!(
                "for n in {{1..5}}; do curl -sS --fail --local-port 4000$n -o /dev/null {url} || exit; done"
            ),
        );
    }
    for ping in pings {
        let report = ping.finish(20).unwrap_or_else(|error| panic!("{error}"));
        assert!(report.contains("100 received, 0% packet loss"), "{report}");
    }
}

fn second_vpc() -> String {
    let mut text = gateway("gw2", "test");
    text += &eip(20, "gw2");
    text += &eip(21, "gw2");
    text += &dnat("page2", "gw2", 20, "80", "10.0.1.10", "8080", "TCP");
    text += &snat("everyone2", "gw2", &[21]);
    text
}

fn two_vpcs_with_the_same_addresses(back_end: &str) {
    let lab = Lab::with_two_vpcs();
    for host in ["web", "web2"] {
        lab.web_server(host, &[8080]);
    }
    lab.web_server("server", &[80]);
    let configuration =
        base(back_end, &socket(&lab)).replace("\"203.0.113.18\", \"203.0.113.19\"", "\"203.0.113.18\"");
    let configuration = configuration + &port("lan2", back_end) + &vpc("test", "lan2", None) + &second_vpc();
    let gateway = Gateway::start(&lab, &configuration);
    assert_two_vpcs(&lab);
    gateway.finish();
}

fn vlans(back_end: &str) {
    let lab = Lab::with_vlans();
    for host in ["web", "web2"] {
        lab.web_server(host, &[8080]);
    }
    lab.web_server("app", &[80]);
    lab.web_server("server", &[80]);
    let mut configuration =
        base(back_end, &socket(&lab)).replace("\"203.0.113.18\", \"203.0.113.19\"", "\"203.0.113.18\"");
    configuration = configuration
        .replace(&vpc("prod", "lan", None), &(vpc("prod", "lan", Some(10)) + &vpc("test", "lan", Some(20))))
        .replace("[[outside]]\nport = \"wan\"\n", "[[outside]]\nport = \"wan\"\nvlan = 100\n");
    configuration += &second_vpc();
    let gateway = Gateway::start(&lab, &configuration);
    assert_two_vpcs(&lab);
    lab.page("client", "http://203.0.113.17/", &["of app"]);
    for (host, address) in [("client", "203.0.113.17"), ("web", "198.51.100.20")] {
        let report = lab.run(host, &format!("ping -q -c 20 -i 0.01 -W 2 -s 1472 -M do {address}"));
        assert!(report.contains("20 received, 0% packet loss"), "{report}");
    }
    // VLAN 30 is nobody's, and neither are untagged frames.
    lab.run("tagger", "ip address add 10.0.1.99/24 dev lan-trunk");
    assert!(lab.attempt("tagger", "ping -q -c 2 -i 0.2 -W 1 10.0.1.1").is_err());
    assert!(gateway.total("/drops/unknown-vlan") > 0);
    gateway.finish();
}

/// Several EIPs and ports lead to one private port: every answer leaves by the way that its question came.
fn several_ways_to_one_server(back_end: &str) {
    let lab = Lab::new();
    lab.web_server("app", &[80]);
    let mut configuration = base(back_end, &socket(&lab));
    configuration += &dnat("by-port", "gw1", 16, "8081", "10.0.1.20", "80", "TCP");
    configuration += &gateway("gw2", "prod");
    for last in [20, 21] {
        configuration += &eip(last, "gw2");
    }
    configuration += &dnat("by-port2", "gw2", 20, "8082", "10.0.1.20", "80", "TCP");
    configuration += &dnat("own-eip2", "gw2", 21, "\"Any\"", "10.0.1.20", "\"Any\"", "Any");
    let gateway = Gateway::start(&lab, &configuration);
    // From many source ports, so that the packets arrive at both workers.
    for way in ["203.0.113.17", "203.0.113.16:8081", "203.0.113.20:8082", "203.0.113.21"] {
        for host in ["client", "web"] {
            let command = format!(
                "curl -sS --fail --max-time 5 --parallel -H 'Connection: close' 'http://{way}/[1-20]'"
            );
            let pages = lab.run(host, &command);
            assert_eq!(pages.matches("the page of app").count(), 20, "{host} by {way}");
        }
    }
    let fetch = common::repository().join("tests/namespaces/fetch.py");
    // From one source port by each way: to the server the connections look the same.
    for way in ["203.0.113.17", "203.0.113.16:8081", "203.0.113.21", "203.0.113.20:8082"] {
        let (address, port) = way.split_once(':').unwrap_or((way, "80"));
        let page = lab.run("client", &format!("exec python3 {} 40000 {address} {port}", fetch.display()));
        assert!(page.contains("the page of app"), "by {way}: {page}");
    }
    for way in ["203.0.113.17", "203.0.113.21"] {
        let report = lab.run("client", &format!("ping -q -c 10 -i 0.01 -W 2 {way}"));
        assert!(report.contains("10 received"), "{way}: {report}");
    }
    gateway.finish();
}

fn a_narrow_way_out(back_end: &str) {
    let lab = Lab::new();
    lab.web_server("app", &[80]);
    lab.web_server("server", &[80]);
    let configuration = base(back_end, &socket(&lab))
        .replace("port = \"wan\"\naddress", "port = \"wan\"\nmtu = 1400\naddress");
    let gateway = Gateway::start(&lab, &configuration);
    let refused =
        lab.attempt("web", "ping -q -c 2 -i 0.1 -W 1 -s 1472 -M do 198.51.100.20").expect_err("too large");
    assert!(refused.contains("0 received"), "{refused}");
    assert!(gateway.total("/drops/fragmentation-needed") > 0);
    // The kernel has learnt the way's width from the gateway's error, and path-MTU discovery finds it.
    let report = lab.run("web", "tracepath -n -m 5 198.51.100.20");
    assert!(report.contains("pmtu 1400") && report.contains("reached"), "{report}");
    // TCP works in both directions in spite of it.
    let random = lab.files("app").join("random");
    lab.run(
        "app",
        &format!(
            "head -c 4M /dev/urandom >{0} && cp {0} {1}",
            random.display(),
            lab.files("server").display()
        ),
    );
    lab.run(
        "client",
        "curl -sS --fail -o down http://203.0.113.17/files/random && cmp down app/files/random",
    );
    lab.run("web", "curl -sS --fail -T app/files/random http://198.51.100.20/files/up && cmp server/files/up app/files/random");
    gateway.finish();
}
