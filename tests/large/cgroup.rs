//! A memory cgroup of our own, version 1 or 2: made, joined by a process, read, and removed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where cgroups are.
const ROOT: &str = "/sys/fs/cgroup";

/// A group whose processes together may take at most this much memory, the page cache of what they read and write
/// included. Removed when dropped; its processes must have ended by then.
#[derive(Debug)]
pub(crate) struct Group {
    dir: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Group {
    /// Makes a group.
    ///
    /// # Errors
    /// Says why this machine does not let us: usually that we are not root.
    pub(crate) fn new(limit_bytes: u64) -> Result<Self, String> {
        let name = format!("thalweg-large-{}", std::process::id());
        let root = Path::new(ROOT);
        let (parent, version) = if root.join("memory/memory.limit_in_bytes").exists() {
            (root.join("memory"), Version::One)
        } else if fs::read_to_string(root.join("cgroup.controllers"))
            .is_ok_and(|controllers| controllers.split_whitespace().any(|one| one == "memory"))
        {
            // Perhaps it is on already; making the group shows whether it works.
            let _refused = fs::write(root.join("cgroup.subtree_control"), "+memory");
            (root.to_owned(), Version::Two)
        } else {
            return Err(format!("there is no memory cgroup in {ROOT}"));
        };
        let dir = parent.join(name);
        fs::create_dir(&dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
        let group = Self { dir, version };
        let limit = match version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        let set = |file: &str, value: &str| {
            let path = group.dir.join(file);
            fs::write(&path, value)
                .map_err(|error| format!("cannot set {}: {error}", path.display()))
        };
        set(limit, &limit_bytes.to_string())?;
        // Where there is swap it must not make up for memory; where there is none there is no such file.
        let _without = match version {
            Version::One => set("memory.memsw.limit_in_bytes", &limit_bytes.to_string()),
            Version::Two => set("memory.swap.max", "0"),
        };
        Ok(group)
    }

    /// Its directory, for [`join`].
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The most memory that it has had, in bytes; `None` on kernels that do not tell.
    pub(crate) fn peak_bytes(&self) -> Option<u64> {
        self.number(match self.version {
            Version::One => "memory.max_usage_in_bytes",
            Version::Two => "memory.peak",
        })
    }

    /// The memory of its processes now that is in no file, in bytes: it cannot be given back.
    pub(crate) fn anonymous_bytes(&self) -> Option<u64> {
        let stat = fs::read_to_string(self.dir.join("memory.stat")).ok()?;
        let name = match self.version {
            Version::One => "rss ",
            Version::Two => "anon ",
        };
        stat.lines().find_map(|line| line.strip_prefix(name))?.parse().ok()
    }

    fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.dir.join(file)).ok()?.trim().parse().ok()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _left_behind = fs::remove_dir(&self.dir);
    }
}

/// Has this process join the group of this directory.
pub(crate) fn join(dir: &Path) -> io::Result<()> {
    fs::write(dir.join("cgroup.procs"), std::process::id().to_string())
}
