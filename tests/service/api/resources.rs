//! Resources: created, listed, changed, deleted, as one document.

use std::fs;

use serde_json::json;

use super::bench::{self, entry};
use crate::common::daemon::Site;
use crate::common::need_root;

#[test]
fn resources_are_created_listed_changed_and_deleted() {
    need_root!();
    let mut bench = bench::started("api-resources");
    let eip = bench.furnish();
    let reply = bench.send("POST", "/v1/dnat-entries", &entry(80), &[]);
    let id = reply.body["id"].as_str().expect("an identifier").to_owned();
    assert!(reply.headers.to_lowercase().contains(&format!("location: /v1/dnat-entries/{id}")), "{reply:?}");
    assert_eq!(reply.expect(201)["public_ip"], "203.0.113.16");
    let snat = bench.create("/v1/snat-entries", &json!({"gateway": "gw1", "source": "vpc", "eips": [eip]}));

    let changed = bench.send(
        "PATCH",
        &format!("/v1/dnat-entries/{id}"),
        &json!({"private_port": 8080, "description": "the web"}),
        &[],
    );
    assert_eq!(changed.expect(200)["private_port"], 8080);
    let changed = bench.send("PATCH", &format!("/v1/dnat-entries/{id}"), &json!({"description": null}), &[]);
    assert_eq!(changed.expect(200).get("description"), None);
    assert_eq!(bench.get(&format!("/v1/dnat-entries/{id}")).expect(200)["private_port"], 8080);

    // Pages follow each other without a gap.
    for port in 1000..1005 {
        bench.create("/v1/dnat-entries", &entry(port));
    }
    let (mut path, mut seen) = ("/v1/dnat-entries?limit=2".to_owned(), Vec::new());
    for _ in 0..3 {
        let page = bench.get(&path).expect(200);
        let items = page["items"].as_array().expect("items");
        assert_eq!(items.len(), 2);
        seen.extend(items.iter().map(|item| item["id"].as_str().expect("an identifier").to_owned()));
        path = page["next"].as_str().unwrap_or_default().to_owned();
    }
    seen.dedup();
    assert_eq!((seen.len(), path.as_str()), (6, ""));

    // What is in use is not deleted; with force all goes.
    let refused = bench.local(&["--request", "DELETE"], &format!("/v1/eips/{eip}")).expect(409);
    let conflicts = refused["conflicts"].as_array().expect("conflicts");
    assert!(conflicts.contains(&json!(id)) && conflicts.contains(&json!(snat)), "{refused}");
    let gone = bench.local(&["--request", "DELETE"], &format!("/v1/eips/{eip}?force=true")).expect(200);
    assert!(gone["deleted"].as_array().expect("identifiers").len() >= 7, "{gone}");
    bench.get(&format!("/v1/dnat-entries/{id}")).expect(404);

    // What was answered is there after a kill.
    bench.restart();
    assert_eq!(bench.get("/v1/gateways").expect(200)["items"][0]["name"], "gw1");
    let audit = bench.get("/v1/audit?limit=3").expect(200);
    assert_eq!(audit["items"][0]["who"], "user 0", "{audit}");
    assert_eq!(audit["items"][0]["action"], "delete");
}

