use super::*;
use crate::error::ErrorKind;
use crate::id::Incarnation;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// As published by upstream 0.3.13.post1.
const UPSTREAM: &str = r#"{"buffers":[{"addr":140133381693440,"length":1048576,"name":"127.0.0.1:15700"}],"name":"127.0.0.1:15700","protocol":"tcp","rdma_server_name":"","tcp_data_host":"127.0.0.1","tcp_data_port":15162,"tcp_proto_version":2,"timestamp":"2026-11-22 08:07:15.790147"}"#;

fn buffer(addr: u64, len: u64) -> Buffer {
    Buffer { addr, len, location: ANYWHERE.into(), access: None }
}

fn access(key: u64) -> Access {
    Access { key, permission: Permission::ReadWrite, slot: 3, shm: None }
}

fn facts() -> TentFacts {
    TentFacts {
        incarnation: Incarnation(0xabc),
        host: HostIdentity { boot_id: "b".into(), pid_ns: 1, net_ns: 2, pid: 3, start_ticks: 4 },
        rails: vec![RailAddr {
            ip: "10.0.0.1".parse().unwrap(),
            prefix: 24,
            interface: "eth0".into(),
        }],
        guard: Some(GuardRef { fd: 9, probe: 0x2000 }),
    }
}

fn ours() -> SegmentDesc {
    SegmentDesc {
        name: "10.0.0.1:15700".into(),
        protocol: TCP.into(),
        tcp_data_host: "10.0.0.1".into(),
        tcp_data_port: 15_162,
        tcp_proto_version: 2,
        buffers: vec![
            Buffer { access: Some(access(7)), ..buffer(4096, 64) },
            Buffer {
                location: "cpu:1".into(),
                access: Some(Access {
                    shm: Some(ShmBacking { fd: 5, offset: 4096 }),
                    ..access(u64::MAX)
                }),
                ..buffer(8192, 1)
            },
        ],
        tent: Some(facts()),
    }
}

fn text(desc: &SegmentDesc) -> String {
    String::from_utf8(encode_desc(desc, "2026-11-22 08:07:15.790147")).unwrap()
}

fn decode(json: &str) -> Result<SegmentDesc> {
    decode_desc(json.as_bytes())
}

fn refusal(json: &str) -> String {
    let error = decode(json).expect_err(json);
    assert_eq!(error.kind(), ErrorKind::Malformed);
    error.to_string()
}

#[test]
fn upstreams_text_is_read_and_written_to_the_byte() {
    let desc = decode(UPSTREAM).unwrap();
    assert_eq!(desc.buffers[0].location, "127.0.0.1:15700");
    assert_eq!((desc.tcp_data_port, desc.tcp_proto_version), (15_162, 2));
    assert!(desc.tent.is_none());
    assert_eq!(text(&desc), UPSTREAM);
}

#[test]
fn ours_is_upstreams_with_one_key_more() {
    let json = text(&ours());
    let extra = concat!(
        r#""tent":{"guard":{"fd":9,"probe":8192},"#,
        r#""host":{"boot_id":"b","net_ns":2,"pid":3,"pid_ns":1,"start_ticks":4},"#,
        r#""incarnation":"00000000000000000000000000000abc","rails":[["10.0.0.1",24,"eth0"]],"#,
        r#""regions":[[7,2,3,-1,0],[18446744073709551615,2,3,5,4096,"cpu:1"]],"v":1},"#
    );
    assert!(json.contains(extra), "{json}");
    let foreign = decode(&json.replace(extra, "")).unwrap();
    assert_eq!(foreign.tent, None);
    assert_eq!(foreign.buffers[1].location, "10.0.0.1:15700");
    assert_eq!(decode(&json).unwrap(), ours());
}

#[test]
fn what_is_missing_or_null_has_upstreams_default() {
    for json in [
        r#"{"name":"n","protocol":"tcp"}"#,
        r#"{"name":"n","protocol":"tcp","buffers":null,"tcp_data_host":null,"tcp_data_port":null,"tcp_proto_version":null,"tent":null}"#,
        r#"{"name":"n","protocol":"tcp","buffers":[],"later":{"a":[1,2,{"b":"c"}]}}"#,
    ] {
        let desc = decode(json).unwrap();
        assert_eq!((desc.tcp_data_port, desc.tcp_proto_version), (0, 1));
        assert!(desc.buffers.is_empty() && desc.tcp_data_host.is_empty());
    }
}

#[test]
fn other_protocols_can_be_read() {
    let rdma = r#"{"name":"n","protocol":"rdma","devices":[{"name":"mlx5_0","lid":0,"gid":"fe:80"}],
        "priority_matrix":{"cpu:0":[["mlx5_0"],[]]},
        "buffers":[{"name":"cpu:0","addr":4096,"length":8,"rkey":[1],"lkey":[1]}]}"#;
    let desc = decode(rdma).unwrap();
    assert_eq!((desc.protocol.as_str(), desc.buffers[0].location.as_str()), ("rdma", "cpu:0"));
    let cxl = r#"{"name":"n","protocol":"cxl","buffers":[{"name":"x","offset":0,"length":8}]}"#;
    assert!(decode(cxl).unwrap().buffers.is_empty());
    let many = r#"{"name":"n","protocol":["rdma","tcp"],"buffers":[
        {"name":"a","addr":1,"length":8,"protocol":"rdma"},
        {"name":"b","addr":1,"length":4,"protocol":"tcp"}]}"#;
    let desc = decode(many).unwrap();
    assert_eq!((desc.protocol.as_str(), desc.buffers.len()), ("tcp", 1));
    assert_eq!(desc.buffers[0].len, 4);
}

