//! The table of medians and ratios as Markdown, and the same with its spread as JSON.

use crate::budget::{self, Budget};
use crate::load::Load;
use crate::measure::{Figure, MEMORY, TRUE};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Everything one run of the benchmark gave under one load.
pub(crate) struct Table {
    /// The load it was measured under.
    pub(crate) load: Load,
    /// The rows in order.
    pub(crate) rows: Vec<String>,
    /// The places in order, native first.
    pub(crate) places: Vec<String>,
    /// The figures by row and place.
    pub(crate) figures: BTreeMap<(String, String), Vec<Figure>>,
    /// What could not be measured, and why.
    pub(crate) missing: Vec<String>,
    /// The machine's load average before.
    pub(crate) before: String,
    /// The machine's load average after.
    pub(crate) after: String,
}

/// The reference among rsentry's platforms, which none may be slower than.
const REFERENCE: &str = "rsentry ptrace";
/// How much slower than the reference counts as slower: less is noise.
const NOISE: f64 = 1.05;

/// The one-, five- and fifteen-minute load average, as the kernel gives it.
pub(crate) fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_string()
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

/// What repeated figures of one cell say.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
    /// The median distance from the median.
    mad: f64,
}

/// The middle of some figures.
fn middle(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    let half = v.len() / 2;
    if v.len() % 2 == 1 { v[half] } else { (v[half - 1] + v[half]) / 2.0 }
}

/// The spread of the figures there are; the first reason when there is none.
fn spread(figures: &[Figure]) -> Result<Spread, String> {
    let good: Vec<f64> = figures.iter().filter_map(|f| f.as_ref().ok()).copied().collect();
    if good.is_empty() {
        let why = figures.iter().find_map(|f| f.as_ref().err());
        return Err(why.cloned().unwrap_or_else(|| "not measured".into()));
    }
    let median = middle(good.clone());
    Ok(Spread {
        median,
        min: good.iter().copied().fold(f64::INFINITY, f64::min),
        max: good.iter().copied().fold(0.0, f64::max),
        mad: middle(good.iter().map(|v| (v - median).abs()).collect()),
    })
}

/// Nanoseconds in a unit that reads well.
pub(crate) fn time(ns: f64) -> String {
    match ns {
        v if v < 1e3 => format!("{v:.0} ns"),
        v if v < 1e5 => format!("{:.2} µs", v / 1e3),
        v if v < 1e6 => format!("{:.0} µs", v / 1e3),
        v => format!("{:.1} ms", v / 1e6),
    }
}

fn shown(row: &str, v: f64) -> String {
    if row == MEMORY { format!("{:.1} MiB", v / f64::from(1 << 20)) } else { time(v) }
}

