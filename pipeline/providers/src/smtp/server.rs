//! A small SMTP server that follows a script: for the tests, in place of the relays of this world.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

use super::settings::Tls;

/// A connection, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// What the server does when its turn comes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Turn {
    /// Says this line.
    Say(&'static str),
    /// Closes the connection.
    Drop,
    /// Says nothing for ever.
    Stall,
}

/// What the server does at each step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Script {
    pub(super) greeting: Turn,
    pub(super) ehlo: Turn,
    pub(super) starttls: Turn,
    pub(super) auth: Turn,
    pub(super) mail: Turn,
    pub(super) rcpt: Turn,
    pub(super) data: Turn,
    /// After the final dot.
    pub(super) message: Turn,
    /// Closes the connection once the message has begun.
    pub(super) drop_within_message: bool,
}

pub(super) const GOOD: Script = Script {
    greeting: Turn::Say("220 relay.test ESMTP"),
    ehlo: Turn::Say("250-relay.test\r\n250 AUTH PLAIN LOGIN"),
    starttls: Turn::Say("220 go ahead"),
    auth: Turn::Say("235 2.7.0 welcome"),
    mail: Turn::Say("250 2.1.0 ok"),
    rcpt: Turn::Say("250 2.1.5 ok"),
    data: Turn::Say("354 go ahead"),
    message: Turn::Say("250 2.0.0 queued as 4711"),
    drop_within_message: false,
};

/// What the server saw.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    pub(super) connections: usize,
    pub(super) commands: Vec<String>,
    /// Messages that ended in a final dot, without dot-stuffing.
    pub(super) messages: Vec<String>,
}

/// A running server; it lives as long as the test's runtime.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    /// In PEM; no authority stands behind it.
    pub(super) certificate: String,
    script: Arc<Mutex<Script>>,
    seen: Arc<Mutex<Seen>>,
}

impl Server {
    pub(super) async fn start(script: Script) -> Self {
        Self::encrypted(Tls::None, script).await
    }

    pub(super) async fn encrypted(tls: Tls, script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (acceptor, certificate) = identity();
        let server = Server {
            address: listener.local_addr().unwrap(),
            certificate,
            script: Arc::new(Mutex::new(script)),
            seen: Arc::default(),
        };
        let (script, seen) = (server.script.clone(), server.seen.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                seen.lock().unwrap().connections += 1;
                tokio::spawn(serve(Box::new(stream), tls, acceptor.clone(), script.clone(), seen.clone()));
            }
        });
        server
    }

    /// From now on, also on open connections.
    pub(super) fn follow(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}

/// A certificate of its own making for `localhost`.
fn identity() -> (TlsAcceptor, String) {
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), cert.pem())
}

/// Ends when the connection does; `None` is only a way to leave early.
async fn serve(
    stream: Box<dyn Stream>,
    tls: Tls,
    acceptor: TlsAcceptor,
    script: Arc<Mutex<Script>>,
    seen: Arc<Mutex<Seen>>,
) -> Option<()> {
    let now = || *script.lock().unwrap();
    let mut stream = BufReader::new(stream);
    if tls == Tls::Wrapper {
        stream = BufReader::new(Box::new(acceptor.accept(stream.into_inner()).await.ok()?));
    }
    take(&mut stream, now().greeting).await?;
    loop {
        let line = read_line(&mut stream).await?;
        seen.lock().unwrap().commands.push(line.trim_end().to_owned());
        let verb = line.split([' ', '\r']).next().unwrap_or_default().to_ascii_uppercase();
        let turn = match verb.as_str() {
            "EHLO" if tls == Tls::Starttls => Turn::Say("250-relay.test\r\n250 STARTTLS"),
            "EHLO" => now().ehlo,
            "STARTTLS" => now().starttls,
            "AUTH" => now().auth,
            "MAIL" => now().mail,
            "RCPT" => now().rcpt,
            "DATA" => now().data,
            "QUIT" => Turn::Drop,
            _ => Turn::Say("250 ok"),
        };
        take(&mut stream, turn).await?;
        if verb == "STARTTLS" {
            stream = BufReader::new(Box::new(acceptor.accept(stream.into_inner()).await.ok()?));
        }
        if verb == "DATA" && matches!(turn, Turn::Say(line) if line.starts_with('3')) {
            if now().drop_within_message {
                read_line(&mut stream).await?;
                return None;
            }
            let message = read_message(&mut stream).await?;
            seen.lock().unwrap().messages.push(message);
            take(&mut stream, now().message).await?;
        }
    }
}

async fn read_line(reader: &mut (impl AsyncBufReadExt + Unpin)) -> Option<String> {
    let mut line = String::new();
    (reader.read_line(&mut line).await.ok()? > 0).then_some(line)
}

async fn read_message(reader: &mut (impl AsyncBufReadExt + Unpin)) -> Option<String> {
    let mut message = String::new();
    loop {
        let line = read_line(reader).await?;
        match line.strip_prefix('.') {
            Some("\r\n") => return Some(message),
            Some(unstuffed) => message.push_str(unstuffed),
            None => message.push_str(&line),
        }
    }
}

async fn take(writer: &mut (impl AsyncWriteExt + Unpin), turn: Turn) -> Option<()> {
    match turn {
        Turn::Say(line) => {
            writer.write_all(format!("{line}\r\n").as_bytes()).await.ok()?;
            writer.flush().await.ok()
        }
        Turn::Drop => None,
        Turn::Stall => std::future::pending().await,
    }
}
