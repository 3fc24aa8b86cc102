//! [`FileCommitter`]: what the thread behind the shards does.
//!
//! What the shards say is done in order. A full disk is waited out: the work is tried again. Anything else is
//! final, and a failed sync above all.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use thalweg_commits::{Committer, Common, Progress, Trouble};
use thalweg_kernel::Epoch;
use thalweg_kernel::defects::{Defect, seeded};

use super::Rolling;
use super::disk::{Disk, trouble};
use super::parts::{Name, Noted, OPEN, hidden};
use super::port::{FilePort, Message};
use super::recover::{recover, rename};
use crate::egress::CHUNK_BYTES;

fn sync_failed(error: io::Error) -> Trouble {
    Trouble::Final(format!("cannot sync: {error}: start again to recover"))
}

struct Open<F> {
    file: F,
    dirty: bool,
    rolled: bool,
    /// The shard was told to roll it.
    told: bool,
    begun: Instant,
    touched: Instant,
}

/// See the [module](self).
pub(crate) struct FileCommitter<D: Disk> {
    disk: D,
    rolling: Rolling,
    tag: u64,
    kind: &'static str,
    instances: usize,
    opened: usize,
    closed: usize,
    /// What is to be recovered, until that is done.
    noted: Option<Vec<Noted>>,
    give_back: flume::Sender<Vec<u8>>,
    backlog: VecDeque<Message>,
    files: HashMap<Name, Open<D::File>>,
    names_dirty: bool,
    common: Arc<Common<FilePort>>,
}

impl<D: Disk> FileCommitter<D> {
    pub(crate) fn new(
        disk: D,
        rolling: Rolling,
        (tag, kind): (u64, &'static str),
        instances: usize,
        give_back: flume::Sender<Vec<u8>>,
        common: Arc<Common<FilePort>>,
    ) -> Self {
        Self {
            disk,
            rolling,
            tag,
            kind,
            instances,
            opened: 0,
            closed: 0,
            noted: Some(Vec::new()),
            give_back,
            backlog: VecDeque::new(),
            files: HashMap::new(),
            names_dirty: false,
            common,
        }
    }

    /// Once all have opened, and the run before has ended.
    fn begin(&mut self) -> Result<(), Trouble> {
        if !self.disk.lock().map_err(trouble("cannot lock the directory".into()))? {
            let why = "another run of this job still writes here: it must end first";
            return Err(Trouble::Wait(why.into()));
        }
        if self.common.is_gone() {
            // The job has ended while this waited for the lock, and its next run may have had it
            // before. To recover now would undo what that run has done. Asked with the lock, so that
            // nobody comes between.
            return Err(Trouble::Wait("the job has ended".into()));
        }
        let noted = self.noted.as_deref().unwrap_or_default();
        let at_least_once = self.kind == OPEN;
        recover(&mut self.disk, self.common.name(), self.tag, noted, at_least_once)?;
        self.noted = None;
        for port in self.common.ports().iter() {
            port.recovered.store(true, SeqCst);
            port.waker.wake_by_ref();
        }
        Ok(())
    }

    /// What must be tried again goes back to the front. Everything here may be done again.
    fn handle(&mut self, message: Message) -> Result<(), Trouble> {
        let result = match &message {
            Message::Write(name, at, lines) => self.write(*name, *at, lines),
            Message::Roll(name) => {
                if let Some(open) = self.files.get_mut(name) {
                    open.rolled = true;
                }
                Ok(())
            }
            Message::Seal(instance, epoch) => self.seal(*instance, *epoch),
            Message::Show(instance, names) => self.show(*instance, names),
            Message::Open(_) | Message::Close(_) => Ok(()),
        };
        match (result, message) {
            (Err(Trouble::Wait(why)), message) => {
                self.backlog.push_front(message);
                Err(Trouble::Wait(why))
            }
            (Ok(()), Message::Write(name, _, lines)) => {
                self.written(name.instance, lines);
                Ok(())
            }
            (result, _) => result,
        }
    }

    fn hidden(&self, name: Name) -> (String, String) {
        let visible = name.visible(&self.rolling.suffix);
        (hidden(&visible, self.tag, self.kind), visible)
    }

    fn write(&mut self, name: Name, at: u64, lines: &[u8]) -> Result<(), Trouble> {
        if !self.files.contains_key(&name) {
            let (hidden, _) = self.hidden(name);
            let created = self.disk.create(&hidden);
            let file = created.map_err(trouble(format!("cannot create {hidden}")))?;
            self.names_dirty = true;
            let now = Instant::now();
            let (begun, touched) = (now, now);
            let open = Open { file, dirty: true, rolled: false, told: false, begun, touched };
            self.files.insert(name, open);
        }
        if let Some(open) = self.files.get_mut(&name) {
            let written = self.disk.write_at(&open.file, lines, at);
            written.map_err(trouble(format!("cannot write to {name}")))?;
            open.dirty = true;
            open.touched = Instant::now();
        }
        Ok(())
    }

    fn written(&self, instance: u16, mut lines: Vec<u8>) {
        if let Some(port) = self.port(instance) {
            port.queued_bytes.fetch_sub(lines.len(), SeqCst);
            if port.waits.swap(false, SeqCst) {
                port.waker.wake_by_ref();
            }
        }
        lines.clear();
        // One huge record must not occupy its memory for ever.
        if lines.capacity() <= 4 * CHUNK_BYTES {
            let _ = self.give_back.try_send(lines);
        }
    }

    fn port(&self, instance: u16) -> Option<Arc<FilePort>> {
        self.common.ports().iter().find(|port| port.instance == instance).cloned()
    }

    fn sync_names(&mut self) -> Result<(), Trouble> {
        if self.names_dirty {
            self.disk.sync_names().map_err(sync_failed)?;
            self.names_dirty = false;
        }
        Ok(())
    }

    fn seal(&mut self, instance: u16, epoch: Epoch) -> Result<(), Trouble> {
        for (name, open) in &mut self.files {
            if name.instance == instance && open.dirty && !seeded(Defect::FileNoSync) {
                self.disk.sync(&open.file).map_err(sync_failed)?;
                open.dirty = false;
            }
        }
        // Nothing more comes to those that are rolled, and they need not be open to be renamed.
        self.files.retain(|name, open| name.instance != instance || !open.rolled);
        self.sync_names()?;
        if let Some(port) = self.port(instance) {
            port.sealed.store(epoch.number(), SeqCst);
            port.waker.wake_by_ref();
        }
        Ok(())
    }

    fn show(&mut self, instance: u16, names: &[Name]) -> Result<(), Trouble> {
        for &name in names {
            if let Some(open) = self.files.get_mut(&name) {
                if open.dirty {
                    self.disk.sync(&open.file).map_err(sync_failed)?;
                }
                self.files.remove(&name);
            }
            let (hidden, visible) = self.hidden(name);
            // Unless it was done before a trouble with another.
            let found = self.disk.length(&hidden);
            if found.map_err(trouble(format!("cannot find {hidden}")))?.is_some() {
                self.names_dirty = true;
                rename(&mut self.disk, &hidden, &visible)?;
            }
        }
        self.sync_names()?;
        if let Some(port) = self.port(instance) {
            port.renamed.fetch_add(names.len() as u64, SeqCst);
            port.waker.wake_by_ref();
        }
        Ok(())
    }
}

impl<D: Disk> Committer for FileCommitter<D> {
    type Message = Message;
    type Port = FilePort;

