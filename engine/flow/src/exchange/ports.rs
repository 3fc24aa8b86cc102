//! Where several channels become one: the marks of an operator's ports, apart from the records that come through them.
//!
//! # Idea
//! A *port* is one channel into an operator: a queue of this shard, or a lane from a shard. The ports of one *input* carry
//! one type of record. [`Ports`] merges what they say of time, without a look at records:
//!
//! - watermarks, idleness and ends of an input's ports are merged into the input's, and these into the operator's
//!   (`time/merge.rs`). Each mark that comes out says whose it is;
//! - a port that has brought the barrier of an epoch is left alone until all others, of all inputs, have brought it
//!   or have ended. Then the barrier comes out once.
//!
//! # Limits
//! One epoch at a time. An input without ports on this shard has ended there.

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Epoch, Mark, Timestamp};

use crate::time::merge::Merge;

/// Whose a mark is that comes out of [`Ports::mark`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The mark is that of one input alone. (The marks of an only input are those of the operator.)
    Input(usize),
    /// The mark is that of the operator.
    All,
}

/// How far an input of an operator has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputProgress {
    /// No record of this time or an earlier one is expected any more.
    pub watermark: Timestamp,
    /// It is silent: nobody waits for its watermark.
    pub is_idle: bool,
    /// Nothing more comes.
    pub has_ended: bool,
}

/// How the ports of a node with two inputs belong together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Together {
    /// Whether the ports of each input go back to one set of streams.
    pub(crate) within: [bool; 2],
    /// Whether both inputs do.
    pub(crate) all: bool,
}

/// See the module.
pub(crate) struct Ports {
    inputs: Vec<Input>,
    /// The marks of the inputs, where there are several.
    all: Option<Merge>,
    barrier: Alignment,
}

struct Input {
    /// Its first port. All ports are numbered, input by input.
    first: usize,
    merge: Merge,
}

impl Ports {
    /// One input with this many ports. `together` says that they go back to one set of streams.
    pub(crate) fn one(ports: usize, together: bool) -> Self {
        let merge = Merge::new(ports).together(together);
        Self { inputs: vec![Input { first: 0, merge }], all: None, barrier: Alignment::new(ports) }
    }

    /// Two inputs with this many ports each. `together` says of each input whether its ports go back to one set of
    /// streams, and `all` says so of the inputs.
    pub(crate) fn two(ports: [usize; 2], together: [bool; 2], all: bool) -> Self {
        let merge = |n: usize| Merge::new(ports[n]).together(together[n]);
        let inputs =
            vec![Input { first: 0, merge: merge(0) }, Input { first: ports[0], merge: merge(1) }];
        let mut all = Merge::new(2).together(all);
        for absent in (0..2).filter(|&n| ports[n] == 0) {
            // It holds nobody back. The other has not ended, so nothing comes out.
            all.mark(absent, Mark::Watermark(Timestamp::MAX), |_| {});
            all.mark(absent, Mark::End, |_| {});
        }
        Self { inputs, all: Some(all), barrier: Alignment::new(ports[0] + ports[1]) }
    }

    /// Whether a port is to be left alone.
    pub(crate) fn is_blocked(&self, port: usize) -> bool {
        self.barrier.has_come(port)
    }

    /// Whether some port has brought a barrier, and another has not.
    pub(crate) fn awaits_barrier(&self) -> bool {
        self.barrier.waiting
    }

    /// Whether the grammar allows a record of this port now.
    pub(crate) fn may_send_records(&self, port: usize) -> bool {
        let input = &self.inputs[self.input_of(port)];
        input.merge.may_send_records(port - input.first) && !self.barrier.has_come(port)
    }

    /// The merged watermark.
    pub(crate) fn watermark(&self) -> Timestamp {
        self.merged().watermark()
    }

    /// The watermark of a port.
    pub(crate) fn told(&self, port: usize) -> Timestamp {
        let input = &self.inputs[self.input_of(port)];
        input.merge.watermark_of(port - input.first)
    }

    /// Whether every input has ended.
    pub(crate) fn ended(&self) -> bool {
        self.merged().ended()
    }

