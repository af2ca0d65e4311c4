//! Which transports a request may take, by rules that the application gives as JSON, and what an intent
//! means. Functions of plain values; the engine asks them at submit.
//!
//! The JSON is TENT's `policy`: a list of objects, of which the first that matches a request counts. A rule
//! matches when all of its conditions hold: `segment_type` (`memory`; no request here is to a `file`),
//! `priority` (`high`, `medium`, `low` or a number), `intent_type`, `same_machine`, `local_memory` and
//! `remote_memory` (the beginning of a location, such as `cpu` or `cuda:0`), `min_size` and `max_size` (bytes,
//! both included). What it says then is `transports`: those that the request may take, the one to try first in
//! front. A request may name a rule by its `name`, and takes it whatever the conditions.

use crate::error::{Error, ErrorKind, Result};
use crate::slice::{Priority, TransportKind, TransportMask};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// What a transfer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Intent {
    /// Nothing is said of it.
    #[default]
    Unspecified = 0,
    /// Somebody waits for it now.
    ForegroundGet = 1,
    /// It may be wanted later.
    BackgroundPrefetch = 2,
    /// Data that moves to another place.
    Migration = 3,
    /// State that is put away.
    Checkpoint = 4,
    /// The weights of a model.
    WeightLoading = 5,
    /// One hop of a longer way.
    StagingInternal = 6,
}

impl Intent {
    /// All intents, by number.
    pub const ALL: [Self; 7] = [
        Self::Unspecified,
        Self::ForegroundGet,
        Self::BackgroundPrefetch,
        Self::Migration,
        Self::Checkpoint,
        Self::WeightLoading,
        Self::StagingInternal,
    ];

    /// The name that policies use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspec",
            Self::ForegroundGet => "foreground_get",
            Self::BackgroundPrefetch => "background_prefetch",
            Self::Migration => "migration",
            Self::Checkpoint => "checkpoint",
            Self::WeightLoading => "weight_loading",
            Self::StagingInternal => "staging_internal",
        }
    }

    /// The intent of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|i| i.name().eq_ignore_ascii_case(name))
    }

    /// The priority that goes with it; `None` leaves the request's own.
    pub fn priority(self) -> Option<Priority> {
        match self {
            Self::Unspecified => None,
            Self::ForegroundGet | Self::StagingInternal => Some(Priority::High),
            Self::WeightLoading => Some(Priority::Medium),
            Self::BackgroundPrefetch | Self::Migration | Self::Checkpoint => Some(Priority::Low),
        }
    }

    /// Whether a request of `len` bytes is urgent for its sake. A long one is not: it would keep others from
    /// the lane that they need.
    pub fn is_urgent(self, len: u64) -> bool {
        matches!(self, Self::ForegroundGet | Self::StagingInternal) && len <= URGENT_UP_TO
    }

    /// How many times the engine's own time limit it may take: what waits behind everything else needs more.
    pub fn patience(self) -> u32 {
        match self {
            Self::Unspecified | Self::ForegroundGet | Self::StagingInternal => 1,
            Self::BackgroundPrefetch | Self::Migration | Self::Checkpoint | Self::WeightLoading => {
                10
            }
        }
    }
}

/// What is known of a request when its rule is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Its priority.
    pub priority: Priority,
    /// What it is for.
    pub intent: Intent,
    /// Bytes.
    pub len: u64,
    /// Whether the peer is on this host.
    pub same_machine: bool,
    /// Where the local memory is, such as `cpu:0`; `*` or empty if nobody said.
    pub local: &'a str,
    /// Where the peer's memory is.
    pub remote: &'a str,
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Transports that may carry the request.
    pub transports: TransportMask,
    /// The one to try first.
    pub first: Option<TransportKind>,
}

impl Choice {
    /// Anything.
    pub const FREE: Self = Self { transports: TransportMask::ALL, first: None };
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    name: String,
    priority: Option<Priority>,
    intent: Option<Intent>,
    same_machine: Option<bool>,
    local: Option<String>,
    remote: Option<String>,
    sizes: (u64, u64),
    /// Asks for a file, which no request here goes to.
    never: bool,
    choice: Choice,
}

