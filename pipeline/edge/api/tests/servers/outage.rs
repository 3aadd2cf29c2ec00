//! NATS away, the door killed, files full, and what waited too long.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::HashSet, sync::Arc, time::Duration};

use chasqui_contract::{ManualClock, SystemClock};
use chasqui_schemas::{Lane, header};
use chasqui_testing::servers::Nats;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::support::{Door, WINDOW, json_of, stored, to, wait_for};

const SPOOL: u64 = 64 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_outlives_broker_and_door_in_order_and_says_where_it_is() {
    let (mut nats, dir) = (Nats::with_streams().await, tempfile::tempdir().unwrap());
    let door = Door::open(&nats, dir.path(), SPOOL, Arc::new(SystemClock)).await;
    let mut ids = vec![door.submit(&to(0)).await["id"].clone()];
    let next = nats.client().await;

    nats.stop().await;
    for n in 1..40 {
        let answer = door.submit(&to(n)).await;
        assert_eq!((&answer["status"], &answer["durability"]), (&json!("accepted"), &json!("spooled")), "{n}");
        ids.push(answer["id"].clone());
    }
    let path = format!("/v1/notifications/{}", ids[5].as_str().unwrap());
    assert_eq!(json_of(door.get(&path).send().await.unwrap()).await["status"], "spooled");
    door.crash().await;

    // The next process knows them too, and takes more, while NATS is still away.
    let door = Door::open_on(next, dir.path(), SPOOL, Arc::new(SystemClock)).await;
    assert_eq!(json_of(door.get(&path).send().await.unwrap()).await["status"], "spooled");
    for n in 40..60 {
        ids.push(door.submit(&to(n)).await["id"].clone());
    }
    nats.start_again().await;
    let found = wait_for(&nats, Lane::Normal, ids.len()).await;
    let arrived: Vec<Value> = found.iter().map(|each| each.body["id"].clone()).collect();
    assert_eq!(arrived, ids, "in order, each once");
    let told: Value = serde_json::from_str(found[30].headers.get(header::DOOR).unwrap().as_str()).unwrap();
    assert!(told["spooled_ms"].is_u64(), "{told}");

    // From here on directly again, once what was spooled is off the disk.
    let patience = tokio::time::Instant::now() + Duration::from_secs(60);
    while door.submit(&to(60)).await["durability"] != "stored" {
        assert!(tokio::time::Instant::now() < patience);
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_one_request_while_nats_is_away_and_afterwards() {
    let (mut nats, dir) = (Nats::with_streams().await, tempfile::tempdir().unwrap());
    let door = Door::open(&nats, dir.path(), SPOOL, Arc::new(SystemClock)).await;
    let ask = async |body: &Value| {
        let request = door.post("/v1/notifications", body).header("Idempotency-Key", "k");
        let response = request.send().await.unwrap();
        (response.status().as_u16(), json_of(response).await)
    };
    nats.stop().await;
    let (status, first) = ask(&to(1)).await;
    assert_eq!((status, &first["durability"]), (202, &json!("spooled")));
    assert_eq!(ask(&to(1)).await, (202, first.clone()));
    assert_eq!(ask(&to(2)).await.0, 422);
    nats.start_again().await;
    wait_for(&nats, Lane::Normal, 1).await;
    let (status, again) = ask(&to(1)).await;
    assert_eq!((status, &again["id"]), (202, &first["id"]));
    assert_eq!(ask(&to(2)).await.0, 422, "the claim was made when it went out");
    let ids: HashSet<_> =
        stored(&nats, Lane::Normal).await.into_iter().map(|each| each.body["id"].to_string()).collect();
    assert_eq!(ids.len(), 1);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_refuses_and_loses_nothing() {
    let (mut nats, dir) = (Nats::with_streams().await, tempfile::tempdir().unwrap());
    let door = Door::open(&nats, dir.path(), 20_000, Arc::new(SystemClock)).await;
    nats.stop().await;
    let (mut taken, mut refused) = (Vec::new(), 0);
    for n in 0..200 {
        let response = door.post("/v1/notifications", &to(n)).send().await.unwrap();
        match response.status().as_u16() {
            202 => taken.push(json_of(response).await["id"].clone()),
            503 if response.headers().contains_key("retry-after") => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert!(taken.len() > 10 && refused > 10, "{} {refused}", taken.len());
    nats.start_again().await;
    let found = wait_for(&nats, Lane::Normal, taken.len()).await;
    assert_eq!(found.into_iter().map(|each| each.body["id"].clone()).collect::<Vec<_>>(), taken);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_longer_than_repeats_are_known_is_held_until_a_person_decides() {
    let (mut nats, dir) = (Nats::with_streams().await, tempfile::tempdir().unwrap());
    let clock = Arc::new(ManualClock::new(Timestamp::now()));
    let door = Door::open(&nats, dir.path(), SPOOL, clock.clone()).await;
    nats.stop().await;
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(door.submit(&to(n)).await["id"].as_str().unwrap().to_owned());
    }
    clock.advance(jiff::SignedDuration::try_from(WINDOW).unwrap() + jiff::SignedDuration::from_secs(1));
    let fresh = door.submit(&to(3)).await["id"].clone();
    nats.start_again().await;
    let found = wait_for(&nats, Lane::Normal, 1).await;
    assert_eq!(found[0].body["id"], fresh, "what is fresh does not wait for it");
    let held = async |door: &Door| {
        let page = json_of(door.get("/v1/held").send().await.unwrap()).await;
        page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["id"].as_str().unwrap().to_owned())
            .collect::<HashSet<_>>()
    };
    let path = |n: usize| format!("/v1/notifications/{}", ids[n]);
    assert_eq!(held(&door).await, ids.iter().cloned().collect());
    assert_eq!(json_of(door.get(&path(0)).send().await.unwrap()).await["status"], "held");
    door.crash().await;

    let door = Door::open(&nats, dir.path(), SPOOL, clock.clone()).await;
    assert_eq!(held(&door).await.len(), 3, "it is on the disk");
    let act = async |method: &str, path: String| {
        door.bare(method, &path).bearer_auth(super::support::SHOP).send().await.unwrap().status().as_u16()
    };
    assert_eq!(act("POST", format!("/v1/held/{}/release", ids[0])).await, 202);
    assert_eq!(act("DELETE", format!("/v1/held/{}", ids[1])).await, 204);
    assert_eq!(act("DELETE", format!("/v1/held/{}", ids[1])).await, 404);
    let found = wait_for(&nats, Lane::Normal, 2).await;
    assert_eq!(found[1].body["id"], ids[0].as_str());
    assert_eq!(held(&door).await, HashSet::from([ids[2].clone()]));
    door.close().await;
}
