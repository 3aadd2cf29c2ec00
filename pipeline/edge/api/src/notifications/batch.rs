//! `POST /v1/notifications/batch`: up to a thousand submissions, judged singly and answered in order.
//!
//! All of them are stored beside one another, so they share fsyncs. 202 where all are taken, 207 where some are, else the
//! status that all refusals have in common, or 422.
//!
//! An `Idempotency-Key` covers the whole list. Each submission then has an id made of key and place, so that a repeat after a
//! crash in the middle completes what is missing.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use chasqui_schemas::{
    Lane, Reason,
    api::{Accepted, BatchAnswer, BatchItem, MAX_BATCH_ITEMS, ProblemError},
};
use futures::future::join_all;
use serde_json::{Value, value::RawValue};

use super::{
    judge::judge,
    submit::{Asked, answered},
};
use crate::{App, caller::Caller, idempotency::Request, problem::Problem};

pub(crate) async fn submit_batch(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let asked = Asked::of(&app, &caller, &headers)?;
    let bodies: Vec<&RawValue> = serde_json::from_slice(&body).map_err(|error| not_a_list(&error.to_string()))?;
    if bodies.is_empty() || bodies.len() > MAX_BATCH_ITEMS {
        return Err(not_a_list(&format!("{} submissions; 1 to {MAX_BATCH_ITEMS} are taken", bodies.len())));
    }
    let replayed = match (&asked.key, app.ledger()) {
        (Some(key), Some(ledger)) => {
            // It was read above.
            let list = serde_json::from_slice::<Value>(&body).unwrap_or_default();
            let whole = [("batch".to_owned(), list)].into_iter().collect();
            Request::of(&caller.app.name, key, Lane::Normal, &whole).claim(&*ledger).await?
        }
        _ => false,
    };
    let mut limits = HeaderMap::new();
    let mut storing = Vec::with_capacity(bodies.len());
    for (place, body) in bodies.into_iter().enumerate() {
        let judged = judge(&app.checks, &caller, body.get().as_bytes(), asked.new_id(Some(place)), app.clock.now());
        let counted = judged.and_then(|judged| {
            limits = app.limits.take(&caller.app, judged.recipients)?;
            Ok(judged)
        });
        let asked = &asked;
        storing.push(async move {
            match counted {
                Ok(judged) => asked.store(judged, None).await,
                Err(problem) => Err(problem),
            }
        });
    }
    let answers = join_all(storing).await;
    let status = together(&answers);
    let items = answers.into_iter().enumerate().map(|(index, answer)| item(index, answer)).collect();
    Ok(answered((status, Json(BatchAnswer { items })), limits, replayed))
}

fn not_a_list(what: &str) -> Problem {
    let mut problem = Problem::invalid();
    let (detail, reason) = (format!("must be a list of submissions: {what}"), Reason::Invalid.to_string());
    problem.body.errors.push(ProblemError { pointer: String::new(), detail, reason });
    problem
}

/// The status of the whole.
fn together(answers: &[Result<Accepted, Problem>]) -> StatusCode {
    let taken = answers.iter().filter(|answer| answer.is_ok()).count();
    let mut refusals = answers.iter().filter_map(|answer| answer.as_ref().err().map(|problem| problem.status()));
    let first = refusals.next();
    match first {
        None => StatusCode::ACCEPTED,
        Some(_) if taken > 0 => StatusCode::MULTI_STATUS,
        Some(first) if refusals.all(|status| status == first) => first,
        Some(_) => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

fn item(index: usize, answer: Result<Accepted, Problem>) -> BatchItem {
    match answer {
        Ok(accepted) => BatchItem {
            index,
            status: StatusCode::ACCEPTED.as_u16(),
            id: Some(accepted.id),
            durability: Some(accepted.durability),
            problem: None,
        },
        Err(problem) => {
            BatchItem { index, status: problem.body.status, id: None, durability: None, problem: Some(*problem.body) }
        }
    }
}
