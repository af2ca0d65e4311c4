//! The life of a rail as a table of legal moves (D4), and the times that go with it: how long a silence
//! makes a rail suspect, when a lost one is asked again, how slowly it comes back.

use crate::time::Instant;
use std::time::Duration;

/// Where a rail is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Never up yet, or out of its pause: a connect is under way or about to be.
    Probing = 0,
    /// Carries work; its window grows from little.
    SlowStart = 1,
    /// Carries work.
    Up = 2,
    /// Silent for too long: gets nothing new, and what it holds is given to others too.
    Suspect = 3,
    /// Given up: its connections are being fenced, or it waits to be asked again.
    Down = 4,
    /// Taken out by hand: gets nothing new, ends what it holds, is not asked again.
    Drained = 5,
}

impl State {
    /// All states, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Probing, Self::SlowStart, Self::Up, Self::Suspect, Self::Down, Self::Drained];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        ["probing", "slow_start", "up", "suspect", "down", "drained"][self as usize]
    }

    /// The state of that number.
    pub fn of(number: u8) -> Self {
        Self::ALL[usize::from(number).min(Self::ALL.len() - 1)]
    }

    /// Whether new pieces may be posted (I4).
    pub fn is_open(self) -> bool {
        matches!(self, Self::SlowStart | Self::Up)
    }
}

/// What moves a rail from one state to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cue {
    /// The connect was answered.
    Answered,
    /// A window's worth came back clean.
    Proven,
    /// Nothing was acknowledged for too long.
    Silent,
    /// Something was acknowledged after all.
    Heard,
    /// An error of the socket, or the link went down: certain, at once.
    Broken,
    /// A pause is over, or the link is back: ask again.
    Retry,
    /// By hand.
    Drain,
    /// By hand, back.
    Undrain,
}

impl Cue {
    /// All cues.
    pub const ALL: [Self; 8] = [
        Self::Answered,
        Self::Proven,
        Self::Silent,
        Self::Heard,
        Self::Broken,
        Self::Retry,
        Self::Drain,
        Self::Undrain,
    ];
}

/// The table of moves; `None`: the cue means nothing there.
pub fn next(state: State, cue: Cue) -> Option<State> {
    use State::{Down, Drained, Probing, SlowStart, Suspect, Up};
    match (state, cue) {
        (Probing, Cue::Answered) => Some(SlowStart),
        (SlowStart, Cue::Proven) => Some(Up),
        (SlowStart | Up, Cue::Silent) => Some(Suspect),
        // it was late, not lost; slowly, for it may be late again
        (Suspect, Cue::Heard) => Some(SlowStart),
        // still silent, or an error: now it is given up and fenced
        (Suspect, Cue::Silent) | (Probing | SlowStart | Up | Suspect, Cue::Broken) => Some(Down),
        (Down, Cue::Retry) => Some(Probing),
        (Probing | SlowStart | Up | Suspect | Down, Cue::Drain) => Some(Drained),
        (Drained, Cue::Undrain) => Some(Down),
        _ => None,
    }
}

/// A rail's state with its times.
#[derive(Debug, Clone)]
pub struct Health {
    state: State,
    /// Longest time without an acknowledgement that ended well, in nanoseconds; forgotten slowly.
    gap: u64,
    /// When the rail last gave a sign of life, or got work after having had none.
    heard: Instant,
    suspect_since: Instant,
    /// When it was lost, or last asked in vain.
    down_since: Instant,
    /// Times in a row that asking failed.
    asked: u32,
    /// Grows with each loss, shrinks with time: one that flaps waits longer.
    penalty: u32,
    forgiven: Instant,
}

