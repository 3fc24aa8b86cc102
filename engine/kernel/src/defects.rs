//! Defects that can be put into the engine, so that it shows which proof catches each.
//!
//! A proof that has never failed proves little. So the engine's code carries some defects of the kind that would
//! lose, repeat, reorder or hang in the field. Each is one readable line at the place where it would be made:
//! `if !seeded(Defect::JournalNoSync) { .. }`. The program `mutants` of `thalweg-tests` switches on one after
//! the other, and says which proof failed.
//!
//! **In a normal build there are none.** [`seeded`] is the constant `false` unless this crate is built with the
//! feature `seeded-defects`. Nothing in the workspace asks for that but that program. The compiler removes what
//! stands behind it. With the feature, the environment variable [`VARIABLE`] names the one that is on.

/// Names the defect that is switched on, in a build that has them.
pub const VARIABLE: &str = "THALWEG_DEFECT";

macro_rules! defects {
    ($($(#[doc = $what:literal])+ $name:ident,)+) => {
        /// Something that is done wrong, on purpose.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Defect {
            $($(#[doc = $what])+ $name,)+
        }

        impl Defect {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// As [`VARIABLE`] and command lines spell it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }

            /// What it does.
            pub fn what(self) -> &'static str {
                match self { $(Self::$name => concat!($($what),+)),+ }.trim()
            }
        }
    };
}

defects! {
    /// Reports a group as durable that it has not synced.
    JournalNoSync,
    /// Does not sync the directory when a segment gets its name.
    JournalNoSyncDir,
    /// Removes a segment when its first record is not needed, not when its last is not.
    JournalTrimsTooFar,
    /// Leaves a torn group where it is, behind what is appended next.
    JournalKeepsTornTail,
    /// Takes the last group for durable because it can be read after a failed sync.
    JournalTrustsCache,
    /// Does not look at a record's checksum.
    JournalNoCrc,

    /// Commits an epoch's record in one transaction, and its changes in the next.
    StoreTwoTransactions,
    /// Gives the number of an epoch that was dropped to another one.
    StoreReusesEpoch,
    /// Folds epochs that are to be kept.
    StoreFoldsTooFar,
    /// Folds the first of several values of a key, not the last.
    StoreFoldsStaleValue,
    /// Does not fold deletes: a removed key is back.
    StoreKeepsRemovedKey,
    /// Notes after a fold's first step that all of it is done.
    StoreArrivesEarly,
    /// Resumes from the oldest epoch that is kept.
    StoreResumesOldest,

    /// A barrier overtakes the records in front of it on its way to another shard.
    FlowBarrierOvertakes,
    /// An operator with several inputs does not wait for the barrier of each.
    FlowNoAlignment,
    /// A batch that holds a barrier takes records behind it.
    FlowBatchStaysOpen,
    /// The sender adds to windows what follows a barrier, before they are handed over.
    FlowAddsAheadOfBarrier,
    /// Dead letters do not wait for a barrier that others have not got.
    FlowLetterOvertakes,
    /// A shard hands over before a barrier has passed everywhere.
    FlowHandsOverEarly,
    /// An epoch does not wait until its sources' positions are durable.
    FlowPositionNotDurable,
    /// An epoch does not wait until what sinks have sealed is durable.
    FlowSinkNotDurable,
    /// A sink commits at the barrier, not when its epoch exists.
    FlowCommitsAtBarrier,
    /// What sinks have still to commit is not given to them after a restart.
    FlowForgetsPending,
    /// A value that was stored once is not stored again when it changes.
    FlowForgetsDirtyMark,
    /// An entry of a map or list that was stored once is not stored again when it changes.
    FlowForgetsEntryChange,
    /// A range of entries that is removed is not removed in the store.
    FlowForgetsRemovedRange,
    /// An entry that has left memory, while others of its key stay, counts as absent.
    FlowForgetsColdEntry,
    /// A removed key is not removed in the store.
    FlowForgetsRemovedKey,
    /// Memory drops a key before the store can read what it was.
    FlowEvictsUnreadable,
    /// A value's last millisecond is not stored: it lives for ever after a restart.
    FlowForgetsTimeToLive,
    /// Stored state of another layout than the job's is read.
    FlowAcceptsOtherLayout,
    /// A timer is not stored.
    FlowForgetsTimer,
    /// A timer that was stored and then deleted is not deleted in the store.
    FlowTimerComesBack,
    /// A window's accumulator that was stored once is not stored again when it changes.
    FlowForgetsWindowChange,
    /// A window that has fired is not deleted in the store.
    FlowFiredWindowStays,
    /// An operator's watermark begins anew after a restart.
    FlowForgetsWatermark,
    /// Does not keep how far event time has gone on by the clock while a source was silent.
    FlowForgetsTimeByClock,
    /// Windows that are to stay open are taken out of the state by the end of the stream.
    FlowEndTakesWindows,
    /// After the end of a stream, a window that the end has closed opens again.
    FlowEndForgetsWindows,
    /// The clock of a source's partition begins anew after a restart.
    FlowForgetsSourceClock,
    /// What a watermark generator keeps is not restored.
    FlowForgetsGenerator,
    /// A partition that was discovered is not known any more after a restart.
    FlowForgetsPartition,
    /// A partition that appears begins the merged watermark anew.
    FlowNewPartitionTurnsTimeBack,
    /// A partition that has ended is read from its beginning when it is found again.
    FlowReadsEndedPartition,
    /// A shard does not restore the last of its key groups.
    FlowForgetsKeyGroup,
    /// Sources wait for room that no epoch makes.
    FlowWaitsInVain,
    /// A batch is sent to another shard, which is not woken.
    FlowForgetsWakeUp,
    /// A lane keeps a watermark back for which its receiver waits.
    FlowKeepsDueWatermark,
    /// A shard that waits for a watermark which another one keeps does not ask for it.
    FlowForgetsKeptWatermark,
    /// A shard does not hear of it when those behind it wait for an earlier watermark than before.
    FlowReliesUnasked,
    /// A due time that a queue has passed hides every later one.
    FlowPassedDueHidesLater,
    /// A watermark by which state expires counts for nothing.
    FlowExpiryIsNotDue,
    /// A watermark that is kept back stays until something else goes, however long that takes.
    FlowKeepsForever,
    /// That a silent stream speaks again is kept back as a watermark is.
    FlowKeepsActive,
    /// A slice that overlapping windows share is merged twice.
    FlowSliceTwice,
    /// A slice is dropped while later windows still contain it.
    FlowDropsSliceEarly,
    /// A window that fires does not read those of its entries that are in the store alone.
    FlowForgetsColdEntries,
    /// A session that has become part of another one is kept beside it.
    FlowMergedSessionStays,
    /// Sessions stay two though one follows upon the other without a gap.
    FlowSessionsStayApart,
    /// A partitioned stream leaves its records on the shard where they are.
    FlowPlacesNothing,
    /// A broadcast leaves out the last shard.
    FlowBroadcastForgetsLane,
    /// Columns are divided, and a watermark among the rows moves to the front of them.
    FlowMisplacesWatermark,
    /// An input is held back although a barrier is awaited.
    FlowHoldIgnoresBarrier,
    /// A mark goes on before all is done that was due because of it.
    FlowMarkOvertakesWork,
    /// A record is processed that came behind a mark whose work is not done yet.
    FlowRecordOvertakesWork,
    /// After a failure that is skipped, a function does not get the next record.
    FlowSkipsAfterFailure,
    /// A timer of a space of its own is set among those of the function.
    FlowTimerLosesItsSpace,
    /// A partition that is found while the job runs is opened as if no epoch had come since the job began.
    FlowOpensAtOldEpoch,
    /// Dead letters that are held behind a barrier stop the operators that have not got that barrier.
    FlowHeldLettersStopAll,
    /// While a barrier is due, a full sink gets all that stands before the barrier, whatever would make room.
    FlowOverfillsSink,
    /// What stands before a barrier waits for a sink that has no room before the epoch of the barrier.
    FlowBarrierAwaitsRoom,
    /// Where keys have clocks of their own, timers fire by the watermark of the stream.
    FlowKeyGoesByStream,
    /// A record is processed although timers of its key are due and wait for the next step.
    FlowRecordOvertakesItsKey,
    /// Where keys have clocks, those of restored timers are taken for silent up to the first piece of them alone.
    FlowForgetsRestoredKeys,
    /// A shard restores of broadcast state what lies under its own groups.
    FlowBroadcastRestoresItsOwn,
    /// An entry of broadcast state that was removed stays in the store.
    FlowBroadcastKeepsRemoved,
    /// Takes a source that would hear of nothing, since its broker is away, for one that is silent.
    FlowDeafIsSilent,
    /// Forgets what the additions of floating-point numbers lose.
    FlowSumsPlainly,
    /// What an operator does because of this machine's clock is nothing that an epoch would have to hold.
    FlowTickMovesNothing,
    /// Nothing that a sink has to note is worth an epoch.
    FlowIgnoresNewsOfSinks,
    /// Forgets the numbers of a publisher that counts anew.
    FlowForgetsNumbers,

    /// Shards are told of an epoch before it is stored.
    RuntimeCommitsEarly,
    /// An epoch is complete when the first shard has handed over.
    RuntimePartialEpoch,
    /// Sources may forget what is older than the newest epoch, not the oldest that is kept.
    RuntimeTrimsToNewest,
    /// An epoch begins after the one that a suspended job ends with.
    RuntimeBeginsAfterLast,
    /// Ends the shards of a suspended job before their sinks show the last results.
    RuntimeEndsUnsettled,
    /// A job that has failed, and is asked to drain before its shards have ended, drains instead of ending.
    RuntimeLowersPhase,
    /// A job that fails goes on from the epoch that its process began with.
    RuntimeRestoresStale,
    /// A savepoint is taken of an epoch that had begun before it was asked for.
    RuntimeOldSavepoint,
    /// An epoch that finds no room is not tried again.
    RuntimeGivesUpFullEpoch,
    /// A shard that moves does not tell a supervisor that dozes.
    RuntimeSleepsOverChange,
    /// The supervisor dozes without a look whether a shard has moved before.
    RuntimeDozesUnasked,
    /// The supervisor dozes while the oldest epoch that can be restored is older than the last change.
    RuntimeKeepsOldEpochs,
    /// An epoch begins at each interval, whether anything has changed or not.
    RuntimeStoresNothingNew,

    /// Acknowledges a message that is in the journal and not durable.
    MqttAcksEarly,
    /// Acknowledges on a connection what another one has delivered.
    MqttAcksOldConnection,
    /// Goes on one record behind its position.
    MqttSkipsRecord,
    /// Says of every position that it is durable.
    MqttPositionNotDurable,
    /// Takes a message of a known packet id for a repetition, whatever it says.
    MqttTrustsIds,
    /// Keeps the packet ids of a session that the broker has forgotten.
    MqttKeepsOldIds,
    /// Knows a message of QoS 1 although the broker has shown that it has our acknowledgement.
    MqttNeverForgets,
    /// A start does not ask the journal which packet ids are known.
    MqttForgetsIds,
    /// The journal does not hear of a new session.
    MqttHidesSession,
    /// Completes a message of QoS 2 before its release is durable.
    MqttCompletesEarly,
    /// Trims its journal to the newest epoch, not the oldest that is kept.
    MqttTrimsToNewest,
    /// The outbox forgets what was sent, and not only what was acknowledged.
    MqttForgetsUnacked,
    /// The outbox publishes results when any epoch exists, not when theirs does.
    MqttPublishesEarly,
    /// What the last run has left is published by each shard as it comes, not in the order of its epochs.
    MqttOldRowsLate,
    /// A result in whose wake connections end is sent again for ever.
    MqttNeverSetsAside,
    /// A message over the limit is read past, and no dead letter tells of it.
    MqttForgetsOversized,
    /// A sink waits for its broker for ever, also when the job is to end.
    MqttStopWaitsForEver,

    /// A rolling file's content is not synced before it counts as sealed.
    FileNoSync,
    /// Takes a last line without its line feed for whole, though there is a next run.
    FileTakesHalfLine,
    /// Takes any file under a path that is long enough for the one that was read.
    FileKnownByLength,
    /// Does not look for what an earlier run left of a file that was renamed.
    FileForgetsRenamed,
    /// Reads a file on that was cut, and filled again, while it was read.
    FileReadsOnWhenCut,
    /// Unpacks a file from its beginning again, though an earlier run has read some of it.
    FileSkipsPacked,

    /// Goes on one row behind its position.
    DatagenSkipsRow,

    /// The row that says which epoch was applied is not written.
    SqliteNoCommitRow,
    /// A row that leaves the table is inserted.
    SqliteInsertsDeleted,
    /// The row as it was before an update is taken away after the row as it is was put.
    SqliteUpdateBeforeLast,
    /// Of what an epoch has still to commit after a restart, the rows' kinds are forgotten.
    SqliteForgetsKinds,
}

/// Whether this defect is switched on; in a normal build never.
#[cfg(not(feature = "seeded-defects"))]
#[inline(always)]
pub const fn seeded(_: Defect) -> bool {
    false
}

/// Whether this defect is switched on.
///
/// # Panics
/// If [`VARIABLE`] names none.
#[cfg(feature = "seeded-defects")]
#[inline(always)]
pub fn seeded(defect: Defect) -> bool {
    switch::on() == Some(defect)
}

#[cfg(feature = "seeded-defects")]
mod switch {
    use std::sync::OnceLock;

    use super::{Defect, VARIABLE};

    /// The one that is switched on in this process.
    pub(super) fn on() -> Option<Defect> {
        static ON: OnceLock<Option<Defect>> = OnceLock::new();
        *ON.get_or_init(|| {
            let name = std::env::var(VARIABLE).ok()?;
            let found = Defect::ALL.iter().copied().find(|defect| defect.name() == name);
            // A misspelt one would look as if no proof had caught it.
            assert!(found.is_some(), "{VARIABLE}={name} is no defect");
            found
        })
    }
}