    fn merged(&self) -> &Merge {
        self.all.as_ref().unwrap_or(&self.inputs[0].merge)
    }

    /// How far an input has come.
    pub(crate) fn progress(&self, input: usize) -> InputProgress {
        let merge = &self.inputs[input].merge;
        InputProgress {
            watermark: merge.watermark(),
            is_idle: merge.is_idle(),
            has_ended: merge.ended(),
        }
    }

    fn input_of(&self, port: usize) -> usize {
        self.inputs.iter().rposition(|input| input.first <= port).unwrap_or(0)
    }

    /// Takes a mark of a port, and emits what follows from it.
    #[inline]
    pub(crate) fn mark(&mut self, port: usize, mark: Mark, mut emit: impl FnMut(Whose, Mark)) {
        let number = self.input_of(port);
        let Input { first, merge } = &mut self.inputs[number];
        let own = port - *first;
        match mark {
            // Of a sender that takes part in one more epoch after its end: nobody waits for it.
            Mark::Barrier(_) if merge.has_ended(own) => return,
            Mark::Barrier(epoch) => self.barrier.bring(port, epoch),
            _ => match &mut self.all {
                None => merge.mark(own, mark, |mark| emit(Whose::All, mark)),
                Some(all) => merge.mark(own, mark, |mark| {
                    emit(Whose::Input(number), mark);
                    all.mark(number, mark, |mark| emit(Whose::All, mark));
                }),
            },
        }
        if let Mark::Barrier(_) | Mark::End = mark {
            let Self { inputs, barrier, .. } = self;
            let ended = inputs.iter().flat_map(|input| input.merge.ends());
            if let Some(epoch) = barrier.complete(ended) {
                emit(Whose::All, Mark::Barrier(epoch));
            }
        }
    }
}

/// Which ports have brought the barrier that is awaited.
struct Alignment {
    epoch: Epoch,
    come: Vec<bool>,
    waiting: bool,
}

impl Alignment {
    fn new(ports: usize) -> Self {
        Self { epoch: Epoch::NONE, come: vec![false; ports], waiting: false }
    }

    /// Whether this port is to be left alone.
    fn has_come(&self, port: usize) -> bool {
        self.waiting && self.come[port] && !seeded(Defect::FlowNoAlignment)
    }

    /// A port has brought the barrier of an epoch.
    fn bring(&mut self, port: usize, epoch: Epoch) {
        debug_assert!(!self.waiting || self.epoch == epoch, "two epochs at a time");
        (self.epoch, self.waiting) = (epoch, true);
        self.come[port] = true;
    }

