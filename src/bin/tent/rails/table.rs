//! The run while it goes on: on a terminal a table that is drawn in place, elsewhere a line now and then.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use super::rail::Rail;
use super::record::{Applied, Ways};
use super::run::{Screen, Snapshot};
use super::script::Weather;
use crate::os;
use crate::units;

/// Shows a run on standard output.
#[derive(Debug)]
pub(crate) struct Table {
    rates_bps: Vec<u64>,
    ways: Ways,
    is_terminal: bool,
    /// Lines that stand above the cursor and are to be drawn over.
    drawn: usize,
    /// The latest snapshots, for rates: time and the bytes of each rail.
    past: VecDeque<(u64, Vec<u64>)>,
}

impl Table {
    pub(crate) fn new(rates_bps: &[u64], ways: Ways) -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        let past = VecDeque::from([(0, vec![0; rates_bps.len()])]);
        Self { rates_bps: rates_bps.to_vec(), ways, is_terminal, drawn: 0, past }
    }

    /// Bytes per second of each rail lately.
    fn rates(&mut self, now: &Snapshot) -> Vec<f64> {
        self.past.push_back((now.us, now.rail_bytes.clone()));
        while self.past.len() > 2 && self.past[1].0 + SPAN_US <= now.us {
            self.past.pop_front();
        }
        let (since, before) = self.past.front().cloned().unwrap_or_default();
        let s = units::as_f64(now.us.saturating_sub(since)) / 1e6;
        let rate = |(now, before): (&u64, &u64)| {
            if s > 0.0 { units::as_f64(now.saturating_sub(*before)) / s } else { 0.0 }
        };
        now.rail_bytes.iter().zip(&before).map(rate).collect()
    }
}

impl Screen for Table {
    fn show(&mut self, now: &Snapshot, applied: &[Applied]) {
        let rates = self.rates(now);
        let mut weather = Weather::clear(&self.rates_bps);
        applied.iter().for_each(|a| weather.apply(&a.entry));
        let mut out = std::io::stdout().lock();
        // Whoever reads it may have gone; the run goes on for its result.
        let _ = if self.is_terminal {
            let live = weather.live_bps() / 8e9 * self.ways.count();
            let lines = lines(now, &rates, (&weather, live), applied.last(), os::host_us());
            let columns = os::terminal_columns().unwrap_or(80);
            let text = redraw(self.drawn, &lines, columns);
            self.drawn = lines.len();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        } else {
            writeln!(out, "{}", line(now, &rates))
        };
    }

    fn pace(&self) -> Duration {
        Duration::from_millis(if self.is_terminal { 100 } else { 1000 })
    }
}

/// Up over the old lines, each replaced; none may wrap, or the next drawing would begin too low.
fn redraw(drawn: usize, lines: &[String], columns: usize) -> String {
    let up = if drawn > 0 { format!("\x1b[{drawn}A") } else { String::new() };
    let cut = |line: &String| line.chars().take(columns).collect::<String>();
    let text: String = lines.iter().map(|line| format!("\r{}\x1b[K\n", cut(line))).collect();
    up + &text
}

fn lines(
    now: &Snapshot,
    rates: &[f64],
    (weather, live): (&Weather, f64),
    last: Option<&Applied>,
    host_us: u64,
) -> Vec<String> {
    let total: f64 = rates.iter().sum();
    let mut lines = vec![format!(
        "{:<5}{:<10}{:<11}{:>6}{:>8}{:>10}{:>9}{:>7}  {}",
        "rail", "link", "state", "GB/s", "share", "in flight", "latency", "resent", "event, s ago"
    )];
    for (at, rail) in now.rails.iter().enumerate() {
        let rate = rates.get(at).copied().unwrap_or(0.0);
        lines.push(format!(
            "{:<5}{:<10}{:<11}{:>6.3}{:>7.1}%{:>10}{:>9}{:>7}  {}",
            format!("r{at}"),
            weather.link(at).map_or_else(String::new, |link| link.describe()),
            rail.state(),
            rate / 1e9,
            if total > 0.0 { rate / total * 100.0 } else { 0.0 },
            units::size(rail.in_flight_bytes),
            latency(rail),
            rail.retried_slices,
            last_event(rail, host_us),
        ));
    }
    let fault = last
        .map_or_else(String::new, |a| format!(", {:.1} s {}", units::as_f64(a.us) / 1e6, a.entry));
    let failed = if now.failed > 0 { format!(", {} FAILED", now.failed) } else { String::new() };
    lines.push(format!(
        "{:>5.1} s  {:.3} of {:.3} GB/s, longest stall {:.1} ms{failed}{fault}",
        units::as_f64(now.us) / 1e6,
        total / 1e9,
        live,
        units::as_f64(now.longest_stall_us) / 1e3,
    ));
    lines
}

