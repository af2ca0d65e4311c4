//! The flags of runs with weather, which `tent demo` and `tent bench` share.

use std::path::PathBuf;

use clap::Args;

use super::script::{self, Entry};
use super::stage;
use crate::fail::{Fail, Result};
use crate::units;

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Rails with weather")]
pub(crate) struct RailsArgs {
    /// Run over so many rails of loopback, each shaped to a rate by a relay; needs no root
    ///
    /// Both ends are processes of this machine and use TCP; each request has a pattern of its own, and
    /// every byte is checked. Reached rates, times after each fault and the longest stall come at the end.
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..=stage::MAX_RAILS as u64))]
    pub(crate) rails: Option<u64>,
    /// Bits per second of each rail, or one rate for all [default: 400M]
    #[arg(long, value_delimiter = ',', value_parser = units::parse_rate, requires = "rails",
          value_name = "RATES")]
    rail_rates: Vec<u64>,
    /// What happens when, from the start of the run: `2s hole r2; 4s heal r2; 5s slow r1 0.1`
    ///
    /// Rails are r0, r1 and so on; times are 2s, 2.5s or 800ms. hole: the link swallows everything silently; slow F: its rate times F; rst: its connections are
    /// reset, once; down: reset, and new ones refused; heal: as it was at the start; drain, undrain: the
    /// engine is told not to use the rail, or to use it again.
    #[arg(long, requires = "rails", value_name = "SCRIPT")]
    fault: Option<String>,
    /// Write what landed in each millisecond, in all and by rail: CSV, or JSON for names in .json
    #[arg(long, requires = "rails", value_name = "FILE")]
    pub(crate) series: Option<PathBuf>,
    /// Draw the throughput of every rail over time
    #[arg(long, requires = "rails", value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

impl RailsArgs {
    /// A rate for each rail.
    pub(crate) fn rates_bps(&self) -> Result<Vec<u64>> {
        let rails = usize::try_from(self.rails.unwrap_or(0)).unwrap_or(0);
        match self.rail_rates.as_slice() {
            [] => Ok(vec![RATE; rails]),
            [one] => Ok(vec![*one; rails]),
            all if all.len() == rails => Ok(all.to_vec()),
            all => {
                let cause = format!("--rail-rates: {} rates for {rails} rails", all.len());
                Err(Fail::usage(cause, "give one for each rail, or one for all"))
            }
        }
    }

    /// The script, without what other flags add to it.
    pub(crate) fn script(&self, rails: usize) -> Result<Vec<Entry>> {
        script::parse(self.fault.as_deref().unwrap_or(""), rails)
    }
}

const RATE: u64 = 400_000_000;
