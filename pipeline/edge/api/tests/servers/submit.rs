//! Submitting while NATS is there.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use chasqui_contract::SystemClock;
use chasqui_schemas::{Lane, Stage, header, stream};
use chasqui_testing::servers::Nats;
use futures::future::join_all;
use serde_json::{Value, json};

use super::support::{BANK, Door, READER, SHOP, json_of, stored, to};

const SPOOL: u64 = 64 << 20;

async fn door(nats: &Nats, dir: &tempfile::TempDir) -> Door {
    Door::open(nats, dir.path(), SPOOL, Arc::new(SystemClock)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_is_stored_as_it_was_sent_before_it_is_answered() {
    let (nats, dir) = (Nats::with_streams().await, tempfile::tempdir().unwrap());
    let door = door(&nats, &dir).await;
    let body =
        r#"{"lane": "high", "category": "c", "recipients": ["ada", "bob"], "template": "t", "data": {"total": 12.50}}"#;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = door.bare("POST", "/v1/notifications").bearer_auth(SHOP).header("Content-Type", "application/json");
    let response =
        request.header("traceparent", parent).header("Idempotency-Key", "order-1").body(body).send().await.unwrap();
    assert_eq!(response.status(), 202);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    assert!(response.headers().get("idempotent-replayed").is_none());
    let answer = json_of(response).await;
    let id = answer["id"].as_str().unwrap();
    assert_eq!(answer, json!({ "id": id, "status": "accepted", "recipients": 2, "durability": "stored" }));
    assert_eq!(location, format!("/v1/notifications/{id}"));

    let found = stored(&nats, Lane::High).await;
    assert_eq!((found.len(), found[0].subject.as_str()), (1, "notify.submit.high.shop"));
    assert!(found[0].text.contains("12.50") && found[0].body.get("lane").is_none(), "{}", found[0].text);
    assert_eq!(found[0].body["id"], id);
    assert_eq!(found[0].headers.get(header::TRACEPARENT).unwrap().as_str(), parent);
    let told: Value = serde_json::from_str(found[0].headers.get(header::DOOR).unwrap().as_str()).unwrap();
    assert_eq!((&told["key"], &told["idempotency_key"]), (&json!("shopshop"), &json!("order-1")));

    // Known at once, although ClickHouse has nothing of it: there is none.
    let read = door.get(&location).send().await.unwrap();
    assert_eq!(read.status(), 200);
    assert_eq!(json_of(read).await, json!({ "id": id, "status": "accepted", "notifications": [], "more": false }));
    let other = door.bare("GET", &location).bearer_auth(BANK).send().await.unwrap();
    assert_eq!(other.status(), 503, "another app does not learn that it exists: ClickHouse would have to say");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_is_the_same_request_or_a_conflict() {
    let (nats, dir) = (Nats::with_streams().await, tempfile::tempdir().unwrap());
    let door = door(&nats, &dir).await;
    let ask = async |key: &str, bearer: &str, body: &Value| {
        let request = door.bare("POST", "/v1/notifications").bearer_auth(bearer).header("Idempotency-Key", key);
        let response = request.json(body).send().await.unwrap();
        let replayed = response.headers().get("idempotent-replayed").is_some();
        (response.status().as_u16(), replayed, json_of(response).await)
    };
    let (status, replayed, first) = ask("k", SHOP, &to(1)).await;
    assert_eq!((status, replayed), (202, false));
    let reordered =
        serde_json::from_str(r#"{"content": {"body": "b"}, "recipients": ["user-1"], "category": "c"}"#).unwrap();
    assert_eq!(ask("k", SHOP, &reordered).await, (202, true, first.clone()));
    let (status, _, problem) = ask("k", SHOP, &to(2)).await;
    assert_eq!((status, &problem["type"]), (422, &json!("urn:chasqui:reason:idempotency_conflict")));
    let (status, replayed, other) = ask("k", BANK, &to(2)).await;
    assert_eq!((status, replayed), (202, false), "a key is its app's own");
    assert_ne!(other["id"], first["id"]);
    // A refusal is not remembered.
    assert_eq!(ask("later", SHOP, &json!({})).await.0, 422);
    assert_eq!(ask("later", SHOP, &to(3)).await.0, 202);
    let ids: Vec<_> = stored(&nats, Lane::Normal).await.into_iter().map(|each| each.body["id"].clone()).collect();
    assert_eq!((ids.len(), &ids[0], &ids[1]), (4, &ids[1], &first["id"]), "published again under the first id");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_judged_singly_and_answered_in_order() {
    let (nats, dir) = (Nats::with_streams().await, tempfile::tempdir().unwrap());
    let door = door(&nats, &dir).await;
    let ask = async |body: &Value| {
        let response = door.post("/v1/notifications/batch", body).send().await.unwrap();
        (response.status().as_u16(), json_of(response).await)
    };
    let many: Vec<_> = (0..1_000).map(to).collect();
    let (status, answer) = ask(&json!(many)).await;
    let items = answer["items"].as_array().unwrap();
    assert_eq!((status, items.len()), (202, 1_000));
    let found = stored(&nats, Lane::Normal).await;
    let in_order = found.iter().zip(items).enumerate();
    assert!(in_order.into_iter().all(|(n, (each, item))| each.body["id"] == item["id"] && each.body["recipients"][0] == format!("user-{n}")));

    let (status, answer) = ask(&json!([to(1), { "category": "c" }, 7])).await;
    assert_eq!(status, 207);
    let items = answer["items"].as_array().unwrap();
    let statuses: Vec<_> =
        items.iter().map(|item| (item["index"].as_u64().unwrap(), item["status"].as_u64().unwrap())).collect();
    assert_eq!(statuses, [(0, 202), (1, 422), (2, 400)]);
    assert_eq!(items[1]["problem"]["errors"][0]["pointer"], "/recipients");
    assert_eq!(ask(&json!([{}, {}])).await.0, 422);
    for wrong in [json!([]), json!({}), json!(vec![to(1); 1_001])] {
        let (status, problem) = ask(&wrong).await;
        assert_eq!((status, &problem["type"]), (422, &json!("urn:chasqui:reason:invalid")));
    }
    assert_eq!(stored(&nats, Lane::Normal).await.len(), 1_001, "what is refused changes nothing");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_are_all_stored() {
    let (nats, dir) = (Nats::with_streams().await, tempfile::tempdir().unwrap());
    let door = door(&nats, &dir).await;
    let bodies: Vec<_> = (0..300).map(to).collect();
    let answers = join_all(bodies.iter().map(|body| door.submit(body))).await;
    let mut answered: Vec<_> = answers.iter().map(|answer| answer["id"].to_string()).collect();
    let found = stored(&nats, Lane::Normal).await;
    let mut ids: Vec<_> = found.iter().map(|each| each.body["id"].to_string()).collect();
    answered.sort();
    ids.sort();
    assert_eq!(ids, answered);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_is_told_by_a_problem_and_nothing_is_stored() {
    let (nats, dir) = (Nats::with_streams().await, tempfile::tempdir().unwrap());
    let door = door(&nats, &dir).await;
    let (one, json_type) = ("/v1/notifications", "application/json");
    let body = to(1).to_string();
    for (method, path, key, kind, body, status, reason) in [
        ("POST", one, "", json_type, body.as_str(), 401, "unauthenticated"),
        ("POST", one, "chq_live_shopshop_other", json_type, &body, 401, "unauthenticated"),
        ("POST", one, "chq_live_nobody12_s3cret", json_type, &body, 401, "unauthenticated"),
        ("POST", one, READER, json_type, &body, 403, "forbidden"),
        ("GET", "/v1/held", BANK, json_type, "", 403, "forbidden"),
        ("POST", one, SHOP, "text/plain", &body, 415, "unsupported_media_type"),
        ("POST", one, SHOP, "application/msgpack", &body, 415, "unsupported_media_type"),
        ("POST", one, SHOP, json_type, "{", 400, "malformed"),
        ("POST", one, SHOP, json_type, "[]", 400, "malformed"),
        ("PUT", one, SHOP, json_type, &body, 405, "method_not_allowed"),
        ("GET", "/v1/notifications/x", SHOP, json_type, "", 404, "not_found"),
        ("GET", "/v1/notifications?limit=0", SHOP, json_type, "", 400, "bad_request"),
        ("GET", "/v1/notifications?limit=x", SHOP, json_type, "", 400, "bad_request"),
        ("GET", "/v1/notifications?colour=red", SHOP, json_type, "", 400, "bad_request"),
        ("GET", "/v1/notifications?state=lost", SHOP, json_type, "", 400, "bad_request"),
        ("GET", "/v1/notifications?after=1", SHOP, json_type, "", 400, "bad_request"),
        ("GET", "/v1/notifications", SHOP, json_type, "", 503, "unavailable"),
        ("POST", "/v1/held/018f4d5e-7b1a-7c3d-9e2f-0123456789ab/release", SHOP, json_type, "", 404, "not_found"),
    ] {
        let mut request = door.bare(method, path).header("Content-Type", kind).body(body.to_owned());
        if !key.is_empty() {
            request = request.bearer_auth(key);
        }
        let response = request.send().await.unwrap();
        let what = format!("{method} {path} {key} {kind}");
        assert_eq!(response.status(), status, "{what}");
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{what}");
        assert_eq!(response.headers().contains_key("www-authenticate"), status == 401, "{what}");
        let problem = json_of(response).await;
        assert_eq!(
            (&problem["type"], &problem["status"]),
            (&json!(format!("urn:chasqui:reason:{reason}")), &json!(status)),
            "{what}"
        );
    }
    let large = json!({ "category": "c", "recipients": ["a"], "content": { "body": "x".repeat(1 << 20) } });
    assert_eq!(door.post(one, &large).send().await.unwrap().status(), 413);
    let gzip = door.post(one, &to(1)).header("Content-Encoding", "gzip").send().await.unwrap();
    assert_eq!(gzip.status(), 415);

    // Five at once, and one a second.
    let five = json!({ "category": "c", "recipients": ["a", "b", "c", "d", "e"], "content": { "body": "b" } });
    let ask = async || door.bare("POST", one).bearer_auth(BANK).json(&five).send().await.unwrap();
    let (first, second) = (ask().await, ask().await);
    assert_eq!((first.status().as_u16(), second.status().as_u16()), (202, 429));
    assert_eq!(first.headers()["ratelimit"], "\"recipients\";r=0;t=5");
    assert!(second.headers().contains_key("retry-after") && second.headers().contains_key("ratelimit-policy"));
    assert_eq!(stored(&nats, Lane::Normal).await.len(), 1);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_lane_refuses_and_takes_again_when_there_is_room() {
    let (nats, dir) = (Nats::with_streams().await, tempfile::tempdir().unwrap());
    let context = nats.context().await;
    let name = stream::of_stage(Stage::Validate, Lane::Normal);
    let mut config = context.get_stream(name).await.unwrap().cached_info().config.clone();
    config.max_messages = 10;
    context.update_stream(config).await.unwrap();
    let door = door(&nats, &dir).await;
    let mut statuses = Vec::new();
    for n in 0..12 {
        let response = door.post("/v1/notifications", &to(n)).send().await.unwrap();
        statuses.push((response.status().as_u16(), response.headers().contains_key("retry-after")));
    }
    assert!(statuses[..10].iter().all(|status| *status == (202, false)), "{statuses:?}");
    assert_eq!(statuses[10..], [(503, true), (503, true)]);
    let batch: Vec<_> = (0..30).map(to).collect();
    assert_eq!(door.post("/v1/notifications/batch", &json!(batch)).send().await.unwrap().status(), 503);
    let high = json!({ "lane": "high", "category": "c", "recipients": ["a"], "content": { "body": "b" } });
    assert_eq!(door.submit(&high).await["durability"], "stored", "another lane is not concerned");

    context.get_stream(name).await.unwrap().purge().await.unwrap();
    assert_eq!(door.submit(&to(12)).await["durability"], "stored");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_names_every_route() {
    let (nats, dir) = (Nats::with_streams().await, tempfile::tempdir().unwrap());
    let door = door(&nats, &dir).await;
    let document = json_of(door.bare("GET", "/v1/openapi.json").send().await.unwrap()).await;
    assert_eq!(document, chasqui_api::openapi::document());
    for (path, methods) in document["paths"].as_object().unwrap() {
        let path = path.replace("{id}", "018f4d5e-7b1a-7c3d-9e2f-0123456789ab");
        for method in ["get", "post", "put", "patch", "delete"] {
            let response = door.bare(&method.to_uppercase(), &path).bearer_auth(SHOP).send().await.unwrap();
            let status = response.status().as_u16();
            let described = methods.get(method);
            assert_eq!(status == 405, described.is_none(), "{method} {path}: {status}");
            if let Some(described) = described {
                assert!(described["responses"].get(status.to_string()).is_some(), "{method} {path}: {status}");
            }
        }
    }
    door.close().await;
}
