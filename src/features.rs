//! `rsentry features`: what this host offers for sandboxes, and how little of it they may use.

use serde_json::{Map, Value, json};

use crate::launch::Allowed;

/// The report: one JSON object, or lines for people.
pub(crate) fn report(as_json: bool) -> String {
    let lists = Allowed::all();
    if as_json {
        let mut calls = Map::new();
        for list in &lists {
            calls.insert(
                list.process.clone(),
                json!({"count": list.calls.len(), "calls": list.calls}),
            );
        }
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "host_calls": calls,
            "layers": layers(),
        });
        return format!("{report:#}\n");
    }
    let mut text = format!("rsentry {}\n\nhost calls allowed to\n", env!("CARGO_PKG_VERSION"));
    for list in &lists {
        text += &format!("  {:<16} {}\n", list.process, list.calls.len());
    }
    text += "\nhost\n";
    for (name, value) in layers() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text += &format!("  {name:<16} {value}\n");
    }
    text
}

/// What the host has of what the layers are made of.
fn layers() -> Map<String, Value> {
    let mut all = Map::new();
    for (name, value) in lockdown::host_features() {
        all.insert(name.to_owned(), value.into());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes of the lists. Who adds a host call raises the number here, with the reason in the
    /// commit; who removes one lowers it. gVisor's are 80 (Sentry, without direct file access) and
    /// 70 (gofer).
    const SIZES: [(&str, usize); 6] = [
        ("launcher", 37),
        ("gofer", 63),
        ("sentry/notify", 64),
        ("stub/notify", 18),
        ("sentry/ptrace", 65),
        ("stub/ptrace", 12),
    ];

    #[test]
    fn lists_of_host_calls_do_not_grow_unnoticed() {
        let lists = Allowed::all();
        let sizes: Vec<(&str, usize)> =
            lists.iter().map(|list| (list.process.as_str(), list.calls.len())).collect();
        assert_eq!(sizes, SIZES);
        for (process, size) in SIZES {
            assert!(size < if process == "gofer" { 70 } else { 80 });
        }
    }

    #[test]
    fn both_forms_say_the_same() {
        let report: Value = serde_json::from_str(&report(true)).unwrap();
        let text = super::report(false);
        for (process, size) in SIZES {
            assert_eq!(report["host_calls"][process]["count"], size);
            assert!(text.contains(&format!("{process:<16} {size}\n")), "{text}");
        }
        assert!(report["layers"]["kernel"].is_string());
    }
}
