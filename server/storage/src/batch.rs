//! The changes of one commit.

use std::collections::BTreeMap;

use bytes::Bytes;

/// Changes to any buckets, gathered in memory until one commit makes all of them durable.
///
/// Calls may come in any order; of several on one key the last one counts.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    buckets: BTreeMap<&'static str, Vec<(Bytes, Option<Bytes>)>>,
    operations: usize,
    bytes: usize,
}

impl Batch {
    /// No changes.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Makes the bucket exist, also if nothing is ever put into it.
    pub fn create_bucket(&mut self, name: &'static str) {
        self.buckets.entry(name).or_default();
    }

    /// Sets `key` (1 to 32,768 bytes) to `value`, creating the bucket when it is missing.
    pub fn put(&mut self, bucket: &'static str, key: Bytes, value: Bytes) {
        self.push(bucket, key, Some(value));
    }

    /// Removes `key`, if it is there.
    pub fn delete(&mut self, bucket: &'static str, key: Bytes) {
        self.push(bucket, key, None);
    }

    fn push(&mut self, bucket: &'static str, key: Bytes, value: Option<Bytes>) {
        self.operations += 1;
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
        self.buckets.entry(bucket).or_default().push((key, value));
    }

    /// Number of puts and deletes.
    pub fn operations(&self) -> usize {
        self.operations
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a commit of this batch would change nothing.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Each bucket with its changes in ascending order of keys, one for each key.
    pub(crate) fn into_sorted(
        self,
    ) -> impl Iterator<Item = (&'static str, Vec<(Bytes, Option<Bytes>)>)> {
        self.buckets.into_iter().map(|(name, mut changes)| {
            if !changes.is_sorted_by(|a, b| a.0 < b.0) {
                // Stable, so the last of equal keys is the latest; keep that one.
                changes.sort_by(|a, b| a.0.cmp(&b.0));
                changes.reverse();
                changes.dedup_by(|a, b| a.0 == b.0);
                changes.reverse();
            }
            (name, changes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_change_of_a_key_counts() {
        let mut batch = Batch::new();
        for (key, value) in [
            ("b", Some("1")),
            ("a", Some("2")),
            ("b", None),
            ("c", Some("3")),
        ] {
            match value {
                Some(value) => batch.put("x", key.into(), value.into()),
                None => batch.delete("x", key.into()),
            }
        }
        batch.put("x", "c".into(), "4".into());
        let (name, changes) = batch.into_sorted().next().expect("one bucket");
        assert_eq!(name, "x");
        let expected: Vec<(Bytes, Option<Bytes>)> = vec![
            ("a".into(), Some("2".into())),
            ("b".into(), None),
            ("c".into(), Some("4".into())),
        ];
        assert_eq!(changes, expected);
    }
}
