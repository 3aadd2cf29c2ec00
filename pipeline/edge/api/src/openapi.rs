//! The description of this door: one OpenAPI 3.1 document, whose schemas are those of the types.
//!
//! A test holds it against the routes, and against the copy in `schemas/json/openapi.json`.

use std::sync::LazyLock;

use axum::{
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use chasqui_schemas::api;
use serde_json::{Map, Value, json};

static DOCUMENT: LazyLock<String> = LazyLock::new(|| document().to_string());

pub(crate) async fn answer() -> Response {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
}

/// The document.
pub fn document() -> Value {
    let mut schemas: Map<String, Value> = api::schemas("/components/schemas").into_iter().collect();
    // Over HTTP the lane stands in the body.
    if let Some(properties) = schemas.get_mut("Submission").and_then(|schema| schema.get_mut("properties")) {
        properties["lane"] = json!({ "description": "How urgent it is; `normal` if absent.", "anyOf": [schema("Lane"), { "type": "null" }] });
    }
    let key = json!({
        "name": "Idempotency-Key", "in": "header", "required": false, "schema": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$" },
        "description": "The same key with the same body has the same answer, and nothing is sent twice; with another body it is refused."
    });
    let trace = json!({ "name": "traceparent", "in": "header", "required": false, "schema": { "type": "string" }, "description": "The caller's own trace (W3C trace context)." });
    let id = |what: &str| json!({ "name": "id", "in": "path", "required": true, "schema": { "type": "string", "format": "uuid" }, "description": what });
    let query = |name: &str, what: &str, schema: Value| json!({ "name": name, "in": "query", "required": false, "schema": schema, "description": what });
    let text = || json!({ "type": "string" });
    let held = id("The id of a request that is held.");
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Chasqui", "version": "1",
            "description": "Submits notifications and shows what became of them. Refusals are `application/problem+json`; a problem's `type` ends in a reason code.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" }
        },
        "servers": [{ "url": "/" }],
        "security": [{ "key": [] }],
        "paths": {
            "/v1/notifications": {
                "post": {
                    "operationId": "submit", "summary": "Submit a notification", "parameters": [key, trace],
                    "description": "The submission is stored before it is answered. The document of older producers (`userId`, `notificationId`, …) is taken too.",
                    "requestBody": body(schema("Submission"), example()),
                    "responses": with(&[400, 401, 403, 408, 413, 415, 422, 429, 503], json!({
                        "202": answered("It is stored.", "Accepted", json!({
                            "Location": { "schema": text(), "description": "Where it is read." },
                            "Idempotent-Replayed": { "schema": text(), "description": "`true` where it is the answer to a request before." },
                            "RateLimit": { "schema": text(), "description": "What the app may address now." },
                            "RateLimit-Policy": { "schema": text(), "description": "What it may address at most." }
                        }))
                    }))
                },
                "get": {
                    "operationId": "list", "summary": "List notifications, newest first",
                    "parameters": [
                        query("user", "Of this user.", text()), query("transaction_id", "Of this transaction.", text()),
                        query("state", "In this state.", json!({ "type": "string", "enum": states() })),
                        query("after", "The `next` of the page before.", json!({ "type": "string", "pattern": "^[0-9]{1,13}\\.[0-9a-f-]{36}$" })),
                        query("limit", "Entries of the page.", json!({ "type": "integer", "minimum": 1, "maximum": api::MAX_PAGE, "default": api::DEFAULT_PAGE }))
                    ],
                    "responses": with(&[400, 401, 403, 408, 413, 503], json!({ "200": answered("A page.", "NotificationPage", json!({})) }))
                }
            },
            "/v1/notifications/batch": { "post": {
                "operationId": "submitBatch", "summary": "Submit up to 1,000 notifications", "parameters": [key, trace],
                "description": "Each is judged by itself and answered in order.",
                "requestBody": body(json!({ "type": "array", "minItems": 1, "maxItems": api::MAX_BATCH_ITEMS, "items": schema("Submission") }), json!([example()])),
                "responses": with(&[401, 403, 408, 415], json!({
                    "202": answered("All are stored.", "BatchAnswer", json!({})),
                    "207": answered("Some are stored.", "BatchAnswer", json!({})),
                    "400": refused_batch(), "413": refused_batch(), "422": refused_batch(), "429": refused_batch(), "503": refused_batch()
                }))
            } },
            "/v1/notifications/{id}": { "get": {
                "operationId": "read", "summary": "Show what became of a request", "parameters": [id("The id of a request, or of one notification.")],
                "responses": with(&[401, 403, 404, 408, 413, 503], json!({ "200": answered("The request.", "RequestView", json!({})) }))
            } },
            "/v1/held": { "get": {
                "operationId": "listHeld", "summary": "List submissions that wait for a person",
                "responses": with(&[401, 403, 408, 413, 503], json!({ "200": answered("The oldest hundred.", "HeldPage", json!({})) }))
            } },
            "/v1/held/{id}": { "delete": {
                "operationId": "discardHeld", "summary": "Discard a held submission for good", "parameters": [held],
                "responses": with(&[401, 403, 404, 408, 413, 503], json!({ "204": { "description": "It is gone." } }))
            } },
            "/v1/held/{id}/release": { "post": {
                "operationId": "releaseHeld", "summary": "Send a held submission", "parameters": [id("The id of a request that is held.")],
                "responses": with(&[401, 403, 404, 408, 413, 503], json!({ "202": { "description": "It goes out when the broker is there." } }))
            } },
            "/v1/openapi.json": { "get": {
                "operationId": "describe", "summary": "This document", "security": [],
                "responses": with(&[408, 413, 503], json!({ "200": { "description": "The document.", "content": { "application/json": { "schema": { "type": "object" } } } } }))
            } }
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": { "key": { "type": "http", "scheme": "bearer", "description": "A key of an app." } }
        }
    })
}

fn states() -> Vec<&'static str> {
    chasqui_schemas::trace::State::ALL
        .map(chasqui_schemas::trace::State::as_str)
        .into_iter()
        .chain(["pending"])
        .collect()
}

fn example() -> Value {
    json!({ "category": "order", "recipients": ["ada"], "lane": "high", "content": { "title": "Shipped", "body": "It is on its way" } })
}

fn schema(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn body(schema: Value, example: Value) -> Value {
    json!({ "required": true, "content": { "application/json": { "schema": schema, "example": example } } })
}

fn answered(what: &str, name: &str, headers: Value) -> Value {
    json!({ "description": what, "headers": headers, "content": { "application/json": { "schema": schema(name) } } })
}

/// None is stored: either the list itself is refused, or each submission in it.
fn refused_batch() -> Value {
    json!({ "description": "None is stored.", "content": {
        "application/json": { "schema": schema("BatchAnswer") }, "application/problem+json": { "schema": schema("Problem") }
    } })
}

/// Adds the refusals with these statuses.
fn with(statuses: &[u16], mut responses: Value) -> Value {
    for status in statuses {
        let what = match status {
            400 => "It cannot be read.",
            401 => "No valid key came with it.",
            403 => "The key is not for this.",
            404 => "There is nothing of the app's.",
            408 => "It did not come, or could not be answered, in time.",
            413 => "It is too large.",
            415 => "It is not JSON.",
            422 => "It breaks the contract; `errors` lists how.",
            429 => "The app has addressed as many as it may for now.",
            _ => "There is no room, or what is needed cannot be reached.",
        };
        let problem =
            json!({ "description": what, "content": { "application/problem+json": { "schema": schema("Problem") } } });
        responses[status.to_string()] = problem;
    }
    responses
}
