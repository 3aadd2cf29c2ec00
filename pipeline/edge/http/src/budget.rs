//! What a kind of route may use: memory for bodies, and requests at work.
//!
//! Guarantee: a handler sees a request only when it is whole. A body that does not come takes nobody's turn; it is refused
//! when `STEP` bytes of it, or its end, take longer than `STEP_TIMEOUT`, or all of it longer than `BODY_TIMEOUT`. The first
//! `STEP` bytes of a body are free, which every connection may have. The rest shares the kind's room with other large
//! bodies, by what has come and not by what was announced, and is refused with 503 where there is none: small bodies never
//! wait for large ones. Requests at work are bounded too. They wait for their turn, and lose their place while they wait where
//! others need it ([`server`](crate::server)).
//!
//! Each kind has its own: links, callbacks, receipts, console, health, submissions, what
//! else apps ask for. One that is full is full alone. Together they leave a
//! quarter of all connections to whoever comes.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::{Request, State},
    http::StatusCode,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::{request::come_again, server::Connection};

/// Bytes of a body that come in one step; what of it is free.
const STEP: usize = 16 << 10;
/// Maximum time for a step, or for what is left.
const STEP_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum time for a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum kinds of route beside one another, plus two: what is left when each has used its share.
const SHARES: usize = 9;
/// Bytes of large bodies in memory, for each connection that may be open.
const ROOM: usize = 32 << 10;

/// The budget of one kind of route.
#[derive(Debug)]
pub struct Budget {
    max_body: usize,
    turns: Semaphore,
    /// In steps.
    room: Arc<Semaphore>,
}

