//! A connection whose other end must read what it asked for.
//!
//! Guarantee: while there is something to write, `MIN_BYTES` or all of it goes out in each `PATIENCE`; else writing fails, and
//! the connection is closed. Without this a client that asks and never reads would hold its connection for ever, because
//! hyper has a timer for the heads that it reads and none for what it writes.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// Maximum time in which a client that reads slowly takes `MIN_BYTES`.
const PATIENCE: Duration = Duration::from_secs(10);
/// Minimum bytes that count as progress: a client that takes a byte a second makes none.
const MIN_BYTES: usize = 16 << 10;

/// A socket that gives up on a client that does not read.
pub(crate) struct Paced<S> {
    socket: S,
    /// Since the socket took no more; `None` while it takes everything.
    stalled: Option<Stall>,
}

struct Stall {
    until: Pin<Box<Sleep>>,
    bytes: usize,
}

impl<S> Paced<S> {
    pub(crate) fn new(socket: S) -> Self {
        Paced { socket, stalled: None }
    }

    /// Judges what came of a write.
    fn judge(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = written {
            if let (Ok(bytes), Some(stall)) = (&written, &mut self.stalled) {
                stall.bytes += bytes;
                if stall.bytes >= MIN_BYTES {
                    self.stalled = None;
                }
            }
            return Poll::Ready(written);
        }
        let new = || Stall { until: Box::pin(sleep(PATIENCE)), bytes: 0 };
        ready!(self.stalled.get_or_insert_with(new).until.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bytes);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    /// hyper flushes once everything is written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stalled = None;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::Instant,
    };

    use super::*;

    /// How writing 256 KiB ends, and when, for a client that takes `bytes` in every second.
    async fn ends(bytes: usize) -> (io::Result<()>, u64) {
        let (ours, mut theirs) = duplex(1 << 10);
        let client = tokio::spawn(async move {
            let mut taken = vec![0; bytes];
            while bytes > 0 && theirs.read_exact(&mut taken).await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
            // It stays, and reads nothing.
            sleep(Duration::from_secs(3_600)).await;
            drop(theirs);
        });
        let began = Instant::now();
        let mut socket = Paced::new(ours);
        let ended = async {
            socket.write_all(&[7; 256 << 10]).await?;
            socket.flush().await
        };
        let ended = ended.await;
        client.abort();
        (ended, began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_or_a_little_is_left_and_who_reads_slowly_is_served() {
        for bytes in [0, 1, 1_000] {
            let (ended, after) = ends(bytes).await;
            assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut, "{bytes}");
            assert!((10..13).contains(&after), "{bytes}: {after} s");
        }
        let (ended, after) = ends(4_096).await;
        ended.unwrap();
        assert!(after > 60, "{after} s");
    }

    #[tokio::test(start_paused = true)]
    async fn each_answer_has_its_own_patience() {
        let (ours, mut theirs) = duplex(1 << 10);
        let mut socket = Paced::new(ours);
        for _ in 0..20 {
            // Less than what counts as progress, and more than the pipe takes at once.
            let (written, read) = tokio::join!(
                async {
                    socket.write_all(&[7; 2 << 10]).await?;
                    socket.flush().await
                },
                async {
                    sleep(Duration::from_secs(6)).await;
                    theirs.read_exact(&mut [0; 2 << 10]).await
                }
            );
            written.unwrap();
            read.unwrap();
        }
    }
}
