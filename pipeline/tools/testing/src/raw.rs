//! A producer that sends headers byte for byte, as no client library does, and header blocks that break the protocol.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test that cannot set up must fail")]

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// Header blocks that break the protocol and that nats-server stores as they are, with what is wrong. The first of them ends the
/// published client's task, the others cut its connection or look like the server's own word.
pub const BLOCKS: &[(&str, &[u8])] = &[
    ("a carriage return alone", b"NATS/1.0\r\nA:b\rc"),
    ("the same in a whole block", b"NATS/1.0\r\nX-Note: a\rb\r\n\r\n"),
    ("a line without colon", b"NATS/1.0\r\nno colon here\r\n\r\n"),
    ("a name beyond ASCII", "NATS/1.0\r\nX-Número: 7\r\n\r\n".as_bytes()),
    ("a name with a blank", b"NATS/1.0\r\nX Note: 7\r\n\r\n"),
    ("a value that is not UTF-8", b"NATS/1.0\r\nX-Note: \xff\xfe\r\n\r\n"),
    ("a value in Latin-1", b"NATS/1.0\r\nX-Name: Jos\xe9\r\n\r\n"),
    ("no version", b"a"),
    ("another version", b"NATS/9.9\r\nA: b\r\n\r\n"),
    ("a status", b"NATS/1.0 503"),
    ("a status with words", b"NATS/1.0 404 not found"),
    ("a status that is no number", b"NATS/1.0 abc"),
    ("a line break alone", b"\n"),
    ("zero bytes", b"\0\0\0\0\0"),
];

/// A connection to a nats-server.
pub struct RawProducer(BufReader<TcpStream>);

impl RawProducer {
    /// Connects to `url`, as `nats://[user:password@|token@]host:port`.
    pub async fn connect(url: &str) -> Self {
        let address = url.trim_start_matches("nats://");
        let (login, address) = address.rsplit_once('@').unwrap_or(("", address));
        let mut connect =
            json!({ "verbose": false, "pedantic": false, "headers": true, "lang": "raw", "version": "0" });
        match login.split_once(':') {
            Some((user, password)) => (connect["user"], connect["pass"]) = (json!(user), json!(password)),
            None if !login.is_empty() => connect["auth_token"] = json!(login),
            None => {}
        }
        let mut producer = RawProducer(BufReader::new(TcpStream::connect(address).await.unwrap()));
        producer.send(format!("CONNECT {connect}\r\nSUB _INBOX.raw 1\r\nPING\r\n").as_bytes()).await;
        producer.until("PONG").await;
        producer
    }

    /// Publishes a message with this header block, and waits until it is stored; its sequence.
    pub async fn publish(&mut self, subject: impl AsRef<[u8]>, block: &[u8], payload: &[u8]) -> u64 {
        self.offer(subject, block, payload).await.unwrap_or_else(|answer| panic!("not stored: {answer}"))
    }

    /// The same for a message that JetStream may refuse, with its answer.
    ///
    /// # Errors
    /// It was refused.
    pub async fn offer(&mut self, subject: impl AsRef<[u8]>, block: &[u8], payload: &[u8]) -> Result<u64, Value> {
        let sizes = format!(" _INBOX.raw {} {}\r\n", block.len(), block.len() + payload.len());
        self.send(&[b"HPUB ", subject.as_ref(), sizes.as_bytes(), block, payload, b"\r\n"].concat()).await;
        let line = self.until("MSG _INBOX.raw").await;
        let bytes: usize = line.split_whitespace().next_back().unwrap().parse().unwrap();
        let mut answer = vec![0; bytes + 2];
        self.0.read_exact(&mut answer).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer[..bytes]).unwrap();
        if answer.get("error").is_some() { Err(answer) } else { Ok(answer["seq"].as_u64().unwrap()) }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).await.unwrap();
    }

    async fn until(&mut self, start: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).await.unwrap() > 0, "the server closed the connection");
            assert!(!line.starts_with("-ERR"), "{line}");
            if line.starts_with("PING") {
                self.send(b"PONG\r\n").await;
            }
            if line.starts_with(start) {
                return line;
            }
        }
    }
}
