//! A complete listing of a directory with attributes, from which lookups can be answered.

use gofer::client::DirEntry;

/// Entries of one directory in the host's order, and an index by name.
pub(super) struct Listing {
    entries: Vec<DirEntry>,
    by_name: Vec<u32>,
}

impl Listing {
    /// Takes a whole directory; `None` if it has more entries than `u32` counts.
    pub(super) fn new(entries: Vec<DirEntry>) -> Option<Listing> {
        let mut by_name: Vec<u32> = (0..u32::try_from(entries.len()).ok()?).collect();
        let name = |i: &u32| entries.get(*i as usize).map(|e| &e.name);
        by_name.sort_by(|a, b| name(a).map(|n| &n.0).cmp(&name(b).map(|n| &n.0)));
        Some(Listing { entries, by_name })
    }

    /// The entry of that name.
    pub(super) fn find(&self, name: &[u8]) -> Option<&DirEntry> {
        let entry = |i: &u32| self.entries.get(*i as usize);
        let at = self
            .by_name
            .binary_search_by(|i| entry(i).map_or(&b""[..], |e| &e.name.0).cmp(name))
            .ok()?;
        self.by_name.get(at).and_then(entry)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// All from position `at` on.
    pub(super) fn from(&self, at: usize) -> &[DirEntry] {
        self.entries.get(at..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gofer::wire::types::{EntryName, FileKind};

    #[test]
    fn finds_by_name() {
        let entry = |name: &str, ino| DirEntry {
            ino,
            next: ino,
            kind: FileKind::Regular,
            name: EntryName(name.as_bytes().into()),
            attr: None,
        };
        let l = Listing::new(vec![entry("z", 1), entry("a", 2), entry("m", 3)]).unwrap();
        assert_eq!(l.find(b"a").unwrap().ino, 2);
        assert_eq!(l.find(b"z").unwrap().ino, 1);
        assert!(l.find(b"b").is_none());
        assert_eq!((l.len(), l.from(1).len(), l.from(9).len()), (3, 2, 0));
    }
}
