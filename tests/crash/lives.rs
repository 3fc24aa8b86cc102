//! The lives of the job: started, killed, started again, and in the end suspended.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use thalweg::runtime::DriverKind;
use thalweg_mqtt::Mode;
use thalweg_testing::Random;

use crate::Once;
use crate::job::{self, Life};
use crate::moments::{Moment, Point, Watch};
use crate::sinks::SinkKind;

/// The job must have subscribed, and must end when told to, within this.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts and ends the job.
pub(crate) struct Lives {
    dir: PathBuf,
    port: u16,
    uplink: u16,
    sink: SinkKind,
    once: Once,
    durability: Mode,
    chance: Random,
    child: Option<Child>,
    pub(crate) figures: Figures,
}

/// What there was to count.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) kills: u64,
    /// Lives by their number of shards.
    pub(crate) by_shards: BTreeMap<usize, u64>,
    /// Lives by their driver.
    pub(crate) by_driver: BTreeMap<String, u64>,
    /// Kills by their point; those after a time have none.
    pub(crate) by_point: BTreeMap<Option<Point>, u64>,
}

impl Lives {
    pub(crate) fn new(
        dir: PathBuf,
        (port, uplink): (u16, u16),
        sink: SinkKind,
        (once, durability): (Once, Mode),
        seed: u64,
    ) -> Self {
        let chance = Random::of(seed, 1);
        let figures = Figures::default();
        Self { dir, port, uplink, sink, once, durability, chance, child: None, figures }
    }

    /// Begins the next life.
    pub(crate) fn begin(&mut self) -> Result<()> {
        let shards = self.chance.one_of([2, 2, 2, 1, 3]);
        let driver = self.chance.one_of([DriverKind::Threads, DriverKind::Auto]);
        let checkpoint_ms = 10 + self.chance.below(41);
        let Self { port, uplink, sink, once, durability, .. } = *self;
        let dir = self.dir.clone();
        let life =
            Life { dir, port, uplink, sink, once, durability, shards, driver, checkpoint_ms };
        *self.figures.by_shards.entry(shards).or_default() += 1;
        *self.figures.by_driver.entry(driver.to_string()).or_default() += 1;
        self.child = Some(spawn(&life)?);
        Ok(())
    }

    /// Waits until the broker knows the job: from then on it keeps all that is published for it.
    pub(crate) fn wait_for_subscription(&mut self) -> Result<()> {
        let marker = job::subscribed_file(&self.dir);
        let deadline = Instant::now() + PATIENCE;
        while !marker.exists() {
            if let Some(status) = self.child_mut()?.try_wait()? {
                return Err(self.ended(status));
            }
            if Instant::now() >= deadline {
                bail!("the job has not subscribed within {PATIENCE:?}");
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Kills the life at some moment.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let moment = Moment::next(&mut self.chance);
        let watch = match moment {
            Moment::After(_) => None,
            Moment::At(..) => Some(Watch::begin(&self.dir)?),
        };
        let dir = self.dir.clone();
        if !moment.wait(&dir, watch, self.child_mut()?)? {
            let status = self.child_mut()?.wait()?;
            return Err(self.ended(status));
        }
        let mut child = self.child.take().context("no job is running")?;
        child.kill().context("cannot kill the job")?;
        let _status = child.wait()?;
        self.figures.kills += 1;
        let point = match moment {
            Moment::After(_) => None,
            Moment::At(point, _) => Some(point),
        };
        *self.figures.by_point.entry(point).or_default() += 1;
        Ok(())
    }

    /// Has the last life end in good order.
    pub(crate) fn suspend(&mut self) -> Result<()> {
        let child = self.child_mut()?;
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .context("cannot suspend the job")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait()? {
                return if status.success() { Ok(()) } else { Err(self.ended(status)) };
            }
            if Instant::now() >= deadline {
                bail!("the job has not ended within {PATIENCE:?} of being suspended");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether the life has ended by itself, which it never should.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child_mut()?.try_wait()? {
            None => Ok(()),
            Some(status) => Err(self.ended(status)),
        }
    }

    fn child_mut(&mut self) -> Result<&mut Child> {
        self.child.as_mut().context("no job is running")
    }

    fn ended(&self, status: ExitStatus) -> anyhow::Error {
        let log = fs::read_to_string(self.dir.join("job.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(12).collect();
        let lines: String = lines.into_iter().rev().map(|line| format!("\n  {line}")).collect();
        let kills = self.figures.kills;
        anyhow::anyhow!(
            "the job ended by itself ({status}) after {kills} kills; its log ends:{lines}"
        )
    }
}

impl Drop for Lives {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _gone = child.kill();
            let _status = child.wait();
        }
    }
}

/// Runs this program again as the job.
fn spawn(life: &Life) -> Result<Child> {
    let log = File::options().create(true).append(true).open(life.dir.join("job.log"))?;
    Command::new(std::env::current_exe()?)
        .arg("--life")
        .arg(&life.dir)
        .args(["--port", &life.port.to_string(), "--uplink", &life.uplink.to_string()])
        .args(["--sink", life.sink.name()])
        .args(["--once", life.once.name()])
        .args(["--durability", &life.durability.to_string()])
        .args(["--shards", &life.shards.to_string()])
        .args(["--driver", &life.driver.to_string()])
        .args(["--checkpoint-ms", &life.checkpoint_ms.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("cannot start the job")
}
