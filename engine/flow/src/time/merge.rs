//! The watermark of several inputs: the minimum over those that are neither idle nor ended.
//!
//! Inputs that go back to the same stream fall idle and wake up *together*, but one of them is always the first to
//! say so. Those that are still idle then have records on their way that no watermark of the first may overtake. So
//! of such inputs none is left out until all are idle.

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Mark, Timestamp};

#[derive(Clone, Copy)]
struct Input {
    watermark: Timestamp,
    idle: bool,
    ended: bool,
}

/// Merges the marks of several inputs into those of one stream, which keep the grammar of a
/// channel. Its watermarks only grow, and it is idle while every input that has not ended is idle.
pub(crate) struct Merge {
    inputs: Vec<Input>,
    watermark: Timestamp,
    idle: bool,
    together: bool,
}

impl Merge {
    pub(crate) fn new(inputs: usize) -> Self {
        let input = Input { watermark: Timestamp::MIN, idle: false, ended: false };
        let (inputs, watermark) = (vec![input; inputs], Timestamp::MIN);
        Self { inputs, watermark, idle: false, together: false }
    }

    /// A merge whose inputs fall idle and wake up together, if `together` says so.
    pub(crate) fn together(self, together: bool) -> Self {
        Self { together, ..self }
    }

    /// One more input, at the merged watermark. (Or one that takes the place of an input that has ended.)
    pub(crate) fn join(&mut self, mut emit: impl FnMut(Mark)) -> usize {
        let fresh = Input { watermark: self.watermark, idle: false, ended: false };
        let ended = self.inputs.iter().position(|input| input.ended);
        let input = ended.unwrap_or(self.inputs.len());
        match self.inputs.get_mut(input) {
            Some(place) => *place = fresh,
            None => self.inputs.push(fresh),
        }
        if seeded(Defect::FlowNewPartitionTurnsTimeBack) {
            self.inputs.iter_mut().for_each(|input| input.watermark = Timestamp::MIN);
            self.watermark = Timestamp::MIN;
        }
        if self.idle {
            self.idle = false;
            emit(Mark::Active);
        }
        input
    }

    /// The number of its inputs.
    pub(crate) fn inputs(&self) -> usize {
        self.inputs.len()
    }

    /// The merged watermark.
    pub(crate) fn watermark(&self) -> Timestamp {
        self.watermark
    }

    /// The watermark of an input.
    pub(crate) fn watermark_of(&self, input: usize) -> Timestamp {
        self.inputs[input].watermark
    }

    /// Whether every input has ended.
    pub(crate) fn ended(&self) -> bool {
        self.inputs.iter().all(|input| input.ended)
    }

    /// Whether an input has ended.
    pub(crate) fn has_ended(&self, input: usize) -> bool {
        self.inputs[input].ended
    }

    /// Whether each input has ended.
    pub(crate) fn ends(&self) -> impl Iterator<Item = bool> {
        self.inputs.iter().map(|input| input.ended)
    }

    /// Whether every input that has not ended is idle.
    pub(crate) fn is_idle(&self) -> bool {
        self.idle
    }

    /// Whether the grammar allows a record of this input now.
    pub(crate) fn may_send_records(&self, input: usize) -> bool {
        !self.inputs[input].idle && !self.inputs[input].ended
    }

    /// Takes a mark of one input and emits what follows from it for the merged stream.
    pub(crate) fn mark(&mut self, input: usize, mark: Mark, mut emit: impl FnMut(Mark)) {
        let state = &mut self.inputs[input];
        debug_assert!(!state.ended, "{mark:?} after end");
        match mark {
            Mark::Watermark(watermark) => {
                debug_assert!(watermark >= state.watermark, "a watermark went back");
                state.watermark = watermark;
            }
            Mark::Idle => state.idle = true,
            Mark::Active => {
                state.idle = false;
                if self.idle {
                    self.idle = false;
                    emit(Mark::Active);
                }
            }
            Mark::End => state.ended = true,
            // Not a matter of time: see `exchange/ports.rs`.
            Mark::Barrier(_) => return,
        }
        self.advance(&mut emit);
        if mark == Mark::End && self.ended() {
            emit(Mark::End);
        }
    }

