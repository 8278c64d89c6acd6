//! Private hosts that reach each other, or themselves, by EIP.

use crate::configuration::{base, dnat, eip, gateway, port, snat, vpc};
use crate::gateway::{Gateway, socket};
use crate::lab::Lab;
use crate::with_all_back_ends;

with_all_back_ends! { through_the_same_gateway through_another_gateway }

fn through_the_same_gateway(back_end: &str) {
    let lab = Lab::new();
    lab.web_server("web", &[8080]);
    lab.web_server("app", &[80]);
    let gateway = Gateway::start(&lab, &base(back_end, &socket(&lab)));
    // The source that is shown is external (RFC 4787 REQ-9a).
    lab.page("app", "http://203.0.113.16/", &["of web", "client 203.0.113.17\n"]);
    lab.page("web", "http://203.0.113.17/", &["of app", "client 203.0.113.1"]);
    lab.page("web", "http://203.0.113.16/", &["of web", "client 203.0.113.1"]);
    lab.page("app", "http://203.0.113.17/", &["of app", "client 203.0.113.17\n"]);
    let report = lab.run("web", "ping -q -c 10 -i 0.01 -W 2 -s 1472 -M do 203.0.113.17");
    assert!(report.contains("10 received"), "{report}");
    let report = lab.run("web", "ping -q -c 10 -i 0.01 -W 2 203.0.113.16");
    assert!(report.contains("10 received"), "{report}");
    gateway.finish();
}

fn through_another_gateway(back_end: &str) {
    let lab = Lab::with_two_vpcs();
    lab.web_server("web", &[8080, 8090]);
    lab.web_server("app", &[80]);
    lab.web_server("app2", &[80]);
    let mut configuration =
        base(back_end, &socket(&lab)) + &port("lan2", back_end) + &vpc("test", "lan2", None);
    // A second gateway of the same VPC, and one of another VPC with the same addresses.
    configuration += &gateway("gw2", "prod");
    configuration += &eip(20, "gw2");
    configuration += &dnat("page2", "gw2", 20, "81", "10.0.1.10", "8090", "TCP");
    configuration += &gateway("gw3", "test");
    configuration += &eip(21, "gw3");
    configuration += &eip(22, "gw3");
    configuration += &dnat("own-eip3", "gw3", 21, "\"Any\"", "10.0.1.20", "\"Any\"", "Any");
    configuration += &snat("everyone3", "gw3", &[22]);
    let running = Gateway::start(&lab, &configuration);
    lab.page("app", "http://203.0.113.20:81/", &["of web", "client 203.0.113.17\n"]);
    lab.page("web", "http://203.0.113.21/", &["of app2", "client 203.0.113.1"]);
    lab.page("app", "http://203.0.113.21/", &["of app2", "client 203.0.113.17\n"]);
    lab.page("web2", "http://203.0.113.16/", &["of web", "client 203.0.113.22\n"]);
    lab.page("app2", "http://203.0.113.17/", &["of app", "client 203.0.113.21\n"]);
    let report = lab.run("web2", "ping -q -c 10 -i 0.01 -W 2 203.0.113.17");
    assert!(report.contains("10 received"), "{report}");
    running.finish();
}
