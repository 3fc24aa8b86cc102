//! All interleavings of the engine's hand-written waits: two threads agree by atomics alone on who wakes whom.
//!
//! A wait that loses a wake-up hangs once in some million times, so no test that runs threads proves much. [Loom] runs a small
//! model once for each order in which its threads can get at their atomics. It does so for each value, too, that the memory
//! model lets them read. A thread that nobody wakes is a deadlock, which loom reports.
//!
//! # What is modelled
//! The files of the engine themselves. They take their atomics from `crate::sync`; here that is a module over those of
//! loom. So `cargo test` has the models, without a build of its own for them. Only what surrounds a wait is written for
//! its model: a ring of a lane, the queue of a thread.
//!
//! | wait | file |
//! |---|---|
//! | a shard sleeps, and is woken | `engine/runtime/src/signal.rs` |
//! | a supervisor dozes, and a shard moves | `engine/runtime/src/protocol/doze.rs` |
//! | a lane is full, and has room | `engine/flow/src/exchange/blocked.rs` |
//! | a shard waits for a watermark that another keeps, or for what others wait for | `engine/flow/src/exchange/due.rs` |
//! | sources wait for the state of any shard | `engine/flow/src/pressure/gate.rs` |
//! | work of a connection waits, and shards call it | `connectors/mqtt/src/io_signal.rs` |
//! | work of a connection is called while its shard has a turn | `connectors/io/src/call.rs`, `engine/runtime/src/signal.rs` |
//! | the thread of that work sleeps, and is called | `connectors/io/src/call.rs` |
//! | a shard waits for the journal of an MQTT source | `connectors/mqtt/src/source/progress.rs` |
//!
//! # That a model can fail
//! Each model is run once more with a defect, and has to hang. Where a wait stands on sequential consistency, `sync` makes of it what
//! acquire and release give, and a fence nothing. Otherwise the model leaves out a step.
//!
//! # Limits
//! Loom knows sequential consistency of fences alone. So a sequentially consistent load is a read-modify-write here: it reads
//! the newest value, and orders no other access. Timeouts never come: who needs one hangs. Thread switches against a thread's will are bounded by
//! [`PREEMPTIONS_MAX`].
//!
//! [Loom]: https://docs.rs/loom

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod sync;

#[allow(dead_code, unused_imports, reason = "its tests are left out, and what they alone need")]
#[path = "../../engine/flow/src/exchange/blocked.rs"]
mod blocked;
#[allow(dead_code, unused_imports, reason = "its tests are left out, and what they alone need")]
#[path = "../../connectors/io/src/call.rs"]
mod call;
#[allow(dead_code, unreachable_pub, reason = "there the simulator has it, too")]
#[path = "../../engine/runtime/src/protocol/doze.rs"]
mod doze;
#[allow(dead_code, unused_imports, reason = "its tests are left out, and what they alone need")]
#[path = "../../engine/flow/src/exchange/due.rs"]
mod due;
#[allow(dead_code, unused_imports, reason = "its tests are left out, and what they alone need")]
#[path = "../../connectors/mqtt/src/fault.rs"]
mod fault;
#[allow(dead_code, unused_imports, reason = "its tests are left out, and what they alone need")]
#[path = "../../engine/flow/src/pressure/gate.rs"]
mod gate;
#[allow(dead_code, unused_imports, reason = "its tests are left out, and what they alone need")]
#[path = "../../connectors/mqtt/src/io_signal.rs"]
mod io_signal;
#[allow(dead_code, unused_imports, reason = "its tests are left out, and what they alone need")]
#[path = "../../connectors/mqtt/src/source/progress.rs"]
mod progress;
#[allow(dead_code, unused_imports, reason = "its tests are left out, and what they alone need")]
#[path = "../../engine/runtime/src/signal.rs"]
mod signal;

use std::future::poll_fn;
use std::process::Command;
use std::sync::Arc;
use std::task::{Poll, Wake, Waker};
use std::time::{Duration, Instant};