#[test]
fn mistakes_are_named() {
    need_root!();
    let bench = bench::started("api-mistakes");
    bench.furnish();
    let problem = bench.send("POST", "/v1/dnat-entries", &json!({"gateway": "gw1", "eip": "203.0.113.16", "public_port": "Any", "private_ip": "10.0.1.10", "private_port": "Any", "protocol": "TCP"}), &[]);
    let problem = problem.expect(422);
    assert!(problem["parameter"].is_string() && problem["rule"].is_string(), "{problem}");
    let problem = bench.send("POST", "/v1/eips", &json!({"address": "192.0.2.1"}), &[]).expect(422);
    assert_eq!((&problem["parameter"], &problem["value"]), (&json!("address"), &json!("192.0.2.1")));
    bench.create("/v1/dnat-entries", &entry(80));
    let problem = bench.send("POST", "/v1/dnat-entries", &entry(80), &[]).expect(409);
    assert!(problem["conflicts"][0].as_str().expect("an identifier").starts_with("fwd-"), "{problem}");
    let problem = bench.send("POST", "/v1/eips", &json!({"adress": "203.0.113.17"}), &[]).expect(422);
    assert!(problem["detail"].as_str().expect("a text").contains("adress"), "{problem}");
    for body in [json!([]), json!("eip"), json!(7), json!(null)] {
        let refused = bench.send("POST", "/v1/eips", &body, &[]);
        assert!((400..500).contains(&refused.status), "{refused:?}");
    }
    let broken = bench.local(&["--data", "{", "--header", "Content-Type: application/json"], "/v1/eips");
    assert_eq!(broken.expect(400).get("parameter"), None);
    let problem = bench.send("POST", "/v1/keys", &json!({"role": "viewer", "rank": 1}), &[]).expect(400);
    assert_eq!(
        (&problem["code"], &problem["parameter"]),
        (&json!("UnknownKey"), &json!("rank")),
        "{problem}"
    );
    let problem = bench.send("POST", "/v1/keys", &json!({"role": 7}), &[]).expect(400);
    assert_eq!((&problem["code"], &problem["parameter"]), (&json!("WrongType"), &json!("role")), "{problem}");
    // Its secret cannot be told again, so a repetition would make another key.
    bench.send("POST", "/v1/keys", &json!({"role": "viewer"}), &["Idempotency-Key: a"]).expect(400);
    assert_eq!(bench.get("/v1/keys").expect(200)["items"], json!([]));
    bench.local(&["--data", "{}", "--header", "Content-Type: text/plain"], "/v1/eips").expect(415);
    let problem = bench.get("/v1/eips?limt=3").expect(400);
    assert_eq!((&problem["parameter"], &problem["value"]), (&json!("limt"), &json!("3")), "{problem}");
    let problem = bench.get("/v1/eips?limit=many").expect(400);
    assert_eq!((&problem["parameter"], &problem["value"]), (&json!("limit"), &json!("many")), "{problem}");
    bench.get("/v1/eips?limit=0").expect(400);
    bench.get("/v1/eips/%FF").expect(400);
    bench.get("/v1/eips?after=nothing").expect(422);
    bench.get("/v1/nothing").expect(404);
    bench.get("/v1/eips/eip-0000000000000").expect(404);
    bench.local(&["--request", "PUT"], "/v1/eips").expect(405);
    let long = format!("{{\"description\": \"{}\"}}", "x".repeat(80_000));
    fs::write(bench.path("long"), long).expect("a file");
    let file = format!("@{}", bench.path("long").display());
    bench
        .local(&["--data-binary", &file, "--header", "Content-Type: application/json"], "/v1/eips")
        .expect(413);
    assert_eq!(
        bench.get("/v1/eips").expect(200)["items"].as_array().expect("items").len(),
        1,
        "nothing was changed"
    );
    assert!(bench.get("/v1/openapi.json").expect(200)["paths"]["/v1/eips"].is_object());
    assert!(bench.get("/v1/status").expect(200)["workers"].is_array());
    assert!(bench.get("/v1/stats").expect(200)["total"].is_object());
    assert_eq!(bench.get("/v1/sessions?count=true").expect(200)["count"], 0);
    assert!(bench.get("/v1/sessions?protocol=tcp&limit=5").expect(200)["items"].is_array());
    let explained = bench
        .send("POST", "/v1/explain", &json!({"packet": "tcp 198.51.100.1:5000 > 203.0.113.16:80"}), &[])
        .expect(200);
    assert!(explained.to_string().contains("10.0.1.10"), "{explained}");
}

#[test]
fn a_request_with_a_key_is_made_once() {
    need_root!();
    let mut bench = bench::started("api-repeat");
    bench.furnish();
    let once =
        |bench: &Site| bench.send("POST", "/v1/dnat-entries", &entry(80), &["Idempotency-Key: first-try"]);
    let first = once(&bench).expect(201);
    let again = once(&bench);
    assert!(again.headers.to_lowercase().contains("idempotency-replayed: true"), "{again:?}");
    assert_eq!(again.expect(201), first);
    bench.restart();
    assert_eq!(once(&bench).expect(201), first, "the store remembers");
    let other =
        bench.send("POST", "/v1/dnat-entries", &entry(81), &["Idempotency-Key: first-try"]).expect(422);
    assert_eq!(other["parameter"], "idempotency_key", "{other}");
    assert_eq!(bench.get("/v1/dnat-entries").expect(200)["items"].as_array().expect("items").len(), 1);
}