    #[inline]
    fn advance(&mut self, emit: &mut impl FnMut(Mark)) {
        let mut watermark = Timestamp::MAX;
        let mut latest = Timestamp::MIN;
        let mut open = 0;
        let mut idle = 0;
        for input in &self.inputs {
            // An input at MAX is about to end. It holds nobody back, nor does it, beside idle
            // inputs that may speak again, end time for all.
            if input.watermark == Timestamp::MAX {
                continue;
            }
            open += 1;
            latest = latest.max(input.watermark);
            idle += usize::from(input.idle);
            if !input.idle || self.together {
                watermark = watermark.min(input.watermark);
            }
        }
        let all_idle = open > 0 && idle == open;
        if all_idle {
            // Whoever fell silent first: time is where the last of them left it. (As in Flink.)
            watermark = latest;
        }
        if watermark > self.watermark {
            self.watermark = watermark;
            emit(Mark::Watermark(watermark));
        }
        if all_idle && !self.idle {
            self.idle = true;
            emit(Mark::Idle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `(input, mark)` pairs and returns what came out.
    fn merged(inputs: usize, marks: &[(usize, Mark)]) -> Vec<Mark> {
        let mut merge = Merge::new(inputs);
        let mut out = Vec::new();
        for &(input, mark) in marks {
            merge.mark(input, mark, |mark| out.push(mark));
        }
        out
    }

    fn wm(ms: i64) -> Mark {
        Mark::Watermark(ms.into())
    }

    #[test]
    fn the_slowest_input_decides() {
        let out = merged(2, &[(0, wm(10)), (1, wm(5)), (1, wm(8)), (1, wm(20))]);
        assert_eq!(out, [wm(5), wm(8), wm(10)]);
    }

    #[test]
    fn an_idle_input_does_not_hold_back_the_others() {
        let out = merged(2, &[(0, wm(10)), (1, wm(5)), (1, Mark::Idle), (0, wm(30))]);
        assert_eq!(out, [wm(5), wm(10), wm(30)]);
    }

    #[test]
    fn an_input_that_wakes_up_behind_does_not_move_time_back() {
        let out = merged(
            2,
            &[
                (0, wm(10)),
                (1, Mark::Idle),
                (0, wm(30)),
                (1, Mark::Active),
                (1, wm(20)),
                (0, wm(40)),
                (1, wm(35)),
            ],
        );
        assert_eq!(out, [wm(10), wm(30), wm(35)]);
    }

    #[test]
    fn inputs_that_wake_up_together_wait_for_the_last_of_them() {
        let mut merge = Merge::new(2).together(true);
        let mut out = Vec::new();
        let active = [(0, Mark::Active), (0, wm(50)), (1, Mark::Active), (1, wm(40))];
        let idle = [(0, wm(10)), (1, wm(10)), (0, Mark::Idle), (0, Mark::Active), (0, wm(20))];
        for (input, mark) in
            idle.into_iter().chain([(0, Mark::Idle), (1, Mark::Idle)]).chain(active)
        {
            merge.mark(input, mark, |mark| out.push(mark));
        }
        assert_eq!(out, [wm(10), wm(20), Mark::Idle, Mark::Active, wm(40)]);
    }

    #[test]
    fn all_idle_is_idle_and_one_active_is_active() {
        let out = merged(2, &[(0, Mark::Idle), (1, Mark::Idle), (1, Mark::Active), (1, wm(3))]);
        assert_eq!(out, [Mark::Idle, Mark::Active, wm(3)]);
    }

    #[test]
    fn when_all_fall_idle_their_order_does_not_matter() {
        for order in [[0, 1], [1, 0]] {
            let idle = order.map(|input| (input, Mark::Idle));
            let out = merged(2, &[(0, wm(30)), (1, wm(20)), idle[0], idle[1]]);
            assert_eq!(out, [wm(20), wm(30), Mark::Idle], "{order:?}");
        }
    }

    #[test]
    fn an_input_that_joins_holds_time_where_it_is() {
        let mut merge = Merge::new(2);
        let mut out = Vec::new();
        for (input, mark) in [(0, Mark::Idle), (1, wm(10)), (1, Mark::Idle)] {
            merge.mark(input, mark, |mark| out.push(mark));
        }
        assert_eq!(merge.join(|mark| out.push(mark)), 2);
        assert_eq!(merge.join(|mark| out.push(mark)), 3);
        for (input, mark) in [(2, wm(30)), (3, wm(i64::MAX)), (3, Mark::End)] {
            merge.mark(input, mark, |mark| out.push(mark));
        }
        assert_eq!(merge.join(|mark| out.push(mark)), 3, "the place of the one that has ended");
        merge.mark(2, wm(50), |mark| out.push(mark));
        merge.mark(3, wm(40), |mark| out.push(mark));
        assert_eq!(out, [wm(10), Mark::Idle, Mark::Active, wm(30), wm(40)]);
    }

    #[test]
    fn it_ends_when_all_have_ended() {
        let end =
            [(0, wm(i64::MAX)), (0, Mark::End), (1, wm(7)), (1, wm(i64::MAX)), (1, Mark::End)];
        assert_eq!(merged(2, &end), [wm(7), wm(i64::MAX), Mark::End]);
    }

    #[test]
    fn an_ended_input_beside_an_idle_one_is_idle() {
        let out = merged(2, &[(0, wm(i64::MAX)), (0, Mark::End), (1, wm(4)), (1, Mark::Idle)]);
        assert_eq!(out, [wm(4), Mark::Idle]);
    }
}
