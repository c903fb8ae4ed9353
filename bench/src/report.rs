//! The table of medians and ratios, and the same as JSON.

use crate::measure::{Figure, MEMORY, TRUE};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Everything one run of the benchmark gave.
pub(crate) struct Table {
    /// The rows in order.
    pub(crate) rows: Vec<String>,
    /// The places in order, native first.
    pub(crate) places: Vec<String>,
    /// The figures by row and place.
    pub(crate) figures: BTreeMap<(String, String), Vec<Figure>>,
    /// What could not be measured, and why.
    pub(crate) missing: Vec<String>,
    /// The machine's load before.
    pub(crate) before: String,
    /// The machine's load after.
    pub(crate) after: String,
}

/// The one-, five- and fifteen-minute load, as the kernel gives it.
pub(crate) fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_string()
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

/// The median of the figures there are; the first reason when there is none.
fn median(figures: &[Figure]) -> Figure {
    let mut good: Vec<f64> = figures.iter().filter_map(|f| f.as_ref().ok()).copied().collect();
    if good.is_empty() {
        let why = figures.iter().find_map(|f| f.as_ref().err());
        return Err(why.cloned().unwrap_or_else(|| "not measured".into()));
    }
    good.sort_by(f64::total_cmp);
    let half = good.len() / 2;
    Ok(if good.len() % 2 == 1 { good[half] } else { (good[half - 1] + good[half]) / 2.0 })
}

/// A figure in a unit that reads well.
fn shown(row: &str, v: f64) -> String {
    if row == MEMORY {
        return format!("{:.1} MiB", v / f64::from(1 << 20));
    }
    match v {
        v if v < 1e3 => format!("{v:.0} ns"),
        v if v < 1e5 => format!("{:.2} µs", v / 1e3),
        v if v < 1e6 => format!("{:.0} µs", v / 1e3),
        v => format!("{:.1} ms", v / 1e6),
    }
}

impl Table {
    fn at(&self, row: &str, place: &str) -> Figure {
        let key = (row.to_string(), place.to_string());
        self.figures.get(&key).map_or_else(|| Err("not measured".into()), |f| median(f))
    }

    /// A row's ratio to native, where that says something.
    fn ratio(&self, row: &str, place: &str) -> Option<f64> {
        if row == MEMORY || row == TRUE || self.places.first().is_none_or(|n| n == place) {
            return None;
        }
        let native = self.at(row, self.places.first()?).ok()?;
        Some(self.at(row, place).ok()? / native)
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        println!(
            "medians; ratios to native in this run; {} CPUs, Linux {}; load {} before, {} after",
            cpus(),
            kernel(),
            self.before,
            self.after
        );
        let width = self.rows.iter().map(String::len).max().unwrap_or(0);
        print!("{:width$}", "");
        for p in &self.places {
            print!("  {p:>19}");
        }
        println!();
        let mut notes = Vec::new();
        for row in &self.rows {
            print!("{row:width$}");
            for p in &self.places {
                let cell = match (self.at(row, p), self.ratio(row, p)) {
                    (Ok(v), Some(r)) => format!("{} {:>7}", shown(row, v), format!("{r:.2}x")),
                    (Ok(v), None) => shown(row, v),
                    (Err(why), _) => {
                        notes.push(format!("{row}, {p}: {why}"));
                        "-".into()
                    }
                };
                print!("  {cell:>19}");
            }
            println!();
        }
        for n in &notes {
            println!("no figure: {n}");
        }
        for m in &self.missing {
            println!("skipped: {m}");
        }
    }

    /// Prints the same as JSON.
    pub(crate) fn json(&self) {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let places: serde_json::Map<String, Value> = self
                    .places
                    .iter()
                    .map(|p| {
                        let v = match self.at(row, p) {
                            Ok(v) => json!({"median": v, "ratio": self.ratio(row, p)}),
                            Err(why) => json!({"error": why}),
                        };
                        (p.clone(), v)
                    })
                    .collect();
                let unit = if row == MEMORY { "bytes" } else { "ns" };
                json!({"row": row, "unit": unit, "places": places})
            })
            .collect();
        let all = json!({
            "cpus": cpus(), "kernel": kernel(),
            "load_before": self.before, "load_after": self.after,
            "rows": rows, "skipped": self.missing,
        });
        println!("{all:#}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_even_and_none() {
        assert_eq!(median(&[Ok(3.0), Ok(1.0), Ok(2.0)]), Ok(2.0));
        assert_eq!(median(&[Ok(1.0), Err("x".into()), Ok(2.0)]), Ok(1.5));
        assert_eq!(median(&[Err("x".into())]), Err("x".into()));
    }

    #[test]
    fn units_read_well() {
        assert_eq!(shown("a", 25.0), "25 ns");
        assert_eq!(shown("a", 1500.0), "1.50 µs");
        assert_eq!(shown("a", 2.5e6), "2.5 ms");
        assert_eq!(shown(MEMORY, 1048576.0), "1.0 MiB");
    }
}
