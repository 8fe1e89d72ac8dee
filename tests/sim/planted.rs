//! Mistakes that the simulated shell makes on purpose, to show that the simulation would find them.

/// One mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Others are told of entries and votes before they are synced.
    AnswersBeforeSync,
    /// A restarted member does not know whom it voted for.
    VoteForgotten,
    /// A leader answers reads without asking whether it still leads.
    ReadWithoutQuorum,
    /// [L2] A question for a read that is asked again has the context of the first.
    ReadContextUsedTwice,
    /// [L5] A read does not wait for the index that it must see.
    ReadBeforeApplied,
    /// [D1] The database says that it holds more than it does.
    IndexAheadOfData,
    /// The database says that it holds less than it does, so entries are applied twice.
    IndexBehindData,
    /// [D10] The log begins behind a snapshot before the database holds it.
    LogCutEarly,
    /// A leader's database is taken for received before it is durable.
    ReceivedNotSynced,
    /// [W2] Watchers are not told to read on in history when a leader's state was installed.
    WatchNotMoved,
    /// [W1] Progress is told before the events that it speaks of.
    ProgressEarly,
    /// What was not told to a slow watcher is not read from history.
    SlowWatcherMisses,
}

impl Bug {
    /// All of them.
    pub(crate) const ALL: [Bug; 12] = [
        Bug::AnswersBeforeSync,
        Bug::VoteForgotten,
        Bug::ReadWithoutQuorum,
        Bug::ReadContextUsedTwice,
        Bug::ReadBeforeApplied,
        Bug::IndexAheadOfData,
        Bug::IndexBehindData,
        Bug::LogCutEarly,
        Bug::ReceivedNotSynced,
        Bug::WatchNotMoved,
        Bug::ProgressEarly,
        Bug::SlowWatcherMisses,
    ];
}