use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::sync::{Condvar, Mutex};
use loom::thread;

use self::blocked::Blocked;
use self::call::Call;
use self::doze::Doze;
use self::due::Due;
use self::gate::Gate;
use self::io_signal::IoSignal;
use self::progress::Progress;
use self::signal::Signal;

/// A thread loses its turn at most this often where it could go on.
const PREEMPTIONS_MAX: usize = 3;

/// All models together take no longer, with their defects.
const LASTS_MAX: Duration = Duration::from_secs(60);

/// What is wrong in a run of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    /// Sequential consistency is acquire and release, and fences are nothing.
    Weak,
    /// A step of the model is left out.
    Omits,
}

/// A model: its name, what is wrong with it where it has to hang, and its body, which is told whether it omits a step.
type Model = (&'static str, Defect, fn(bool));

const MODELS: &[Model] = &[
    ("a shard that goes to sleep is woken", Defect::Weak, |_| shard_sleeps()),
    ("a shard that gives up its sleep is woken the next time", Defect::Weak, |_| {
        shard_sleeps_twice();
    }),
    ("a supervisor that dozes hears of a shard that moves", Defect::Weak, |_| supervisor_dozes()),
    ("a lane that was full is filled again, to its end", Defect::Weak, |_| lane_is_full()),
    ("a watermark that is kept goes when it is due", Defect::Weak, |_| watermark_is_kept()),
    ("a due time that has fallen is told on", Defect::Weak, |_| due_time_falls()),
    ("a watermark that is kept is asked for", Defect::Omits, kept_watermark_is_asked_for),
    ("sources go on when no shard is full any more", Defect::Omits, sources_wait),
    ("work that waits for its connection is called", Defect::Omits, work_waits),
    ("a thread that sleeps is called to its work", Defect::Weak, |_| thread_sleeps()),
    ("a shard does not sleep whose work is called in its turn", Defect::Omits, work_is_called),
    ("work that wants a chunk gets it", Defect::Weak, |_| work_wants()),
    ("a shard learns that the journal is durable", Defect::Weak, |_| shard_awaits_durable()),
    ("a shard learns that the journal never will be", Defect::Omits, shard_awaits_end),
];

fn explore(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS_MAX);
    builder.check(body);
}

/// Runs the model of this number with its defect.
const BROKEN: &str = "--broken";

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    if let [_, flag, number] = &arguments[..]
        && flag == BROKEN
    {
        let (_, defect, body) = MODELS[number.parse::<usize>().unwrap()];
        sync::set_weak(defect == Defect::Weak);
        return explore(move || body(defect == Defect::Omits));
    }
    let begun = Instant::now();
    for (number, &(name, defect, body)) in MODELS.iter().enumerate() {
        let one = Instant::now();
        explore(move || body(false));
        let took = one.elapsed();
        let said = said_with_defect(number);
        assert!(
            said.contains("deadlock"),
            "{name}: with {defect:?} it does not hang; it says: {said}"
        );
        println!("ok: {name} ({:.2} s); {defect:?} is seen", took.as_secs_f64());
    }
    let lasted = begun.elapsed();
    assert!(lasted < LASTS_MAX, "the models took {lasted:?}");
}

/// What a model says of its defect, in a process of its own: threads that hang cannot be taken down in every state.
fn said_with_defect(number: usize) -> String {
    let broken = Command::new(std::env::current_exe().unwrap())
        .args([BROKEN, &number.to_string()])
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    String::from_utf8_lossy(&broken.stderr).into_owned()
}

/// Where a shard of a model sleeps. Its lock orders nothing that the model is about: whoever sleeps has looked before.
#[derive(Default)]
struct Bed {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Bed {
    fn sleep(&self) {
        let mut woken = self.woken.lock().unwrap();
        while !*woken {
            woken = self.changed.wait(woken).unwrap();
        }
        *woken = false;
    }
}

impl Wake for Bed {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        *self.woken.lock().unwrap() = true;
        self.changed.notify_one();
    }
}

