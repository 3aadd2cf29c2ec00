//! One request to a collector, and what its answer means.
//!
//! Guarantee: every answer is one of three, by the tables of the
//! [OTLP specification](https://opentelemetry.io/docs/specs/otlp/), with one exception: a collector that does not know
//! us, or not this path (401, 403, 404, a redirect; over gRPC UNAUTHENTICATED, PERMISSION_DENIED, UNIMPLEMENTED) is asked
//! again, although OTLP forbids a client to repeat that. Nothing is wrong with the spans, the stream can keep them, and
//! an operator will mend it.
//!
//! gRPC is one POST over HTTP/2 whose outcome is in the trailers
//! ([protocol](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)): no framework is needed for that.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use bytes::{BufMut, Bytes, BytesMut};
use chasqui_contract::with_sources;
use chasqui_settings::{SettingsError, is_this_machine};
use http_body_util::{BodyExt, Limited};
use jiff::{Timestamp, fmt::rfc2822};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse};
use prost::Message;
use reqwest::{
    Body, Client, Response, StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, TE},
    redirect,
};

use crate::settings::{ExportSettings, Protocol};

/// The settings that errors name.
const ENDPOINT: &str = "export.endpoint";
const AUTHORIZATION_KEY: &str = "export.authorization";
/// Maximum bytes of an answer that are read: a partial success is some hundred.
const MAX_ANSWER: usize = 64 * 1024;
/// Maximum characters of a collector's explanation that are logged.
const MAX_WORDS: usize = 300;
/// A gRPC message: a byte that says whether it is compressed, four of length, then the message.
const FRAME: usize = 5;
const GRPC_METHOD: &str = "opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// What became of a request.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    /// Taken, but for `rejected` spans; `why` may be a warning without any.
    Taken { rejected: u64, why: String },
    /// Not now: to be sent again, not before `after` where the collector says so.
    Later { after: Option<Duration>, why: String },
    /// It would not be taken however often it is sent.
    Refused { why: String },
}

pub(crate) struct Collector {
    client: Client,
    protocol: Protocol,
    url: Url,
    headers: HeaderMap,
    timeout: Duration,
}

impl Collector {
    pub(crate) fn new(settings: &ExportSettings) -> Result<Self, SettingsError> {
        let method = match settings.protocol {
            Protocol::Http => "v1/traces",
            Protocol::Grpc => GRPC_METHOD,
        };
        let url: Url = format!("{}/{method}", settings.endpoint.trim_end_matches('/'))
            .parse()
            .map_err(|error| SettingsError::caused(ENDPOINT, "is not an address: write http://host:4318", error))?;
        if !["http", "https"].contains(&url.scheme()) {
            return Err(SettingsError::invalid(ENDPOINT, "must begin with http:// or https://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(SettingsError::invalid(
                ENDPOINT,
                "write a login into export.authorization, not into the address",
            ));
        }
        let mut headers = HeaderMap::new();
        match settings.protocol {
            Protocol::Http => headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf")),
            Protocol::Grpc => {
                headers.insert(TE, HeaderValue::from_static("trailers"));
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
            }
        };
        if let Some(authorization) = settings.authorization.read(AUTHORIZATION_KEY)? {
            let mut value = HeaderValue::from_str(authorization.expose())
                .map_err(|error| SettingsError::caused(AUTHORIZATION_KEY, "cannot be the value of a header", error))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
            if url.scheme() == "http" && !is_this_machine(&url) {
                return Err(SettingsError::invalid(
                    ENDPOINT,
                    "export.authorization would cross the network in the clear: begin it with https://",
                ));
            }
        }
        let timeout = Duration::from_millis(settings.timeout_ms);
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .user_agent(concat!("chasqui/", env!("CARGO_PKG_VERSION")));
        let client = match settings.protocol {
            Protocol::Http => client,
            Protocol::Grpc => client.http2_prior_knowledge(),
        };
        let client =
            client.build().map_err(|error| SettingsError::caused("export", "no client can be made for it", error))?;
        Ok(Collector { client, protocol: settings.protocol, url, headers, timeout })
    }

