//! Refusals, as `application/problem+json` ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)).
//!
//! Guarantee: whatever of this door refuses a request, a handler, a budget or the router, the answer is a problem whose type
//! ends in a code of the published vocabulary.
//!
//! Nothing is kept here, so a crash changes nothing.

use axum::{
    Json,
    extract::Request,
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use chasqui_schemas::{
    Reason,
    api::{self, PROBLEM_TYPE, ProblemError, Refusal},
};
use chasqui_validate as validate;

use crate::caller::Refused;

const CORRECT: &str = "correct what `errors` lists, and send it again";

/// A refusal, with the headers that go with it.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) body: Box<api::Problem>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub(crate) fn new(refusal: Refusal, detail: impl Into<String>) -> Self {
        Self::of(status(refusal), refusal.as_str(), refusal.meaning(), detail.into())
    }

    fn of(status: StatusCode, code: &str, title: &str, detail: String) -> Self {
        let kind = format!("{PROBLEM_TYPE}{code}");
        let body = api::Problem { kind, title: title.to_owned(), status: status.as_u16(), detail, errors: Vec::new() };
        Problem { body: Box::new(body), headers: Vec::new() }
    }

    /// The body breaks the contract, in ways that are added to `errors`.
    pub(crate) fn invalid() -> Self {
        let (status, detail) = (StatusCode::UNPROCESSABLE_ENTITY, CORRECT.to_owned());
        Self::of(status, Reason::Invalid.as_str(), Reason::Invalid.meaning(), detail)
    }

    pub(crate) fn with(mut self, name: HeaderName, value: impl TryInto<HeaderValue>) -> Self {
        self.headers.extend(value.try_into().ok().map(|value| (name, value)));
        self
    }

    /// The same request may be made again then.
    pub(crate) fn again_after(self, seconds: u64) -> Self {
        self.with(RETRY_AFTER, seconds.to_string())
    }

    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.body.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl From<validate::Refused> for Problem {
    /// What the stage would reject, in its words.
    fn from(refused: validate::Refused) -> Self {
        let (status, detail) = match refused.reason {
            Reason::Malformed => (StatusCode::BAD_REQUEST, ""),
            Reason::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, ""),
            _ => (StatusCode::UNPROCESSABLE_ENTITY, CORRECT),
        };
        let mut problem = Self::of(status, refused.reason.as_str(), refused.reason.meaning(), detail.to_owned());
        problem.body.errors = refused.violations.iter().map(error).collect();
        problem
    }
}

fn error(violation: &validate::Violation) -> ProblemError {
    // The lane stands in the body here, and in the subject elsewhere.
    let pointer = if violation.reason == Reason::LaneNotAllowed { "/lane" } else { &violation.pointer };
    let (detail, reason) = (violation.what().to_owned(), violation.reason.to_string());
    ProblemError { pointer: pointer.to_owned(), detail, reason }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let refusal = match refused {
            Refused::Unknown => Refusal::Unauthenticated,
            Refused::Forbidden => Refusal::Forbidden,
        };
        let problem = Problem::new(refusal, refused.to_string());
        match refused.challenge() {
            Some(challenge) => problem.with(WWW_AUTHENTICATE, challenge),
            None => problem,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(&*self.body)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response.headers_mut().extend(self.headers);
        response
    }
}

const fn status(refusal: Refusal) -> StatusCode {
    match refusal {
        Refusal::BadRequest => StatusCode::BAD_REQUEST,
        Refusal::Unauthenticated => StatusCode::UNAUTHORIZED,
        Refusal::Forbidden => StatusCode::FORBIDDEN,
        Refusal::NotFound => StatusCode::NOT_FOUND,
        Refusal::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Refusal::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
        Refusal::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Refusal::Misdirected => StatusCode::MISDIRECTED_REQUEST,
        Refusal::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Refusal::IdempotencyConflict | Refusal::TooManyAtOnce => StatusCode::UNPROCESSABLE_ENTITY,
        Refusal::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Refusal::QueueFull | Refusal::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Gives every refusal that comes from around the handlers the form that theirs have.
pub(crate) async fn worded(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let is_worded = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/problem+json");
    if is_worded || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let found = Refusal::ALL.into_iter().find(|refusal| self::status(*refusal) == status);
    let refusal = found.unwrap_or(if status.is_client_error() { Refusal::BadRequest } else { Refusal::Internal });
    let (head, _) = response.into_parts();
    let mut problem = Problem::new(refusal, "").into_response();
    // Such as when to come again, and which methods there are.
    for (name, value) in
        head.headers.iter().filter(|(name, _)| *name != CONTENT_TYPE && name.as_str() != "content-length")
    {
        problem.headers_mut().insert(name, value.clone());
    }
    *problem.status_mut() = status;
    problem
}

#[cfg(test)]
impl Problem {
    pub(crate) fn into_response_headers(self) -> axum::http::HeaderMap {
        self.into_response().headers().clone()
    }
}