/// Lines up a Markdown table.
pub(crate) fn markdown(head: Vec<String>, rows: Vec<Vec<String>>) -> String {
    let mut lines = vec![head];
    lines.extend(rows);
    let columns = lines[0].len();
    let width = |c: usize| lines.iter().map(|l| l[c].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (i, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(&widths) {
            text += &format!("| {cell:width$} ");
        }
        text += "|\n";
        if i == 0 {
            text += &"|---".repeat(columns);
            text += "|\n";
        }
    }
    text
}

impl Table {
    fn at(&self, row: &str, place: &str) -> Result<Spread, String> {
        let key = (row.to_string(), place.to_string());
        self.figures.get(&key).map_or_else(|| Err("not measured".into()), |f| spread(f))
    }

    /// A row's ratio to native, where that says something.
    fn ratio(&self, row: &str, place: &str) -> Option<f64> {
        if row == MEMORY || row == TRUE || self.places.first().is_none_or(|n| n == place) {
            return None;
        }
        let native = self.at(row, self.places.first()?).ok()?.median;
        Some(self.at(row, place).ok()?.median / native)
    }

    /// Whether one of rsentry's platforms is above the row's budget.
    fn misses(&self, row: &str, place: &str) -> Option<bool> {
        let budget = budget::of(row, self.load).filter(|_| place.starts_with("rsentry "))?;
        let median = self.at(row, place).ok()?.median;
        Some(budget.missed(median, self.ratio(row, place)))
    }

    /// How a platform compares with the reference.
    fn to_reference(&self, row: &str, place: &str) -> Option<f64> {
        if place == REFERENCE || !place.starts_with("rsentry ") {
            return None;
        }
        Some(self.at(row, place).ok()?.median / self.at(row, REFERENCE).ok()?.median)
    }

    /// What is wrong with a row, in words.
    fn verdict(&self, row: &str) -> String {
        let mut said = Vec::new();
        for place in &self.places {
            let name = place.trim_start_matches("rsentry ");
            if self.misses(row, place) == Some(true) {
                said.push(format!("{name} misses"));
            }
            if let Some(r) = self.to_reference(row, place).filter(|r| *r > NOISE) {
                said.push(format!("**{name} {r:.2}x of ptrace**"));
            }
        }
        said.join(", ")
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        println!(
            "Load: {}. {} CPUs, Linux {}, load average {} before, {} after. Medians; ratios to \
             native in this run.\n",
            self.load.name(),
            cpus(),
            kernel(),
            self.before,
            self.after
        );
        let mut head = vec!["what".to_string()];
        head.extend(self.places.iter().cloned());
        head.extend(["budget".into(), "verdict".into()]);
        let mut notes = Vec::new();
        let mut lines = Vec::new();
        for row in &self.rows {
            let mut line = vec![row.clone()];
            for p in &self.places {
                line.push(match (self.at(row, p), self.ratio(row, p)) {
                    (Ok(v), Some(r)) => format!("{} ({r:.2}x)", shown(row, v.median)),
                    (Ok(v), None) => shown(row, v.median),
                    (Err(why), _) => {
                        notes.push(format!("{row}, {p}: {why}"));
                        "-".into()
                    }
                });
            }
            let budget = budget::of(row, self.load);
            line.push(budget.map_or(String::new(), |b| format!("<= {b}")));
            line.push(self.verdict(row));
            lines.push(line);
        }
        print!("{}", markdown(head, lines));
        println!();
        for n in &notes {
            println!("* no figure: {n}");
        }
        for m in &self.missing {
            println!("* skipped: {m}");
        }
    }

    fn cell(&self, row: &str, place: &str) -> Value {
        match self.at(row, place) {
            Ok(s) => json!({
                "median": s.median, "min": s.min, "max": s.max, "mad": s.mad,
                "ratio": self.ratio(row, place), "misses_budget": self.misses(row, place),
                "to_ptrace": self.to_reference(row, place),
            }),
            Err(why) => json!({ "error": why }),
        }
    }

    /// The same as JSON.
    pub(crate) fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let places: serde_json::Map<String, Value> =
                    self.places.iter().map(|p| (p.clone(), self.cell(row, p))).collect();
                let unit = if row == MEMORY { "bytes" } else { "ns" };
                let budget = match budget::of(row, self.load) {
                    Some(Budget::Ratio(v)) => json!({ "ratio": v }),
                    Some(Budget::Nanoseconds(v) | Budget::Bytes(v)) => json!({ "most": v }),
                    None => Value::Null,
                };
                json!({"row": row, "unit": unit, "budget": budget, "places": places})
            })
            .collect();
        json!({
            "load": self.load.name(), "cpus": cpus(), "kernel": kernel(),
            "load_average_before": self.before, "load_average_after": self.after,
            "rows": rows, "skipped": self.missing,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let cell = |place: &str, v: f64| (("getppid".to_string(), place.to_string()), vec![Ok(v)]);
        Table {
            load: Load::None,
            rows: vec!["getppid".into()],
            places: ["native", "rsentry ptrace", "rsentry notify"].map(String::from).to_vec(),
            figures: BTreeMap::from([
                cell("native", 100.0),
                cell("rsentry ptrace", 90.0),
                cell("rsentry notify", 120.0),
            ]),
            missing: Vec::new(),
            before: String::new(),
            after: String::new(),
        }
    }

    #[test]
    fn spread_of_odd_even_and_none() {
        let s = spread(&[Ok(3.0), Ok(1.0), Ok(2.0)]).unwrap();
        assert_eq!(s, Spread { median: 2.0, min: 1.0, max: 3.0, mad: 1.0 });
        assert_eq!(spread(&[Ok(1.0), Err("x".into()), Ok(2.0)]).unwrap().median, 1.5);
        assert_eq!(spread(&[Err("x".into())]), Err("x".into()));
    }

    #[test]
    fn verdicts_name_misses_and_platforms_slower_than_ptrace() {
        assert_eq!(table().verdict("getppid"), "notify misses, **notify 1.33x of ptrace**");
        assert_eq!(table().json()["rows"][0]["places"]["rsentry ptrace"]["misses_budget"], false);
    }

    #[test]
    fn units_read_well() {
        assert_eq!(shown("a", 25.0), "25 ns");
        assert_eq!(shown("a", 1500.0), "1.50 µs");
        assert_eq!(shown("a", 2.5e6), "2.5 ms");
        assert_eq!(shown(MEMORY, 1048576.0), "1.0 MiB");
    }

    #[test]
    fn tables_line_up() {
        let t = markdown(vec!["a".into(), "b".into()], vec![vec!["µµ".into(), "c".into()]]);
        assert_eq!(t, "| a  | b |\n|---|---|\n| µµ | c |\n");
    }
}
