//! Where results go: a table whose rows come from commits alone, and a list that shows them at once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::rc::Rc;
use std::task::Waker;

use thalweg_kernel::{
    ConnectorError, Epoch, OpenContext, Pending, PendingId, Sink, SinkSpec, Str, Timestamp,
};

use super::faults::Defect;
use super::ledger::Ledger;
use super::store::Store;

/// What the sinks of a job have shown, and how they behave. It survives all crashes.
pub(crate) struct Outlet {
    pub(crate) ledger: Ledger,
    pub(crate) store: Store,
    pub(crate) defect: Option<Defect>,
    rows: BTreeMap<(Str, PendingId), Vec<String>>,
    loose: BTreeMap<String, u64>,
    /// Sinks take nothing; what was sealed is not durable.
    pub(crate) closed: bool,
    pub(crate) unsealed: bool,
    wakers: Vec<Waker>,
    /// After this many commits the process is gone.
    pub(crate) dies_after: Option<usize>,
    pub(crate) died: bool,
    /// For a defect that never uses a number twice.
    extra: u64,
}

impl Outlet {
    pub(crate) fn new(ledger: Ledger, store: Store, defect: Option<Defect>) -> Self {
        Self {
            ledger,
            store,
            defect,
            rows: BTreeMap::new(),
            loose: BTreeMap::new(),
            closed: false,
            unsealed: false,
            wakers: Vec::new(),
            dies_after: None,
            died: false,
            extra: 0,
        }
    }

    /// The rows of one sink that were committed, in order.
    pub(crate) fn rows(&self, sink: &str) -> Vec<String> {
        let own = self.rows.iter().filter(|((name, _), _)| name == sink);
        let mut rows: Vec<_> = own.flat_map(|(_, rows)| rows).cloned().collect();
        rows.sort();
        rows
    }

    pub(crate) fn count(&self) -> usize {
        self.rows.values().map(Vec::len).sum()
    }

    /// What was shown at once, and how often.
    pub(crate) fn loose(&self) -> &BTreeMap<String, u64> {
        &self.loose
    }

    /// Sinks are ready again, or what they have sealed is durable.
    pub(crate) fn wake(&mut self) {
        if self.defect != Some(Defect::SinkSleeps) {
            self.wakers.drain(..).for_each(Waker::wake);
        }
    }

    fn commit(&mut self, sink: &Str, id: PendingId, rows: &[String]) -> Result<(), ConnectorError> {
        match &mut self.dies_after {
            Some(0) => {
                self.died = true;
                return Err(ConnectorError::new("table", "the process is gone"));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        let newest = self.store.newest();
        if id.epoch > newest {
            self.ledger.violation(format!(
                "{sink} commits {id} before its epoch exists; the newest is {newest}"
            ));
        }
        let known = self.rows.insert((sink.clone(), id), rows.to_vec());
        if known.is_some_and(|known| known != rows) {
            self.ledger.violation(format!("{sink} commits {id} again with other rows"));
        }
        Ok(())
    }
}

/// A shared outlet.
pub(crate) type Shared = Rc<RefCell<Outlet>>;

/// A transactional sink.
#[derive(Clone)]
pub(crate) struct Table(pub(crate) Shared);

pub(crate) struct TableWriter {
    outlet: Shared,
    waker: Waker,
    sink: Str,
    rows: Vec<String>,
    sealed: Vec<(PendingId, Vec<String>)>,
    committed: Vec<PendingId>,
    /// The newest epoch that it was asked about while what it had sealed was durable.
    durable: Epoch,
}

const BETWEEN_ROWS: &str = "\n";

impl<T: Debug> SinkSpec<T> for Table {
    type Writer = TableWriter;

    fn describe(&self) -> String {
        "table".into()
    }

    fn open(&self, cx: &OpenContext) -> Result<TableWriter, ConnectorError> {
        let sink = cx.durability.operator.clone();
        let mut outlet = self.0.borrow_mut();
        let mut committed = Vec::new();
        for (id, note) in &cx.durability.pending {
            let rows = String::from_utf8_lossy(note);
            let rows: Vec<_> = rows.split(BETWEEN_ROWS).map(str::to_owned).collect();
            committed.push(*id);
            let mut id = *id;
            if outlet.defect == Some(Defect::SinkKeepsNotes) {
                outlet.extra += 1;
                id.number = u32::MAX - outlet.extra as u32;
            }
            outlet.commit(&sink, id, &rows)?;
        }
        Ok(TableWriter {
            outlet: Rc::clone(&self.0),
            waker: cx.waker.clone(),
            sink,
            rows: Vec::new(),
            sealed: Vec::new(),
            committed,
            durable: Epoch::NONE,
        })
    }
}

impl<T: Debug> Sink<T> for TableWriter {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        let mut outlet = self.outlet.borrow_mut();
        if outlet.closed {
            outlet.wakers.push(self.waker.clone());
        }
        Ok(!outlet.closed)
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
            let id = pending.put(rows.join(BETWEEN_ROWS).as_bytes());
            self.sealed.push((id, rows));
        }
        Ok(())
    }

    fn sealed(&mut self, epoch: Epoch) -> Result<bool, ConnectorError> {
        let mut outlet = self.outlet.borrow_mut();
        if outlet.unsealed {
            outlet.wakers.push(self.waker.clone());
            return Ok(false);
        }
        self.durable = epoch;
        Ok(true)
    }

    fn commit(&mut self, epoch: Epoch) -> Result<(), ConnectorError> {
        let mut outlet = self.outlet.borrow_mut();
        for (id, rows) in self.sealed.extract_if(.., |(id, _)| id.epoch <= epoch) {
            if id.epoch > self.durable {
                let sink = &self.sink;
                outlet.ledger.violation(format!("{sink} is to commit {id} and was not durable"));
            }
            outlet.commit(&self.sink, id, &rows)?;
            self.committed.push(id);
        }
        Ok(())
    }

    fn close(&mut self) -> Result<bool, ConnectorError> {
        if !self.rows.is_empty() || !self.sealed.is_empty() {
            self.outlet.borrow().ledger.violation(format!(
                "{} is closed with {} rows that are in no epoch and {} that are not committed",
                self.sink,
                self.rows.len(),
                self.sealed.len()
            ));
        }
        Ok(true)
    }
}

/// A sink that shows results at once: at least once.
#[derive(Clone)]
pub(crate) struct Loose(pub(crate) Shared);

pub(crate) struct LooseWriter(Shared, Waker);

impl<T: Debug> SinkSpec<T> for Loose {
    type Writer = LooseWriter;

    fn describe(&self) -> String {
        "loose".into()
    }

    fn open(&self, cx: &OpenContext) -> Result<LooseWriter, ConnectorError> {
        Ok(LooseWriter(Rc::clone(&self.0), cx.waker.clone()))
    }
}

impl<T: Debug> Sink<T> for LooseWriter {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        let mut outlet = self.0.borrow_mut();
        if outlet.closed {
            outlet.wakers.push(self.1.clone());
        }
        Ok(!outlet.closed)
    }

    fn awaits_epoch(&self) -> bool {
        false
    }

    fn write(&mut self, time: Timestamp, value: T) -> Result<(), ConnectorError> {
        *self.0.borrow_mut().loose.entry(format!("{time} {value:?}")).or_default() += 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    fn close(&mut self) -> Result<bool, ConnectorError> {
        Ok(true)
    }
}
