//! The command line: flags and their help. tebench's flags keep their names, with dashes or underscores.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tent::sim::{SCENARIOS, Sabotage};

use super::fail::{Fail, Result};
use super::host;
use super::node::P2P;
use super::proto::{Memory, NodeSpec, Wait};
use super::rails::args::RailsArgs;
use super::units;

/// Moves bytes between processes over every rail there is, and measures how well.
///
/// Drives any library with the Mooncake Transfer Engine C API (libtransfer_engine.so).
/// Exit codes: 0 all right, 1 a transfer failed or bytes are wrong, 2 wrong arguments,
/// 3 nothing could be set up, 4 a target was missed under --strict.
#[derive(Debug, Parser)]
#[command(name = "tent", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Move bytes between two processes of this machine, check every one, and show the rails
    Demo(DemoArgs),
    /// Offer a buffer to `tent bench` on other machines
    Target(TargetArgs),
    /// Measure; flags and table as in Mooncake's tebench. Alone it starts its own target
    Bench(Box<BenchArgs>),
    /// Measure against the bounds of this machine (the same as `bench --against limits`)
    Limits(LimitsArgs),
    /// Run the engine in a simulated network under a simulated clock, by seed
    Sim(SimArgs),
    /// Show every setting in force, and where it comes from: the environment, MC_TENT_CONF, the default
    Config(ConfigArgs),
    /// Serve metadata over HTTP, for engines made with http://HOST:PORT/metadata
    Metad(MetadArgs),
    /// The second process that the other commands start
    #[command(hide = true)]
    Worker(LibArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct LibArgs {
    /// The engine library [default: $TENT_LIB, beside this program, ../lib, deps/, the loader's path]
    #[arg(long, value_name = "PATH")]
    pub(crate) lib: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct TransportArgs {
    #[command(flatten)]
    pub(crate) lib: LibArgs,
    /// Transports the engine may use: auto, or some of local,shm,cma,tcp
    #[arg(long, visible_alias = "xport-type", default_value = "auto", value_parser = transports)]
    pub(crate) transport: String,
    /// Memory to register: any, or allocated by the engine (needed for shm)
    #[arg(long, value_enum)]
    buffer: Option<Memory>,
}

impl TransportArgs {
    /// None leaves the choice to the engine.
    pub(crate) fn transports(&self) -> Option<&str> {
        (self.transport != AUTO).then_some(self.transport.as_str())
    }

    /// shm moves nothing but the engine's own memory, so asking for it alone asks for that too.
    pub(crate) fn memory(&self) -> Memory {
        let wanted = if self.transport == "shm" { Memory::Engine } else { Memory::Any };
        self.buffer.unwrap_or(wanted)
    }
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    pub(crate) transport: TransportArgs,
    /// Bytes each way; two buffers of this size are used
    #[arg(long, default_value = "1GiB", value_parser = positive_size)]
    pub(crate) size: u64,
    /// Bytes per request [default: 64MiB, with --rails 8MiB]
    #[arg(long, value_parser = positive_size)]
    pub(crate) block: Option<u64>,
    /// Requests in flight
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub(crate) in_flight: u64,
    #[command(flatten)]
    pub(crate) rails: RailsArgs,
    /// A rail falls to a tenth of its rate: `1@2s`
    #[arg(long, requires = "rails", value_name = "RAIL@TIME")]
    pub(crate) slow_rail: Vec<String>,
    /// A rail dies silently (`hole` in --fault)
    #[arg(long, requires = "rails", value_name = "RAIL@TIME")]
    pub(crate) kill_rail: Vec<String>,
    /// A rail is as it was at the start
    #[arg(long, requires = "rails", value_name = "RAIL@TIME")]
    pub(crate) heal: Vec<String>,
    /// Length of the run [default: 8s, or 2s after the last fault]
    #[arg(long, requires = "rails", value_parser = seconds)]
    pub(crate) duration: Option<f64>,
}

/// What describes one end, as in tebench.
#[derive(Debug, Clone, Args)]
pub(crate) struct EndArgs {
    #[command(flatten)]
    pub(crate) transport: TransportArgs,
    /// This end's name or address [default: the address of this machine]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) seg_name: String,
    /// Kind of memory; DRAM only
    #[arg(long, default_value = "DRAM", value_parser = ["DRAM", "dram"])]
    seg_type: String,
    /// Buffer of each end
    #[arg(long, default_value = "1GiB", value_parser = positive_size)]
    pub(crate) total_buffer_size: u64,
    /// Metadata service
    #[arg(long, value_enum, default_value_t = Metadata::P2p)]
    metadata_type: Metadata,
    /// Its addresses, comma separated
    #[arg(long, default_value = "", hide_default_value = true)]
    metadata_url_list: String,
    /// Port of the handshake; 0 lets the engine choose
    #[arg(long, default_value_t = 0)]
    rpc_server_port: u16,
    /// For scripts written for tebench; the library given is what is measured
    #[arg(long, default_value = "tent", value_parser = ["tent", "classic"])]
    pub(crate) backend: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Metadata {
    P2p,
    Etcd,
    Redis,
    Http,
}

impl EndArgs {
    /// `local` when both ends are processes of this machine.
    pub(crate) fn spec(&self, bytes: u64, local: bool) -> Result<NodeSpec> {
        let name = match self.seg_name.as_str() {
            "" if local => host::LOOPBACK.to_string(),
            "" => host::own_address(),
            name => name.to_string(),
        };
        let (metadata, port) = (self.metadata()?, self.rpc_server_port);
        Ok(NodeSpec { metadata, name, port, bytes, memory: self.transport.memory() })
    }

    pub(crate) fn is_p2p(&self) -> bool {
        self.metadata_type == Metadata::P2p
    }

    fn metadata(&self) -> Result<String> {
        let scheme = match self.metadata_type {
            Metadata::P2p => return Ok(P2P.to_string()),
            Metadata::Etcd => "etcd",
            Metadata::Redis => "redis",
            Metadata::Http => "http",
        };
        let list = &self.metadata_url_list;
        if list.is_empty() {
            let cause = format!("--metadata_type {scheme} needs an address");
            return Err(Fail::usage(cause, "add --metadata_url_list HOST:PORT"));
        }
        Ok(if list.contains("://") { list.clone() } else { format!("{scheme}://{list}") })
    }
}

#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    #[command(flatten)]
    pub(crate) end: EndArgs,
    /// Leave after so many seconds [default: stay until interrupted]
    #[arg(long)]
    pub(crate) duration: Option<f64>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) end: EndArgs,
    /// Segments of the targets, comma separated; thread i uses target i mod n
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) target_seg_name: String,
    /// Where the target's buffer is, for libraries that cannot tell (printed by `tent target`)
    #[arg(long, value_parser = address, value_name = "ADDRESS")]
    pub(crate) target_addr: Option<u64>,
    /// Start of the used part of the target's buffer
    #[arg(long, default_value = "0", value_parser = units::parse_size, requires = "target_seg_name")]
    pub(crate) target_offset: u64,
    /// Start the target on this machine; the default without --target_seg_name
    #[arg(long, conflicts_with = "target_seg_name")]
    pub(crate) local: bool,
    #[arg(long, value_enum, default_value_t = OpType::Read)]
    pub(crate) op_type: OpType,
    /// Check the moved bytes of every point with a position-dependent pattern
    #[arg(long, visible_alias = "check-consistency", num_args = 0..=1, require_equals = true,
          default_value_t = false, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) check: bool,
    /// [default: 4KiB; with --rails the size of all requests: 8MiB]
    #[arg(long, value_parser = positive_size)]
    pub(crate) start_block_size: Option<u64>,
    #[arg(long, default_value = "64MiB", value_parser = positive_size)]
    pub(crate) max_block_size: u64,
    #[arg(long, default_value_t = 1, value_parser = count())]
    pub(crate) start_batch_size: u64,
    #[arg(long, default_value_t = 1, value_parser = count())]
    pub(crate) max_batch_size: u64,
    #[arg(long, default_value_t = 1, value_parser = count())]
    pub(crate) start_num_threads: u64,
    #[arg(long, default_value_t = 1, value_parser = count())]
    pub(crate) max_num_threads: u64,
    /// Seconds per point [default: 5; with --rails at least 2 after the last fault]
    #[arg(long, value_parser = seconds)]
    pub(crate) duration: Option<f64>,
    /// Seconds of warm-up before each point
    #[arg(long, default_value_t = 1.0)]
    pub(crate) warmup: f64,
    /// Pause of each thread between two batches
    #[arg(long, default_value_t = 0)]
    pub(crate) request_interval_us: u64,
    /// How a caller waits for its batch
    #[arg(long, value_enum, default_value_t = Wait::Poll)]
    pub(crate) wait: Wait,
    /// So many different batches per thread are used in turn
    #[arg(long, default_value_t = 64, value_parser = count())]
    pub(crate) cycle: u64,
    /// Print JSON lines instead of the table
    #[arg(long)]
    pub(crate) json: bool,
    /// Measure against the bounds of this machine, interleaved, instead of the sweep
    #[arg(long, value_parser = ["limits"])]
    pub(crate) against: Option<String>,
    #[command(flatten)]
    pub(crate) limits: LimitsOnly,
    #[command(flatten)]
    pub(crate) rails: RailsArgs,
    /// Requests in flight
    #[arg(long, requires = "rails", default_value_t = 4,
          value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub(crate) in_flight: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum OpType {
    Read,
    Write,
    /// Every second batch is a WRITE
    Mix,
    /// WRITE a pattern that a later `read_verify` finds
    WriteSeed,
    /// READ and check the pattern of an earlier `write_seed`
    ReadVerify,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct LimitsOnly {
    /// Repetitions of each comparison with a bound
    #[arg(long, default_value_t = 7, value_parser = count())]
    pub(crate) reps: u64,
    /// Seconds per repetition
    #[arg(long, default_value_t = 0.5)]
    pub(crate) rep_secs: f64,
    /// Only these comparisons: cma,tcp,small-tcp,small-cma,shm,idle,start
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// End with exit code 4 when a target is missed
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LimitsArgs {
    #[command(flatten)]
    pub(crate) lib: LibArgs,
    #[command(flatten)]
    pub(crate) limits: LimitsOnly,
    /// Buffer of each process
    #[arg(long, default_value = "1GiB", value_parser = positive_size)]
    pub(crate) total_buffer_size: u64,
    /// Print JSON lines instead of the table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(flatten)]
    pub(crate) lib: LibArgs,
    /// Print the library's JSON instead of the table
    #[arg(long)]
    pub(crate) json: bool,
    /// Only what is not as it is by default
    #[arg(long)]
    pub(crate) changed: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MetadArgs {
    /// Port to listen on; 0 takes a free one, and says which
    #[arg(long, default_value_t = 8080)]
    pub(crate) port: u16,
    /// Address to listen on; whoever reaches it can change everything
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) host: String,
    /// Keep the entries in this file, over a restart
    #[arg(long, value_name = "FILE")]
    pub(crate) persist: Option<PathBuf>,
    /// Most bytes of keys and values; further ones are refused
    #[arg(long, default_value = "1GiB", value_parser = positive_size)]
    pub(crate) max_memory: u64,
}

#[derive(Debug, Args)]
pub(crate) struct SimArgs {
    /// Replay one seed; with --runs, the first of them
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Run so many seeds and print the line that replays each one that fails [default: 2000]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) runs: Option<u64>,
    #[arg(long, value_enum, default_value_t = SimMode::Safety)]
    pub(crate) mode: SimMode,
    /// Print what happened, line by line
    #[arg(long, requires = "seed", conflicts_with = "runs")]
    pub(crate) trace: bool,
    /// Break the simulated world on purpose, to see that the checks find it:
    /// no-fence, astray, empty, mute, twice, lazy
    #[arg(long, value_parser = sabotage, conflicts_with = "scenario")]
    pub(crate) sabotage: Option<Sabotage>,
    /// A scenario of size, as a table: each policy against the fluid bound, and times of requests
    #[arg(long, value_parser = SCENARIOS, conflicts_with_all = ["seed", "runs"])]
    pub(crate) scenario: Option<String>,
    /// Judge the models of a rail by a record of pieces (TENT_PIECE_LOG=FILE): how far each was from the
    /// time that a piece took
    #[arg(long, conflicts_with_all = ["seed", "runs", "scenario", "sabotage"])]
    pub(crate) replay: Option<PathBuf>,
    /// Only this policy: pull, predict2, predict3, round_robin, static
    #[arg(long, requires = "scenario")]
    pub(crate) policy: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SimMode {
    /// Faults come and go: nothing may be wrong or late, nothing may fail that has a path
    Safety,
    /// The weather stops and leaves one path: everything must end well within a bound
    Liveness,
}

/// Writes flags the way clap knows them: `--seg_name`, `-seg_name` (as gflags allows) and `--seg-name` are
/// the same flag. Values are left alone.
pub(crate) fn normalise(arg: &str) -> String {
    let Some(rest) = arg.strip_prefix("--").or_else(|| long_behind_one_dash(arg)) else {
        return arg.to_string();
    };
    let (name, value) = rest.split_once('=').map_or((rest, None), |(n, v)| (n, Some(v)));
    let name = name.replace('_', "-");
    value.map_or_else(|| format!("--{name}"), |v| format!("--{name}={v}"))
}

fn long_behind_one_dash(arg: &str) -> Option<&str> {
    let rest = arg.strip_prefix('-')?;
    let is_name = rest.len() > 1 && rest.starts_with(|c: char| c.is_ascii_alphabetic());
    is_name.then_some(rest)
}

fn transports(text: &str) -> std::result::Result<String, String> {
    let text = text.to_ascii_lowercase();
    let known = |t: &str| ["local", "shm", "cma", "tcp"].contains(&t);
    if text == AUTO || (!text.is_empty() && text.split(',').all(known)) {
        Ok(text)
    } else {
        Err("use auto, or some of local,shm,cma,tcp".into())
    }
}

fn positive_size(text: &str) -> std::result::Result<u64, String> {
    match units::parse_size(text)? {
        0 => Err("must not be zero".into()),
        size => Ok(size),
    }
}

/// `5`, `0.5`, `8s`, `800ms`.
fn seconds(text: &str) -> std::result::Result<f64, String> {
    let plain = text.parse::<f64>().ok().filter(|s| s.is_finite() && *s >= 0.0);
    plain.map_or_else(|| units::parse_time_us(text).map(|us| units::as_f64(us) / 1e6), Ok)
}

fn address(text: &str) -> std::result::Result<u64, String> {
    let digits = text.trim_start_matches("0x");
    u64::from_str_radix(digits, 16).map_err(|_| format!("`{text}` is no hexadecimal address"))
}

fn sabotage(text: &str) -> std::result::Result<Sabotage, String> {
    let known = Sabotage::ALL.iter().find(|(name, _)| *name == text);
    known.map(|(_, how)| *how).ok_or_else(|| "none of the names in the help".into())
}

fn count() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=1 << 20)
}

