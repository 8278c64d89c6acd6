//! What a reload tells, and what it refuses.

use super::*;

fn changes(old: &str, new: &str) -> String {
    let changes = diff(&model(old), &model(new));
    changes.iter().map(ToString::to_string).chain([String::new()]).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_same_file_changes_nothing() {
    assert_eq!(changes(EXAMPLE, EXAMPLE), "");
    assert_eq!(changes(EXAMPLE, &format!("# a comment\n{EXAMPLE}")), "");
    // Order and notation are no change.
    assert_eq!(changes(EXAMPLE, &edited(&[("sessions = 1048576", ""), ("\"1m\"", "\"60s\"")])), "");
}

#[test]
fn changes_in_words() {
    let new = edited(&[
        ("udp = \"5m\"", "udp = \"6m\""),
        ("gateway = \"203.0.113.1\"", "gateway = \"203.0.113.3\""),
        ("via = \"10.0.1.254\"", "via = \"10.0.1.253\""),
        ("specification = \"Unlimited\"", "specification = \"Small\""),
        ("ping = true", "ping = false"),
        ("private_port = 8080", "private_port = 8081"),
        ("\"203.0.113.17\", \"203.0.113.18\"", "\"203.0.113.17\""),
    ]);
    let new = new.replace(
        "[[eip]]\naddress = \"203.0.113.18\"\ngateway = \"gw1\"\n",
        "[[dnat]]\ngateway = \"gw1\"\neip = \"203.0.113.16\"\npublic_port = 53\nprivate_ip = \"10.0.1.9\"\nprivate_port = 53\nprotocol = \"UDP\"\n",
    );
    insta::assert_snapshot!(changes(EXAMPLE, &new));
    let list = diff(&model(EXAMPLE), &model(&new));
    insta::assert_snapshot!(serde_json::to_string_pretty(&list[list.len() - 1]).unwrap());
    // The way back undoes it all.
    let back = diff(&model(&new), &model(EXAMPLE));
    assert_eq!(back.len(), list.len());
    let count = |list: &[Change], action| list.iter().filter(|c| c.action == action).count();
    assert_eq!(count(&back, Action::Added), count(&list, Action::Removed));
    assert_eq!(count(&back, Action::Removed), count(&list, Action::Added));
}

#[test]
fn what_needs_a_restart() {
    let refused = |edits: &[(&str, &str)], add: &str| {
        let next = format!("{}{add}", edited(edits));
        check_reload(&model(EXAMPLE), &model(&next)).unwrap_err().to_string() + "\n"
    };
    assert_eq!(check_reload(&model(EXAMPLE), &model(EXAMPLE)), Ok(()));
    // Everything but ports and [system] may change; of the latter, log.
    let allowed =
        edited(&[("udp = \"5m\"", "udp = \"6m\""), ("workers = 2", "workers = 2\nlog = \"debug\"")]);
    assert_eq!(check_reload(&model(EXAMPLE), &model(&allowed)), Ok(()));
    let system = [
        (
            "workers = 2",
            "cores = [1, 2]\nneighbours = 99\nsnat_eips = 99\nbuffers = 9999\nbuffer_size = 4096\nidle = \"poll\"",
        ),
        ("sessions = 1048576\n", ""),
        ("natgate.sock", "other.sock"),
    ];
    insta::assert_snapshot!(
        refused(&system, "")
            + &refused(
                &[("device = \"eth1\"", "device = \"eth2\"")],
                "[[port]]\nname = \"dmz\"\ndevice = \"eth3\"\n"
            )
            + &refused(&[("share = false", "share = true")], "")
    );
}

#[test]
fn a_protected_gateway_stays() {
    let protected = edited(&[("deletion_protection = false", "deletion_protection = true")]);
    let without = EXAMPLE.split("[[gateway]]").next().expect("the part before gateways");
    let errors = check_reload(&model(&protected), &model(without)).unwrap_err();
    assert_eq!(errors.iter().map(|e| e.code).collect::<Vec<_>>(), [Code::DeletionProtected]);
    assert_eq!(check_reload(&model(EXAMPLE), &model(without)), Ok(()));
}
