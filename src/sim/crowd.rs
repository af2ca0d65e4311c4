//! What no small machine can show: nodes with eight cards of 200 Gbit/s, and a thousand peers.

use super::plan::real;
use super::rng::Rng;
use super::scenario::{faults, percentiles};
use super::stage::{Ask, Ended, Stage, Ways, Wire};
use crate::config::{Config, Spray};
use crate::slice::{Class, Op};
use crate::time::Instant;
use std::time::Duration;

/// A decode node reads KV caches of 128 MiB from eight prefill nodes, while weights go out and come in, and
/// small messages pass. Arrivals are a matter of chance, at nine tenths of what the cards carry.
pub(super) fn kv(by: &[&(&str, Spray)], say: &mut dyn FnMut(&str)) {
    say(
        "8 nodes x 8 cards of 200 Gbit/s; READs of 128 MiB at 65 % of the cards, 1 GiB at 25 % each way, 16 KiB at 20,000/s; 200 ms",
    );
    say(
        "   policy        bound/time   KV p50    p90    p99 ms   bulk p50    p99 ms   16 KiB p50    p99 us",
    );
    for (policy, spray) in by {
        let card = Wire { rate: 25e9, latency: 2_500 };
        let mut wires = vec![card; NODE];
        let mut peers: Vec<Ways> = Vec::new();
        for _ in 0..NODES {
            let first = wires.len();
            wires.extend(vec![card; NODE]);
            peers.push((0..NODE).map(|at| vec![at, first + at]).collect());
        }
        let config = Config { spray: *spray, ..Config::default() };
        let mut stage = Stage::new(&wires, &peers, LANES, 1_000, &config);
        warm(&mut stage, NODES, 64 << 20);
        let load = arrivals();
        let (ended, time) = play(&mut stage, &load);
        let (read, written) = load.iter().fold((0, 0), |(read, written), (_, ask)| match ask.op {
            Op::Read => (read + ask.len, written),
            Op::Write => (read, written + ask.len),
        });
        // no sooner than the last request can be carried, and all of them
        let last = load.iter().map(|(at, ask)| at.as_secs_f64() + real(ask.len) / (25e9 * 8.0));
        let fluid = last.fold(real(read.max(written)) / (25e9 * 8.0), f64::max);
        let of = |tag| move |e: &Ended| e.ask.tag == tag;
        let [kv50, kv90, kv99] = percentiles(&ended, of(KV));
        let [bulk50, _, bulk99] = percentiles(&ended, of(BULK));
        let [small50, _, small99] = percentiles(&ended, of(SMALL)).map(|ms| ms * 1e3);
        say(&format!(
            "   {policy:<12}  {:.3}       {kv50:>7.2} {kv90:>6.2} {kv99:>6.2}     {bulk50:>7.2}   {bulk99:>7.2}      {small50:>7.1}   {small99:>7.1}{}",
            fluid / time.as_secs_f64(),
            faults(&ended, &stage),
        ));
    }
}

/// When which request comes.
fn arrivals() -> Vec<(Duration, Ask)> {
    let mut rng = Rng::new(8);
    let mut load = Vec::new();
    let kinds: [(usize, u64, u64, Class); 3] = [
        // tag, bytes, mean pause in ns, class
        (KV, 128 << 20, 1_032_000, Class::Bulk),
        (BULK, 1 << 30, 21_500_000 / 2, Class::Bulk),
        (SMALL, 16 << 10, 50_000, Class::Urgent),
    ];
    for (tag, len, pause, class) in kinds {
        let mut at = 0;
        loop {
            at += rng.below(2 * pause);
            if at >= SPAN {
                break;
            }
            let op = if tag == KV || rng.one_in(2) { Op::Read } else { Op::Write };
            let ask = Ask { peer: rng.index(NODES), op, class, len, tag };
            load.push((Duration::from_nanos(at), ask));
        }
    }
    load.sort_by_key(|(at, _)| *at);
    load
}