    /// Sends an encoded request.
    pub(crate) async fn send(&self, message: Bytes) -> Answer {
        let body = match self.protocol {
            Protocol::Http => message,
            Protocol::Grpc => framed(&message),
        };
        let request = self.client.post(self.url.clone()).headers(self.headers.clone()).timeout(self.timeout);
        let read = async { Read::all(request.body(body).send().await?).await };
        match (read.await, self.protocol) {
            (Ok(read), Protocol::Http) => read.http(),
            (Ok(read), Protocol::Grpc) => read.grpc(),
            (Err(error), _) => Answer::Later { after: None, why: clipped(&with_sources(&error.without_url())) },
        }
    }
}

fn framed(message: &Bytes) -> Bytes {
    let mut body = BytesMut::with_capacity(FRAME + message.len());
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    body.put_slice(message);
    body.freeze()
}

/// An answer as it came.
struct Read {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    /// Empty where there are none.
    trailers: HeaderMap,
}

impl Read {
    /// Reads an answer; of one that is too long, nothing but its head, which says the most important.
    async fn all(response: Response) -> Result<Self, reqwest::Error> {
        let (status, headers) = (response.status(), response.headers().clone());
        let (body, trailers) = match Limited::new(Body::from(response), MAX_ANSWER).collect().await {
            Ok(all) => {
                let trailers = all.trailers().cloned().unwrap_or_default();
                (all.to_bytes(), trailers)
            }
            Err(error) => match error.downcast::<reqwest::Error>() {
                Ok(error) => return Err(*error),
                Err(_) => (Bytes::new(), HeaderMap::new()),
            },
        };
        Ok(Read { status, headers, body, trailers })
    }

    fn http(self) -> Answer {
        if self.status.is_success() {
            return taken(&self.body);
        }
        let status = RpcStatus::decode(&self.body[..]).unwrap_or_default();
        let why = clipped(format!("{} {}", self.status, status.message).trim_end());
        match self.status.as_u16() {
            429 | 502 | 503 | 504 => Answer::Later { after: retry_after(&self.headers), why },
            300..=399 | 401 | 403 | 404 => Answer::Later { after: None, why },
            _ => Answer::Refused { why },
        }
    }

    fn grpc(self) -> Answer {
        // A proxy that speaks no gRPC, or an answer of trailers only.
        let field = |name: &str| self.trailers.get(name).or_else(|| self.headers.get(name))?.to_str().ok();
        let Some(code) = field("grpc-status").and_then(|code| code.parse::<u8>().ok()) else {
            return match self.status {
                StatusCode::OK => Answer::Later { after: None, why: "an answer without grpc-status".to_owned() },
                _ => self.http(),
            };
        };
        let why = clipped(&format!("gRPC status {code} {}", field("grpc-message").unwrap_or_default()));
        match code {
            0 => taken(self.body.get(FRAME..).unwrap_or_default()),
            // Cancelled, deadline exceeded, aborted, out of range, unavailable, data loss.
            1 | 4 | 10 | 11 | 14 | 15 => Answer::Later { after: field(DETAILS).and_then(retry_info), why },
            // Resource exhausted: only where the collector says that it will recover.
            8 => match field(DETAILS).and_then(retry_info) {
                Some(after) => Answer::Later { after: Some(after), why },
                None => Answer::Refused { why },
            },
            // Permission denied, unimplemented, unauthenticated.
            7 | 12 | 16 => Answer::Later { after: None, why },
            _ => Answer::Refused { why },
        }
    }
}

/// What a collector says that took the request. One that says nothing we can read took all of it.
fn taken(body: &[u8]) -> Answer {
    let answer = ExportTraceServiceResponse::decode(body).unwrap_or_default();
    let ExportTracePartialSuccess { rejected_spans, error_message } = answer.partial_success.unwrap_or_default();
    Answer::Taken { rejected: u64::try_from(rejected_spans).unwrap_or(0), why: clipped(&error_message) }
}

/// Seconds, or a date ([RFC 9110](https://www.rfc-editor.org/rfc/rfc9110#field.retry-after)).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = rfc2822::parse(text).ok()?.timestamp();
    Some(Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default())
}

/// Where gRPC puts a [`RpcStatus`], in base64.
const DETAILS: &str = "grpc-status-details-bin";

/// [google.rpc.Status](https://github.com/googleapis/googleapis/blob/master/google/rpc/status.proto), as far as it is read.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// [google.rpc.RetryInfo](https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto).
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<RetryDelay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
struct RetryDelay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