impl Budget {
    /// A share of what a listener with so many connections has; bodies have at most `max_body` bytes.
    pub fn of(connections: usize, max_body: usize) -> Self {
        // At least a few bodies of the largest size, however few connections there are.
        let room = (connections * ROOM).max(4 * max_body) / STEP;
        Budget {
            max_body,
            turns: Semaphore::new((connections / SHARES).max(1)),
            room: Arc::new(Semaphore::new(room.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// Holds `routes` to it.
    pub fn around<S: Clone + Send + Sync + 'static>(self, routes: Router<S>) -> Router<S> {
        routes.route_layer(from_fn_with_state(Arc::new(self), pass))
    }

    /// Reads a body, and holds the room that it takes.
    async fn read(&self, mut body: Body) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Response> {
        let too_large = || StatusCode::PAYLOAD_TOO_LARGE.into_response();
        if body.size_hint().lower() > self.max_body as u64 {
            return Err(too_large());
        }
        let end = Instant::now() + BODY_TIMEOUT;
        let mut due = Instant::now() + STEP_TIMEOUT;
        let (mut bytes, mut room) = (Vec::new(), None::<OwnedSemaphorePermit>);
        loop {
            let frame = timeout_at(due.min(end), body.frame()).await;
            let Some(frame) = frame.map_err(|_| StatusCode::REQUEST_TIMEOUT.into_response())? else {
                return Ok((bytes.into(), room));
            };
            // The client hung up, or sent what is no body.
            let frame = frame.map_err(|_| StatusCode::BAD_REQUEST.into_response())?;
            let Ok(data) = frame.into_data() else { continue };
            let (steps, length) = (bytes.len() / STEP, bytes.len() + data.len());
            if length > self.max_body {
                return Err(too_large());
            }
            let held = room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let missing = length.div_ceil(STEP).saturating_sub(1 + held);
            if missing > 0 {
                let missing = u32::try_from(missing).map_err(|_| too_large())?;
                let more = Arc::clone(&self.room).try_acquire_many_owned(missing).map_err(|_| come_again())?;
                match &mut room {
                    Some(room) => room.merge(more),
                    none => *none = Some(more),
                }
            }
            // Copied, because a body of many small pieces would else keep the buffer of each.
            bytes.extend_from_slice(&data);
            if bytes.len() / STEP > steps {
                due = Instant::now() + STEP_TIMEOUT;
            }
        }
    }
}

/// Lets a request to its handler when it is whole and has its turn.
async fn pass(State(budget): State<Arc<Budget>>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let (body, _room) = match budget.read(body).await {
        Ok(read) => read,
        Err(refusal) => return refusal,
    };
    // It is never closed.
    let Ok(_turn) = budget.turns.acquire().await else { return come_again() };
    if let Some(connection) = head.extensions.get::<Connection>() {
        connection.work();
    }
    next.run(Request::from_parts(head, Body::from(body))).await
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        pin::Pin,
        task::{Context, Poll, ready},
    };

    use http_body_util::Full;
    use hyper::body::Frame;
    use tokio::time::{Sleep, sleep};

    use super::*;

    /// A body of pieces, each of which comes a while after the one before; then nothing comes, not even the end.
    struct Drips {
        piece: usize,
        left: usize,
        every: Duration,
        next: Pin<Box<Sleep>>,
    }

    impl HttpBody for Drips {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.left == 0 {
                return Poll::Pending;
            }
            ready!(self.next.as_mut().poll(cx));
            self.left -= 1;
            let next = Instant::now() + self.every;
            self.next.as_mut().reset(next);
            Poll::Ready(Some(Ok(Frame::data(vec![b' '; self.piece].into()))))
        }
    }

    fn drips(piece: usize, count: usize, every_ms: u64) -> Body {
        let every = Duration::from_millis(every_ms);
        Body::new(Drips { piece, left: count, every, next: Box::pin(sleep(every)) })
    }

    async fn ends(budget: &Budget, body: Body) -> (u16, u64) {
        let began = Instant::now();
        let status = budget.read(body).await.map_or_else(|refusal| refusal.status().as_u16(), |_| 200);
        (status, began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_comes_step_by_step_or_not_at_all() {
        let budget = Budget::of(1_024, 1 << 20);
        for (piece, count, every_ms, expected) in [
            (1, 0, 0, (408, 3)),
            (1, usize::MAX, 500, (408, 3)),
            // A step at once, and then nothing, or next to nothing.
            (STEP, 1, 0, (408, 3)),
            (STEP, 40, 0, (408, 3)),
            // Nearly as slow as may be.
            (STEP, usize::MAX, 2_900, (408, 10)),
            (4 * STEP, usize::MAX, 500, (413, 8)),
        ] {
            assert_eq!(ends(&budget, drips(piece, count, every_ms)).await, expected, "{piece} {count} {every_ms}");
        }
        assert_eq!(budget.room.available_permits(), 2_048, "all room is given back");
    }

    #[tokio::test]
    async fn a_body_has_its_size() {
        let budget = Budget::of(1_024, 100_000);
        for (bytes, status) in [(0, 200), (1, 200), (STEP, 200), (100_000, 200), (100_001, 413)] {
            let body = || Full::new(Bytes::from(vec![b'x'; bytes]));
            assert_eq!(ends(&budget, Body::new(body())).await.0, status, "{bytes}");
            assert_eq!(ends(&budget, Body::new(Unannounced(body()))).await.0, status, "{bytes}, unannounced");
        }
        assert_eq!(ends(&Budget::of(1, 0), Body::empty()).await.0, 200);
        assert_eq!(ends(&Budget::of(1, 0), Body::from("x")).await.0, 413);
    }

    /// A body that does not say how long it is.
    struct Unannounced(Full<Bytes>);

    impl HttpBody for Unannounced {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Pin::new(&mut self.0).poll_frame(cx)
        }
    }

    #[tokio::test]
    async fn large_bodies_share_their_room_and_small_ones_need_none() {
        let budget = Budget::of(1, 1 << 20);
        let large = || Body::from(vec![b'x'; 1 << 20]);
        let mut held = Vec::new();
        while let Ok(read) = budget.read(large()).await {
            held.push(read);
        }
        assert_eq!(held.len(), 4);
        assert_eq!(ends(&budget, large()).await.0, 503);
        assert_eq!(ends(&budget, Body::from(vec![b'x'; STEP])).await.0, 200);
        held.pop();
        assert_eq!(ends(&budget, large()).await.0, 200);
    }
}