/// A thousand peers, each with one request at a time, over four cards of 100 Gbit/s that they share.
pub(super) fn thousand(by: &[&(&str, Spray)], say: &mut dyn FnMut(&str)) {
    say(
        "1,000 peers over 4 cards of 100 Gbit/s; 4,000 READs of 64 KiB to 4 MiB, one at a time for each peer",
    );
    say("   policy        bound/time   p50     p90     p99 ms   sent again MiB   hedged");
    for (policy, spray) in by {
        let mut wires = vec![Wire { rate: 12.5e9, latency: 2_500 }; CARDS];
        let mut peers: Vec<Ways> = Vec::new();
        for _ in 0..PEERS {
            let first = wires.len();
            wires.extend(vec![Wire { rate: 12.5e9, latency: 2_500 }; CARDS]);
            peers.push((0..CARDS).map(|at| vec![at, first + at]).collect());
        }
        let config = Config { spray: *spray, ..Config::default() };
        let mut stage = Stage::new(&wires, &peers, LANES, 20_000, &config);
        warm(&mut stage, PEERS, 1 << 20);
        let mut rng = Rng::new(1000);
        let mut left: Vec<u32> = vec![ROUNDS; PEERS];
        let begin = stage.now;
        let (mut ended, mut total): (Vec<Ended>, u64) = (Vec::new(), 0);
        let mut next = |peer: usize, stage: &mut Stage, left: &mut Vec<u32>| {
            if left[peer] > 0 {
                left[peer] -= 1;
                let len = rng.scale(64 << 10, 4 << 20);
                total += len;
                stage.ask(Ask { peer, op: Op::Read, class: Class::Bulk, len, tag: 0 });
            }
        };
        (0..PEERS).for_each(|peer| next(peer, &mut stage, &mut left));
        while stage.open() > 0 && stage.now < begin.after(LIMIT) {
            let news = stage.step(begin.after(LIMIT));
            news.iter().for_each(|e| next(e.ask.peer, &mut stage, &mut left));
            ended.extend(news);
        }
        let fluid = real(total) / (12.5e9 * real(CARDS as u64));
        let end = ended.iter().map(|e| e.at).max().unwrap_or(stage.now);
        let [p50, p90, p99] = percentiles(&ended, |_| true);
        let (again, hedged) = stage.again();
        say(&format!(
            "   {policy:<12}  {:.3}      {p50:>7.2} {p90:>7.2} {p99:>7.2}       {:>8.2}      {hedged:>6}{}",
            fluid / end.since(begin).as_secs_f64(),
            real(again) / real(1 << 20),
            faults(&ended, &stage),
        ));
    }
}

/// Rails come up and learn what they carry.
fn warm(stage: &mut Stage, peers: usize, len: u64) {
    for peer in 0..peers {
        for op in [Op::Read, Op::Write] {
            stage.ask(Ask { peer, op, class: Class::Bulk, len, tag: 0 });
        }
        if peer % 8 == 7 {
            stage.drain(LIMIT);
        }
    }
    stage.drain(LIMIT);
}

/// Submits what comes when it comes, until all has ended; what ended, and the time.
fn play(stage: &mut Stage, load: &[(Duration, Ask)]) -> (Vec<Ended>, Duration) {
    let begin = stage.now;
    let mut ended = Vec::new();
    for (at, ask) in load {
        while stage.now < begin.after(*at) {
            ended.extend(stage.step(begin.after(*at)));
        }
        stage.ask(*ask);
    }
    ended.extend(stage.drain(LIMIT));
    let end: Instant = ended.iter().map(|e| e.at).max().unwrap_or(begin);
    (ended, end.since(begin))
}

const NODES: usize = 8;
const NODE: usize = 8;
const KV: usize = 0;
const BULK: usize = 1;
const SMALL: usize = 2;
/// How long requests arrive, nanoseconds.
const SPAN: u64 = 200_000_000;
const PEERS: usize = 1000;
const CARDS: usize = 4;
/// Requests of each peer.
const ROUNDS: u32 = 4;
const LANES: usize = 4;
const LIMIT: Duration = Duration::from_secs(60);
