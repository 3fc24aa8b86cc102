//! `inspect`: looks at the records as they pass.

use std::convert::Infallible;

use thalweg_kernel::{Collector, Mark, Timestamp};

use crate::pipeline::{Chain, Operator, Then};
use crate::process::failure::Failures;
use crate::stream::Stream;

/// See [`Stream::inspect`].
pub struct Inspect<F> {
    look: F,
    failures: Failures,
}

impl<C: Chain> Stream<C> {
    /// Calls `look` with each record and its event time, and passes it on.
    ///
    /// ```
    /// # use thalweg_flow::*;
    /// # let job = move |flow: &Flow| {
    /// flow.source(Collection::new([1, 2]), Watermarks::monotonous())
    ///     .inspect(|time, n| println!("{n} at {time}"))
    ///     .discard();
    /// # };
    /// # let mut shard = Shard::build(&job, &BuildContext::single("inspect")).unwrap();
    /// # while shard.step(Now::default()).unwrap() != Step::Done {}
    /// ```
    pub fn inspect<F: FnMut(Timestamp, &C::Out) + 'static>(
        self,
        look: F,
    ) -> Stream<Then<C, Inspect<F>>> {
        self.then_failing("Inspect", |failures| Inspect { look, failures })
    }
}

impl<T: 'static, F: FnMut(Timestamp, &T) + 'static> Operator<T> for Inspect<F> {
    type Out = T;

    #[inline(always)]
    fn record(&mut self, time: Timestamp, value: T, out: &mut impl Collector<T>) {
        let look = || {
            (self.look)(time, &value);
            Ok::<_, Infallible>(())
        };
        if self.failures.call(time, look).is_some() {
            out.record(time, value);
        }
    }

    #[inline]
    fn mark(&mut self, mark: Mark, out: &mut impl Collector<T>) {
        self.failures.mark(mark);
        out.mark(mark);
    }

    fn ready(&self) -> bool {
        self.failures.have_room()
    }

    #[inline]
    fn due_at(&self) -> Timestamp {
        Timestamp::MAX
    }
}
