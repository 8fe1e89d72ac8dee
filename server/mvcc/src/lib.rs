//! Keys through time: revisions, ranges, compaction.