    /// The epoch whose barrier has come from everywhere, once; given which ports have ended.
    fn complete(&mut self, ended: impl Iterator<Item = bool>) -> Option<Epoch> {
        let complete =
            self.waiting && self.come.iter().zip(ended).all(|(come, ended)| *come || ended);
        if !complete {
            return None;
        }
        self.waiting = false;
        self.come.fill(false);
        Some(self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wm(ms: i64) -> Mark {
        Mark::Watermark(ms.into())
    }

    fn emitted(ports: &mut Ports, port: usize, mark: Mark) -> Vec<(Whose, Mark)> {
        let mut out = Vec::new();
        ports.mark(port, mark, |whose, mark| out.push((whose, mark)));
        out
    }

    #[test]
    fn a_mark_says_whose_it_is() {
        let mut ports = Ports::two([2, 1], [false; 2], false);
        assert_eq!(emitted(&mut ports, 0, wm(5)), []);
        assert_eq!(emitted(&mut ports, 1, wm(7)), [(Whose::Input(0), wm(5))]);
        let both = [(Whose::Input(1), wm(9)), (Whose::All, wm(5))];
        assert_eq!(emitted(&mut ports, 2, wm(9)), both);
        let idle = [(Whose::Input(1), Mark::Idle)];
        assert_eq!(emitted(&mut ports, 2, Mark::Idle), idle);
        let faster = [(Whose::Input(0), wm(7)), (Whose::All, wm(7))];
        assert_eq!(emitted(&mut ports, 0, wm(20)), faster);
        assert!(ports.progress(1).is_idle && !ports.progress(0).is_idle);
    }

    #[test]
    fn a_barrier_comes_out_when_all_ports_of_all_inputs_have_brought_it() {
        let mut ports = Ports::two([1, 2], [false; 2], false);
        let barrier = Mark::Barrier(Epoch::new(4));
        assert_eq!(emitted(&mut ports, 2, barrier), []);
        assert!(ports.is_blocked(2) && ports.awaits_barrier());
        assert_eq!(emitted(&mut ports, 0, barrier), []);
        // What has ended is not waited for.
        emitted(&mut ports, 1, wm(i64::MAX));
        assert_eq!(emitted(&mut ports, 1, Mark::End), [(Whose::All, barrier)]);
        assert!(!ports.is_blocked(2) && !ports.awaits_barrier());
    }

    #[test]
    fn an_input_that_is_not_here_holds_nobody_back() {
        let mut ports = Ports::two([0, 1], [false; 2], false);
        assert!(ports.progress(0).has_ended);
        let both = [(Whose::Input(1), wm(3)), (Whose::All, wm(3))];
        assert_eq!(emitted(&mut ports, 0, wm(3)), both);
        emitted(&mut ports, 0, wm(i64::MAX));
        let end = [(Whose::Input(1), Mark::End), (Whose::All, Mark::End)];
        assert_eq!(emitted(&mut ports, 0, Mark::End), end);
        assert!(ports.ended());
    }

    /// A sender that has ended takes part in one more epoch. A receiver that waited for it would wait for ever: its
    /// other senders may have handed over that epoch before.
    #[test]
    fn a_barrier_of_one_that_has_ended_begins_nothing() {
        let mut ports = Ports::one(2, false);
        emitted(&mut ports, 0, wm(i64::MAX));
        emitted(&mut ports, 0, Mark::End);
        let barrier = Mark::Barrier(Epoch::new(7));
        assert_eq!(emitted(&mut ports, 0, barrier), []);
        assert!(!ports.awaits_barrier() && !ports.is_blocked(0) && !ports.ended());
        assert_eq!(emitted(&mut ports, 1, barrier), [(Whose::All, barrier)]);
        assert!(!ports.awaits_barrier());
    }

    #[test]
    fn records_come_from_ports_that_are_active_and_have_brought_no_barrier() {
        let mut ports = Ports::two([1, 2], [false; 2], false);
        let may = |ports: &Ports| [0, 1, 2].map(|port| ports.may_send_records(port));
        assert_eq!(may(&ports), [true; 3]);
        emitted(&mut ports, 1, Mark::Idle);
        emitted(&mut ports, 2, Mark::Barrier(Epoch::new(1)));
        assert_eq!(may(&ports), [true, false, false]);
        emitted(&mut ports, 1, Mark::Active);
        emitted(&mut ports, 0, wm(i64::MAX));
        emitted(&mut ports, 0, Mark::End);
        assert_eq!(may(&ports), [false, true, false]);
        emitted(&mut ports, 1, Mark::Barrier(Epoch::new(1)));
        assert_eq!(may(&ports), [false, true, true], "the epoch is complete");
    }

    #[test]
    fn the_watermark_is_that_of_the_slower_input_and_the_end_that_of_the_last() {
        let mut ports = Ports::two([1, 1], [false; 2], false);
        emitted(&mut ports, 0, wm(5));
        assert_eq!(ports.watermark(), Timestamp::MIN);
        emitted(&mut ports, 1, wm(3));
        assert_eq!((ports.watermark(), ports.progress(0).watermark), (3.into(), 5.into()));
        for port in [0, 1] {
            assert!(!ports.ended() && !ports.progress(port).has_ended);
            emitted(&mut ports, port, wm(i64::MAX));
            emitted(&mut ports, port, Mark::End);
        }
        assert!(ports.ended());
        assert_eq!(ports.watermark(), Timestamp::MAX);
    }
}