impl Rule {
    fn matches(&self, facts: &Facts<'_>) -> bool {
        let is = |wanted: &Option<String>, place: &str| {
            wanted.as_ref().is_none_or(|w| w == "*" || lies_in(place, w))
        };
        !self.never
            && self.priority.is_none_or(|p| p == facts.priority)
            && self.intent.is_none_or(|i| i == facts.intent)
            && self.same_machine.is_none_or(|same| same == facts.same_machine)
            && (self.sizes.0..=self.sizes.1).contains(&facts.len)
            && is(&self.local, facts.local)
            && is(&self.remote, facts.remote)
    }
}

/// `cuda` holds `cuda:3`, `cuda:3` does not hold `cuda:30`. Memory that nobody placed is a host's.
fn lies_in(place: &str, wanted: &str) -> bool {
    let place = if place.is_empty() || place == "*" { "cpu" } else { place };
    place.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

/// Rules, first match first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policies {
    rules: Vec<Rule>,
    warnings: Vec<String>,
}

impl Policies {
    /// Reads the rules; an empty list is no rules.
    ///
    /// # Errors
    /// `Malformed`, naming the rule and the key: no list of objects, an unknown key, a value of the wrong
    /// type or out of range, a name twice, no name or transport known, too many rules.
    pub fn parse(json: &str) -> Result<Self> {
        if json.len() > MAX_TEXT {
            return Err(bad(format!("policy: {} bytes are more than {MAX_TEXT}", json.len())));
        }
        let rules: Vec<Map<String, Value>> = serde_json::from_str(json)
            .map_err(|e| bad(format!("policy: no list of objects: {e}")))?;
        if rules.len() > MAX_RULES {
            return Err(bad(format!("policy: {} rules are more than {MAX_RULES}", rules.len())));
        }
        let mut read = Self::default();
        let mut names = BTreeSet::new();
        for (at, object) in rules.iter().enumerate() {
            let reader = Reader { at, object };
            let rule = reader.rule(&mut read.warnings)?;
            if !rule.name.is_empty() && !names.insert(rule.name.clone()) {
                return Err(reader.bad("name", "another rule has it"));
            }
            read.rules.push(rule);
        }
        Ok(read)
    }

    /// What was understood but has no effect here, a line each, for the log.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What the first rule that matches says; anything goes if none does.
    pub fn choose(&self, facts: &Facts<'_>) -> Choice {
        let rule = self.rules.iter().find(|rule| rule.matches(facts));
        rule.map_or(Choice::FREE, |rule| rule.choice)
    }

    /// What the rule of that name says.
    ///
    /// # Errors
    /// `InvalidArgument`: there is none.
    pub fn named(&self, name: &str) -> Result<Choice> {
        self.rules.iter().find(|rule| rule.name == name).map(|rule| rule.choice).ok_or_else(|| {
            let names = self.rules.iter().map(|r| r.name.as_str()).collect::<Vec<_>>().join(", ");
            let text = format!("no policy is called {name:?}; there are: [{names}]");
            Error::new(ErrorKind::InvalidArgument, text)
        })
    }
}

struct Reader<'a> {
    at: usize,
    object: &'a Map<String, Value>,
}