#[test]
fn all_resources_are_one_document() {
    need_root!();
    let bench = bench::started("api-whole");
    let eip = bench.furnish();
    bench.create("/v1/dnat-entries", &entry(80));
    let (_, viewer) = bench.key("viewer");
    let (_, operator) = bench.key("operator");
    let all = bench.remote(Some(&viewer), &[], "/v1/export").expect(200);
    assert_eq!((&all["version"], &all["eip"][0]["id"]), (&json!(1), &json!(eip)));
    assert!(all["eip"][0].get("status").is_none() && all["dnat"][0].get("public_ip").is_none(), "{all}");
    let unchanged = bench.send("POST", "/v1/apply", &all, &[]).expect(200);
    assert_eq!(unchanged["changes"], json!([]));

    let mut other = all.clone();
    other["dnat"][0]["public_port"] = json!(81);
    other["eip"].as_array_mut().expect("EIPs").push(json!({"address": "203.0.113.17"}));
    let text = other.to_string();
    let send = ["--data", text.as_str(), "--header", "Content-Type: application/json"];
    let refused = bench.remote(Some(&viewer), &send, "/v1/apply?dry_run=true").expect(403);
    assert!(refused["detail"].as_str().expect("a text").contains("takes the role operator"), "{refused}");
    let shown = bench.remote(Some(&operator), &send, "/v1/apply?dry_run=true").expect(200);
    assert_eq!((shown["changes"].as_array().map(Vec::len), &shown["dry_run"]), (Some(2), &json!(true)));
    assert_eq!(bench.get("/v1/export").expect(200), all);
    let generation = shown["generation"].as_u64().expect("a number");
    let outdated = format!("/v1/apply?generation={}", generation - 1);
    assert_eq!(bench.remote(Some(&operator), &send, &outdated).expect(409)["code"], "Outdated");
    let path = format!("/v1/apply?generation={generation}&confirm_seconds=600");
    let applied = bench.remote(Some(&operator), &send, &path).expect(200);
    assert!(applied["unconfirmed"]["who"].as_str().expect("a text").contains("the-operator"), "{applied}");
    assert_eq!(bench.send("POST", "/v1/eips", &json!({}), &[]).expect(409)["code"], "Unconfirmed");
    let post = ["--request", "POST"];
    bench.remote(Some(&viewer), &post, "/v1/apply/rollback").expect(403);
    bench.remote(Some(&operator), &post, "/v1/apply/rollback").expect(200);
    assert_eq!(bench.get("/v1/export").expect(200), all);
    bench.remote(Some(&operator), &send, "/v1/apply?confirm_seconds=600").expect(200);
    bench.remote(Some(&operator), &post, "/v1/apply/confirm").expect(200);
    bench.remote(Some(&operator), &post, "/v1/apply/confirm").expect(409);
    assert_eq!(bench.get("/v1/dnat-entries").expect(200)["items"][0]["public_port"], 81);

    // Mistakes, in a small document and in one that other paths would not take.
    other["snat"] = json!([{"gateway": "gw1", "source": "192.0.2.0/24", "eips": [eip]}]);
    let problem = bench.send("POST", "/v1/apply", &other, &[]).expect(422);
    assert_eq!(
        (&problem["parameter"], &problem["value"]),
        (&json!("snat[0].source"), &json!("192.0.2.0/24"))
    );
    assert_eq!(problem["findings"][0]["key"], "snat[0].source", "{problem}");
    assert_eq!(
        bench.send("POST", "/v1/apply", &json!({"version": 1, "eips": []}), &[]).expect(400)["parameter"],
        "eips"
    );
    bench.send("POST", "/v1/apply?confirm_seconds=0", &all, &[]).expect(422);
    other["snat"] = json!([]);
    other["dnat"] = (1..=101).map(entry).collect();
    let text = json!({"version": 1, "vpc": [{"name": "large", "cidr": "10.0.0.0/16", "description": "x".repeat(80_000)}]});
    fs::write(bench.path("large"), text.to_string()).expect("a file");
    let file = format!("@{}", bench.path("large").display());
    let large = ["--data-binary", &file, "--header", "Content-Type: application/json"];
    assert_eq!(bench.local(&large, "/v1/apply").expect(422)["parameter"], "vpc[0].description");
    let problem = bench.send("POST", "/v1/apply", &other, &[]).expect(422);
    assert_eq!(problem["code"], "QuotaDnat", "{problem}");
}

#[test]
fn concurrent_creations_all_succeed() {
    need_root!();
    let bench = bench::started("api-concurrent");
    bench.furnish();
    std::thread::scope(|scope| {
        for client in 0..8_u16 {
            let bench = &bench;
            scope.spawn(move || {
                (0..10).for_each(|n| drop(bench.create("/v1/dnat-entries", &entry(1000 + client * 10 + n))));
            });
        }
    });
    assert_eq!(
        bench.get("/v1/dnat-entries?limit=1000").expect(200)["items"].as_array().expect("items").len(),
        80
    );
}
