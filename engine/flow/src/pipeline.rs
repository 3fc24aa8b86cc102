//! Fused chains and the pipelines that run them.
//!
//! A *chain* is a head (a source, or an inbox of batches) followed by operators, all one type. A
//! *pipeline* is a chain with a terminal at its end (a sink, an exchange, a local queue), behind
//! one `dyn` call per step. How operators are fused, and how they put work down, is in [`stage`].

mod stage;

use std::time::Duration;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Batch, Collector, ConnectorError, Epoch, Mark, Timestamp};

pub use self::stage::Budget;
pub(crate) use self::stage::Then;

/// The two clocks of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// This machine's clock. It may jump either way, as the clocks of gateways do.
    pub wall: Timestamp,
    /// Time since any fixed moment. It only grows: for timeouts.
    pub steady: Duration,
}

/// What the driver tells a step.
#[derive(Clone, Copy, Debug)]
pub struct StepContext {
    /// The shard's clocks.
    pub now: Now,
    /// How many records a source may emit in this step.
    pub records_max: usize,
    /// Sources are to emit none: see [`pressure`](crate::pressure).
    pub sources_wait: bool,
    /// How many units of work an operator may do in this step before it puts the rest down: see [`Budget`].
    pub work_max: usize,
}

/// What a chain or pipeline did in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It moved something; step again.
    Busy,
    /// It took a barrier and nothing else; step again.
    Barrier,
    /// Nothing to do until woken, or until this steady time.
    Idle(Option<Duration>),
    /// It has emitted its end.
    Done,
}

impl Progress {
    /// Of a head that other pipelines feed, and that has taken one more batch.
    #[inline]
    pub(crate) fn took<T>(&mut self, batch: &Batch<T>) {
        if *self != Self::Busy {
            *self = if batch.is_barrier() { Self::Barrier } else { Self::Busy };
        }
    }

    /// As it is, but awake at this steady time.
    fn or_until(self, until: Option<Duration>) -> Self {
        match self {
            Self::Idle(at) => Self::Idle([at, until].into_iter().flatten().min()),
            progress => progress,
        }
    }

    /// When something is due at a time of the machine's clock, in steady time.
    fn steady(due_at: Timestamp, now: Now) -> Duration {
        let left = u64::try_from(due_at.ms_since(now.wall)).unwrap_or(0);
        now.steady.saturating_add(Duration::from_millis(left))
    }

    /// As it is, but awake when something is due at a time of the machine's clock.
    fn or_at(self, due: Option<Due>) -> Self {
        self.or_until(due.map(|due| due.steady))
    }
}

/// The due time of an operator with this watermark that waits for a later one. With what is overdue, each mark matters.
#[inline]
pub(crate) fn due_time(waits_for: Option<Timestamp>, watermark: Timestamp) -> Timestamp {
    match waits_for {
        None => Timestamp::MAX,
        Some(due) if due <= watermark => Timestamp::MIN,
        Some(due) => due,
    }
}

/// When an operator has something to do because of this machine's clock, by both clocks: either may get there first, since
/// one of them jumps.
#[derive(Clone, Copy)]
struct Due {
    wall: Timestamp,
    steady: Duration,
}

impl Due {
    fn at(wall: Timestamp, now: Now) -> Self {
        Self { wall, steady: Progress::steady(wall, now) }
    }

    fn has_come(self, now: Now) -> bool {
        self.wall <= now.wall || self.steady <= now.steady
    }
}