impl Reader<'_> {
    fn bad(&self, key: &str, why: &str) -> Error {
        bad(format!("policy: rule {}: {key}: {why}", self.at))
    }

    fn rule(&self, warnings: &mut Vec<String>) -> Result<Rule> {
        let name = self.text("name")?.unwrap_or_default().to_owned();
        for key in self.object.keys() {
            if NO_EFFECT.contains(&key.as_str()) {
                warnings.push(format!(
                    "policy: rule {} {name:?}: {key} has no effect here: every rail may be used",
                    self.at
                ));
            } else if !KEYS.contains(&key.as_str()) {
                let near = format!("is no key of a rule; there are {}", KEYS.join(", "));
                return Err(self.bad(key, &near));
            }
        }
        let kind = self.text("segment_type")?;
        if kind.is_some_and(|kind| kind != "memory" && kind != "file") {
            return Err(self.bad("segment_type", "memory or file"));
        }
        let sizes =
            (self.bytes("min_size")?.unwrap_or(0), self.bytes("max_size")?.unwrap_or(u64::MAX));
        if sizes.0 > sizes.1 {
            return Err(self.bad("min_size", "is more than max_size: nothing would match"));
        }
        let intent = self.text("intent_type")?.map(|text| {
            let names = Intent::ALL.map(Intent::name).join(", ");
            Intent::parse(text).ok_or_else(|| self.bad("intent_type", &format!("one of {names}")))
        });
        Ok(Rule {
            priority: self.priority()?,
            intent: intent.transpose()?,
            same_machine: self.flag("same_machine")?,
            local: self.text("local_memory")?.map(str::to_owned),
            remote: self.text("remote_memory")?.map(str::to_owned),
            sizes,
            never: kind == Some("file"),
            choice: self.choice(&name, warnings)?,
            name,
        })
    }

    fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.object.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.bad(key, "is no string")),
        }
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.object.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.bad(key, "is neither true nor false")),
        }
    }

    fn bytes(&self, key: &str) -> Result<Option<u64>> {
        let Some(value) = self.object.get(key) else { return Ok(None) };
        value.as_u64().map(Some).ok_or_else(|| self.bad(key, "is no number of bytes"))
    }

    fn priority(&self) -> Result<Option<Priority>> {
        let Some(value) = self.object.get("priority") else { return Ok(None) };
        let number = value.as_u64().map(|n| n.to_string());
        let text = number.as_deref().or(value.as_str()).unwrap_or_default();
        match text {
            "high" | "0" => Ok(Some(Priority::High)),
            "medium" | "1" => Ok(Some(Priority::Medium)),
            "low" | "2" => Ok(Some(Priority::Low)),
            _ => Err(self.bad("priority", "high, medium, low, or 0, 1, 2")),
        }
    }

    /// A transport that TENT knows and we have not is skipped; when none is left anything goes, for a rule
    /// made for a host with other hardware should slow a transfer and not end it.
    fn choice(&self, rule: &str, warnings: &mut Vec<String>) -> Result<Choice> {
        let Some(value) = self.object.get("transports") else { return Ok(Choice::FREE) };
        let names = value.as_array().ok_or_else(|| self.bad("transports", "is no list"))?;
        let mut choice = Choice { transports: TransportMask::NONE, first: None };
        for name in names {
            let name = name.as_str().ok_or_else(|| self.bad("transports", "holds no string"))?;
            let lower = name.to_ascii_lowercase();
            let kinds: &[TransportKind] = match lower.as_str() {
                "shm" => &[TransportKind::Shm, TransportKind::Cma, TransportKind::Local],
                "tcp" => &[TransportKind::Tcp],
                "cma" => &[TransportKind::Cma],
                "local" => &[TransportKind::Local],
                foreign if FOREIGN.contains(&foreign) => &[],
                _ => return Err(self.bad("transports", &format!("{name:?} is no transport"))),
            };
            if kinds.is_empty() {
                warnings.push(format!(
                    "policy: rule {} {rule:?}: transport {name} is not here and is skipped",
                    self.at
                ));
            }
            choice.first = choice.first.or_else(|| kinds.first().copied());
            choice.transports = kinds.iter().fold(choice.transports, |mask, k| mask.with(*k));
        }
        if choice.transports == TransportMask::NONE {
            warnings.push(format!(
                "policy: rule {} {rule:?}: none of its transports is here: any may be used",
                self.at
            ));
            return Ok(Choice::FREE);
        }
        Ok(choice)
    }
}

fn bad(text: String) -> Error {
    Error::new(ErrorKind::Malformed, text)
}