    fn hear(&mut self, message: Message) {
        match message {
            Message::Open(noted) => {
                self.opened += 1;
                self.noted.get_or_insert_default().extend(noted);
            }
            Message::Close(closed) => {
                self.closed += usize::from(closed);
            }
            message => self.backlog.push_back(message),
        }
    }

    fn work(&mut self, alone: bool) -> Result<Progress, Trouble> {
        let over = alone || self.common.is_gone();
        if self.noted.is_some() {
            if self.opened < self.instances {
                return Ok(if over { Progress::Done } else { Progress::Idle });
            }
            self.begin()?;
        } else if let Some(message) = self.backlog.pop_front() {
            self.handle(message)?;
        } else {
            let done = over || self.closed == self.instances;
            return Ok(if done { Progress::Done } else { Progress::Idle });
        }
        Ok(Progress::Worked)
    }

    /// Tells shards to roll what is due.
    fn tick(&mut self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for (name, open) in &mut self.files {
            if open.rolled || open.told {
                continue;
            }
            let due = [
                open.begun.checked_add(self.rolling.after),
                open.touched.checked_add(self.rolling.idle),
            ];
            let Some(due) = due.into_iter().flatten().min() else { continue };
            if due > now {
                next = Some(next.map_or(due, |next| next.min(due)));
                continue;
            }
            open.told = true;
            let ports = self.common.ports();
            if let Some(port) = ports.iter().find(|port| port.instance == name.instance) {
                port.roll.store(1 + u64::from(name.number), SeqCst);
                port.waker.wake_by_ref();
            }
        }
        next
    }
}
