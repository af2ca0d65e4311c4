use super::conf::Conf;
use super::parse::Form;
use super::table::{self, Hand, Setting};
use super::{Config, Env, LevelFilter, Settings, names, settings};
use ::tent::{Engine, Op, Request, RequestOptions, TaskState, TransportKind, TransportMask};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

fn env(vars: &[(&str, &str)]) -> Env {
    vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

pub(super) fn of(vars: &[(&str, &str)]) -> Settings {
    settings(env(vars), &Conf::EMPTY)
}

/// A value that `form` takes, values at its edges, and one that it refuses; the last is none where it takes
/// everything.
fn examples(form: Form, key: &str) -> (Vec<String>, Option<String>) {
    let all = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>();
    match form {
        Form::Number(low, high) | Form::OrOff(low, high) | Form::Clamped(_, _, low, high) => {
            let beyond =
                high.checked_add(1).map_or_else(|| "9223372036854775808".into(), |n| n.to_string());
            (vec![low.to_string(), high.to_string()], Some(beyond))
        }
        Form::Switch | Form::Present => (all(&["1", ""]), None),
        Form::Words(words) => (all(words), Some("nonsense".into())),
        Form::Address => (all(&["10.0.0.1", "[fd00::1]"]), Some("eth0".into())),
        Form::Free(_) => match key {
            "transports" => (all(&["tcp", "local, SHM,cma,tcp"]), Some("tcp,pigeon".into())),
            "rail_addrs" | "data_host" => {
                (all(&["10.0.0.1", "10.0.0.1,[fd00::1]"]), Some("10.0.0.1,,".into()))
            }
            "rail_via" => (all(&["10.0.0.1=127.0.0.1:80"]), Some("10.0.0.1=80".into())),
            "topology_file" => (Vec::new(), Some("nowhere/matrix.json".into())),
            _ => (all(&["x"]), None),
        },
        Form::Secret => (all(&["hush"]), None),
    }
}

/// Each variable of each row: what it may say is taken and told as its origin, what it may not costs a
/// warning and leaves the default.
#[test]
fn every_variable_is_read_as_its_row_says() {
    let mut count = 0;
    for setting in table::all() {
        for var in setting.vars {
            count += 1;
            let form = var.form.unwrap_or(setting.form);
            let (good, bad) = examples(form, setting.key);
            for value in &good {
                // a bound of the port range alone may leave no range
                let range = setting.key.starts_with("port_");
                let s = of(&[(var.name, value)]);
                let silent = value.is_empty() && !matches!(form, Form::Switch | Form::Present);
                assert!(range || s.warnings.is_empty(), "{}={value}: {:?}", var.name, s.warnings);
                let origin = s.origins.get(setting.key).map(ToString::to_string);
                let shown = if form == Form::Secret { "***" } else { value };
                let wanted = format!("environment {}={shown}", var.name);
                assert!(
                    range || silent || origin == Some(wanted),
                    "{}={value}: {origin:?}",
                    var.name
                );
            }
            let Some(bad) = bad else { continue };
            for bad in [bad.as_str(), "-7", "1e3", "\u{fffd}"] {
                // these are text like any other, or numbers that the form may take
                if matches!(form.parse(bad), Ok(Some(_))) && !matches!(form, Form::Free(_)) {
                    continue;
                }
                let s = of(&[(var.name, bad)]);
                let said = s.warnings.iter().filter(|w| w.contains(var.name)).count();
                let rows =
                    table::all().filter(|s| s.vars.iter().any(|v| v.name == var.name)).count();
                assert!((1..=rows).contains(&said), "{}={bad}: {:?}", var.name, s.warnings);
                assert_eq!(setting.show(&s), setting.show(&Settings::new()), "{}={bad}", var.name);
            }
        }
    }
    assert!(count > 80, "only {count} variables: the table is not what it was");
}

/// Each key of each row, nested and flat, says what the variable says.
#[test]
fn every_key_is_read_as_its_row_says() {
    for setting in table::all() {
        let own = format!("tent/{}", setting.key);
        for key in setting.json.iter().copied().chain([own.as_str()]) {
            let (good, bad) = examples(setting.form, setting.key);
            for value in good.iter().filter(|v| !v.is_empty() && !setting.key.starts_with("port_"))
            {
                let text = serde_json::json!({ key: value }).to_string();
                let s = of(&[("MC_TENT_CONF", &text)]);
                assert!(s.warnings.is_empty(), "{text}: {:?}", s.warnings);
                let origin = s.origins.get(setting.key).map(ToString::to_string);
                assert_eq!(origin, Some(format!("MC_TENT_CONF: {key}")), "{text}");
                let nested = key.rsplit('/').fold(
                    serde_json::json!(value),
                    |inner, part| serde_json::json!({ part: inner }),
                );
                let nested = of(&[("MC_TENT_CONF", &nested.to_string())]);
                assert_eq!(setting.show(&nested), setting.show(&s), "{text}");
            }
            if let Some(bad) = bad {
                let text = serde_json::json!({ key: bad }).to_string();
                let s = of(&[("MC_TENT_CONF", &text)]);
                assert_eq!(s.warnings.len(), 1, "{text}: {:?}", s.warnings);
                assert_eq!(setting.show(&s), setting.show(&Settings::new()), "{text}");
            }
            let s = of(&[("MC_TENT_CONF", &serde_json::json!({ key: null }).to_string())]);
            assert_eq!(s.warnings.len(), 1, "{key} null: {:?}", s.warnings);
        }
    }
}

#[test]
fn no_name_is_in_the_table_twice_by_mistake() {
    let mut keys = BTreeSet::new();
    for Setting { key, json, .. } in table::all() {
        assert!(keys.insert(format!("tent/{key}")), "{key} twice");
        json.iter().for_each(|key| assert!(keys.insert((*key).to_owned()), "{key} twice"));
    }
    for key in names::ignored_keys() {
        assert!(keys.insert(key.clone()), "{key} is used and ignored");
    }
    let used: BTreeSet<_> = table::all().flat_map(|s| s.vars.iter().map(|v| v.name)).collect();
    for (name, _) in names::IGNORED {
        assert!(!used.contains(name), "{name} is used and ignored");
    }
}

#[test]
fn an_empty_environment_gives_the_defaults() {
    let s = of(&[]);
    assert_eq!(format!("{:?}", s.config), format!("{:?}", Config::default()));
    assert_eq!((s.handshake_port, s.legacy_port, s.native_status), (12_001, false, false));
    assert_eq!(s.log_level(), LevelFilter::Warn);
    assert!(s.warnings.is_empty() && s.ignored.is_empty() && s.notes.is_empty());
}

#[test]
fn port_ranges_follow_upstream() {
    let range = |low, high| {
        let s = of(&[("MC_MIN_RPC_PORT", low), ("MC_MAX_RPC_PORT", high)]);
        (s.config.port_range, s.warnings.len())
    };
    assert_eq!(range("20000", "20100"), ((20_000, 20_100), 0));
    assert_eq!(range("61000", "65535"), ((61_000, 65_535), 0));
    for (low, high) in [("20100", "20000"), ("80", "2000"), ("40000", "41000"), ("30000", "40000")]
    {
        assert_eq!(range(low, high), ((15_000, 17_000), 1), "{low}-{high}");
    }
    assert_eq!(range("x", "16000"), ((15_000, 16_000), 1));
    assert_eq!(range("16000", "70000"), ((16_000, 17_000), 1));
    let s = of(&[("MC_MIN_PRC_PORT", "21000"), ("MC_MAX_PRC_PORT", "21999")]);
    assert_eq!(s.config.port_range, (21_000, 21_999));
    let s = of(&[("MC_MIN_PRC_PORT", "9"), ("MC_MIN_RPC_PORT", "16500")]);
    assert_eq!((s.config.port_range, s.warnings.len()), ((16_500, 17_000), 0));
}

#[test]
fn the_first_variable_of_a_row_wins() {
    let s = of(&[
        ("MC_FORCE_TCP", "0"), // whatever its value, as upstream
        ("TENT_TRANSPORTS", "shm"),
        ("TENT_TASK_TIMEOUT_MS", "250"),
        ("MC_TRANSFER_TIMEOUT", "60"),
        ("TENT_LOG", "trace"),
        ("MC_LOG_LEVEL", "ERROR"),
    ]);
    assert_eq!(s.config.transports, TransportMask::only(TransportKind::Tcp));
    assert_eq!(s.config.task_timeout, Duration::from_millis(250));
    assert_eq!(s.log_level(), LevelFilter::Trace);
    // upstream's bounds are in seconds; of the one for calls at least five count
    assert_eq!(of(&[("MC_TRANSFER_TIMEOUT", "3")]).config.task_timeout, Duration::from_secs(5));
    assert_eq!(of(&[("MC_SLICE_TIMEOUT", "3")]).config.task_timeout, Duration::from_secs(3));
    let off = of(&[("MC_SLICE_TIMEOUT", "-1")]);
    assert_eq!((off.config.task_timeout, off.warnings.len()), (Duration::from_secs(60), 0));
    // one that makes no sense leaves the word to the next
    let s = of(&[("TENT_TASK_TIMEOUT_MS", "0"), ("MC_SLICE_TIMEOUT", "9")]);
    assert_eq!((s.config.task_timeout, s.warnings.len()), (Duration::from_secs(9), 1));
}

#[test]
fn the_environment_wins_over_the_file_and_that_over_the_program() {
    let mut program = Conf::one("tent/spin", "1");
    program.merge(Conf::one("tent/quantum", "11"));
    program.merge(Conf::one("tent/hedge", "0"));
    let conf = r#"{"tent": {"spin": 2, "quantum": 22}}"#;
    let s = settings(env(&[("MC_TENT_CONF", conf), ("TENT_SPIN_US", "3")]), &program);
    assert_eq!(s.config.spin, Duration::from_micros(3));
    assert_eq!(s.config.quantum, Duration::from_micros(22));
    assert!(!s.config.hedge);
    // merged, not replaced: what nobody says is as it was
    assert_eq!(s.config.tcp_window, Config::default().tcp_window);
    assert_eq!(s.origins["hedge"].to_string(), "the program: tent/hedge");
}

#[test]
fn what_is_known_and_unused_is_told_once_with_its_reason() {
    let s =
        of(&[("MC_USE_TENT", "1"), ("MC_EFA_FOO", "1"), ("MC_STORE_X", "1"), ("MC_IB_TC", "3")]);
    assert!(s.warnings.is_empty(), "{:?}", s.warnings);
    assert_eq!(s.ignored.len(), 2, "{:?}", s.ignored);
    assert!(s.ignored.iter().any(|l| l.contains("MC_USE_TENT has no effect: there is one engine")));
    assert_eq!(s.notes.len(), 1);
    assert_eq!(s.config.rdma["rdma_traffic_class"], "3");
}

#[test]
fn a_name_that_nobody_knows_gets_the_nearest() {
    let s = of(&[
        ("TENT_HEDG", "1"),
        ("MC_XYZZY_PLUGH_PLOVER", "1"),
        ("MC_TENT_CONF", r#"{"tent/spim": 4}"#),
    ]);
    assert_eq!(s.warnings.len(), 3, "{:?}", s.warnings);
    let has = |text: &str| s.warnings.iter().any(|line| line.contains(text));
    assert!(has("TENT_HEDG; is TENT_HEDGE meant?") && has("tent/spim; is tent/spin meant?"));
    assert!(s.warnings.iter().any(|line| line.ends_with("MC_XYZZY_PLUGH_PLOVER")));
}

#[test]
fn bad_configurations_are_warnings_with_line_and_column() {
    for (text, cause) in [
        ("{\n  \"a\": }", "line 2 column 8"),
        ("{", "line 1 column 1"),
        ("nowhere/conf.json", "No such file"),
        ("/", "no plain file"),
        ("/dev/zero", "no plain file"),
    ] {
        let s = of(&[("MC_TENT_CONF", text)]);
        assert_eq!(s.warnings.len(), 1, "{text}: {:?}", s.warnings);
        assert!(s.warnings[0].contains(cause), "{text}: {:?}", s.warnings);
    }
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(of(&[("MC_TENT_CONF", &deep)]).warnings.len(), 1);
    assert!(of(&[("MC_TENT_CONF", "")]).warnings.is_empty());
}

#[test]
fn what_is_taken_out_leaves_a_transport() {
    let s = of(&[("MC_TENT_CONF", r#"{"transports": {"tcp": {"enable": false}}}"#)]);
    assert!(!s.config.transports.has(TransportKind::Tcp) && s.warnings.is_empty());
    let s = of(&[("MC_TENT_CONF", r#"{"transports/tcp/enable": false}"#), ("MC_FORCE_TCP", "1")]);
    assert_eq!(
        (s.config.transports, s.warnings.len()),
        (TransportMask::only(TransportKind::Tcp), 1)
    );
}

#[test]
fn who_wants_the_throughput_sees_it() {
    let s = of(&[("MC_TE_METRIC", "1"), ("MC_TE_METRIC_INTERVAL_SECONDS", "2")]);
    assert_eq!(s.config.metrics_every, Some(Duration::from_secs(2)));
    assert_eq!(s.log_level(), LevelFilter::Info);
    assert_eq!(of(&[("MC_TE_METRIC", "1"), ("TENT_LOG", "error")]).log_level(), LevelFilter::Error);
    assert_eq!(of(&[("MC_TE_METRIC_INTERVAL_SECONDS", "2")]).config.metrics_every, None);
}

#[test]
fn a_priority_matrix_names_the_interfaces() {
    let file = scratch("matrix", r#"{"cpu:0": [["eth1"], ["eth0"]], "cpu:1": [["eth0"], []]}"#);
    let path = file.to_str().unwrap();
    let s = of(&[("MC_CUSTOM_TOPO_JSON", path)]);
    assert_eq!(s.config.interfaces, ["eth0", "eth1"]);
    let s = of(&[("MC_CUSTOM_TOPO_JSON", path), ("MC_TE_FILTERS", "ib0, ,ib1")]);
    assert_eq!(s.config.interfaces, ["ib0", "ib1"]);
    std::fs::write(&file, "[1]").unwrap();
    assert_eq!(of(&[("MC_CUSTOM_TOPO_JSON", path)]).warnings.len(), 1);
}

#[test]
fn secrets_are_not_told() {
    let s = of(&[("MC_REDIS_PASSWORD", "hush"), ("MC_REDIS_DB_INDEX", "256")]);
    assert_eq!((s.store.redis_password.as_str(), s.store.redis_db), ("hush", 0));
    let text = format!("{}{:?}", s.report(), s.warnings);
    assert!(!text.contains("hush") && text.contains("***"), "{text}");
}

#[test]
fn a_file_that_changes_gives_the_new_tuning_once() {
    let file = scratch("reload", r#"{"tent": {"spin": 1}}"#);
    let s = of(&[("MC_TENT_CONF", file.to_str().unwrap()), ("TENT_HEDGE", "1")]);
    let source = s.config.source.clone().expect("a file can change");
    assert_eq!(source.changed(), None, "nothing has changed");
    std::fs::write(&file, r#"{"tent": {"spin": 2, "hedge": 0, "net_lanes": 3}}"#).unwrap();
    let tuning = source.changed().expect("it has");
    assert_eq!(tuning.spin, Duration::from_micros(2));
    assert!(tuning.hedge, "the environment wins over the file, then as before");
    assert_eq!(source.changed(), None);
    std::fs::write(&file, r#"{"tent": {"spin": 3"#).unwrap();
    assert_eq!(source.changed(), None, "a broken file changes nothing");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(source.changed(), None, "nor does one that is gone");
    std::fs::write(&file, "{}").unwrap();
    let tuning = source.changed().expect("a default is a value too");
    assert_eq!(tuning.spin, Config::default().spin);
}

/// A real file that is edited, real engines that go on: pieces get shorter, and no byte is lost.
#[test]
fn engines_obey_a_file_that_is_edited() {
    let conf = scratch("engine", r#"{"tent": {"net_lanes": 1}}"#);
    let pieces = scratch("pieces", "");
    let s = of(&[
        ("MC_TENT_CONF", conf.to_str().unwrap()),
        ("TENT_PIECE_LOG", pieces.to_str().unwrap()),
        ("MC_FORCE_TCP", "1"),
    ]);
    let ours = Engine::new(s.config).unwrap();
    let theirs = Engine::new(Config { transports: ours.config().transports, ..Config::default() });
    let theirs = theirs.unwrap();
    let (from, to) = (ours.allocate(LEN, "*").unwrap(), theirs.allocate(LEN, "*").unwrap());
    let segment = ours.open_segment(theirs.name()).unwrap();
    let write = || {
        let (len, options) = (LEN as u64, RequestOptions::default());
        let request =
            Request { op: Op::Write, local: from, segment, remote: to as u64, len, options };
        let batch = ours.allocate_batch(1).unwrap();
        ours.submit(batch, &[request]).unwrap();
        assert_eq!(ours.wait(batch, LIMIT).unwrap().state, TaskState::Completed);
    };
    let window = || ours.rails().iter().map(|r| r.window_bytes).max().unwrap_or(0);
    (0..4).for_each(|_| write());
    assert!(window() > 4 * SMALL, "the window is {} before", window());
    let text =
        format!(r#"{{"tent": {{"net_lanes": 1, "tcp_window": {SMALL}, "tcp_piece": {SMALL}}}}}"#);
    std::fs::write(&conf, text).unwrap();
    let begin = ::tent::time::Instant::now();
    while window() > 2 * SMALL {
        assert!(::tent::time::Instant::now().since(begin) < LIMIT, "the window is {}", window());
        std::thread::park_timeout(Duration::from_millis(20));
    }
    write();
    drop((ours, theirs));
    let log = std::fs::read_to_string(&pieces).unwrap();
    let lens =
        log.lines().skip(1).map(|line| line.split(',').nth(2).unwrap().parse::<u64>().unwrap());
    let lens: Vec<u64> = lens.collect();
    assert_eq!(lens.iter().sum::<u64>(), 5 * LEN as u64, "every piece is in the log");
    let mut rest = LEN as u64;
    for len in lens.iter().rev() {
        assert!(rest == 0 || *len <= SMALL, "a piece of {len} bytes after the change");
        rest = rest.saturating_sub(*len);
    }
    assert!(lens.iter().any(|len| *len > SMALL), "longer ones before");
}

/// Bytes per transfer, of a window and piece after the change, and how long anything may take.
const LEN: usize = 16 << 20;
const SMALL: u64 = 64 << 10;
const LIMIT: Duration = Duration::from_secs(30);

/// A file of this test process.
fn scratch(name: &str, text: &str) -> PathBuf {
    let file = std::env::temp_dir().join(format!("tent-env-{name}-{}.json", std::process::id()));
    std::fs::write(&file, text).unwrap();
    file
}

/// The hand of every row does something: its example shows.
#[test]
fn every_row_of_rdma_keeps_what_is_said() {
    for setting in table::all().filter(|s| matches!(s.hand, Hand::Rdma(_))) {
        let (good, _) = examples(setting.form, setting.key);
        let s = of(&[(setting.vars[0].name, &good[0])]);
        assert!(s.config.rdma.contains_key(setting.key), "{}", setting.key);
    }
}
