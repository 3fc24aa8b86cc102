//! What is done with the files of an earlier run. Everything here may be done again: after a crash
//! in the middle, or after a full disk.

use std::collections::BTreeMap;
use std::io;

use thalweg_commits::Trouble;
use tracing::{info, warn};

use super::disk::{Disk, trouble};
use super::parts::{INPROGRESS, Noted, OPEN, hidden, unhidden};

/// Finishes what is noted, and removes what is in no note, unless this run is `at_least_once`. Such a run may have
/// no notes since it takes no checkpoints, and a run that did may have promised what it finds. `who` is the sink's
/// name, for the log.
pub(crate) fn recover(
    disk: &mut impl Disk,
    who: &str,
    tag: u64,
    noted: &[Noted],
    at_least_once: bool,
) -> Result<(), Trouble> {
    let mut lengths = BTreeMap::<&str, u64>::new();
    for part in noted {
        let length = lengths.entry(&part.visible).or_default();
        *length = part.length.max(*length);
    }
    for (visible, &length) in &lengths {
        finish(disk, who, tag, visible, length)?;
    }
    let at = |name: &str| trouble(format!("cannot recover {name}"));
    for name in disk.names().map_err(trouble("cannot list the directory".into()))? {
        let Some((visible, kind)) = unhidden(&name, tag) else { continue };
        let noted = lengths.contains_key(visible);
        if kind == OPEN || at_least_once && !noted {
            // Written at least once: whole lines are kept.
            let length = disk.whole_lines(&name).map_err(at(&name))?;
            show(disk, &name, visible, length)?;
            info!("{who}: finished {visible}, which the last run left behind: {length} bytes");
        } else if !noted {
            let bytes = disk.length(&name).map_err(at(&name))?.unwrap_or_default();
            disk.remove(&name).map_err(at(&name))?;
            warn!(
                "{who}: removed {name}, {bytes} bytes of epochs that do not exist: what led to them \
                 is processed again"
            );
        }
    }
    disk.sync_names().map_err(|error| Trouble::Final(format!("cannot sync: {error}")))
}

/// Lets a noted part be seen with its noted length.
fn finish(
    disk: &mut impl Disk,
    who: &str,
    tag: u64,
    visible: &str,
    length: u64,
) -> Result<(), Trouble> {
    let at = |name: &str| trouble(format!("cannot recover {name}"));
    let name = hidden(visible, tag, INPROGRESS);
    let too_short = |found: u64| {
        Trouble::Final(format!(
            "{visible} has {found} bytes, but {length} were committed: the file system has lost \
             what it had synced; restore the directory, or begin anew without the job's state"
        ))
    };
    if let Some(found) = disk.length(&name).map_err(at(&name))? {
        if found < length {
            return Err(too_short(found));
        }
        return show(disk, &name, visible, length);
    }
    match disk.length(visible).map_err(at(visible))? {
        Some(found) if found < length => Err(too_short(found)),
        Some(found) if found > length => {
            warn!(
                "{who}: {visible} holds {} bytes of later epochs than the one the job resumes from: \
                 their results are written again",
                found - length
            );
            Ok(())
        }
        Some(_) => Ok(()),
        None => {
            info!("{who}: {visible} was finished and has been taken away");
            Ok(())
        }
    }
}

fn show(disk: &mut impl Disk, name: &str, visible: &str, length: u64) -> Result<(), Trouble> {
    if length == 0 {
        return disk.remove(name).map_err(trouble(format!("cannot remove {name}")));
    }
    // Also if there is nothing to cut: it syncs.
    disk.cut(name, length)
        .map_err(|error| Trouble::Final(format!("cannot cut {name} to {length}: {error}")))?;
    rename(disk, name, visible)
}

/// Gives a part its name.
pub(crate) fn rename(disk: &mut impl Disk, name: &str, visible: &str) -> Result<(), Trouble> {
    disk.rename(name, visible).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Trouble::Final(format!(
            "{visible} is there already, and is not ours: give each job a directory of its own"
        )),
        _ => trouble(format!("cannot rename {name}"))(error),
    })
}
