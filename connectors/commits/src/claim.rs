//! [`Claim`]: what the commits that a job finds under its name mean to it. Pure.
//!
//! Epochs are numbered within a state directory, so a commit says whose numbers it counts by: the random id
//! of the directory. Without that, two jobs of one name would take each other's commits for their own
//! and skip rows after a crash.
//!
//! | the commits are by | they mean |
//! |---|---|
//! | this directory | what they say |
//! | nobody: noted before there were ids | what they say; noted as this directory's from now on |
//! | another directory | the job does not start |
//! | another one, named in [`Lineage::takes_over`], of whose savepoint this one was made | what they say, up to the savepoint's epoch |
//! | another one, named there | nothing, since its epochs are not ours. Its rows stay |
//!
//! Taking over writes the commits anew under this directory's id. So a job that still runs with the other
//! one notices at its next commit, and ends. To name an id that no commit has does nothing: the setting may
//! stay. It is heeded at a start only, so nobody takes anything from a job that runs.

use thalweg_kernel::{Epoch, Lineage, OpenContext, Str};

use crate::trouble::Trouble;

/// What an instance has committed last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The instance.
    pub instance: u16,
    /// Its newest epoch that was applied. [`Epoch::NONE`]: there is none.
    pub epoch: Epoch,
    /// The state directory by whose count; empty if nobody noted it.
    pub directory: Str,
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Claim {
    job: Str,
    lineage: Lineage,
}

impl Claim {
    /// That of the job that opens; none if it takes no checkpoints: it has no epochs then.
    pub fn of(cx: &OpenContext) -> Option<Self> {
        let durability = &cx.durability;
        durability
            .checkpoints
            .then(|| Self { job: cx.job.clone(), lineage: durability.lineage.clone() })
    }

    /// The id under which to note commits.
    pub fn directory(&self) -> &Str {
        &self.lineage.directory
    }

    /// The epoch up to which `commit` says that rows are in the table, by our count. `starts`: the job does.
    ///
    /// # Errors
    /// [`Trouble::Lasting`] if it is another directory's, and not to be taken over.
    pub fn means(&self, commit: &Commit, starts: bool) -> Result<Epoch, Trouble> {
        let Lineage { directory, parent, takes_over } = &self.lineage;
        if commit.directory.is_empty() || commit.directory == *directory {
            return Ok(commit.epoch);
        }
        if !starts || takes_over.as_ref() != Some(&commit.directory) {
            return Err(self.refusal(&commit.directory, starts));
        }
        Ok(match parent {
            Some((parent, epoch)) if *parent == commit.directory => commit.epoch.min(*epoch),
            _ => Epoch::NONE,
        })
    }

    #[cold]
    fn refusal(&self, other: &str, starts: bool) -> Trouble {
        let Self { job, lineage: Lineage { directory, .. } } = self;
        Trouble::Lasting(if starts {
            format!(
                "the database holds commits of a job {job:?} with another state directory, {other}; this \
                 one is {directory:?}. Two jobs of one name would skip each other's rows: give this one \
                 another name. If the other has ended for good, because its directory is lost or this \
                 job goes on from its savepoint, start with `take_over = \"{other}\"` under [state], or \
                 StateDirectory::take_over"
            )
        } else {
            format!(
                "a job {job:?} with another state directory, {other}, has committed to the same \
                 database while this one ran (its own is {directory:?}): give one of them another name"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(parent: Option<(&str, u64)>, takes_over: Option<&str>) -> Claim {
        let parent = parent.map(|(id, epoch)| (id.into(), Epoch::new(epoch)));
        let takes_over = takes_over.map(Into::into);
        Claim { job: "j".into(), lineage: Lineage { directory: "mine".into(), parent, takes_over } }
    }

    fn means(claim: &Claim, directory: &str, epoch: u64) -> Result<u64, String> {
        let commit = Commit { instance: 0, epoch: Epoch::new(epoch), directory: directory.into() };
        claim.means(&commit, true).map(Epoch::number).map_err(|trouble| trouble.to_string())
    }

    #[test]
    fn our_own_and_nobodys_mean_what_they_say() {
        assert_eq!(means(&claim(None, None), "mine", 7), Ok(7));
        assert_eq!(means(&claim(None, None), "", 7), Ok(7));
    }

    #[test]
    fn anothers_are_refused_with_what_to_do() {
        // Nor does a savepoint alone say that the job it is of has ended.
        for claim in [claim(None, None), claim(None, Some("b")), claim(Some(("a", 5)), None)] {
            let why = means(&claim, "a", 7).unwrap_err();
            assert!(why.contains("another name"), "{why}");
            assert!(why.contains("take_over = \"a\""), "{why}");
        }
    }

    #[test]
    fn taken_over_they_mean_what_both_count_alike() {
        assert_eq!(means(&claim(None, Some("a")), "a", 7), Ok(0));
        assert_eq!(means(&claim(Some(("b", 5)), Some("a")), "a", 7), Ok(0));
        assert_eq!(means(&claim(Some(("a", 5)), Some("a")), "a", 7), Ok(5));
        assert_eq!(means(&claim(Some(("a", 5)), Some("a")), "a", 4), Ok(4));
    }

    #[test]
    fn nothing_is_taken_from_a_job_that_runs() {
        let commit = Commit { instance: 0, epoch: Epoch::new(7), directory: "a".into() };
        let why = claim(None, Some("a")).means(&commit, false).unwrap_err().to_string();
        assert!(why.contains("while this one ran"), "{why}");
    }
}