/// A shard with nothing to do sleeps; another one gives it something, and wakes it.
fn shard_sleeps() {
    let (signal, work) = (Arc::<Signal>::default(), Arc::new(AtomicBool::new(false)));
    let (waker, theirs) = (signal.waker(), Arc::clone(&work));
    let other = thread::spawn(move || {
        theirs.store(true, Ordering::Release);
        waker.wake_by_ref();
    });
    loop {
        signal.clear();
        if work.load(Ordering::Acquire) {
            break;
        }
        loom::future::block_on(signal.raised());
    }
    other.join().unwrap();
}

/// The same twice; the first sleep ends at once, as one does whose timer is due.
fn shard_sleeps_twice() {
    let (signal, work) = (Arc::<Signal>::default(), Arc::new(AtomicUsize::new(0)));
    let (waker, theirs) = (signal.waker(), Arc::clone(&work));
    let other = thread::spawn(move || {
        for _ in 0..2 {
            theirs.fetch_add(1, Ordering::Release);
            waker.wake_by_ref();
        }
    });
    let mut slept = false;
    loop {
        signal.clear();
        if work.load(Ordering::Acquire) == 2 {
            break;
        }
        if slept {
            loom::future::block_on(signal.raised());
        } else {
            let mut raised = Box::pin(signal.raised());
            loom::future::block_on(poll_fn(|cx| {
                let _due = raised.as_mut().poll(cx);
                Poll::Ready(())
            }));
        }
        slept = true;
    }
    other.join().unwrap();
}

/// A supervisor dozes while a shard moves: it sees that, or is told.
fn supervisor_dozes() {
    let (doze, bed) = (Arc::new(Doze::new(1)), Arc::<Bed>::default());
    let (theirs, waker) = (Arc::clone(&doze), Waker::from(Arc::clone(&bed)));
    let shard = thread::spawn(move || {
        if theirs.moved(0) {
            waker.wake_by_ref();
        }
    });
    if doze.begin().is_none() {
        bed.sleep();
    }
    shard.join().unwrap();
}

/// The ring of a lane, with one place: what was pushed, and what was popped.
#[derive(Default)]
struct Ring {
    pushed: AtomicUsize,
    popped: AtomicUsize,
}

impl Ring {
    fn push(&self) -> Result<(), ()> {
        let pushed = self.pushed.load(Ordering::Relaxed);
        if pushed > self.popped.load(Ordering::Acquire) {
            return Err(());
        }
        self.pushed.store(pushed + 1, Ordering::Release);
        Ok(())
    }

    fn pop(&self) -> bool {
        let popped = self.popped.load(Ordering::Relaxed);
        let some = self.pushed.load(Ordering::Acquire) > popped;
        if some {
            self.popped.store(popped + 1, Ordering::Release);
        }
        some
    }
}

/// A sender has two batches, the last of which ends the lane, and the ring has room for one.
fn lane_is_full() {
    const BATCHES: usize = 2;
    let (ring, blocked) = (Arc::<Ring>::default(), Arc::<Blocked>::default());
    let (sender, receiver) = (Arc::<Bed>::default(), Arc::<Bed>::default());
    let (from, to) = (Waker::from(Arc::clone(&sender)), Waker::from(Arc::clone(&receiver)));
    let (their_ring, their_blocked) = (Arc::clone(&ring), Arc::clone(&blocked));
    let sends = thread::spawn(move || {
        let mut sent = 0;
        loop {
            while sent < BATCHES && their_blocked.push((), |()| their_ring.push()).is_ok() {
                sent += 1;
                to.wake_by_ref();
            }
            if sent == BATCHES {
                return;
            }
            sender.sleep();
        }
    });
    let mut taken = 0;
    while taken < BATCHES {
        if ring.pop() {
            taken += 1;
            if blocked.made_room() {
                from.wake_by_ref();
            }
        } else {
            receiver.sleep();
        }
    }
    sends.join().unwrap();
}

