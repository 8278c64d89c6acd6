//! Keys and what they allow.

use std::fs;

use serde_json::json;

use super::bench::{self, entry};
use crate::common::need_root;

#[test]
fn roles_decide_who_may_do_what() {
    need_root!();
    let mut bench = bench::started("api-roles");
    bench.furnish();
    let (viewer_id, viewer) = bench.key("viewer");
    let (_, operator) = bench.key("operator");
    let (_, admin) = bench.key("admin");
    let body = entry(80).to_string();
    let create = ["--data", body.as_str(), "--header", "Content-Type: application/json"];
    let new_key = ["--data", "{\"role\":\"viewer\"}", "--header", "Content-Type: application/json"];

    let stranger = bench.remote(None, &[], "/v1/eips");
    assert!(stranger.headers.to_lowercase().contains("www-authenticate: bearer"), "{stranger:?}");
    stranger.expect(401);
    bench.remote(Some("ngk_0000"), &[], "/v1/eips").expect(401);
    bench.remote(Some(&viewer), &[], "/v1/eips").expect(200);
    let refused = bench.remote(Some(&viewer), &create, "/v1/dnat-entries").expect(403);
    assert!(refused["detail"].as_str().expect("a text").contains("takes the role operator"), "{refused}");
    bench.remote(Some(&operator), &create, "/v1/dnat-entries").expect(201);
    bench.remote(Some(&operator), &new_key, "/v1/keys").expect(403);
    bench.remote(Some(&operator), &[], "/v1/keys").expect(403);
    bench.remote(Some(&admin), &new_key, "/v1/keys").expect(201);

    // The audit log names the key, and knows neither secrets nor hashes.
    let audit = bench.get("/v1/audit").expect(200);
    let who: Vec<_> =
        audit["items"].as_array().expect("items").iter().map(|record| record["who"].to_string()).collect();
    assert!(who.iter().any(|who| who.contains("(the-operator)")), "{audit}");
    assert!(!audit.to_string().contains(&operator) && !audit.to_string().contains("hash"), "{audit}");
    let store = fs::read(bench.path("natgate.redb")).expect("the store");
    assert!(
        !store.windows(operator.len()).any(|bytes| bytes == operator.as_bytes()),
        "the secret is in the store"
    );

    bench.restart();
    bench.remote(Some(&viewer), &[], "/v1/eips").expect(200);
    let shown = bench.get(&format!("/v1/keys/{viewer_id}")).expect(200);
    assert_eq!((&shown["role"], shown.get("secret")), (&json!("viewer"), None));
    bench.get("/v1/keys/nobody").expect(404);
    bench.remote(Some(&admin), &["--request", "DELETE"], &format!("/v1/keys/{viewer_id}")).expect(200);
    bench.remote(Some(&viewer), &[], "/v1/eips").expect(401);
    bench.remote(Some(&admin), &["--request", "DELETE"], "/v1/keys/nobody").expect(404);
    // Another role holds at once, and for the same secret.
    let (id, changing) = bench.key("viewer");
    let change = |body: &'static str| {
        ["--request", "PATCH", "--data", body, "--header", "Content-Type: application/json"]
    };
    let path = format!("/v1/keys/{id}");
    bench.remote(Some(&operator), &change("{\"role\":\"admin\"}"), &path).expect(403);
    bench.remote(Some(&admin), &change("{\"role\":\"king\"}"), &path).expect(422);
    bench.remote(Some(&changing), &create, "/v1/dnat-entries").expect(403);
    let changed = bench.remote(Some(&admin), &change("{\"role\":\"operator\",\"name\":\"grown\"}"), &path);
    assert_eq!(changed.expect(200)["role"], "operator");
    assert_ne!(bench.remote(Some(&changing), &create, "/v1/dnat-entries").status, 403);
    bench.restart();
    assert_eq!(bench.get(&path).expect(200)["name"], "grown");
    // A local user may act as somebody less.
    let header = format!("Authorization: Bearer {operator}");
    bench.local(&["--header", &header], "/v1/keys").expect(403);
    bench.send("POST", "/v1/keys", &json!({"role": "king"}), &[]).expect(422);
    assert!(
        !bench
            .namespace
            .command("curl")
            .args(["-s", "-m", "5", "http://127.0.0.1:8443/healthz"])
            .output()
            .expect("curl")
            .status
            .success(),
        "plain HTTP where TLS is configured"
    );
}
