//! What survives a crash of a job under test. A store keeps whole epochs or nothing, and the rows of a table come from
//! commits alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use thalweg_flow::{ShardSnapshot, Storage};
use thalweg_kernel::{
    Change, Changes, ConnectorError, Epoch, OpenContext, Pending, PendingId, Sink, SinkSpec,
    StateError, StateInfo, StateReader, Str, Timestamp,
};

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// What survives a crash.
#[derive(Clone, Default)]
pub(crate) struct Store(Arc<Mutex<Stored>>);

#[derive(Clone, Default)]
struct Stored {
    epoch: Epoch,
    entries: Arc<Entries>,
    states: Arc<[StateInfo]>,
}

impl Store {
    pub(crate) fn epoch(&self) -> Epoch {
        self.0.lock().unwrap().epoch
    }

    /// Stores an epoch.
    pub(crate) fn commit(&self, epoch: Epoch, snapshots: &[ShardSnapshot]) {
        let mut stored = self.0.lock().unwrap();
        assert!(epoch > stored.epoch);
        let entries = Arc::make_mut(&mut stored.entries);
        for change in snapshots.iter().flat_map(|snapshot| Changes::read(&snapshot.changes)) {
            match change.unwrap() {
                Change::Put { key, value } => drop(entries.insert(key.into(), value.into())),
                Change::Delete { key } => drop(entries.remove(key)),
                Change::DeleteRange { from, to } => {
                    entries.extract_if(from.to_vec()..to.to_vec(), |_, _| true).for_each(drop);
                }
            }
        }
        stored.epoch = epoch;
        stored.states = Arc::clone(&snapshots[0].states);
    }

    /// Changes what the catalogue says of the states.
    #[allow(dead_code, reason = "few tests do so")]
    pub(crate) fn describe(&self, change: impl Fn(&mut StateInfo)) {
        let mut stored = self.0.lock().unwrap();
        let mut states = stored.states.to_vec();
        states.iter_mut().for_each(change);
        stored.states = states.into();
    }

    pub(crate) fn storage(&self) -> Storage {
        let store = self.clone();
        let reader = move || -> Result<Box<dyn StateReader>, StateError> {
            Ok(Box::new(Reader(store.0.lock().unwrap().clone(), store.clone())))
        };
        Storage {
            reader: Arc::new(reader),
            journals: None,
            lineage: Default::default(),
            allowed: Default::default(),
        }
    }
}

/// What job was there when it was opened; entries and the readable epoch as they are now, as of a store that has
/// folded everything.
struct Reader(Stored, Store);

impl StateReader for Reader {
    fn restored(&self) -> Option<Epoch> {
        Some(self.0.epoch).filter(|&epoch| epoch > Epoch::NONE)
    }

    fn states(&self) -> &[StateInfo] {
        &self.0.states
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let live = Arc::clone(&self.1.0.lock().unwrap().entries);
        let range = live.range(from.to_vec()..to.to_vec());
        range.into_iter().try_for_each(|(key, value)| each(key, value))
    }

    fn get(
        &self,
        key: &[u8],
        found: &mut dyn FnMut(&[u8]) -> Result<(), StateError>,
    ) -> Result<bool, StateError> {
        let live = self.1.0.lock().unwrap().clone();
        let value = live.entries.get(key);
        value.map_or(Ok(false), |value| found(value).map(|()| true))
    }

    fn readable(&self) -> Epoch {
        self.1.0.lock().unwrap().epoch
    }
}

/// Rows that were committed, by the note they were committed by.
#[derive(Clone, Default)]
pub(crate) struct Table(Arc<Mutex<BTreeMap<(Str, PendingId), Vec<String>>>>);

impl Table {
    pub(crate) fn rows(&self) -> Vec<String> {
        let mut rows: Vec<_> = self.0.lock().unwrap().values().flatten().cloned().collect();
        rows.sort();
        rows
    }

    /// A sink that commits into this table.
    pub(crate) fn sink(&self) -> TableSink {
        TableSink(self.clone())
    }

    fn commit(&self, sink: &Str, id: PendingId, rows: &[String]) {
        let known = self.0.lock().unwrap().insert((sink.clone(), id), rows.to_vec());
        assert!(
            known.is_none_or(|known| known == rows),
            "{sink} {id} was committed with other rows"
        );
    }
}

#[derive(Clone)]
pub(crate) struct TableSink(Table);

pub(crate) struct TableWriter {
    table: Table,
    sink: Str,
    rows: Vec<String>,
    sealed: Vec<(PendingId, Vec<String>)>,
    committed: Vec<PendingId>,
}

impl<T: std::fmt::Debug> SinkSpec<T> for TableSink {
    type Writer = TableWriter;

    fn describe(&self) -> String {
        "table".into()
    }

    fn open(&self, cx: &OpenContext) -> Result<TableWriter, ConnectorError> {
        let (sink, mut committed) = (cx.durability.operator.clone(), Vec::new());
        for (id, note) in &cx.durability.pending {
            self.0.commit(&sink, *id, &serde_json::from_slice::<Vec<String>>(note).unwrap());
            committed.push(*id);
        }
        Ok(TableWriter {
            table: self.0.clone(),
            sink,
            rows: Vec::new(),
            sealed: Vec::new(),
            committed,
        })
    }
}

impl<T: std::fmt::Debug> Sink<T> for TableWriter {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        Ok(true)
    }

    fn write(&mut self, time: Timestamp, value: T) -> Result<(), ConnectorError> {
        self.rows.push(format!("{time} {value:?}"));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    fn has_news(&self) -> bool {
        !self.committed.is_empty()
    }

    fn seal(&mut self, _: Epoch, pending: &mut Pending<'_>) -> Result<(), ConnectorError> {
        self.committed.drain(..).for_each(|id| pending.delete(id));
        if !self.rows.is_empty() {
            let rows = std::mem::take(&mut self.rows);
            let id = pending.put(&serde_json::to_vec(&rows).unwrap());
            self.sealed.push((id, rows));
        }
        Ok(())
    }

    fn commit(&mut self, epoch: Epoch) -> Result<(), ConnectorError> {
        for (id, rows) in self.sealed.extract_if(.., |(id, _)| id.epoch <= epoch) {
            self.table.commit(&self.sink, id, &rows);
            self.committed.push(id);
        }
        Ok(())
    }

    fn close(&mut self) -> Result<bool, ConnectorError> {
        assert!(self.rows.is_empty() && self.sealed.is_empty(), "closed before its last epoch");
        Ok(true)
    }
}
