//! A source that makes rows: for trying out a job before there are devices, and for measuring one.
//!
//! Each field of a row is a function of the seed, the row's number and the field's place (`fields`). So each run makes
//! equal rows, whatever the number of partitions. A position is a number of rows, and a job that is restored goes on
//! exactly where it was. A row goes as fields, without bytes in between, to a [`DecodeFields`].
//!
//! Partition `p` of `n` makes the rows `p`, `p + n`, `p + 2n`, and so on.
//!
//! # The rate
//! With `rows_per_second` row `r` is due `r / rate` seconds after the first. What was not asked for in time is made
//! up for, at most [`BEHIND_MS_MAX`] of it. A job that cannot keep up gets what it can take, not an endless debt. A
//! clock that is set back is counted from anew.
//!
//! # A stored position
//! 21 bytes, little-endian: version (1), partitions (`u32`), the next row of this partition (`u64`), and the time of
//! the first start (`i64`, milliseconds). Times that name no start of their own begin there. Another number of
//! partitions is refused. Other fields, another seed or another rate go on from that number.

mod fields;

use std::time::Duration;

use thalweg_kernel::connector::{Connector, Decoder, Guarantee, Side, SourceConnector};
use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::options::Named;
use thalweg_kernel::{
    ConfigError, ConnectorError, DecodeFields, Emit, Epoch, Field, Generated, OpenContext, Origin,
    PartitionId, Partitions, Source, SourceSpec, SourceStatus, Str, Timestamp, options,
};

use fields::Rows;
pub use fields::{FieldOptions, FieldRule};

/// A source that could not keep its rate makes up for at most this much of it.
pub const BEHIND_MS_MAX: i64 = 1_000;
/// The most partitions.
const PARTITIONS_MAX: u64 = 1_024;

const POSITION_VERSION: u8 = 1;
const POSITION_BYTES: usize = 21;

/// What it is.
pub static CONNECTOR: Connector = Connector {
    name: "datagen",
    about: "Makes rows of fields by rules and chance, at a rate or as fast as they are taken; each run makes equal rows.",
    source: Some(Side::new::<DatagenOptions>(&[(
        Guarantee::ExactlyOnce,
        "always: a position is a number of rows",
    )])),
    sink: None,
};

/// The connector, for a registry.
#[derive(Debug)]
pub struct DatagenConnector(());

impl SourceConnector for DatagenConnector {
    const CONNECTOR: &'static Connector = &CONNECTOR;
    type Options = DatagenOptions;
    type Source<D: Decoder> = DatagenSource<D>;

    fn source<D: Decoder>(
        options: DatagenOptions,
        decoder: D,
    ) -> Result<DatagenSource<D>, ConfigError> {
        DatagenSource::new(&options, decoder)
    }
}

options! {
    /// What rows are made, how many and how fast.
    ///
    /// ```
    /// # use thalweg_datagen::DatagenOptions;
    /// let options = DatagenOptions { number_of_rows: Some(1_000), seed: 7, ..Default::default() };
    /// ```
    #[derive(Clone, Debug, PartialEq)]
    pub struct DatagenOptions: Default {
        /// How many rows there are in each second, from all partitions together.
        #[alias = "rows-per-second"]
        #[unit = "rows"]
        #[range(1, 1_000_000_000)]
        #[absent = "as fast as they are taken"]
        #[example = "1000"]
        pub rows_per_second: Option<u64>,
        /// How many rows there are in all.
        #[alias = "number-of-rows"]
        #[unit = "rows"]
        #[absent = "without end"]
        #[example = "1000000"]
        pub number_of_rows: Option<u64>,
        /// What chance begins with: another seed, other rows.
        pub seed: u64 = 0,
        /// Into how many partitions the rows are dealt out, so that several shards can make them.
        #[unit = "partitions"]
        #[range(1, PARTITIONS_MAX)]
        pub partitions: u32 = 1,
        /// The fields, each a table under its name: `[source.datagen.fields.temp] kind = "float"`.
        #[absent = "`device`, `value` and `ts`: a device's name, a number from -20 to 80, and a time"]
        pub fields: Named<FieldOptions> = fields::usual(),
    }
}

/// Makes rows; `D` makes records of them. See the [crate](self).
///
/// ```
/// # use serde::Deserialize;
/// # use thalweg_datagen::{DatagenOptions, DatagenSource};
/// # use thalweg_format::Json;
/// #[derive(Deserialize)]
/// struct Reading { device: String, value: f64, ts: i64 }
///
/// let options = DatagenOptions { rows_per_second: Some(1_000), ..Default::default() };
/// let source = DatagenSource::new(&options, Json::<Reading>::new())?;
/// # Ok::<(), thalweg_kernel::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct DatagenSource<D> {
    rows: Rows,
    decoder: D,
    pace: Pace,
    end: u64,
    partitions: u32,
}

/// How fast, of one partition's rows.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pace {
    /// Rows a second of all partitions; `None` as fast as they are taken.
    rate: Option<u64>,
    /// The time and the row from which the rows that are due are counted.
    since: Option<(Timestamp, u64)>,
}

impl Pace {
    /// The first row of all partitions that is not due yet, if `next` is the next one.
    fn due(&mut self, now: Timestamp, next: u64) -> u64 {
        let Some(rate) = self.rate else { return u64::MAX };
        let (start, row) = *self.since.get_or_insert((now, next));
        let due = row.saturating_add(rows_in(rate, now.ms_since(start)));
        let behind = rows_in(rate, BEHIND_MS_MAX);
        if now < start || due.saturating_sub(next) > behind {
            let row = if now < start { next } else { next.saturating_add(behind) };
            self.since = Some((now, row));
            return row;
        }
        due
    }