/// One step of processing in a chain. It takes records and marks and emits records and marks.
///
/// An operator is pure: what it does depends on what it was given and on its own state.
pub trait Operator<T>: 'static {
    /// What it emits.
    type Out: 'static;

    /// Whether it can put records aside and pass them on together: see `operators/filter.rs`.
    #[doc(hidden)]
    const GATHERS: bool = false;

    /// Whether a mark may cause more work than a step should do: see [`due`](Self::due).
    const PUTS_DOWN: bool = false;

    /// Takes one record.
    fn record(&mut self, time: Timestamp, value: T, out: &mut impl Collector<Self::Out>);

    /// Whether it wants to in the step that begins.
    #[doc(hidden)]
    fn gathers(&self) -> bool {
        false
    }

    /// Takes one record in a step in which it wants to.
    #[doc(hidden)]
    #[inline(always)]
    fn gather(&mut self, time: Timestamp, value: T, out: &mut impl Collector<Self::Out>) {
        self.record(time, value, out);
    }

    /// Takes a mark; emits what is due because of it, then passes it on. (State that is to survive lives
    /// in a process function, [with keys](crate::Process) or [without](crate::Process); what an operator keeps in its own fields
    /// does not.)
    #[inline]
    fn mark(&mut self, mark: Mark, out: &mut impl Collector<Self::Out>) {
        out.mark(mark);
    }

    /// Does what is due because of a mark, as far as `budget` allows; whether all of it is done. If not, the next step calls
    /// this again with the same mark, and the operator is given nothing else in between but the [clock](Self::tick). Once all
    /// is done [`mark`](Self::mark) passes the mark on. Called only if the operator [puts work down](Self::PUTS_DOWN).
    #[inline]
    fn due(
        &mut self,
        _mark: Mark,
        _budget: &mut Budget,
        _out: &mut impl Collector<Self::Out>,
    ) -> bool {
        true
    }

    /// Whether it has put work down that no mark has caused, and goes on with it when a step [begins](Self::tick). Records
    /// that come meanwhile wait in the operator itself, and marks until [`due`](Self::due) has done what waits.
    #[doc(hidden)]
    fn has_put_down(&self) -> bool {
        false
    }

    /// Called with every step: emits what is due because of this machine's clock. The time on that
    /// clock at which more will be due, if any is known.
    #[inline]
    fn tick(&mut self, _now: Now, _out: &mut impl Collector<Self::Out>) -> Option<Timestamp> {
        None
    }

    /// Called at the end of each step: emits what it has put off, if it puts anything off.
    #[inline]
    fn settle(&mut self, _out: &mut impl Collector<Self::Out>) {}

    /// Whether its side outputs have room.
    fn ready(&self) -> bool {
        true
    }

    /// Its due time, asked at the end of a step: the least watermark that would make it do anything but pass it on. Marks
    /// without any effect wake no other shard. With [`Timestamp::MIN`], the default, each mark matters. An operator that only
    /// passes marks on may say [`Timestamp::MAX`]. With any other time an idle mark matters, too.
    #[inline]
    fn due_at(&self) -> Timestamp {
        Timestamp::MIN
    }
}

/// A head with the operators fused to it: what a [`Stream`](crate::Stream) is made of.
#[allow(private_interfaces, reason = "sealed: only heads and `Then` of this crate are chains")]
pub trait Chain: 'static {
    /// What it emits.
    type Out: 'static;

    /// Emits what is ready, up to the bound of `cx`.
    #[doc(hidden)]
    fn step<S: Collector<Self::Out>>(
        &mut self,
        cx: &StepContext,
        out: S,
    ) -> Result<Progress, ConnectorError>;

    /// Whether it may be stepped: its side outputs have room.
    #[doc(hidden)]
    fn ready(&self) -> bool;

    /// Lets the head itself emit the barrier of an epoch: a source, or a head that has ended.
    #[doc(hidden)]
    fn barrier(&mut self, epoch: Epoch, out: impl Collector<Self::Out>);

    /// Begins a step. Lets its operators emit what is due because of the clock, and go on with what they have put
    /// down, the last one first. When more will be due by the clock.
    #[doc(hidden)]
    fn tick(&mut self, cx: &StepContext, out: impl Collector<Self::Out>) -> Option<Timestamp>;

    /// Whether any of its operators has put work down: then it must not be stepped.
    #[doc(hidden)]
    fn has_put_down(&self) -> bool {
        false
    }

    /// Lets its operators emit what they have put off in a step that ends.
    #[doc(hidden)]
    fn settle(&mut self, out: impl Collector<Self::Out>);

    /// Its source, if it begins with one.
    #[doc(hidden)]
    fn source(&mut self) -> Option<&mut dyn Head>;

    /// The earliest due time of its operators: see [`Operator::due_at`].
    #[doc(hidden)]
    fn due_at(&self) -> Timestamp;

    /// Tells those that feed it the due time of all that stands behind them: see `exchange/kept.rs`. Whether that is news for
    /// a pipeline of this shard.
    #[doc(hidden)]
    fn publish(&mut self, due: Timestamp) -> bool;
}

/// The source at the head of a chain, apart from its records.
pub(crate) trait Head {
    /// Asks for an orderly end.
    fn stop(&mut self);
    /// Whether what lies before the position of `epoch` can be read again after a crash.
    fn durable(&mut self, epoch: Epoch) -> Result<bool, ConnectorError>;
    /// `epoch` exists; none before `oldest` is needed any more.
    fn committed(&mut self, epoch: Epoch, oldest: Epoch);
    /// Whether it lets event time go on by the clock while it is silent.
    fn closes_by_clock(&self) -> bool;
    /// Whether it is silent at this steady time, so that event time may go on by the clock. Then it is to be told the
    /// least watermark that makes anything happen.
    fn is_quiet(&self, steady: Duration) -> bool;
    /// The least watermark that makes anything happen behind it, in the step that begins.
    fn wait_for(&mut self, due: Timestamp);
}

