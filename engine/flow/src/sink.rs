//! The ends of streams: sinks as terminals of pipelines.

pub(crate) mod collected;

use std::rc::Rc;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Collector, ConnectorError, Epoch, Mark, Pending, Sink, StateId, Timestamp};

use crate::checkpoint::Checkpoints;
use crate::counters::Counter;
use crate::dead_letters::DeadLetterOutput;
use crate::pipeline::Terminal;

/// A connector's sink at the end of a pipeline.
pub(crate) struct SinkTerminal<W> {
    writer: W,
    records_in: Counter,
    written: usize,
    /// A failed write; reported by the flush that follows.
    failed: Option<ConnectorError>,
    dead_letters: DeadLetterOutput,
    checkpoints: Rc<Checkpoints>,
    /// Where its notes are kept.
    state: StateId,
}

impl<W> SinkTerminal<W> {
    pub(crate) fn new(
        writer: W,
        records_in: Counter,
        dead_letters: DeadLetterOutput,
        checkpoints: Rc<Checkpoints>,
        state: StateId,
    ) -> Self {
        Self { writer, records_in, written: 0, failed: None, dead_letters, checkpoints, state }
    }

    /// What the sink cannot pass on becomes dead letters.
    fn pass_refused<T>(&mut self)
    where
        W: Sink<T>,
    {
        while let Some(letter) = self.writer.refused() {
            self.dead_letters.push(letter);
        }
    }

    fn seal<T>(&mut self, epoch: Epoch)
    where
        W: Sink<T>,
    {
        let instance = self.checkpoints.shard() as u16;
        let (state, writer, failed) = (self.state, &mut self.writer, &mut self.failed);
        self.checkpoints.write(|out| {
            let mut pending = Pending::new(&mut out.changes, state, epoch, instance);
            if failed.is_none() {
                *failed = writer.seal(epoch, &mut pending).err();
                if seeded(Defect::FlowCommitsAtBarrier) {
                    *failed = writer.commit(epoch).err();
                }
            }
            Ok(())
        });
    }
}

impl<T, W: Sink<T>> Collector<T> for SinkTerminal<W> {
    #[inline]
    fn record(&mut self, time: Timestamp, value: T) {
        if self.failed.is_some() {
            return;
        }
        match self.writer.write(time, value) {
            Ok(()) => self.written += 1,
            Err(error) => self.failed = Some(error),
        }
    }

    fn mark(&mut self, mark: Mark) {
        match mark {
            Mark::Barrier(epoch) => {
                self.seal(epoch);
                self.pass_refused();
                self.dead_letters.barrier(epoch);
            }
            Mark::End => {
                self.pass_refused();
                self.dead_letters.end();
            }
            _ => {}
        }
    }
}

impl<T, W: Sink<T> + 'static> Terminal<T> for SinkTerminal<W> {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        let ready = self.writer.ready()?;
        self.pass_refused();
        Ok(ready && self.dead_letters.has_room())
    }

    fn awaits_epoch(&self) -> bool {
        self.dead_letters.has_room() && self.writer.awaits_epoch()
    }

    fn has_news(&self) -> bool {
        self.checkpoints.enabled() && self.writer.has_news()
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if self.written > 0 {
            self.records_in.add(std::mem::take(&mut self.written));
            self.writer.flush()?;
            self.pass_refused();
        }
        Ok(())
    }

    fn stop(&mut self) {
        self.writer.stop();
    }

    fn finish(&mut self) -> Result<bool, ConnectorError> {
        let closed = self.writer.close()?;
        self.pass_refused();
        Ok(closed)
    }

    fn durable(&mut self, epoch: Epoch) -> Result<bool, ConnectorError> {
        self.flush()?;
        Ok(self.writer.sealed(epoch)? || seeded(Defect::FlowSinkNotDurable))
    }

    fn committed(&mut self, epoch: Epoch) -> Result<(), ConnectorError> {
        self.writer.commit(epoch)
    }

    fn settled(&mut self) -> Result<bool, ConnectorError> {
        self.writer.settled()
    }
}

/// The end of a stream that is run for its effects.
pub(crate) struct Discard {
    records_in: Counter,
}

impl Discard {
    pub(crate) fn new(records_in: Counter) -> Self {
        Self { records_in }
    }
}

impl<T> Collector<T> for Discard {
    #[inline]
    fn record(&mut self, _time: Timestamp, _value: T) {
        self.records_in.add(1);
    }

    fn mark(&mut self, _mark: Mark) {}
}

impl<T: 'static> Terminal<T> for Discard {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        Ok(true)
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<bool, ConnectorError> {
        Ok(true)
    }
}