    /// How long until row `next` is due.
    fn until(&self, now: Timestamp, next: u64) -> Option<Duration> {
        let (rate, (start, row)) = (self.rate?, self.since?);
        let nanos =
            u128::from((next + 1).saturating_sub(row)) * 1_000_000_000 / u128::from(rate.max(1));
        let at = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let passed = Duration::from_millis(u64::try_from(now.ms_since(start)).unwrap_or(0));
        // The clock is read in whole milliseconds: a shorter wait would find nothing.
        Some(at.saturating_sub(passed).max(Duration::from_millis(1)))
    }
}

/// Rows that are due in `ms` milliseconds.
fn rows_in(rate: u64, ms: i64) -> u64 {
    let rows = u128::from(rate) * u128::from(u64::try_from(ms).unwrap_or(0)) / 1_000;
    u64::try_from(rows).unwrap_or(u64::MAX)
}

impl<D> DatagenSource<D> {
    /// The source of the rows that `options` describe.
    ///
    /// # Errors
    /// Names the option that will not do.
    pub fn new(options: &DatagenOptions, decoder: D) -> Result<Self, ConfigError> {
        thalweg_kernel::options::Declared::check_ranges(options)?;
        Ok(Self {
            rows: Rows::new(&options.fields, options.seed, options.rows_per_second)?,
            decoder,
            pace: Pace { rate: options.rows_per_second, since: None },
            end: options.number_of_rows.unwrap_or(u64::MAX),
            partitions: options.partitions,
        })
    }

    fn error(what: impl Into<String>) -> ConnectorError {
        ConnectorError::new("datagen", what).lasting()
    }

    /// The next row of this partition and the time of the first start, from a stored position.
    fn resume(&self, position: &[u8]) -> Result<(u64, Timestamp), ConnectorError> {
        let read = || {
            let (&[version], rest) = position.split_first_chunk::<1>()?;
            let (partitions, rest) = rest.split_first_chunk()?;
            let (next, rest) = rest.split_first_chunk()?;
            let begun = i64::from_le_bytes(rest.try_into().ok()?);
            let numbers = (u32::from_le_bytes(*partitions), u64::from_le_bytes(*next));
            (version == POSITION_VERSION).then_some((numbers, Timestamp::from_millis(begun)))
        };
        let Some(((partitions, next), begun)) = read() else {
            let what = "its stored position was written by a newer release, or is damaged: start it with the \
                        release that wrote it, or give the source another stable name to begin anew";
            return Err(Self::error(what));
        };
        if partitions != self.partitions {
            let what = format!(
                "had {partitions} partitions when the job was stored, and now {}: set `partitions` back, or give \
                 the source another stable name to begin anew",
                self.partitions
            );
            return Err(Self::error(what));
        }
        Ok((next, begun))
    }
}

impl<D: DecodeFields<Item: 'static> + Clone + 'static> SourceSpec for DatagenSource<D> {
    type Item = D::Item;
    type Partition = DatagenPartition<D>;

    fn describe(&self) -> String {
        "datagen".into()
    }

    fn partitions(&self) -> Partitions {
        Partitions::numbered(self.partitions as usize)
    }

    fn open(
        &self,
        partition: &PartitionId,
        cx: &OpenContext,
    ) -> Result<DatagenPartition<D>, ConnectorError> {
        let partition = partition.number().unwrap_or_default();
        let stored = cx.durability.position.as_deref().filter(|position| !position.is_empty());
        let (next, begun) = match stored {
            None => (partition as u64, None),
            Some(position) => {
                let (next, begun) = self.resume(position)?;
                (next, Some(begun))
            }
        };
        Ok(DatagenPartition { spec: self.clone(), next, begun, stopped: false })
    }
}

/// One open partition of a [`DatagenSource`].
#[derive(Debug)]
pub struct DatagenPartition<D> {
    spec: DatagenSource<D>,
    next: u64,
    begun: Option<Timestamp>,
    stopped: bool,
}

impl<D: DecodeFields<Item: 'static>> Source for DatagenPartition<D> {
    type Item = D::Item;

    fn poll(
        &mut self,
        now: Timestamp,
        records_max: usize,
        out: &mut impl Emit<D::Item>,
    ) -> Result<SourceStatus, ConnectorError> {
        let begun = *self.begun.get_or_insert(now);
        let DatagenSource { rows, decoder, pace, end, partitions } = &mut self.spec;
        let (step, due) = (u64::from(*partitions), pace.due(now, self.next));
        let mut fields: Vec<(Str, Field<'_>)> = rows.empty();
        for _ in 0..records_max {
            if self.stopped || self.next >= *end {
                return Ok(SourceStatus::Ended);
            }
            if self.next >= due {
                return Ok(SourceStatus::Waiting(pace.until(now, self.next)));
            }
            rows.fill(self.next, begun, &mut fields);
            match decoder.decode_fields(&fields) {
                Ok(record) => out.record(record, now, &Generated),
                Err(error) => out.dead_letter(Generated.dead_letter(error)),
            }
            self.next = self.next.saturating_add(step);
        }
        Ok(SourceStatus::Ready)
    }

    fn stop(&mut self) {
        self.stopped = true;
    }

    fn snapshot(&mut self, _: Epoch, position: &mut Vec<u8>) {
        // Before the first poll there is nothing to go on from.
        let Some(begun) = self.begun else { return };
        position.reserve_exact(POSITION_BYTES);
        position.push(POSITION_VERSION);
        position.extend_from_slice(&self.spec.partitions.to_le_bytes());
        let skipped = u64::from(seeded(Defect::DatagenSkipsRow));
        position.extend_from_slice(&(self.next + skipped).to_le_bytes());
        position.extend_from_slice(&begun.as_millis().to_le_bytes());
    }
}

#[cfg(test)]
mod tests;