/// What has passed the end of a chain.
struct Passed {
    /// The newest epoch whose barrier has.
    epoch: Epoch,
    /// Something has moved in the pipeline behind that barrier, or in the step in which the barrier passed.
    moved: bool,
    /// Something had moved in front of it, behind the barrier before.
    moved_before: bool,
}

impl Passed {
    fn barrier(&mut self, epoch: Epoch) {
        debug_assert!(self.epoch < epoch, "the barrier of {epoch} came twice");
        self.epoch = epoch;
        self.moved_before |= std::mem::take(&mut self.moved);
    }

    /// Something has moved in a step that began behind the barrier of `before`. If another barrier has passed in the step,
    /// that may have been in front of it or behind it.
    fn moves(&mut self, before: Epoch) {
        self.moved_before |= self.epoch > before;
        self.moved = true;
    }
}

/// The terminal as a collector, which notes the barriers that it gets.
struct NotesBarrier<'a, S>(&'a mut S, &'a mut Passed);

impl<T, S: Collector<T>> Collector<T> for NotesBarrier<'_, S> {
    #[inline(always)]
    fn record(&mut self, time: Timestamp, value: T) {
        self.0.record(time, value);
    }

    #[inline]
    fn mark(&mut self, mark: Mark) {
        self.0.mark(mark);
        if let Mark::Barrier(epoch) = mark {
            self.1.barrier(epoch);
        }
    }
}

/// A [`NotesBarrier`] that notes whether it gets anything else, too.
struct NotesAll<'a, S>(NotesBarrier<'a, S>, &'a mut bool);

impl<T, S: Collector<T>> Collector<T> for NotesAll<'_, S> {
    fn record(&mut self, time: Timestamp, value: T) {
        *self.1 = true;
        self.0.record(time, value);
    }

    fn mark(&mut self, mark: Mark) {
        *self.1 |= !matches!(mark, Mark::Barrier(_));
        self.0.mark(mark);
    }
}

/// The end of a pipeline.
pub(crate) trait Terminal<T>: Collector<T> + 'static {
    /// Whether it can take what one step yields.
    fn ready(&mut self) -> Result<bool, ConnectorError>;

    /// Asked while it is not ready: whether only the epoch whose barrier is due can make room.
    fn awaits_epoch(&self) -> bool {
        false
    }

    /// Whether a barrier would note something although nothing has come since the last one.
    fn has_news(&self) -> bool {
        false
    }

    /// Sends on what it holds. It never waits. Called after each step.
    fn flush(&mut self) -> Result<(), ConnectorError>;

    /// The job is to end.
    fn stop(&mut self) {}

    /// After the end: whether everything has arrived.
    fn finish(&mut self) -> Result<bool, ConnectorError>;

    /// Whether what came before the barrier of `epoch` would survive a crash where it is now.
    fn durable(&mut self, _epoch: Epoch) -> Result<bool, ConnectorError> {
        Ok(true)
    }

    /// `epoch` exists.
    fn committed(&mut self, _epoch: Epoch) -> Result<(), ConnectorError> {
        Ok(())
    }

    /// Whether all that was committed can be seen.
    fn settled(&mut self) -> Result<bool, ConnectorError> {
        Ok(true)
    }

    /// The earliest due time of what it feeds. A sink is told of no watermark.
    fn due_at(&mut self) -> Timestamp {
        Timestamp::MAX
    }

    /// The same for a source that is silent. This shard is woken when it is another one, until the source has called
    /// [`forget_due`](Self::forget_due).
    fn watch_due(&mut self) -> Timestamp {
        self.due_at()
    }

    /// This shard need not be woken for another due time any more.
    fn forget_due(&mut self) {}

    /// Called at the end of each step: sends what it has kept for too long. When the rest must go, if it keeps anything.
    fn kept_until(&mut self, _now: Duration) -> Option<Duration> {
        None
    }
}