fn retry_info(details: &str) -> Option<Duration> {
    let bytes = STANDARD_NO_PAD.decode(details.trim_end_matches('=')).ok()?;
    let details = RpcStatus::decode(&bytes[..]).ok()?.details;
    let info = details.iter().find(|any| any.type_url.ends_with("google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(&info.value[..]).ok()?.retry_delay.unwrap_or_default();
    let (seconds, nanos) = (u64::try_from(delay.seconds).unwrap_or(0), u32::try_from(delay.nanos).unwrap_or(0));
    Some(Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into())))
}

fn clipped(words: &str) -> String {
    words.chars().take(MAX_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, fields: &[(&'static str, &str)], body: Vec<u8>) -> Read {
        let fields = fields.iter().map(|(name, value)| {
            (reqwest::header::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        });
        let status = StatusCode::from_u16(status).unwrap();
        Read { status, headers: fields.collect(), body: body.into(), trailers: HeaderMap::new() }
    }

    fn partial(rejected_spans: i64) -> Vec<u8> {
        let partial = ExportTracePartialSuccess { rejected_spans, error_message: "too old".into() };
        ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec()
    }

    #[test]
    fn http_answers_are_read_by_the_table_of_otlp() {
        let of = |status, fields: &[_], body| answer(status, fields, body).http();
        assert_eq!(of(200, &[], vec![]), Answer::Taken { rejected: 0, why: String::new() });
        assert_eq!(of(200, &[], partial(3)), Answer::Taken { rejected: 3, why: "too old".into() });
        assert_eq!(of(200, &[], b"{\"partialSuccess\":{}}".to_vec()), of(200, &[], vec![]));
        for status in [429, 502, 503, 504, 401, 403, 404, 308] {
            assert!(matches!(of(status, &[], vec![]), Answer::Later { after: None, .. }), "{status}");
        }
        for status in [400, 408, 413, 415, 422, 500, 501] {
            assert!(matches!(of(status, &[], vec![]), Answer::Refused { .. }), "{status}");
        }
    }

    #[test]
    fn a_refusal_comes_with_the_collectors_words() {
        let body = RpcStatus { message: "span without a name".into(), details: vec![] }.encode_to_vec();
        let why = "400 Bad Request span without a name".to_owned();
        assert_eq!(answer(400, &[], body).http(), Answer::Refused { why });
    }

    #[test]
    fn a_collector_may_say_when_to_come_back() {
        let after = |value: &str| match answer(503, &[("retry-after", value)], vec![]).http() {
            Answer::Later { after, .. } => after,
            other => panic!("{other:?}"),
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("soon"), None);
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let days = after("Thu, 31 Dec 2099 23:59:59 GMT").unwrap().as_secs() / 86_400;
        assert!((20_000..36_500).contains(&days), "{days}");
    }

    #[test]
    fn grpc_answers_are_read_by_the_table_of_otlp() {
        let of = |code: &str, details: &str| {
            let body = [&[0, 0, 0, 0, 0][..], &partial(2)].concat();
            answer(200, &[("grpc-status", code), (DETAILS, details)], body).grpc()
        };
        assert_eq!(of("0", ""), Answer::Taken { rejected: 2, why: "too old".into() });
        for code in ["1", "4", "10", "11", "14", "15", "7", "12", "16"] {
            assert!(matches!(of(code, ""), Answer::Later { after: None, .. }), "{code}");
        }
        for code in ["2", "3", "5", "6", "8", "9", "13"] {
            assert!(matches!(of(code, ""), Answer::Refused { .. }), "{code}");
        }
        let delay = RetryDelay { seconds: 2, nanos: 500_000_000 };
        let info = RetryInfo { retry_delay: Some(delay) }.encode_to_vec();
        let any = Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".into(), value: info };
        let details = STANDARD_NO_PAD.encode(RpcStatus { message: String::new(), details: vec![any] }.encode_to_vec());
        let later =
            |answer| matches!(answer, Answer::Later { after: Some(d), .. } if d == Duration::from_millis(2_500));
        assert!(later(of("8", &details)) && later(of("14", &details)));
    }

    #[test]
    fn what_is_no_grpc_is_read_as_http() {
        assert!(matches!(answer(502, &[], vec![]).grpc(), Answer::Later { .. }));
        assert!(matches!(answer(400, &[], vec![]).grpc(), Answer::Refused { .. }));
        assert!(matches!(answer(200, &[], vec![]).grpc(), Answer::Later { .. }));
    }
}
