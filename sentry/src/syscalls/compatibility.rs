//! `docs/compatibility.md`, made from the table: which system calls work, and what is missing.

use std::fmt::Write as _;

use super::{Support, TABLE};

/// The page as Markdown.
pub fn page() -> String {
    let count = |support| TABLE.iter().filter(|e| e.support == support).count();
    let mut out = format!(
        "# System calls\n\nMade from `sentry/src/syscalls/table.rs` by \
         `UPDATE_DOCS=1 cargo test -p rsentry-sentry compatibility`; do not edit.\n\n\
         Of Linux's {} x86-64 system calls, {} work as on Linux, {} with the gaps named here, and {} \
         are missing: they answer `ENOSYS`, and are logged once.\n\n\
         | number | call | support | what is missing |\n|---|---|---|---|\n",
        TABLE.len(),
        count(Support::Full),
        count(Support::Partial),
        count(Support::Missing),
    );
    for e in TABLE {
        let support = match e.support {
            Support::Full => "full",
            Support::Partial => "partial",
            Support::Missing => "missing",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "| {} | `{}` | {support} | {} |", e.nr, e.name, e.note);
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn compatibility_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/compatibility.md");
        let page = super::page();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let there = std::fs::read_to_string(path).unwrap_or_default();
        assert!(there == page, "docs/compatibility.md is stale: run with UPDATE_DOCS=1");
    }
}
