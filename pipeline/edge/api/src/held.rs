//! `/v1/held`: submissions that waited for the broker longer than repeats are known. A person releases or discards each.
//!
//! They are those of this gateway, of all apps, so they are for whoever has the scope `admin`.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
};
use chasqui_schemas::{
    api::{HeldPage, HeldView, MAX_PAGE, Refusal},
    app::Scope,
};
use chasqui_spool::SpoolError;
use uuid::Uuid;

use crate::{App, caller::Caller, problem::Problem};

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<HeldPage>, Problem> {
    caller.may(Scope::Admin)?;
    let mut held = app.outbox.held();
    held.sort_by_key(|(id, place)| (place.received_at, *id));
    let view = |(id, place): (Uuid, crate::outbox::Place)| HeldView {
        id,
        app: place.app,
        received_at: place.received_at,
        reason: "the broker was away longer than repeats are known, or refuses it".to_owned(),
    };
    Ok(Json(HeldPage { items: held.into_iter().take(MAX_PAGE).map(view).collect() }))
}

pub(crate) async fn release(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    caller.may(Scope::Admin)?;
    done(app.outbox.release(read(&id)?, app.clock.now()).await, StatusCode::ACCEPTED)
}

pub(crate) async fn discard(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    caller.may(Scope::Admin)?;
    done(app.outbox.discard(read(&id)?).await, StatusCode::NO_CONTENT)
}

fn missing() -> Problem {
    Problem::new(Refusal::NotFound, "no submission of this id is held here")
}

fn read(id: &str) -> Result<Uuid, Problem> {
    id.parse().map_err(|_| missing())
}

fn done(done: Result<bool, SpoolError>, status: StatusCode) -> Result<StatusCode, Problem> {
    match done {
        Ok(true) => Ok(status),
        Ok(false) => Err(missing()),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "a held submission could not be moved");
            Err(Problem::new(Refusal::Unavailable, "the gateway's disk does not take it now").again_after(5))
        }
    }
}
