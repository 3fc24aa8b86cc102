//! The work of a connection, on a shard that is driven by hand and on a thread: both see the world alike.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::future::poll_fn;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use thalweg_io::{Direction, Elapsed, Reactor, Tcp, Work, start};
use thalweg_kernel::{Descriptors, Durability, OpenContext, Shared, Tasks};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PATIENCE: Duration = Duration::from_secs(20);

/// A place for work, and what drives it there.
struct Place {
    cx: OpenContext,
    tasks: Tasks,
}

impl Place {
    fn new(on_shard: bool) -> Self {
        let tasks = Tasks::new(Descriptors::new().unwrap());
        let cx = OpenContext {
            job: "job".into(),
            operator: "operator".into(),
            operator_id: 1,
            shard: 0,
            shards: 1,
            instances: 1,
            waker: tasks.descriptors().waker().clone(),
            tasks: on_shard.then(|| tasks.clone()),
            latency_budget: Duration::ZERO,
            shared: Arc::<Shared>::default(),
            durability: Durability::default(),
        };
        Self { cx, tasks }
    }

    /// Does work until it has an answer.
    fn answer<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        work: impl FnOnce(Reactor) -> F + Send + 'static,
    ) -> T {
        let (tell, told) = flume::bounded(1);
        let run = |reactor| async move { tell.send(work(reactor).await).unwrap() };
        let work = start(&self.cx, "test", Direction::Out, run).unwrap();
        let end = Instant::now() + PATIENCE;
        loop {
            let due_at = self.tasks.step(Instant::now());
            if let Ok(answer) = told.try_recv() {
                assert!(work.finish(PATIENCE));
                return answer;
            }
            assert!(Instant::now() < end, "no answer");
            // A thread calls nobody when it has one.
            let longest = if self.cx.tasks.is_some() { PATIENCE } else { Duration::from_millis(2) };
            let left = |at: Instant| at.saturating_duration_since(Instant::now());
            self.tasks.descriptors().wait(due_at.map_or(longest, left));
        }
    }
}

fn everywhere(test: impl Fn(&Place)) {
    [true, false].into_iter().for_each(|on_shard| test(&Place::new(on_shard)));
}

async fn read(tcp: &mut Tcp, room: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; room];
    poll_fn(|cx| {
        let mut buffer = ReadBuf::new(&mut bytes);
        let polled = Pin::new(&mut *tcp).poll_read(cx, &mut buffer);
        polled.map(|done| done.map(|()| buffer.filled().to_vec()))
    })
    .await
}

async fn write_all(tcp: &mut Tcp, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let written = poll_fn(|cx| Pin::new(&mut *tcp).poll_write(cx, bytes)).await?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// What is sent is more than any buffer of the system holds: both sides wait for each other.
#[test]
fn bytes_go_both_ways_to_the_end_of_the_connection() {
    everywhere(|place| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let sent: Vec<u8> = (0..20_000_000_u32).map(|n| (n % 251) as u8).collect();
        let expected = sent.clone();
        let peer = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut got = vec![0; expected.len()];
            stream.read_exact(&mut got).unwrap();
            assert!(got == expected);
            stream.write_all(&got).unwrap();
        });
        let back = place.answer(move |reactor| async move {
            let mut tcp = Tcp::connect(&reactor, "localhost", port).await.unwrap();
            write_all(&mut tcp, &sent).await.unwrap();
            let mut back = Vec::new();
            loop {
                match read(&mut tcp, 10_000).await.unwrap() {
                    piece if piece.is_empty() => return back == sent,
                    piece => back.extend(piece),
                }
            }
        });
        assert!(back);
        peer.join().unwrap();
    });
}

#[test]
fn a_connection_that_nobody_takes_is_an_error() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    everywhere(|place| {
        let refused = place.answer(move |reactor| async move {
            Tcp::connect(&reactor, "127.0.0.1", free).await.map(drop).map_err(|e| e.kind())
        });
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
        let unknown = place.answer(move |reactor| async move {
            Tcp::connect(&reactor, "no.such.host.invalid", 1).await.is_err()
        });
        assert!(unknown);
    });
}

#[test]
fn times_come_in_their_order_and_end_what_takes_too_long() {
    everywhere(|place| {
        let begun = Instant::now();
        let ended = place.answer(|reactor| async move {
            reactor.sleep(Duration::from_millis(20)).await;
            let slept = reactor.now();
            let never = poll_fn(|_| Poll::<()>::Pending);
            let ended = reactor.timeout(Duration::from_millis(20), never).await;
            let quick = reactor.timeout(PATIENCE, async { 7 }).await;
            (slept, reactor.now(), ended, quick)
        });
        let (slept, late, elapsed, quick) = ended;
        assert!(slept >= begun + Duration::from_millis(20));
        assert!(late >= slept + Duration::from_millis(20) && late < begun + PATIENCE);
        assert_eq!((elapsed, quick), (Err(Elapsed), Ok(7)));
    });
}

/// Calls from another thread, and from the work itself, are not lost.
#[test]
fn whoever_calls_work_is_heard() {
    everywhere(|place| {
        let calls = place.answer(|_| async move {
            let (mut polls, mut other) = (0_u32, None);
            poll_fn(move |cx| {
                polls += 1;
                let waker: Waker = cx.waker().clone();
                match polls {
                    1..100 => waker.wake(),
                    100 => other = Some(thread::spawn(move || waker.wake())),
                    _ => {
                        if let Some(other) = other.take() {
                            other.join().unwrap();
                        }
                        return Poll::Ready(polls);
                    }
                }
                Poll::Pending
            })
            .await
        });
        assert_eq!(calls, 101);
    });
}

#[test]
fn work_that_is_not_done_in_time_is_left() {
    everywhere(|place| {
        let never = |_| poll_fn(|_| Poll::<()>::Pending);
        let work: Work = start(&place.cx, "never", Direction::Out, never).unwrap();
        assert!(!work.finish(Duration::from_millis(5)));
        place.tasks.end();
    });
}