/// A receiver for which nothing was due, and whose lane has told it no watermark.
fn with_nothing_due() -> Arc<Due> {
    let due = Arc::<Due>::default();
    assert!(!due.publish(due::NOTHING, due::EVERYTHING));
    due
}

/// A sender has a watermark of 10 for which nobody waits, while the receiver begins to wait for 5. `omits`: the receiver, who
/// is to wake the sender, does not.
fn kept_watermark_is_asked_for(omits: bool) {
    let (due, sent) = (with_nothing_due(), Arc::new(AtomicBool::new(false)));
    let (sender, receiver) = (Arc::<Bed>::default(), Arc::<Bed>::default());
    let (from, to) = (Waker::from(Arc::clone(&sender)), Waker::from(Arc::clone(&receiver)));
    let (their_due, theirs) = (Arc::clone(&due), Arc::clone(&sent));
    let sends = thread::spawn(move || {
        let (watermark, told) = (10, due::EVERYTHING);
        if their_due.spares(watermark, told) {
            their_due.ask(watermark);
            while their_due.spares(watermark, told) {
                sender.sleep();
            }
        }
        theirs.store(true, Ordering::Release);
        to.wake_by_ref();
    });
    if due.publish(5, due::EVERYTHING) && !omits {
        from.wake_by_ref();
    }
    while !sent.load(Ordering::Acquire) {
        receiver.sleep();
    }
    sends.join().unwrap();
}

fn watermark_is_kept() {
    kept_watermark_is_asked_for(false);
}

/// A shard has told others that nothing is due behind it. Behind its lane a due time of 5 appears, and then one of 3.
fn due_time_falls() {
    let (due, bed) = (with_nothing_due(), Arc::<Bed>::default());
    let (theirs, waker) = (Arc::clone(&due), Waker::from(Arc::clone(&bed)));
    let receiver = thread::spawn(move || {
        for falls_to in [5, 3] {
            if theirs.publish(falls_to, due::EVERYTHING) {
                waker.wake_by_ref();
            }
        }
    });
    loop {
        let relied = due.due();
        due.ask(relied - 1);
        if relied.min(due.due()) == 3 {
            break;
        }
        bed.sleep();
    }
    receiver.join().unwrap();
}

/// Two shards were full and are no more. The sources of both go on. `omits`: who is the last wakes only itself.
fn sources_wait(omits: bool) {
    let beds = [Arc::<Bed>::default(), Arc::default()];
    let wakers = beds.each_ref().map(|bed| Waker::from(Arc::clone(bed)));
    let woken = if omits { 1 } else { 2 };
    let gate = Arc::new(Gate::new(wakers[..woken].into()));
    let waits = |gate: &Gate, bed: &Bed| {
        gate.leave();
        while gate.is_shut() {
            bed.sleep();
        }
    };
    gate.enter();
    gate.enter();
    let (their_gate, [mine, theirs]) = (Arc::clone(&gate), beds);
    let other = thread::spawn(move || waits(&their_gate, &theirs));
    waits(&gate, &mine);
    other.join().unwrap();
}

/// Work waits for its connection and its queue. `omits`: it looks at its queue, and gives its waker only then.
fn work_waits(omits: bool) {
    let (signal, queue) = (Arc::<IoSignal>::default(), Arc::new(AtomicBool::new(false)));
    let (theirs, their_queue) = (Arc::clone(&signal), Arc::clone(&queue));
    let shard = thread::spawn(move || {
        their_queue.store(true, Ordering::Release);
        theirs.raise();
    });
    let mut took = false;
    loom::future::block_on(poll_fn(|cx| {
        if omits {
            took |= queue.load(Ordering::Acquire);
            signal.take(cx.waker());
        } else {
            signal.take(cx.waker());
            took |= queue.load(Ordering::Acquire);
        }
        if took { Poll::Ready(()) } else { Poll::Pending }
    }));
    shard.join().unwrap();
}

