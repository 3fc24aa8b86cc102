//! Streams whose batches are columns.
//!
//! # Idea
//! A plan that is put together at run time has records that the compiler does not know. Each of its steps costs a call
//! that cannot be inlined, and a [`Chunk`] spreads that call over many rows. A chunk holds typed columns, which of their
//! values are null, and for each row its event time and its [kind](thalweg_kernel::RowKind). An operator takes a whole
//! chunk.
//! (Measured for SQL: columns cost 12 to 19 ns a row from 16 rows on, rows of bytes 38 to 52.)
//!
//! A chunk travels as *one record* of a stream. So lanes, queues, barriers, fusion and back pressure need nothing
//! new, and an operator of any kind can stand among columns.
//!
//! # Watermarks
//! Lateness is decided row by row, and event time moves within a chunk, for each millisecond if need be. So a chunk carries
//! the watermarks that moved among its rows, as (row, watermark). All other marks end a chunk.
//!
//! - Where rows [leave out](ColumnStream::keep) others, positions move with them.
//! - Where a chunk is [divided](ColumnStream::exchange_by) among shards, every part gets all its watermarks, each in front
//!   of the first row that stood behind it.
//! - Where parts come together from several shards, the [ports](crate::exchange::ports) merge the watermarks within
//!   chunks as they do those between records.
//! - A watermark behind the last row follows the chunk as a mark. So an operator that knows nothing of chunks sees
//!   the right time between them.
//!
//! # Why columns in lanes
//! Rows packed flat would have to be written and read once more. Columns are gathered into the open chunk of a lane
//! by one loop per column. A part of a chunk goes when it has [`CHUNK_ROWS_MAX`] rows, or with the step.
//!
//! # Buffers
//! Chunks circulate through a [pool](ChunkPool) of the shard. A chunk that crosses to another shard ends in that shard's
//! pool, so buffers balance where traffic does.
//!
//! # Limits
//! A key is one column of whole numbers or text. A chunk of fewer than about eight rows costs more than rows do: a stream of
//! single records should stay one of rows.

mod chunk;
mod column;
mod exchange;
mod fields;
mod operators;
mod rows;

use std::cell::RefCell;
use std::rc::Rc;

pub use self::chunk::Chunk;
pub use self::column::{Column, DataType, Nulls, TextColumn};
pub use self::exchange::ChunkInbox;
pub use self::fields::{Fields, ToColumns};
pub use self::operators::{Keep, Project};
pub use self::rows::{ColumnKey, KeyedColumns, KeyedRows, ToRows};

use crate::pipeline::Chain;
use crate::stream::Stream;

/// A chunk goes on at the latest when it has this many rows: its columns stay in the caches.
pub const CHUNK_ROWS_MAX: usize = 1_024;

/// How many empty chunks a pool keeps.
const POOL_CHUNKS_MAX: usize = 32;

/// The empty chunks of a stream's operators on one shard.
#[derive(Clone, Default)]
pub(crate) struct ChunkPool(Rc<RefCell<Vec<Chunk>>>);

impl ChunkPool {
    /// An empty chunk with columns of these types.
    fn take(&self, types: &[DataType]) -> Chunk {
        let mut chunk = self.0.borrow_mut().pop().unwrap_or_default();
        chunk.retype(types);
        chunk
    }

    /// Gives a chunk back.
    fn give(&self, mut chunk: Chunk) {
        let mut pool = self.0.borrow_mut();
        if pool.len() < POOL_CHUNKS_MAX {
            chunk.clear();
            pool.push(chunk);
        }
    }
}

/// A stream of [`Chunk`]s whose columns have names and types: see the [module](self).
#[must_use = "a stream runs only when it ends in a sink"]
pub struct ColumnStream<C: Chain<Out = Chunk>> {
    stream: Stream<C>,
    columns: Rc<[(String, DataType)]>,
    pool: ChunkPool,
}

impl<C: Chain<Out = Chunk>> ColumnStream<C> {
    /// The names and types of the columns, in order.
    pub fn columns(&self) -> &[(String, DataType)] {
        &self.columns
    }

    /// The chunks themselves.
    pub fn chunks(self) -> Stream<C> {
        self.stream
    }

    /// This stream as a type that can be named: see [`Stream::boxed`].
    pub fn boxed(self) -> ColumnStream<crate::Boxed<Chunk>> {
        let Self { stream, columns, pool } = self;
        ColumnStream { stream: stream.boxed(), columns, pool }
    }

    fn types(&self) -> Rc<[DataType]> {
        self.columns.iter().map(|&(_, data_type)| data_type).collect()
    }

    /// The number of the column called `name`; a job that names one that is not there is refused.
    fn index_of(&self, name: &str) -> usize {
        let found = self.columns.iter().position(|(known, _)| known == name);
        found.unwrap_or_else(|| {
            let known: Vec<_> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
            let what = format!("there is no column {name:?}; there are {}", known.join(", "));
            self.stream.flow.fail(thalweg_kernel::ConnectorError::new("job", what));
            0
        })
    }
}
