//! The language of faults: `2s hole r2; 4s heal r2; 5s slow r1 0.1`. Read, and followed as a model of
//! what each link can give at any time. No IO, no clock.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::fail::{Fail, Result};
use crate::units;

/// What happens to a link, or is asked of a rail.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fault {
    /// Everything is swallowed, nothing answered: the silent death.
    Hole,
    /// The rate is multiplied.
    Slow(f64),
    /// Every connection is reset, once.
    Rst,
    /// Every connection is reset and new ones are refused.
    Down,
    /// The link is as it was at the start.
    Heal,
    /// The engine is told not to use the rail.
    Drain,
    /// The engine is told to use it again.
    Undrain,
}

/// A line of the script.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// From the start of the run.
    pub(crate) at_us: u64,
    pub(crate) rail: usize,
    pub(crate) fault: Fault,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hole => f.write_str("hole"),
            Self::Slow(_) => f.write_str("slow"),
            Self::Rst => f.write_str("rst"),
            Self::Down => f.write_str("down"),
            Self::Heal => f.write_str("heal"),
            Self::Drain => f.write_str("drain"),
            Self::Undrain => f.write_str("undrain"),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} r{}", self.fault, self.rail)?;
        if let Fault::Slow(factor) = self.fault { write!(f, " x{factor}") } else { Ok(()) }
    }
}

/// Reads a script for `rails` rails; the entries come in the order of their times.
pub(crate) fn parse(text: &str, rails: usize) -> Result<Vec<Entry>> {
    let lines = text.split([';', '\n']).map(str::trim).filter(|line| !line.is_empty());
    let mut script = lines.map(|line| entry(line, rails)).collect::<Result<Vec<_>>>()?;
    if script.len() > MAX_ENTRIES {
        let cause = format!("--fault: {} entries are too many", script.len());
        return Err(Fail::usage(cause, format!("at most {MAX_ENTRIES} in one run")));
    }
    script.sort_by_key(|entry| entry.at_us);
    Ok(script)
}

fn entry(line: &str, rails: usize) -> Result<Entry> {
    let fail = |cause: String, cure: &str| Fail::usage(format!("--fault `{line}`: {cause}"), cure);
    let mut words = line.split_whitespace();
    let (Some(time), Some(verb), Some(rail)) = (words.next(), words.next(), words.next()) else {
        return Err(fail("a word is missing".into(), EXAMPLE));
    };
    let at_us = units::parse_time_us(time).map_err(|cause| fail(cause, EXAMPLE))?;
    let rail = rail_number(rail, rails).map_err(|cause| fail(cause, EXAMPLE))?;
    let fault = match verb {
        "hole" => Fault::Hole,
        "rst" => Fault::Rst,
        "down" => Fault::Down,
        "heal" => Fault::Heal,
        "drain" => Fault::Drain,
        "undrain" => Fault::Undrain,
        "slow" => {
            let text = words.next().unwrap_or(SLOW_BY_DEFAULT);
            let factor = text.strip_prefix('x').unwrap_or(text).parse().ok();
            let factor = factor.filter(|f: &f64| (SLOWEST..=1.0).contains(f)).ok_or_else(|| {
                let cure = format!("a factor from {SLOWEST} to 1, such as 0.1 for a tenth");
                fail(format!("`{text}` is no factor"), &cure)
            })?;
            Fault::Slow(factor)
        }
        other => {
            let cure = "one of hole, slow, rst, down, heal, drain, undrain";
            return Err(fail(format!("`{other}` is no fault"), cure));
        }
    };
    match words.next() {
        Some(word) => {
            Err(fail(format!("`{word}` is one word too many"), "put `;` between entries"))
        }
        None => Ok(Entry { at_us, rail, fault }),
    }
}

/// `r2`, or `2`.
fn rail_number(text: &str, rails: usize) -> std::result::Result<usize, String> {
    let number = text.strip_prefix('r').unwrap_or(text).parse().ok();
    number
        .filter(|n| *n < rails)
        .ok_or_else(|| format!("there is no rail `{text}`: r0 to r{}", rails.saturating_sub(1)))
}

/// Reads `1@2s`: a rail and when.
pub(crate) fn parse_at(flag: &str, text: &str, fault: Fault, rails: usize) -> Result<Entry> {
    let cure = format!("write {flag} RAIL@TIME, such as {flag} 1@2s");
    let fail = |cause: String| Fail::usage(format!("{flag} `{text}`: {cause}"), &cure);
    let (rail, time) = text.split_once('@').ok_or_else(|| fail("there is no `@`".into()))?;
    let rail = rail_number(rail.trim(), rails).map_err(fail)?;
    let at_us = units::parse_time_us(time).map_err(fail)?;
    Ok(Entry { at_us, rail, fault })
}

/// What one link and its rail are like after some faults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Link {
    rate_bps: u64,
    factor: f64,
    hole: bool,
    down: bool,
    drained: bool,
}

impl Link {
    fn new(rate_bps: u64) -> Self {
        Self { rate_bps, factor: 1.0, hole: false, down: false, drained: false }
    }

    fn apply(&mut self, fault: Fault) {
        match fault {
            Fault::Hole => self.hole = true,
            Fault::Slow(factor) => self.factor = factor,
            Fault::Down => self.down = true,
            Fault::Heal => (self.hole, self.down, self.factor) = (false, false, 1.0),
            Fault::Drain => self.drained = true,
            Fault::Undrain => self.drained = false,
            Fault::Rst => {}
        }
    }

    /// What a transfer can get from it.
    pub(crate) fn live_bps(&self) -> f64 {
        let dead = self.hole || self.down || self.drained;
        if dead { 0.0 } else { units::as_f64(self.rate_bps) * self.factor }
    }

