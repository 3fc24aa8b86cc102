//! Operators over whole chunks: [`keep`](ColumnStream::keep) filters rows, [`project`](ColumnStream::project) makes other
//! columns of them.

use std::rc::Rc;

use thalweg_kernel::{Collector, Timestamp};

use super::chunk::Chunk;
use super::column::{Column, DataType, retype};
use super::{ChunkPool, ColumnStream};
use crate::pipeline::{Chain, Operator, Then};

impl<C: Chain<Out = Chunk>> ColumnStream<C> {
    /// Keeps the rows whose numbers `choose` adds to an empty list, in ascending order.
    pub fn keep(
        self,
        choose: impl FnMut(&Chunk, &mut Vec<u32>) + 'static,
    ) -> ColumnStream<Then<C, Keep>> {
        let Self { stream, columns, pool } = self;
        let keep = Keep { choose: Box::new(choose), rows: Vec::new(), pool: pool.clone() };
        ColumnStream { stream: stream.then("Keep", keep), columns, pool }
    }

    /// Makes other columns, with these names and types, of each chunk. `compute` is given the chunk and empty columns, and
    /// adds a value for each row to each.
    pub fn project(
        self,
        columns: &[(&str, DataType)],
        compute: impl FnMut(&Chunk, &mut [Column]) + 'static,
    ) -> ColumnStream<Then<C, Project>> {
        let Self { stream, pool, .. } = self;
        let columns: Rc<[_]> = columns.iter().map(|&(name, of)| (name.to_owned(), of)).collect();
        let spare = columns.iter().map(|&(_, of)| Column::new(of)).collect();
        let types = columns.iter().map(|&(_, of)| of).collect();
        let project = Project { compute: Box::new(compute), spare, types };
        ColumnStream { stream: stream.then("Project", project), columns, pool }
    }
}

/// Chooses rows of a chunk.
type Choose = Box<dyn FnMut(&Chunk, &mut Vec<u32>)>;

/// See [`ColumnStream::keep`].
pub struct Keep {
    choose: Choose,
    rows: Vec<u32>,
    pool: ChunkPool,
}

impl Operator<Chunk> for Keep {
    type Out = Chunk;

    fn record(&mut self, _time: Timestamp, mut chunk: Chunk, out: &mut impl Collector<Chunk>) {
        self.rows.clear();
        (self.choose)(&chunk, &mut self.rows);
        chunk.keep(&self.rows);
        if let Some(empty) = chunk.emit(out) {
            self.pool.give(empty);
        }
    }

    #[inline]
    fn due_at(&self) -> Timestamp {
        Timestamp::MAX
    }
}

/// Makes columns of a chunk.
type Compute = Box<dyn FnMut(&Chunk, &mut [Column])>;

/// See [`ColumnStream::project`].
pub struct Project {
    compute: Compute,
    /// Empty columns of the types that come out. Columns that came in are used again here, if their types fit.
    spare: Vec<Column>,
    types: Vec<DataType>,
}

impl Operator<Chunk> for Project {
    type Out = Chunk;

    fn record(&mut self, time: Timestamp, mut chunk: Chunk, out: &mut impl Collector<Chunk>) {
        (self.compute)(&chunk, &mut self.spare);
        debug_assert!(
            self.spare.iter().all(|column| column.len() == chunk.len()),
            "rows are missing"
        );
        chunk.swap_columns(&mut self.spare);
        retype(&mut self.spare, &self.types);
        self.spare.iter_mut().for_each(Column::clear);
        out.record(time, chunk);
    }

    #[inline]
    fn due_at(&self) -> Timestamp {
        Timestamp::MAX
    }
}