/// One line for all of it, for files and pipes.
fn line(now: &Snapshot, rates: &[f64]) -> String {
    let rail = |(at, rail): (usize, &Rail)| {
        let rate = rates.get(at).copied().unwrap_or(0.0) / 1e9;
        format!("  r{at} {} {rate:.3}", rail.state())
    };
    let rails: String = now.rails.iter().enumerate().map(rail).collect();
    let total = rates.iter().sum::<f64>() / 1e9;
    format!("{:>5.1} s  {total:.3} GB/s{rails}", units::as_f64(now.us) / 1e6)
}

fn latency(rail: &Rail) -> String {
    match rail.rtt_us {
        Some(us) if us >= 1000.0 => format!("{:.1} ms", us / 1e3),
        Some(us) => format!("{us:.0} us"),
        None => "-".into(),
    }
}

fn last_event(rail: &Rail, host_us: u64) -> String {
    match (&rail.last_event, rail.last_event_us) {
        (Some(event), Some(us)) if !event.is_empty() => {
            let ago = units::as_f64(host_us.saturating_sub(us)) / 1e6;
            format!("{event} {ago:.1}")
        }
        (Some(event), None) if !event.is_empty() => event.clone(),
        _ => "-".into(),
    }
}

/// Rates are of so long a time.
const SPAN_US: u64 = 300_000;

#[cfg(test)]
mod tests {
    use super::super::script;
    use super::*;

    fn snapshot(us: u64, rail_bytes: Vec<u64>) -> Snapshot {
        let rails = rail_bytes.iter().map(|_| Rail::default()).collect();
        Snapshot { us, rail_bytes, rails, ..Snapshot::default() }
    }

    #[test]
    fn rates_are_of_the_last_moments() {
        let mut table = Table::new(&[8; 2], Ways::One);
        let rates = table.rates(&snapshot(100_000, vec![5_000_000, 0]));
        assert!((rates[0] - 5e7).abs() < 1.0, "the first show knows the start: {rates:?}");
        table.rates(&snapshot(1_000_000, vec![50_000_000, 0]));
        let rates = table.rates(&snapshot(1_400_000, vec![50_000_000, 4_000_000]));
        assert!(rates[0].abs() < 1e-9 && (rates[1] - 1e7).abs() < 1.0, "{rates:?}");
    }

    #[test]
    fn each_rail_has_its_line() {
        let mut now = snapshot(2_500_000, vec![1, 2]);
        now.rails[1] = Rail {
            state: Some("suspect".into()),
            rtt_us: Some(2100.0),
            last_event: Some("suspect".into()),
            last_event_us: Some(8_000_000),
            in_flight_bytes: 4096,
            ..Rail::default()
        };
        let applied = Applied { entry: script::parse("2s slow r1", 2).unwrap()[0], us: 2_000_000 };
        let mut weather = Weather::clear(&[400_000_000, 400_000_000]);
        weather.apply(&applied.entry);
        let lines = lines(&now, &[5e7, 0.0], (&weather, 0.055), Some(&applied), 9_500_000);
        assert_eq!(lines.len(), 4);
        for word in ["r0", "400M", "0.050", "100.0%"] {
            assert!(lines[1].contains(word), "{word}: {}", lines[1]);
        }
        for word in ["r1", "x0.1 40M", "suspect", "4 KiB", "2.1 ms", "suspect 1.5"] {
            assert!(lines[2].contains(word), "{word}: {}", lines[2]);
        }
        for word in ["2.5 s", "0.050 of 0.055 GB/s", "2.0 s slow r1 x0.1"] {
            assert!(lines[3].contains(word), "{word}: {}", lines[3]);
        }
        assert!(lines.iter().all(|line| line.len() <= 80), "{lines:#?}");
        assert!(line(&now, &[5e7, 0.0]).contains("r1 suspect 0.000"));
    }

    #[test]
    fn drawing_again_goes_up_and_never_wraps() {
        let lines = ["a".repeat(100), "b".into()];
        assert!(redraw(0, &lines, 20).starts_with("\raaaa"));
        let again = redraw(2, &lines, 20);
        assert!(again.starts_with("\x1b[2A\r"));
        assert_eq!(again.matches('a').count(), 20);
        assert_eq!(again.matches("\x1b[K\n").count(), 2);
    }
}