/// A pipeline as its shard sees it.
pub(crate) trait Pipeline {
    fn step(&mut self, cx: &StepContext) -> Result<Progress, ConnectorError>;
    /// Asks its source for an orderly end, and tells its sink of that.
    fn stop(&mut self);
    /// Asks its source for nothing more at all.
    fn hold(&mut self);
    /// The barrier of `epoch` is to pass: sources emit it at once, others wait for it.
    fn begin(&mut self, epoch: Epoch);
    /// Whether the barrier of `epoch` has passed, and what came before it would survive a crash.
    fn durable(&mut self, epoch: Epoch) -> Result<bool, ConnectorError>;
    /// `epoch` exists; none before `oldest` is needed any more.
    fn committed(&mut self, epoch: Epoch, oldest: Epoch) -> Result<(), ConnectorError>;
    /// Whether all that was committed can be seen.
    fn settled(&mut self) -> Result<bool, ConnectorError>;
    /// Whether it has not ended yet.
    fn is_running(&self) -> bool;
    /// Whether it has ended, and the epoch that holds its end has not begun.
    fn awaits_epoch(&self) -> bool;
    /// Tells those that feed it for which watermark it waits. Whether that is news for a pipeline of this shard.
    fn publish_due(&mut self) -> bool;
    /// Whether its source lets event time go on by the clock, and so must know what is due.
    fn closes_by_clock(&mut self) -> bool;
    /// Whether an epoch that began now could hold anything else of it than the one whose barrier it has got.
    fn has_moved(&self) -> bool;
    /// The same of that epoch and the one before it. To be asked once for each epoch that is handed over.
    fn had_moved(&mut self) -> bool;
}

/// A chain with its terminal.
///
/// # Its end
/// In a job with checkpoints, a chain that has ended still takes part in one. It has the position
/// behind the last record, the windows that the end has fired, and the last results of a
/// transactional sink. So it lets one more barrier pass, and is done when that epoch exists.
pub(crate) struct Closed<C, S> {
    chain: C,
    terminal: S,
    state: State,
    checkpoints: bool,
    held: bool,
    /// The newest epoch that was begun.
    begun: Epoch,
    passed: Passed,
    /// When an operator has something to do because of this machine's clock.
    due: Option<Due>,
    /// The source is silent, and the terminal watches what is due.
    watches: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    /// Its head has ended; its operators may have put work down in front of the end.
    Ending,
    /// It has ended; no barrier has passed since.
    Ended,
    /// It waits for the epoch that holds its end.
    Sealed(Epoch),
    Finishing,
    Done,
}

impl<C, S> Closed<C, S> {
    pub(crate) fn new(chain: C, terminal: S, checkpoints: bool) -> Self {
        // What was restored may not be what is stored: it may be of another layout, or of notes that were committed.
        let passed = Passed { epoch: Epoch::NONE, moved: true, moved_before: false };
        let (state, begun, due) = (State::Running, Epoch::NONE, None);
        let (held, watches) = (false, false);
        Self { chain, terminal, state, checkpoints, held, begun, passed, due, watches }
    }
}

impl<C: Chain, S: Terminal<C::Out>> Closed<C, S> {
    /// Lets the head emit the barrier that is due.
    fn emit_barrier(&mut self) {
        self.chain.barrier(self.begun, NotesBarrier(&mut self.terminal, &mut self.passed));
        if self.state == State::Ended {
            self.state = State::Sealed(self.begun);
        }
    }

    /// Tells a source that is silent what waits for event time to go on.
    fn watch_due(&mut self, steady: Duration) {
        let is_quiet = self.chain.source().is_some_and(|source| source.is_quiet(steady));
        if is_quiet {
            let due = self.chain.due_at().min(self.terminal.watch_due());
            self.chain.source().into_iter().for_each(|source| source.wait_for(due));
        } else if self.watches {
            self.terminal.forget_due();
        }
        self.watches = is_quiet;
    }