#[test]
fn hostile_ranges_and_types_are_refused_by_name() {
    let with = |buffer: &str| {
        format!(r#"{{"name":"n","protocol":"tcp","buffers":[{{"addr":1,"length":1}},{buffer}]}}"#)
    };
    for (buffer, why) in [
        (r#"{"addr":0,"length":1}"#, "buffers[1]: addr is 0"),
        (r#"{"addr":1,"length":0}"#, "buffers[1]: length is 0"),
        (r#"{"addr":1}"#, "buffers[1]: length is 0"),
        (r#"{"addr":18446744073709551615,"length":1}"#, "buffers[1]: addr + length overflows"),
        (r#"{"length":1,"name":"n"}"#, "without addr"),
        (r#"{"addr":-1,"length":1}"#, "invalid"),
        (r#"{"addr":"1","length":1}"#, "invalid type"),
        (r#"{"addr":1.5,"length":1}"#, "invalid type"),
        ("7", "invalid type"),
    ] {
        let error = refusal(&with(buffer));
        assert!(error.contains(why), "{buffer}: {error}");
    }
    for json in [
        "",
        "[]",
        "null",
        "{}",
        r#"{"name":"n"}"#,
        r#"{"name":"","protocol":"tcp"}"#,
        r#"{"name":"n","protocol":7}"#,
        r#"{"name":"n","protocol":[]}"#,
        r#"{"name":"n","protocol":"tcp","tcp_data_port":65536}"#,
        r#"{"name":"n","protocol":"tcp","tcp_data_port":-1}"#,
        r#"{"name":"n","protocol":"tcp","buffers":{}}"#,
        r#"{"name":"n","name":"m","protocol":"tcp"}"#,
        r#"{"name":"n","protocol":"tcp"} x"#,
    ] {
        refusal(json);
    }
    refusal(&format!(r#"{{"name":"{}","protocol":"tcp"}}"#, "n".repeat(MAX_NAME_LEN + 1)));
}

#[test]
fn depth_is_limited() {
    let deep = |n: usize| format!(r#"{{"x":{}{}"#, "[".repeat(n), "]".repeat(n));
    // skipped without recursion, and then the rest is wrong
    refusal(&deep(100_000));
    refusal(&format!(r#"{{"name":"n","protocol":{}"#, "[".repeat(100_000)));
    refusal(&format!(r#"{{"name":"n","protocol":"tcp","tent":{}"#, "{\"host\":".repeat(100_000)));
}

#[test]
fn a_broken_key_of_ours_is_refused_by_name() {
    let good = text(&ours());
    for (from, to, why) in [
        ("\"v\":1", "\"v\":\"1\"", "invalid type"),
        ("\"v\":1", "\"w\":1", "missing field `v`"),
        (",\"v\":1", ",\"v\":1,\"v\":2", "duplicate"),
        ("\"incarnation\":\"0", "\"incarnation\":\"g", "32 hex digits"),
        ("\"incarnation\":\"0", "\"incarnation\":\"", "32 hex digits"),
        ("[7,2,3,-1,0]", "[7,3,3,-1,0]", "unknown permission"),
        ("[7,2,3,-1,0]", "[7,2,3,-1]", "5 cells"),
        ("[7,2,3,-1,0],", "", "differ in number"),
        ("[7,2,3,-1,0]", "[7,2,3,9,18446744073709551600]", "overflows"),
        ("[7,2,3,-1,0]", "{}", "invalid type"),
        ("\"10.0.0.1\",24", "\"10.0.0.1\",33", "prefix"),
        ("\"10.0.0.1\",24", "\"10.0.0.256\",24", "IP address"),
        ("\"fd\":9", "\"fd\":-9", "guard"),
        ("\"probe\":8192", "\"probe\":0", "guard"),
        ("\"probe\":8192", "\"probe\":18446744073709551612", "guard"),
        ("\"pid\":3,", "", "missing field `pid`"),
        ("\"addr\":8192", "\"addr\":4159", "overlap"),
        ("\"tent\":{", "\"tent\":7,\"tent_\":{", "invalid type"),
    ] {
        assert!(good.contains(from), "{from}");
        let error = refusal(&good.replacen(from, to, 1));
        assert!(error.contains("tent: ") && error.contains(why), "{to}: {error}");
    }
}

#[test]
fn a_later_version_of_ours_is_an_upstream_peer() {
    let later = text(&ours()).replace("\"v\":1", "\"v\":2").replace("\"rails\":[", "\"rails\":[7,");
    let desc = decode(&later).unwrap();
    assert!(desc.tent.is_none() && desc.buffers.iter().all(|b| b.access.is_none()));
}

#[test]
fn later_cells_of_a_region_are_skipped() {
    let later = text(&ours()).replace("[7,2,3,-1,0]", "[7,2,3,-1,0,\"*\",{\"a\":[]},9]");
    assert_eq!(decode(&later).unwrap(), ours());
}

#[test]
fn buffers_come_out_sorted_with_their_access() {
    let mut shuffled = ours();
    shuffled.buffers.reverse();
    assert_eq!(decode(&text(&shuffled)).unwrap(), ours());
    let mut partly = ours();
    partly.buffers[0].access = None;
    assert_eq!(decode(&text(&partly)).unwrap(), partly);
}

/// `MAX_RAILS` stands for every [`Limited`].
#[test]
fn lists_are_limited() {
    let mut many = ours();
    let rails = &mut many.tent.as_mut().unwrap().rails;
    *rails = vec![rails[0].clone(); MAX_RAILS];
    assert_eq!(decode(&text(&many)).unwrap(), many);
    let rails = &mut many.tent.as_mut().unwrap().rails;
    rails.push(rails[0].clone());
    assert!(refusal(&text(&many)).contains("at most 256"));
}

fn any_buffer() -> impl Strategy<Value = Buffer> {
    let shm = (0..i32::MAX, any::<u32>())
        .prop_map(|(fd, offset)| ShmBacking { fd, offset: offset.into() });
    let access = (any::<u64>(), 0_u8..3, any::<u32>(), option::of(shm)).prop_map(
        |(key, permission, slot, shm)| Access {
            key,
            permission: Permission::from_u8(permission).unwrap(),
            slot,
            shm,
        },
    );
    (1..1000_u64, "[*]|\\PC{1,8}", option::of(access)).prop_map(|(len, location, access)| Buffer {
        location: if access.is_some() { location } else { ANYWHERE.into() },
        access,
        ..buffer(1, len)
    })
}

fn any_facts() -> impl Strategy<Value = TentFacts> {
    let rail = (any::<IpAddr>(), 0..33_u8, "\\PC{0,15}")
        .prop_map(|(ip, prefix, interface)| RailAddr { ip, prefix, interface });
    let host = ("\\PC{0,16}", any::<(u64, u64, i32, u64)>()).prop_map(|(boot_id, n)| {
        HostIdentity { boot_id, pid_ns: n.0, net_ns: n.1, pid: n.2, start_ticks: n.3 }
    });
    let guard = (0..i32::MAX, 1..u64::MAX - 8).prop_map(|(fd, probe)| GuardRef { fd, probe });
    (any::<u128>(), host, vec(rail, 0..5), option::of(guard)).prop_map(
        |(life, host, rails, guard)| TentFacts {
            incarnation: Incarnation(life),
            host,
            rails,
            guard,
        },
    )
}

fn any_ours() -> impl Strategy<Value = SegmentDesc> {
    let names = ("\\PC{1,20}", "tcp|rdma", "\\PC{0,20}");
    let numbers = any::<(u16, u32)>();
    (names, numbers, vec((any_buffer(), 0..99_u64), 0..8), any_facts()).prop_map(
        |(names, numbers, spaced, facts)| {
            let mut next = 1;
            let buffers = spaced.into_iter().map(|(b, gap)| {
                let addr = next + gap;
                next = addr + b.len;
                Buffer { addr, ..b }
            });
            SegmentDesc {
                name: names.0,
                protocol: names.1,
                tcp_data_host: names.2,
                tcp_data_port: numbers.0,
                tcp_proto_version: numbers.1,
                buffers: buffers.collect(),
                tent: Some(facts),
            }
        },
    )
}

proptest! {
    #[test]
    fn ours_round_trips(desc in any_ours()) {
        prop_assert_eq!(decode_desc(&encode_desc(&desc, "now")).unwrap(), desc);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = decode_desc(&bytes);
    }

    #[test]
    fn damaged_text_never_panics(at in any::<prop::sample::Index>(), with in vec(any::<u8>(), 0..4), cut in 0..4_usize) {
        let mut json = text(&ours()).into_bytes();
        let at = at.index(json.len());
        json.splice(at..(at + cut).min(json.len()), with);
        let _ = decode_desc(&json);
    }

    /// Whatever ranges an upstream peer publishes, `buffer_of` finds a buffer exactly if there is one.
    #[test]
    fn foreign_overlaps_do_not_hide_buffers(
        ranges in vec((1..60_u64, 1..30_u64), 0..8),
        addr in 1..90_u64,
        len in 1..20_u64,
    ) {
        let list: Vec<_> =
            ranges.iter().map(|(a, l)| format!(r#"{{"addr":{a},"length":{l}}}"#)).collect();
        let json = format!(r#"{{"name":"n","protocol":"tcp","buffers":[{}]}}"#, list.join(","));
        let desc = decode(&json).unwrap();
        let holds = ranges.iter().any(|(a, l)| *a <= addr && addr + len <= a + l);
        prop_assert_eq!(desc.buffer_of(addr, len).is_some(), holds);
    }
}
