//! Ours beside the bound: ratios of the same run, what was wanted, and whether it was reached. No IO but
//! the text it returns.

use serde::Serialize;
use serde_json::{Value, json};

use super::stats::{self, Spread};

/// What is wanted of a row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Want {
    /// ours / bound at least this
    RatioAtLeast(f64),
    /// ours / bound at most this
    RatioAtMost(f64),
    /// ours at most this, in the row's unit
    AtMost(f64),
    /// a figure at all
    Measured,
    /// told, not judged
    Nothing,
}

/// One comparison: a value per repetition, bound and ours taken in turn.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) ours: Vec<f64>,
    pub(crate) bound: Vec<f64>,
    pub(crate) want: Want,
    pub(crate) note: String,
}

impl Row {
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, want: Want) -> Self {
        let (ours, bound) = (Vec::new(), Vec::new());
        Self { name: name.into(), unit, ours, bound, want, note: String::new() }
    }

    /// A comparison that could not be made.
    pub(crate) fn missing(name: &str, why: &str) -> Self {
        Self { note: format!("not measured: {why}"), ..Self::new(name, "", Want::Measured) }
    }

    /// One repetition.
    pub(crate) fn pair(&mut self, ours: f64, bound: f64) {
        self.ours.push(ours);
        self.bound.push(bound);
    }

    /// Ratio by ratio, for neighbours in time share the machine's mood.
    fn ratio(&self) -> Option<Spread> {
        let pairs = self.ours.iter().zip(&self.bound);
        let ratios: Vec<f64> = pairs.filter(|(_, b)| **b > 0.0).map(|(o, b)| o / b).collect();
        stats::spread(&ratios)
    }

    /// None: not judged.
    pub(crate) fn ok(&self) -> Option<bool> {
        let ratio = self.ratio().map(|s| s.median);
        let ours = stats::spread(&self.ours).map(|s| s.median);
        match self.want {
            Want::Nothing => None,
            Want::Measured => Some(ours.is_some()),
            Want::RatioAtLeast(want) => Some(ratio.is_some_and(|r| r >= want)),
            Want::RatioAtMost(want) => Some(ratio.is_some_and(|r| r <= want)),
            Want::AtMost(want) => Some(ours.is_some_and(|o| o <= want)),
        }
    }

    pub(crate) fn line(&self) -> String {
        let want = match self.want {
            Want::RatioAtLeast(x) => format!(">= {x:.2}"),
            Want::RatioAtMost(x) => format!("<= {x:.2}"),
            Want::AtMost(x) => format!("<= {} {}", short(x), self.unit),
            Want::Measured => "a figure".into(),
            Want::Nothing => "-".into(),
        };
        let ok = self.ok().map_or("", |ok| if ok { "yes" } else { "NO" });
        let none = || "-".to_string();
        let value = |of: &[f64]| {
            stats::spread(of).map_or_else(none, |s| format!("{} {}", short(s.median), self.unit))
        };
        // Without a bound the spread of the figure itself is the news.
        let spread = self.ratio().or_else(|| stats::spread(&self.ours));
        let spread = spread.map_or_else(none, |s| {
            format!("{} ({}-{})", short(s.median), short(s.min), short(s.max))
        });
        let (name, ours, bound) = (&self.name, value(&self.ours), value(&self.bound));
        let line = format!("{name:<42}{ours:>12}{bound:>12}  {spread:<24}{want:<12}{ok:<4}");
        format!("{line}{}", self.note).trim_end().to_string()
    }

    pub(crate) fn record(&self) -> Value {
        json!({
            "kind": "limit", "row": self, "ours": stats::spread(&self.ours),
            "bound": stats::spread(&self.bound), "ratio": self.ratio(), "ok": self.ok(),
        })
    }
}

pub(crate) fn heading() -> String {
    let line = format!(
        "{:<42}{:>12}{:>12}  {:<24}{:<12}{:<4}",
        "what", "ours", "bound", "ratio median (min-max)", "wanted", "ok"
    );
    format!("{line}\n{}", "-".repeat(108))
}

/// Three digits that matter.
fn short(x: f64) -> String {
    match x.abs() {
        a if !(5e-4..99.95).contains(&a) => format!("{x:.0}"),
        a if a >= 9.995 => format!("{x:.1}"),
        a if a >= 0.0995 => format!("{x:.2}"),
        _ => format!("{x:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(want: Want, pairs: &[(f64, f64)]) -> Row {
        let mut row = Row::new("x", "GB/s", want);
        for (ours, bound) in pairs {
            row.pair(*ours, *bound);
        }
        row
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        let r = row(Want::RatioAtLeast(0.8), &[(8.0, 10.0), (4.5, 5.0), (1.0, 2.0)]);
        let ratio = r.ratio().unwrap();
        assert!((ratio.median - 0.8).abs() < 1e-9 && (ratio.min - 0.5).abs() < 1e-9);
        assert_eq!(r.ok(), Some(true));
        assert_eq!(row(Want::RatioAtMost(1.5), &[(16.0, 10.0)]).ok(), Some(false));
    }

    #[test]
    fn absolute_wants_need_no_bound() {
        let mut r = Row::new("submit", "us", Want::AtMost(50.0));
        r.ours = vec![10.0, 60.0, 20.0];
        assert_eq!(r.ok(), Some(true));
        assert!(r.line().contains("<= 50.0 us") && r.line().contains("20.0 (10.0-60.0)"));
    }

    #[test]
    fn nothing_measured_is_not_a_success() {
        let r = Row::missing("shm", "no memory");
        assert_eq!(r.ok(), Some(false));
        assert!(r.line().ends_with("not measured: no memory"));
        assert_eq!(row(Want::Nothing, &[]).ok(), None);
    }

    #[test]
    fn idle_is_zero_and_reads_so() {
        let mut r = Row::new("idle", "ms", Want::AtMost(1.0));
        r.pair(0.0, 0.0);
        assert_eq!(r.ok(), Some(true));
        assert_eq!(short(0.0), "0");
        assert_eq!(short(0.0123), "0.012");
        assert_eq!(short(123.4), "123");
    }
}