    fn advance(&mut self, cx: &StepContext) -> Result<Progress, ConnectorError> {
        let mut progress = Progress::Idle(None);
        if self.is_running() {
            let is_source = self.chain.source().is_some();
            // Asked in any case: it sends on what waits there, also of a source that is held.
            let has_room = self.terminal.ready()?;
            let has_news = || self.terminal.has_news() && !seeded(Defect::FlowIgnoresNewsOfSinks);
            self.passed.moved = self.passed.moved || has_news();
            // What stands before a barrier is let through where only its epoch can make room. Elsewhere the barrier waits.
            let is_let_through = || {
                let by_epoch = self.terminal.awaits_epoch() || seeded(Defect::FlowOverfillsSink);
                by_epoch && self.begun > self.passed.epoch && !seeded(Defect::FlowBarrierAwaitsRoom)
            };
            let ready = (has_room || is_let_through()) && self.chain.ready();
            // What a source has emitted before it was held is worked off.
            let held = self.held && is_source && !self.chain.has_put_down();
            if held || !ready {
                return Ok(Progress::Idle(None));
            }
            let goes_on = self.chain.has_put_down();
            let (before, due) = (self.passed.epoch, self.due);
            let mut moved = due.is_some_and(|due| due.has_come(cx.now));
            let out = NotesBarrier(&mut self.terminal, &mut self.passed);
            let due_at = self.chain.tick(cx, NotesAll(out, &mut moved));
            self.due = due_at.map(|at| Due::at(at, cx.now));
            moved &= !seeded(Defect::FlowTickMovesNothing);
            let head_waits = self.state == State::Ending
                || is_source && (self.held || cx.sources_wait)
                // Of the operators in front of that work, none has seen the clock of this step.
                || goes_on
                || self.chain.has_put_down();
            if !head_waits {
                if is_source {
                    self.watch_due(cx.now.steady);
                }
                progress =
                    self.chain.step(cx, NotesBarrier(&mut self.terminal, &mut self.passed))?;
                if progress == Progress::Done {
                    self.state = State::Ending;
                }
            }
            self.chain.settle(NotesBarrier(&mut self.terminal, &mut self.passed));
            progress = progress.or_at(self.due);
            self.terminal.flush()?;
            // Work that was gone on with has moved something, also where the head has nothing more.
            if goes_on || self.chain.has_put_down() {
                progress = Progress::Busy;
            }
            if !self.chain.has_put_down() && self.state == State::Ending {
                progress = Progress::Busy;
                self.state = if self.checkpoints { State::Ended } else { State::Finishing };
                if self.begun > self.passed.epoch {
                    self.emit_barrier();
                    self.terminal.flush()?;
                }
            }
            if moved || matches!(progress, Progress::Busy | Progress::Done) {
                self.passed.moves(before);
            }
        }
        // What the terminal holds must go while an epoch is awaited, too.
        if matches!(self.state, State::Ended | State::Sealed(_)) {
            self.terminal.flush()?;
        }
        if self.state == State::Finishing && self.terminal.finish()? {
            self.state = State::Done;
        }
        Ok(if self.state == State::Done { Progress::Done } else { progress })
    }
}

impl<C: Chain, S: Terminal<C::Out>> Pipeline for Closed<C, S> {
    fn step(&mut self, cx: &StepContext) -> Result<Progress, ConnectorError> {
        let progress = self.advance(cx)?;
        Ok(progress.or_until(self.terminal.kept_until(cx.now.steady)))
    }

    fn stop(&mut self) {
        // What it has still to say must be taken.
        self.held = false;
        if let Some(source) = self.chain.source() {
            source.stop();
        }
        self.terminal.stop();
    }

    fn hold(&mut self) {
        self.held = true;
    }

    fn begin(&mut self, epoch: Epoch) {
        self.begun = epoch;
        let by_itself = match self.state {
            State::Running => self.chain.source().is_some(),
            State::Ended => true,
            State::Ending | State::Sealed(_) | State::Finishing | State::Done => false,
        };
        // Where a shard is told late, the barrier of another may have come through before.
        if by_itself && self.passed.epoch < epoch {
            self.emit_barrier();
        }
    }

    fn durable(&mut self, epoch: Epoch) -> Result<bool, ConnectorError> {
        let ended = matches!(self.state, State::Sealed(_) | State::Finishing | State::Done);
        if self.passed.epoch < epoch && !ended {
            return Ok(false);
        }
        let read_again = match self.chain.source() {
            Some(source) => source.durable(epoch)? || seeded(Defect::FlowPositionNotDurable),
            None => true,
        };
        Ok(read_again && self.terminal.durable(epoch)?)
    }

    fn committed(&mut self, epoch: Epoch, oldest: Epoch) -> Result<(), ConnectorError> {
        if let Some(source) = self.chain.source() {
            source.committed(epoch, oldest);
        }
        self.terminal.committed(epoch)?;
        if let State::Sealed(sealed) = self.state
            && sealed <= epoch
        {
            self.state = State::Finishing;
        }
        Ok(())
    }

    fn settled(&mut self) -> Result<bool, ConnectorError> {
        self.terminal.settled()
    }

    fn is_running(&self) -> bool {
        matches!(self.state, State::Running | State::Ending)
    }

    fn awaits_epoch(&self) -> bool {
        self.state == State::Ended
    }

    fn publish_due(&mut self) -> bool {
        if self.chain.source().is_some() {
            return false;
        }
        let due = self.chain.due_at().min(self.terminal.due_at());
        self.chain.publish(due)
    }

    fn closes_by_clock(&mut self) -> bool {
        self.chain.source().is_some_and(|source| source.closes_by_clock())
    }

    fn has_moved(&self) -> bool {
        self.passed.moved && (self.is_running() || self.awaits_epoch())
    }

    fn had_moved(&mut self) -> bool {
        std::mem::take(&mut self.passed.moved_before)
    }
}