const KEYS: [&str; 10] = [
    "name",
    "segment_type",
    "priority",
    "intent_type",
    "transports",
    "same_machine",
    "local_memory",
    "remote_memory",
    "min_size",
    "max_size",
];
/// Keys of TENT's rules that choose among what is not here.
const NO_EFFECT: [&str; 4] = ["devices", "service_level", "traffic_class", "qp_pool"];
/// Transports of TENT that are not here.
const FOREIGN: [&str; 14] = [
    "rdma",
    "mnnvl",
    "nvlink",
    "gds",
    "iouring",
    "io_uring",
    "ascend",
    "ascend_direct",
    "sunrise_link",
    "tpu",
    "ub",
    "mpcomm",
    "bufio",
    "file",
];
/// Longest request that an intent makes urgent, in bytes.
const URGENT_UP_TO: u64 = 1 << 20;
/// Longest text of rules, in bytes.
const MAX_TEXT: usize = 1 << 20;
/// Most rules: they are looked through at every submit.
const MAX_RULES: usize = 256;

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FACTS: Facts<'static> = Facts {
        priority: Priority::Medium,
        intent: Intent::Unspecified,
        len: 4096,
        same_machine: true,
        local: "*",
        remote: "cpu:0",
    };

    fn first(json: &str, facts: &Facts<'_>) -> Option<TransportKind> {
        Policies::parse(json).unwrap().choose(facts).first
    }

    #[test]
    fn the_first_rule_whose_conditions_all_hold_counts() {
        let json = r#"[
            {"name":"big","min_size":1048576,"transports":["tcp","shm"]},
            {"name":"far","same_machine":false,"transports":["tcp"]},
            {"name":"late","intent_type":"background_prefetch","priority":"low","transports":["tcp"]},
            {"name":"gpu","local_memory":"cuda","transports":["rdma"]},
            {"name":"disk","segment_type":"file","transports":["tcp"]},
            {"name":"rest","remote_memory":"cpu","transports":["cma"]}
        ]"#;
        let tcp = Some(TransportKind::Tcp);
        assert_eq!(first(json, &FACTS), Some(TransportKind::Cma));
        assert_eq!(first(json, &Facts { len: 1 << 20, ..FACTS }), tcp);
        assert_eq!(first(json, &Facts { same_machine: false, ..FACTS }), tcp);
        let late = Facts { intent: Intent::BackgroundPrefetch, ..FACTS };
        assert_eq!(first(json, &late), Some(TransportKind::Cma), "the priority does not hold");
        assert_eq!(first(json, &Facts { priority: Priority::Low, ..late }), tcp);
        assert_eq!(first(json, &Facts { local: "cuda:1", ..FACTS }), None, "not here: anything");
        assert_eq!(first(json, &Facts { remote: "cuda:1", ..FACTS }), None, "no rule matches");
        let read = Policies::parse(json).unwrap();
        assert_eq!(read.warnings().len(), 2, "{:?}", read.warnings());
        assert_eq!(read.named("far").unwrap().first, tcp);
        assert!(read.named("near").unwrap_err().to_string().contains("big, far"));
        let shm = read.named("big").unwrap().transports;
        assert!(shm.has(TransportKind::Cma) && shm.has(TransportKind::Local));
    }

    #[test]
    fn places_match_by_whole_parts() {
        for (place, wanted, holds) in [
            ("cuda:3", "cuda", true),
            ("cuda:3", "cuda:3", true),
            ("cuda:30", "cuda:3", false),
            ("*", "cpu", true),
            ("", "cpu", true),
            ("*", "cuda", false),
        ] {
            assert_eq!(lies_in(place, wanted), holds, "{place} in {wanted}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, word) in [
            ("{}", "no list"),
            ("[1]", "no list"),
            (r#"[{},{"min_sise":1}]"#, "rule 1: min_sise"),
            (r#"[{"min_size":-1}]"#, "min_size"),
            (r#"[{"min_size":2,"max_size":1}]"#, "nothing would match"),
            (r#"[{"priority":"urgent"}]"#, "priority"),
            (r#"[{"priority":3}]"#, "priority"),
            (r#"[{"intent_type":"fun"}]"#, "foreground_get"),
            (r#"[{"transports":["pigeon"]}]"#, "pigeon"),
            (r#"[{"transports":"tcp"}]"#, "transports"),
            (r#"[{"same_machine":1}]"#, "same_machine"),
            (r#"[{"segment_type":"tape"}]"#, "segment_type"),
            (r#"[{"name":"a"},{"name":"a"}]"#, "rule 1: name"),
        ] {
            let text = Policies::parse(json).unwrap_err().to_string();
            assert!(text.contains(word), "{json}: {text}");
        }
        let many = format!("[{}]", vec!["{}"; MAX_RULES + 1].join(","));
        assert!(Policies::parse(&many).is_err());
        assert!(Policies::parse(&"[".repeat(100_000)).is_err(), "too deep for the reader");
        assert!(Policies::parse(&" ".repeat(MAX_TEXT + 1)).is_err());
        assert!(Policies::parse("[]").unwrap().is_empty());
        let devices = Policies::parse(r#"[{"devices":["mlx5_0"],"transports":["tcp"]}]"#).unwrap();
        assert!(devices.warnings()[0].contains("devices"));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,200}") {
            let _ = Policies::parse(&text);
        }
    }

    #[test]
    fn intents_have_their_numbers_and_names() {
        for (number, intent) in Intent::ALL.into_iter().enumerate() {
            assert_eq!(intent as usize, number);
            assert_eq!(Intent::parse(intent.name()), Some(intent));
        }
        assert!(Intent::ForegroundGet.is_urgent(URGENT_UP_TO));
        assert!(!Intent::ForegroundGet.is_urgent(URGENT_UP_TO + 1));
        assert_eq!(Intent::Checkpoint.priority(), Some(Priority::Low));
    }
}