const AUTO: &str = "auto";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(args: &str) -> BenchArgs {
        let args = args.split(' ').map(normalise);
        match Cli::try_parse_from(args).unwrap().command {
            Command::Bench(bench) => *bench,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn tebench_flags_are_accepted_in_all_their_forms() {
        let a = parse(
            "tent bench --seg_type=DRAM --op_type write_seed -start_block_size=65536 \
             --max-block-size 1MiB --check_consistency --total_buffer_size=256m --xport_type=tcp \
             --backend=classic --metadata_type=p2p --duration 1 --rpc_server_port=0",
        );
        assert_eq!(a.op_type, OpType::WriteSeed);
        assert_eq!((a.start_block_size, a.max_block_size), (Some(65_536), 1 << 20));
        assert_eq!(a.duration, Some(1.0));
        assert!(a.check);
        assert_eq!(a.end.transport.transports(), Some("tcp"));
        assert_eq!(a.end.total_buffer_size, 256 << 20);
    }

    #[test]
    fn check_takes_a_value_as_gflags_do() {
        assert!(!parse("tent bench --check_consistency=false").check);
        assert!(parse("tent bench --check").check);
        assert!(!parse("tent bench").check);
    }

    #[test]
    fn weather_needs_rails() {
        let refused = |args: &str| Cli::try_parse_from(args.split(' ').map(normalise)).is_err();
        assert!(refused("tent demo --kill-rail 1@2s"));
        assert!(refused("tent bench --fault x"));
        assert!(refused("tent demo --rails 17") && refused("tent demo --rails 0"));
        let a = parse("tent bench --rails 4 --rail_rates 100M,200M,400M,800M --duration 800ms");
        assert_eq!(a.rails.rates_bps().unwrap(), [100, 200, 400, 800].map(|m| m * 1_000_000));
        assert!((a.duration.unwrap() - 0.8).abs() < 1e-9);
        assert_eq!(
            parse("tent bench --rails 3 --rail-rates 1G").rails.rates_bps().unwrap().len(),
            3
        );
        let fail = parse("tent bench --rails 3 --rail-rates 1G,2G").rails.rates_bps().unwrap_err();
        assert!(fail.cause.contains("2 rates for 3 rails"), "{fail}");
    }

    #[test]
    fn shm_needs_the_engines_memory() {
        assert_eq!(parse("tent bench --transport shm").end.transport.memory(), Memory::Engine);
        assert_eq!(parse("tent bench").end.transport.memory(), Memory::Any);
    }

    #[test]
    fn normalising_leaves_values_alone() {
        for (arg, want) in [
            ("--a_b=c_d", "--a-b=c_d"),
            ("-h", "-h"),
            ("-1", "-1"),
            ("c_d", "c_d"),
            ("-seg_name=x_y", "--seg-name=x_y"),
            ("--", "--"),
        ] {
            assert_eq!(normalise(arg), want);
        }
    }

    #[test]
    fn wrong_transports_are_refused() {
        assert!(transports("tcp,cma").is_ok() && transports("AUTO").is_ok());
        assert!(transports("rdma").is_err() && transports("").is_err());
    }
}
