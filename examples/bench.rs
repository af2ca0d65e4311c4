//! What the small parts cost: a decision of the scheduler, the copy beside `memmove`, and the registry with
//! 100,000 regions. Prints
//! figures and judges none; run it in release mode on a quiet machine. The whole engine is measured by
//! `tent bench`, against the machine's bounds by `tent limits`.
#![allow(unsafe_code, reason = "copies between buffers by address, as the transports do")]
#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::hint::black_box;
use std::ptr;
use std::time::Duration;
use tent::memory::{NewRegion, Regions};
use tent::sched::spray::{Limits, RailView, pick};
use tent::sys::{host, mem};
use tent::time::Instant;
use tent::{Incarnation, Op, Permission};

fn main() {
    decisions();
    copies();
    if let Err(e) = registry() {
        println!("the registry could not be measured: {e}");
    }
}

/// Nanoseconds per decision of the scheduler (M13): which rail claims next, and how much.
fn decisions() {
    const CALLS: u64 = 1_000_000;
    let limits =
        Limits { quantum: 3_000_000, shortest: 16 << 10, longest: 1 << 20, window: 16 << 20 };
    println!("{:>6} {:>18} {:>18}", "rails", "a pick, ns", "none has room, ns");
    for rails in [4_u64, 16] {
        let view = |i: u64| RailView {
            rate: 0.0125 * (1 + i % 4) as f64,
            rtt: 2e5,
            in_flight: 4096 * i,
            cap: u64::MAX,
            tier: 0,
            stale: false,
            shared: false,
            open: true,
            own: true,
        };
        let mut views: Vec<RailView> = (0..rails).map(view).collect();
        let mut took = [Duration::MAX; 2];
        for (round, best) in [0, 1].into_iter().cycle().take(20).zip([0, 1].into_iter().cycle()) {
            for view in &mut views {
                view.cap = if round == 0 { u64::MAX } else { 0 };
            }
            let start = Instant::now();
            for call in 0..CALLS {
                let at = usize::try_from(call % rails).unwrap_or(0);
                views[at].in_flight = (views[at].in_flight + 4096) & 0xffff;
                black_box(pick(black_box(&views), 1 << 26, 1 << 28, &limits));
            }
            took[best] = took[best].min(Instant::now().since(start));
        }
        let ns = |took: Duration| took.as_nanos() as f64 / CALLS as f64;
        println!("{rails:>6} {:>18.1} {:>18.1}", ns(took[0]), ns(took[1]));
    }
}

/// GB/s of plain copies between two DRAM-sized buffers, piece by piece, aligned and not.
fn copies() {
    const TOTAL: usize = 256 << 20;
    let (src, mut dst) = (vec![1_u8; TOTAL + 64], vec![2_u8; TOTAL + 64]);
    let from = src.as_ptr().expose_provenance();
    println!("{:>10} {:>6} {:>14} {:>14}", "piece", "skew", "memmove GB/s", "copy GB/s");
    for piece in [4_usize << 10, 64 << 10, 256 << 10, 512 << 10, 1 << 20] {
        for skew in [0, 3] {
            let to = dst.as_mut_ptr().expose_provenance() + skew;
            let mut best = [Duration::MAX; 2];
            for round in 0..10 {
                let start = Instant::now();
                for at in (0..TOTAL).step_by(piece) {
                    if round % 2 == 0 {
                        let to = ptr::with_exposed_provenance_mut::<u8>(to + at);
                        let from = ptr::with_exposed_provenance::<u8>(from + at);
                        // SAFETY: within the two vectors, which nobody else uses meanwhile.
                        unsafe { ptr::copy(from, to, piece) };
                    } else {
                        // SAFETY: as above.
                        unsafe { mem::copy(to + at, from + at, piece) };
                    }
                }
                best[round % 2] = best[round % 2].min(Instant::now().since(start));
            }
            let rate = |took: Duration| TOTAL as f64 / took.as_secs_f64() / 1e9;
            println!("{piece:>10} {skew:>6} {:>14.2} {:>14.2}", rate(best[0]), rate(best[1]));
        }
    }
}

/// Nanoseconds per call of the registry, empty and with 100,000 regions.
fn registry() -> tent::Result<()> {
    const MANY: usize = 100_000;
    let memory = vec![0_u8; MANY * 8192];
    let start = memory.as_ptr().expose_provenance();
    let id = host::random_u128().map_or(1, |n| n);
    let regions = Regions::new(Incarnation(id));
    let all = Permission::ReadWrite;
    timed("register and unregister 800 MB", 100, || {
        (0..100).try_for_each(|_| {
            regions.register(start, memory.len(), "*", all, None)?;
            regions.unregister(start, Duration::ZERO)
        })
    })?;
    let new: Vec<_> = (0..MANY)
        .map(|i| NewRegion {
            addr: start + i * 8192,
            len: 4096,
            location: "cpu:0",
            permission: all,
            shm: None,
        })
        .collect();
    timed("register one in a batch of 100,000", MANY, || regions.register_batch(&new))?;
    timed("pin and unpin one of 100,000", MANY, || {
        for region in &new {
            drop(regions.pin_remote(region.addr as u64, 4096, None, Op::Write));
        }
        Ok(())
    })?;
    timed("register one beside 100,000", 1, || {
        regions.register(start + 4096, 4096, "*", all, None)
    })?;
    timed("unregister one of 100,000", MANY, || {
        new.iter().try_for_each(|region| regions.unregister(region.addr, Duration::ZERO))
    })
}

fn timed(what: &str, times: usize, body: impl FnOnce() -> tent::Result<()>) -> tent::Result<()> {
    let start = Instant::now();
    body()?;
    println!("{what}: {} ns", Instant::now().since(start).as_nanos() / times as u128);
    Ok(())
}
