//! What a run with weather needs: relays, a target behind them and an engine before them, each end knowing
//! the other by addresses of loopback. It ends its processes when it is dropped.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::path::Path;

use super::rail::{self, Rail};
use super::relay::{Carried, LinkSpec};
use crate::capi::{Library, Op};
use crate::clock;
use crate::fail::{Fail, Result};
use crate::host;
use crate::node::{Node, P2P, Remote};
use crate::os;
use crate::peer::Peer;
use crate::proto::{Command, Memory, NodeInfo, NodeSpec, Range};

/// What is wanted.
#[derive(Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) lib: Option<&'a Path>,
    /// One link for each rate.
    pub(crate) rates_bps: &'a [u64],
    /// Buffer of each end.
    pub(crate) bytes: u64,
    pub(crate) events: bool,
    pub(crate) drain: bool,
}

/// The engine goes first on drop, then the processes it talks to.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) node: Node,
    pub(crate) remote: Remote,
    pub(crate) target: Peer,
    pub(crate) relays: Peer,
    pub(crate) rates_bps: Vec<u64>,
    pub(crate) library: &'static Library,
}

impl Stage {
    /// To be called by the first thread before it makes any other: the engine reads the environment.
    pub(crate) fn start(wish: &Wish<'_>) -> Result<Self> {
        let count = wish.rates_bps.len();
        // Whatever the user's shell says of these is about other engines.
        [VIA, DATA_PORT].into_iter().for_each(os::remove_variable);
        let port = free_port()?;
        let mut relays = Peer::spawn(None, None)?;
        let link = |(at, rate_bps)| LinkSpec { to: SocketAddrV4::new(address(at), port), rate_bps };
        let links = wish.rates_bps.iter().copied().enumerate().map(link).collect();
        let ports: Vec<u16> = relays.ask(&Command::RelayStart { links })?;

        let list = (0..count).map(|at| address(at).to_string()).collect::<Vec<_>>().join(",");
        let both = [(os::TRANSPORTS, "tcp".to_string()), (RAILS, list)];
        let target_only = [(DATA_PORT, port.to_string())];
        let mut target = Peer::spawn_with(wish.lib, &[&both[..], &target_only[..]].concat())?;
        let spec = NodeSpec {
            metadata: P2P.into(),
            name: host::LOOPBACK.into(),
            port: 0,
            bytes: wish.bytes,
            memory: Memory::Any,
        };
        target.send(&Command::Node { spec: spec.clone() })?;

        both.iter().for_each(|(name, value)| os::set_variable(name, value));
        os::set_variable(VIA, &via(&ports));
        let library = Library::load(wish.lib)?;
        library.need_rails(wish.events, wish.drain)?;
        let node = Node::start(library, &spec)?;
        let theirs: NodeInfo = target.answer()?;
        let remote = node.open(&theirs.segment, Some((theirs.address, theirs.len)))?;
        let rates_bps = wish.rates_bps.to_vec();
        let mut stage = Self { node, remote, target, relays, rates_bps, library };
        stage.warm_up()?;
        Ok(stage)
    }

    /// The rails of the library by our numbers; what it does not have (yet) is empty.
    pub(crate) fn rails(&self) -> Vec<Rail> {
        in_order(self.node.engine().rails().unwrap_or_default(), self.rates_bps.len())
    }

    pub(crate) fn carried(&mut self) -> Result<Vec<Carried>> {
        self.relays.ask(&Command::RelayCarried)
    }

    /// Moves a little until every rail is up: how long connections take is not what is measured. Ends
    /// with an error when the bytes do not come through the relays.
    fn warm_up(&mut self) -> Result<()> {
        let begin = clock::now();
        let range = Range { offset: 0, len: WARM_UP.min(self.node.info.len) };
        loop {
            self.node.move_all(&self.remote, Op::Write, &[range])?;
            let rails = self.rails();
            if rails.iter().all(|rail| rail.up && rail.bytes() > 0) {
                break;
            }
            if clock::s_since(begin) > WARM_UP_S {
                self.check_path()?;
                let missing =
                    (0..rails.len()).filter(|at| !rails[*at].up || rails[*at].bytes() == 0);
                let missing = missing.map(|at| format!("r{at}")).collect::<Vec<_>>().join(", ");
                let cause = format!("after {WARM_UP_S} s not every rail carries bytes: {missing}");
                return Err(Fail::setup(cause, "see the library's log (TENT_LOG=info)"));
            }
        }
        self.check_path()
    }

