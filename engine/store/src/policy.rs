//! What the store decides, as pure functions over facts: when to fold, and from which epoch to recover.

use thalweg_kernel::Epoch;
use thalweg_kernel::defects::{Defect, seeded};

use crate::StoreError;

/// When the changelog is folded into the base.
///
/// Folding rewrites about as many bytes as the base has, or a page for each change if that is less. To write
/// little, fold rarely. With a changelog as large as the base each changed byte is written once to the changelog
/// and about once more by folding. To recover fast, and to let memory go of cold keys, fold early. The bytes below
/// are of changes as the shards wrote them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FoldPolicy {
    /// Never unasked for less than this.
    pub bytes_min: u64,
    /// Always for this much: bounds the memory and time that recovery needs.
    pub bytes_max: u64,
    /// Between the two: once the changelog has this part of the base's bytes.
    pub base_ratio: f64,
}

impl Default for FoldPolicy {
    /// From 16 MiB to 256 MiB; in between as many bytes as the base has.
    fn default() -> Self {
        Self { bytes_min: 16 << 20, bytes_max: 256 << 20, base_ratio: 1.0 }
    }
}

impl FoldPolicy {
    /// Whether to fold, given the bytes of changes that may be folded and the bytes in the base.
    pub fn due(&self, foldable_bytes: u64, base_bytes: u64) -> bool {
        let by_base = (base_bytes as f64 * self.base_ratio) as u64;
        let threshold = by_base.min(self.bytes_max).max(self.bytes_min);
        foldable_bytes > 0 && foldable_bytes >= threshold
    }
}

/// The epoch to go on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// The newest.
    Newest,
    /// This one; later ones are dropped for good.
    Epoch(Epoch),
}

/// The epoch to recover, of those stored (in order): none if there is none.
///
/// Before `folding` the base has gone on; before `oldest`, as the newest epoch has it, the journal may have
/// been trimmed. Neither can be recovered, even where a record is left.
pub(crate) fn choose(
    stored: &[Epoch],
    folding: Epoch,
    oldest: Epoch,
    resume: Resume,
) -> Result<Option<Epoch>, StoreError> {
    let floor = folding.max(oldest);
    let kept = || stored.iter().copied().filter(|&epoch| epoch >= floor);
    match resume {
        Resume::Newest if seeded(Defect::StoreResumesOldest) => Ok(kept().next()),
        Resume::Newest => match kept().next_back() {
            None if folding > Epoch::NONE => Err(StoreError::Damaged(format!(
                "the record of epoch {folding} is missing: start from a savepoint, or from a copy of \
                 the state directory"
            ))),
            newest => Ok(newest),
        },
        Resume::Epoch(wanted) if kept().any(|epoch| epoch == wanted) => Ok(Some(wanted)),
        Resume::Epoch(wanted) => {
            let kept = kept().map(|epoch| epoch.to_string()).collect::<Vec<_>>().join(", ");
            let kept = if kept.is_empty() { "none".to_owned() } else { kept };
            Err(StoreError::Refused(format!(
                "epoch {wanted} cannot be recovered; kept are: {kept}. Keep more with `retained`"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_begins_between_its_bounds_when_the_changelog_is_as_large_as_the_base() {
        let policy = FoldPolicy { bytes_min: 10, bytes_max: 1_000, base_ratio: 0.5 };
        for (foldable, base, due) in [
            (0, 0, false),
            (9, 0, false),
            (10, 0, true),
            (10, 20, true),
            (49, 100, false),
            (50, 100, true),
            (999, 1_000_000, false),
            (1_000, 1_000_000, true),
        ] {
            assert_eq!(policy.due(foldable, base), due, "{foldable} bytes over {base}");
        }
        let always = FoldPolicy { bytes_min: 0, ..policy };
        assert!(!always.due(0, 0), "nothing to fold");
    }

    #[test]
    fn only_epochs_that_are_whole_can_be_recovered() {
        let epochs = |numbers: &[u64]| numbers.iter().copied().map(Epoch::new).collect::<Vec<_>>();
        let check = |stored: &[u64], folding, oldest, resume| {
            let (folding, oldest) = (Epoch::new(folding), Epoch::new(oldest));
            choose(&epochs(stored), folding, oldest, resume).map(|e| e.map(Epoch::number)).ok()
        };
        let exactly = |number| Resume::Epoch(Epoch::new(number));
        assert_eq!(check(&[], 0, 0, Resume::Newest), Some(None));
        assert_eq!(check(&[3, 4, 5], 0, 3, Resume::Newest), Some(Some(5)));
        assert_eq!(check(&[3, 4, 5], 0, 3, exactly(4)), Some(Some(4)));
        assert_eq!(check(&[3, 4, 5], 0, 4, exactly(3)), None, "the journal has gone on");
        assert_eq!(check(&[3, 4, 5], 4, 3, exactly(3)), None, "the base has gone on");
        assert_eq!(check(&[3, 4, 5], 4, 3, exactly(4)), Some(Some(4)));
        assert_eq!(check(&[3, 4, 5], 0, 3, exactly(6)), None);
        assert_eq!(check(&[], 7, 0, Resume::Newest), None, "what was folded had a record");
        let error = choose(&epochs(&[3, 4]), Epoch::NONE, Epoch::new(3), exactly(9)).unwrap_err();
        assert!(error.to_string().contains("kept are: 3, 4"), "{error}");
    }
}