/// Some work goes on until it has found something in its queue, or rests; whether it has.
fn goes_on(call: &Call, queue: &AtomicBool) -> bool {
    call.begin();
    loop {
        if call.take() && queue.load(Ordering::Acquire) {
            return true;
        }
        if call.rest() {
            return false;
        }
    }
}

/// The thread of some work sleeps, and is called when there is something in its queue.
fn thread_sleeps() {
    let bed = Arc::<Bed>::default();
    let (due, waker) = (Arc::new(sync::AtomicBool::new(false)), Waker::from(Arc::clone(&bed)));
    let (call, queue) = (Arc::new(Call::new(due, waker)), Arc::new(AtomicBool::new(false)));
    let (theirs, their_queue) = (Arc::clone(&call), Arc::clone(&queue));
    let shard = thread::spawn(move || {
        their_queue.store(true, Ordering::Release);
        theirs.wake();
    });
    while !goes_on(&call, &queue) {
        bed.sleep();
    }
    shard.join().unwrap();
}

/// A shard goes on with its work and then takes its own step, and sleeps where neither has anything to do. Somebody calls
/// the work meanwhile. `omits`: the flag of the shard is taken down behind its work, not before.
fn work_is_called(omits: bool) {
    let signal = Arc::<Signal>::default();
    let due = Arc::new(sync::AtomicBool::new(false));
    let call = Arc::new(Call::new(due, signal.waker()));
    let queue = Arc::new(AtomicBool::new(false));
    let (theirs, their_queue) = (Arc::clone(&call), Arc::clone(&queue));
    let other = thread::spawn(move || {
        their_queue.store(true, Ordering::Release);
        theirs.wake();
    });
    loop {
        if !omits {
            signal.clear();
        }
        if goes_on(&call, &queue) {
            break;
        }
        if omits {
            signal.clear();
        }
        loom::future::block_on(signal.raised());
    }
    other.join().unwrap();
}

/// Work has no chunk left, and says so; the shard gives one back. The end of the queue moves by a sequentially consistent
/// operation, as that of the standard library's channels does.
fn work_wants() {
    let (signal, queue) = (Arc::<IoSignal>::default(), Arc::new(sync::AtomicBool::new(false)));
    let (theirs, their_queue) = (Arc::clone(&signal), Arc::clone(&queue));
    let shard = thread::spawn(move || {
        their_queue.store(true, Ordering::SeqCst);
        if theirs.wanted() {
            theirs.raise();
        }
    });
    loom::future::block_on(poll_fn(|cx| {
        signal.take(cx.waker());
        if queue.load(Ordering::SeqCst) {
            return Poll::Ready(());
        }
        signal.want(true);
        if queue.load(Ordering::SeqCst) { Poll::Ready(()) } else { Poll::Pending }
    }));
    shard.join().unwrap();
}

/// A shard waits for the journal to be durable up to 2; it gets there in two steps.
fn shard_awaits_durable() {
    let (progress, bed) = (Arc::new(Progress::new()), Arc::<Bed>::default());
    let (theirs, waker) = (Arc::clone(&progress), Waker::from(Arc::clone(&bed)));
    let thread = thread::spawn(move || {
        theirs.durable(1, &waker);
        theirs.durable(2, &waker);
    });
    while !progress.is_durable(2).unwrap() {
        bed.sleep();
    }
    thread.join().unwrap();
}

/// A shard waits for what never will be durable, since the thread ends. `omits`: the thread wakes it, and then says so.
fn shard_awaits_end(omits: bool) {
    let (progress, bed) = (Arc::new(Progress::new()), Arc::<Bed>::default());
    let (theirs, waker) = (Arc::clone(&progress), Waker::from(Arc::clone(&bed)));
    let thread = thread::spawn(move || {
        theirs.durable(1, &waker);
        if omits {
            waker.wake_by_ref();
            theirs.close(None);
        } else {
            theirs.close(None);
            waker.wake_by_ref();
        }
    });
    while let Ok(durable) = progress.is_durable(2) {
        assert!(!durable, "it was durable up to 1");
        bed.sleep();
    }
    thread.join().unwrap();
}