    fn check_path(&mut self) -> Result<()> {
        if self.carried()?.iter().any(|link| link.bytes[0] > 0) {
            return Ok(());
        }
        let cause = format!("{} goes past the relays", self.library.path);
        Err(Fail::setup(
            cause,
            format!("it must know {VIA} and {DATA_PORT}: give --lib a newer one"),
        ))
    }
}

/// The address that names a rail at both ends.
pub(crate) fn address(rail: usize) -> Ipv4Addr {
    let last = u8::try_from(rail).unwrap_or(u8::MAX).saturating_add(FIRST);
    Ipv4Addr::new(127, 0, 0, last)
}

/// The number of a rail from its name.
pub(crate) fn number_of(name: &str, count: usize) -> Option<usize> {
    (0..count).find(|at| rail::is_of(name, address(*at)))
}

pub(crate) fn in_order(told: Vec<Rail>, count: usize) -> Vec<Rail> {
    let mut rails = vec![Rail::default(); count];
    for one in told {
        // A life of the rail that is over may still be told; the last one counts.
        if let Some(at) = number_of(&one.rail, count) {
            rails[at] = one;
        }
    }
    rails
}

fn via(ports: &[u16]) -> String {
    let one = |(at, port): (usize, &u16)| format!("{}={}:{port}", address(at), Ipv4Addr::LOCALHOST);
    ports.iter().enumerate().map(one).collect::<Vec<_>>().join(",")
}

/// One that nobody listens on, outside of what the kernel gives to connections and what engines choose.
fn free_port() -> Result<u16> {
    let first = u16::try_from(std::process::id() % u32::from(PORTS)).unwrap_or(0);
    let ports = (0..PORTS).map(|n| PORT_MIN + (first + n) % PORTS);
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok();
    ports.into_iter().find(is_free).ok_or_else(|| {
        let cause = format!("no port from {PORT_MIN} to {} is free", PORT_MIN + PORTS - 1);
        Fail::setup(cause, "end some of the programs that listen there")
    })
}

/// Most rails: each has an address of loopback.
pub(crate) const MAX_RAILS: usize = 16;
const FIRST: u8 = 11;
const RAILS: &str = "TENT_RAIL_ADDRS";
const VIA: &str = "TENT_RAIL_VIA";
const DATA_PORT: &str = "TENT_DATA_PORT";
const PORT_MIN: u16 = 20_000;
const PORTS: u16 = 10_000;
const WARM_UP: u64 = 1 << 20;
const WARM_UP_S: f64 = 10.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rails_are_found_by_their_addresses() {
        let told = |at: usize, bytes| Rail {
            rail: format!("tcp {} -> {}", address(at), address(at)),
            write_bytes: bytes,
            ..Rail::default()
        };
        let stranger = Rail { rail: "cma lane 0".into(), ..Rail::default() };
        let rails = in_order(vec![told(2, 5), stranger, told(0, 1), told(2, 7)], 3);
        let bytes: Vec<_> = rails.iter().map(Rail::bytes).collect();
        assert_eq!(bytes, [1, 0, 7]);
        assert_eq!(number_of(&told(15, 0).rail, MAX_RAILS), Some(15));
        assert_eq!(number_of(&told(3, 0).rail, 3), None);
    }

    #[test]
    fn the_way_round_is_written_as_the_library_reads_it() {
        assert_eq!(via(&[40_001, 7]), "127.0.0.11=127.0.0.1:40001,127.0.0.12=127.0.0.1:7");
    }

    #[test]
    fn a_free_port_is_free() {
        let port = free_port().unwrap();
        let _taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
        assert_ne!(free_port().unwrap(), port);
    }
}