    /// `400M`, `x0.1 40M`, `hole`, `down`, `drained`: for people.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self { down: true, .. } => "down".into(),
            Self { hole: true, .. } => "hole".into(),
            Self { drained: true, .. } => "drained".into(),
            Self { factor, .. } if *factor < 1.0 => {
                let rate = units::round(units::as_f64(self.rate_bps) * factor);
                format!("x{factor} {}", units::short_rate(rate))
            }
            _ => units::short_rate(self.rate_bps),
        }
    }
}

/// All links after some faults.
#[derive(Debug, Clone)]
pub(crate) struct Weather {
    links: Vec<Link>,
}

impl Weather {
    pub(crate) fn clear(rates_bps: &[u64]) -> Self {
        Self { links: rates_bps.iter().map(|rate| Link::new(*rate)).collect() }
    }

    pub(crate) fn apply(&mut self, entry: &Entry) {
        if let Some(link) = self.links.get_mut(entry.rail) {
            link.apply(entry.fault);
        }
    }

    pub(crate) fn link(&self, rail: usize) -> Option<&Link> {
        self.links.get(rail)
    }

    /// Bits per second that one rail can give.
    pub(crate) fn rail_bps(&self, rail: usize) -> f64 {
        self.link(rail).map_or(0.0, Link::live_bps)
    }

    /// Bits per second that all live rails can give together.
    pub(crate) fn live_bps(&self) -> f64 {
        self.links.iter().map(Link::live_bps).sum()
    }
}

const EXAMPLE: &str = "write TIME FAULT RAIL, such as `2s hole r2; 4s heal r2; 5s slow r1 0.1`";
const SLOW_BY_DEFAULT: &str = "0.1";
const SLOWEST: f64 = 0.001;
const MAX_ENTRIES: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(at_us: u64, fault: Fault, rail: usize) -> Entry {
        Entry { at_us, rail, fault }
    }

    #[test]
    fn the_whole_language_is_read_and_sorted() {
        let text = "9s undrain r1; 2s hole r2;4s heal r2 ; 5s slow r1 0.1; 6.5s rst r3; 700ms down r0; \
                    8s drain 1;\n10s slow r1;";
        let want = [
            at(700_000, Fault::Down, 0),
            at(2_000_000, Fault::Hole, 2),
            at(4_000_000, Fault::Heal, 2),
            at(5_000_000, Fault::Slow(0.1), 1),
            at(6_500_000, Fault::Rst, 3),
            at(8_000_000, Fault::Drain, 1),
            at(9_000_000, Fault::Undrain, 1),
            at(10_000_000, Fault::Slow(0.1), 1),
        ];
        assert_eq!(parse(text, 4).unwrap(), want);
        assert!(parse("", 4).unwrap().is_empty());
    }

    #[test]
    fn entries_of_one_time_keep_their_order() {
        let script = parse("1s hole r0; 1s heal r0; 1s rst r0", 1).unwrap();
        let faults: Vec<_> = script.iter().map(|e| e.fault).collect();
        assert_eq!(faults, [Fault::Hole, Fault::Heal, Fault::Rst]);
    }

    #[test]
    fn mistakes_name_cause_and_cure() {
        for (text, cause, cure) in [
            ("2s hol r2", "`hol` is no fault", "hole, slow"),
            ("2s hole r4", "no rail `r4`: r0 to r3", "2s hole r2"),
            ("2s hole", "a word is missing", "TIME FAULT RAIL"),
            ("x hole r1", "`x` is no time", "2s hole r2"),
            ("2s slow r1 2", "`2` is no factor", "0.1 for a tenth"),
            ("2s slow r1 -0.1", "`-0.1` is no factor", "0.1"),
            ("2s slow r1 NaN", "`NaN` is no factor", "0.1"),
            ("2s hole r1 4s heal r1", "`4s` is one word too many", "`;`"),
        ] {
            let fail = parse(text, 4).unwrap_err();
            assert!(fail.cause.contains(cause) && fail.cure.contains(cure), "{text}: {fail}");
            assert!(fail.cause.contains(&format!("`{text}`")), "{fail}");
        }
        assert!(parse(&"1s rst r0;".repeat(1001), 1).is_err());
    }

    #[test]
    fn flags_name_rail_and_time() {
        let read = |text| parse_at("--kill-rail", text, Fault::Hole, 4);
        assert_eq!(read("2@4s").unwrap(), at(4_000_000, Fault::Hole, 2));
        assert_eq!(read("r2@500ms").unwrap(), at(500_000, Fault::Hole, 2));
        for text in ["2", "4@1s", "2@", "@2s", "-1@2s"] {
            let fail = read(text).unwrap_err();
            assert!(fail.cause.contains("--kill-rail") && fail.cure.contains("1@2s"), "{fail}");
        }
    }

    #[test]
    fn the_model_knows_what_is_left() {
        let mut weather = Weather::clear(&[100, 200, 400]);
        let mut after = |text: &str| {
            parse(text, 3).unwrap().iter().for_each(|entry| weather.apply(entry));
            units::round(weather.live_bps())
        };
        assert_eq!(after(""), 700);
        assert_eq!(after("1s slow r2 0.1"), 340);
        assert_eq!(after("1s hole r2"), 300);
        assert_eq!(after("1s rst r1"), 300);
        assert_eq!(after("1s drain r1"), 100);
        assert_eq!(after("1s heal r1"), 100);
        assert_eq!(after("1s heal r2"), 500);
        assert_eq!(after("1s undrain r1"), 700);
        assert_eq!(after("1s down r0"), 600);
        assert_eq!(weather.link(0).unwrap().describe(), "down");
        assert_eq!(Link { factor: 0.1, ..Link::new(400_000_000) }.describe(), "x0.1 40M");
    }
}