impl Health {
    /// A rail that has never been up.
    pub fn new(now: Instant) -> Self {
        Self {
            state: State::Probing,
            gap: 0,
            heard: now,
            suspect_since: now,
            down_since: now,
            asked: 0,
            penalty: 0,
            forgiven: now,
        }
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Moves by the table; the new state if it moved.
    pub fn on(&mut self, cue: Cue, now: Instant) -> Option<State> {
        let to = next(self.state, cue)?;
        match (cue, to) {
            (Cue::Answered, _) => {
                (self.asked, self.heard) = (0, now);
            }
            (_, State::Suspect) => self.suspect_since = now,
            (Cue::Undrain, _) => (self.asked, self.down_since) = (0, now),
            (_, State::Down) => {
                // a failed question is not one more loss
                if self.state == State::Probing {
                    self.asked = self.asked.saturating_add(1);
                } else {
                    self.asked = 0;
                    self.forgive(now);
                    self.penalty = (self.penalty + 1).min(PENALTY_MAX);
                }
                self.down_since = now;
            }
            _ => {}
        }
        self.state = to;
        Some(to)
    }

    /// Something was acknowledged.
    pub fn heard(&mut self, now: Instant) {
        let gap = now.0.saturating_sub(self.heard.0);
        // an eighth of a percent per acknowledgement: a bad moment is forgotten within seconds of work
        self.gap = gap.min(GAP_MAX).max(self.gap - self.gap / 800);
        self.heard = now;
    }

    /// The rail has work again after having had none, or this process did not run: silence counts from now.
    pub fn restart_silence(&mut self, now: Instant) {
        self.heard = self.heard.max(now);
    }

    /// When it was last heard.
    pub fn last_heard(&self) -> Instant {
        self.heard
    }

    /// How long a silence makes it suspect: three times the longest natural gap, at least 10 ms (D4).
    pub fn patience(&self) -> Duration {
        Duration::from_nanos((3 * self.gap).clamp(SILENCE_MIN, SILENCE_MAX))
    }

    /// Whether it is due to be [`Cue::Silent`], when the peer was last heard over any rail at
    /// `peer_heard`. A peer that is silent altogether is more likely not running than cut off from
    /// everywhere: then the patience is [`ALL_SILENT`].
    pub fn is_silent(&self, peer_heard: Instant, now: Instant) -> bool {
        now >= self.silent_at(peer_heard)
    }

    /// When [`Health::is_silent`] will be true if nothing is heard until then; a peer heard later over
    /// another rail makes it sooner.
    pub fn silent_at(&self, peer_heard: Instant) -> Instant {
        let since = if self.state == State::Suspect { self.suspect_since } else { self.heard };
        let patience = self.patience();
        let alone = since.after(patience.max(ALL_SILENT));
        if peer_heard >= since.after(patience / 2) { since.after(patience) } else { alone }
    }

    /// When a rail that is down is asked again: at once at first, for a connection may break over a sound
    /// link, then soon, backing off to a second; one that flaps later.
    pub fn retry_at(&self) -> Instant {
        let pause = match self.asked {
            0 => PROBE_NOW,
            few @ 1..PROBES_SOON => PROBE_FIRST * (1 << few),
            PROBES_SOON..PROBES_OFTEN => PROBE_FIRST * (1 << PROBES_SOON),
            many => PROBE_FIRST * (1 << PROBES_SOON) * (many - PROBES_OFTEN + 1).min(64),
        };
        let penalty = PENALTY * self.penalty.saturating_sub(PENALTY_FREE);
        self.down_since.after(pause.min(PROBE_LAST) + penalty)
    }

    /// How long an answer is waited for, for a rail whose round trip is `rtt`: a lost question is repeated
    /// soon, and a far or busy peer gets more time with each one.
    pub fn answer_within(&self, rtt: Duration, at_most: Duration) -> Duration {
        let first = if self.penalty > 0 || self.asked > 0 { ANSWER_AGAIN } else { ANSWER_FIRST };
        (first.max(rtt * 4) * (1 << (self.asked / 8).min(6))).min(at_most)
    }

    /// There is news that it may be back: the next question is due.
    pub fn hasten(&mut self, now: Instant) {
        if self.state == State::Down {
            self.asked = 0;
            self.penalty = 0;
            self.down_since = Instant(now.0.saturating_sub(2 * nanos_of(PROBE_LAST)));
        }
    }

    /// Questions in a row that were not answered.
    pub fn asked(&self) -> u32 {
        self.asked
    }

    fn forgive(&mut self, now: Instant) {
        let periods = now.since(self.forgiven).as_nanos() / FORGIVE.as_nanos();
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        if periods > 0 {
            self.penalty = self.penalty.saturating_sub(periods);
            self.forgiven = now;
        }
    }
}

fn nanos_of(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Shortest silence that makes a rail suspect (D4).
const SILENCE_MIN: u64 = 10_000_000;
/// However long the gaps were, a silence of half a second is one.
const SILENCE_MAX: u64 = 500_000_000;
/// Longer gaps say nothing of the rail's nature.
const GAP_MAX: u64 = SILENCE_MAX / 3;
/// Silence of all rails of a peer that makes one suspect: the process is stopped, or the machine busy.
const ALL_SILENT: Duration = Duration::from_millis(500);
/// Pause before a lost rail is asked again, and after the first question that was not answered half of the next.
const PROBE_NOW: Duration = Duration::from_millis(1);
/// See [`PROBE_NOW`].
const PROBE_FIRST: Duration = Duration::from_millis(5);
/// The pause doubles so often.
const PROBES_SOON: u32 = 3;
/// So many questions, some seconds, are asked at that pace; then the pause grows.
const PROBES_OFTEN: u32 = 100;
/// Longest pause.
const PROBE_LAST: Duration = Duration::from_secs(1);
/// What each loss adds to the pause, and how many count.
const PENALTY: Duration = Duration::from_millis(5);
const PENALTY_MAX: u32 = 10;
/// So many losses may be chance.
const PENALTY_FREE: u32 = 2;
/// Time after which a loss is forgotten.
const FORGIVE: Duration = Duration::from_secs(5);
/// How long the first answer of a rail is waited for; the kernel repeats a lost SYN after a second.
const ANSWER_FIRST: Duration = Duration::from_millis(1500);
/// The same for a rail that was up before.
const ANSWER_AGAIN: Duration = Duration::from_millis(40);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Instant {
        Instant(1_000_000_000 + ms * 1_000_000)
    }

    fn up(now: Instant) -> Health {
        let mut health = Health::new(now);
        assert_eq!(health.on(Cue::Answered, now), Some(State::SlowStart));
        assert_eq!(health.on(Cue::Proven, now), Some(State::Up));
        health
    }

    #[test]
    fn the_way_round_the_table() {
        let mut health = up(at(0));
        assert_eq!(health.on(Cue::Silent, at(10)), Some(State::Suspect));
        assert_eq!(health.on(Cue::Silent, at(20)), Some(State::Down));
        assert_eq!(
            health.on(Cue::Heard, at(20)),
            None,
            "what is fenced does not come back by itself"
        );
        assert_eq!(health.on(Cue::Retry, at(25)), Some(State::Probing));
        assert_eq!(health.on(Cue::Broken, at(30)), Some(State::Down));
        assert_eq!(health.on(Cue::Retry, at(40)), Some(State::Probing));
        assert_eq!(health.on(Cue::Answered, at(41)), Some(State::SlowStart));
        assert_eq!(health.on(Cue::Drain, at(42)), Some(State::Drained));
        assert_eq!(health.on(Cue::Answered, at(43)), None);
        assert_eq!(health.on(Cue::Undrain, at(44)), Some(State::Down));
    }

    #[test]
    fn a_rail_that_is_silent_beside_others_is_suspect_within_10_ms() {
        let mut health = up(at(0));
        health.heard(at(1));
        assert!(!health.is_silent(at(10), at(10)));
        assert!(health.is_silent(at(11), at(11)));
        // when the whole peer is silent it is more likely not running
        assert!(!health.is_silent(at(1), at(400)));
        assert!(health.is_silent(at(1), at(501)));
    }

    #[test]
    fn a_rail_that_pauses_by_nature_is_given_three_times_that() {
        let mut health = up(at(0));
        health.heard(at(20));
        assert_eq!(health.patience(), Duration::from_millis(60));
        for ms in 21..10_000 {
            health.heard(at(ms));
        }
        assert_eq!(health.patience(), Duration::from_millis(10), "and that is forgotten");
    }

    #[test]
    fn questions_come_soon_and_then_seldom_and_later_for_one_that_flaps() {
        let mut health = up(at(0));
        health.on(Cue::Broken, at(0));
        let first = health.retry_at();
        assert!(first <= at(15), "{first:?}");
        let mut now = at(0);
        let mut pauses = Vec::new();
        for _ in 0..1000 {
            let then = health.retry_at();
            assert_eq!(health.on(Cue::Retry, then), Some(State::Probing));
            health.on(Cue::Broken, then);
            pauses.push(then.since(now));
            now = then;
        }
        assert!(
            pauses[..100].iter().all(|p| *p <= Duration::from_millis(50)),
            "{:?}",
            &pauses[..20]
        );
        assert!(
            pauses[999] >= Duration::from_millis(900) && pauses[999] <= Duration::from_millis(1100)
        );
        let mut flapping = up(at(0));
        for n in 0..20 {
            flapping.on(Cue::Broken, at(n * 100));
            flapping.on(Cue::Retry, at(n * 100 + 1));
            flapping.on(Cue::Answered, at(n * 100 + 2));
        }
        flapping.on(Cue::Broken, at(2000));
        let pause = flapping.retry_at().since(at(2000));
        assert!(
            pause > Duration::from_millis(30) && pause < Duration::from_millis(60),
            "{pause:?}"
        );
    }

    proptest! {
        /// Only the table moves a rail, and from every state a healthy path leads back up.
        #[test]
        fn any_cues_keep_it_legal(cues in prop::collection::vec((0_usize..8, 0_u64..1000), 0..64)) {
            let mut health = Health::new(at(0));
            let mut now = 0;
            for (cue, ms) in cues {
                now += ms;
                let (before, cue) = (health.state(), Cue::ALL[cue]);
                prop_assert_eq!(health.on(cue, at(now)), next(before, cue));
                prop_assert!(health.retry_at() <= at(now).after(Duration::from_secs(2)));
                health.heard(at(now));
            }
            for cue in [Cue::Undrain, Cue::Broken, Cue::Retry, Cue::Answered, Cue::Proven] {
                health.on(cue, at(now));
            }
            prop_assert_eq!(health.state(), State::Up);
        }
    }
}
