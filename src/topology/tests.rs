use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

/// `ip -br addr` in short: interface, address/prefix.
fn iface(name: &str, net: &str) -> Interface {
    let (addr, prefix) = net.split_once('/').unwrap();
    let addr: IpAddr = addr.parse().unwrap();
    Interface {
        name: name.into(),
        addr,
        prefix: prefix.parse().unwrap(),
        up: true,
        running: true,
        loopback: addr.is_loopback(),
        scope_id: 0,
        bridge: name == "docker0" || name.starts_with("br"),
        speed_mbps: None,
    }
}

fn host(list: &[(&str, &str)]) -> Vec<Interface> {
    let lo = [("lo", "127.0.0.1/8"), ("lo", "::1/128")];
    lo.iter().chain(list).map(|(name, net)| iface(name, net)).collect()
}

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|ip| ip.parse().unwrap()).collect()
}

/// `local>remote`, with `*` for a rail that is not bound.
fn show(pairs: &[RailPair]) -> Vec<String> {
    let text = |p: &RailPair| {
        let local = p.local.map_or_else(|| "*".into(), |ip| ip.to_string());
        format!("{local}>{}", p.remote)
    };
    pairs.iter().map(text).collect()
}

/// Rails between two hosts, each publishing what it would.
fn rails(a: &[(&str, &str)], b: &[(&str, &str)]) -> Vec<String> {
    show(&pair_rails(&host(a), &rail_addrs(&host(b), &[]), false, false, &[]))
}

fn rails_v6(a: &[(&str, &str)], b: &[(&str, &str)]) -> Vec<String> {
    show(&pair_rails(&host(a), &rail_addrs(&host(b), &[]), false, true, &[]))
}

#[test]
fn single_nic() {
    let (a, b) = ([("eth0", "192.0.2.2/24")], [("ens3", "192.0.2.9/24")]);
    assert_eq!(rails(&a, &b), ["192.0.2.2>192.0.2.9"]);
}

#[test]
fn four_nics_on_four_networks_make_four_rails() {
    let nics = |last: u8| {
        (0..4).map(|n| (format!("eth{n}"), format!("10.0.{n}.{last}/24"))).collect::<Vec<_>>()
    };
    let (a, b) = (nics(1), nics(2));
    let list = |v: &[(String, String)]| {
        let refs: Vec<_> = v.iter().map(|(n, a)| (n.as_str(), a.as_str())).collect();
        host(&refs)
    };
    let mut remote = rail_addrs(&list(&b), &[]);
    let expected =
        ["10.0.0.1>10.0.0.2", "10.0.1.1>10.0.1.2", "10.0.2.1>10.0.2.2", "10.0.3.1>10.0.3.2"];
    assert_eq!(show(&pair_rails(&list(&a), &remote, false, false, &[])), expected);
    // another order at the peer: the same rails
    remote.rotate_left(1);
    let mut turned = show(&pair_rails(&list(&a), &remote, false, false, &[]));
    turned.sort();
    assert_eq!(turned, expected);
    // only two of them
    let only = ips(&["10.0.3.1", "10.0.1.1"]);
    let mut pinned = show(&pair_rails(&list(&a), &remote, false, false, &only));
    pinned.sort();
    assert_eq!(pinned, [expected[1], expected[3]]);
    assert_eq!(rail_addrs(&list(&a), &only)[0].interface, "eth3");
}

#[test]
fn nics_on_one_network_pair_each_with_each_evenly() {
    let (a, b) = (
        [("eth0", "10.0.0.1/24"), ("eth1", "10.0.0.2/24")],
        [("eth0", "10.0.0.3/24"), ("eth1", "10.0.0.4/24")],
    );
    assert_eq!(
        rails(&a, &b),
        ["10.0.0.1>10.0.0.3", "10.0.0.2>10.0.0.4", "10.0.0.1>10.0.0.4", "10.0.0.2>10.0.0.3"]
    );
}

#[test]
fn a_pair_with_both_families_is_one_rail() {
    let (a, b) = (
        [("eth0", "10.0.0.1/24"), ("eth0", "fd00::1/64"), ("eth0", "fe80::1/64")],
        [("eth0", "fe80::2/64"), ("eth0", "fd00::2/64"), ("eth0", "10.0.0.2/24")],
    );
    assert_eq!(rails(&a, &b), ["10.0.0.1>10.0.0.2"]);
    assert_eq!(rails_v6(&a, &b), ["fd00::1>fd00::2"]);
}

#[test]
fn ipv6_where_only_it_is_common() {
    let (a, b) = (
        [("eth0", "10.0.0.1/24"), ("eth0", "fd00::1/64")],
        [("eth0", "10.9.0.1/24"), ("eth0", "fd00::2/64")],
    );
    assert_eq!(rails(&a, &b), ["fd00::1>fd00::2"]);
    let v6 = [("eth0", "fd00::3/64"), ("eth0", "fe80::3/64")];
    assert_eq!(rails(&v6, &b), ["fd00::3>fd00::2"]);
    let link_local = [("eth0", "fe80::4/64")];
    assert!(rails(&v6, &link_local).is_empty());
}

#[test]
fn docker0_is_nobodys_neighbour() {
    let (a, b) = (
        [("docker0", "172.17.0.1/16"), ("eth0", "10.0.0.1/24")],
        [("docker0", "172.17.0.1/16"), ("eth0", "10.0.0.2/24")],
    );
    assert_eq!(rails(&a, &b), ["10.0.0.1>10.0.0.2"]);
    // not even where nobody else is, if the other side publishes its own
    let remote =
        [RailAddr { ip: "172.17.0.1".parse().unwrap(), prefix: 16, interface: "x".into() }];
    assert!(pair_rails(&host(&a[..1]), &remote, false, false, &[]).is_empty());
}

#[test]
fn a_bridge_serves_where_there_is_nothing_else_or_it_is_asked_for() {
    let (a, b) = ([("br0", "10.0.0.1/24")], [("br0", "10.0.0.2/24")]);
    assert_eq!(rails(&a, &b), ["10.0.0.1>10.0.0.2"]);
    let a = host(&[("br0", "10.0.0.1/24"), ("eth0", "10.1.0.1/24")]);
    let remote = rail_addrs(&host(&b), &[]);
    assert_eq!(show(&pair_rails(&a, &remote, false, false, &[])), ["*>10.0.0.2"]);
    let only = ips(&["10.0.0.1"]);
    assert_eq!(show(&pair_rails(&a, &remote, false, false, &only)), ["10.0.0.1>10.0.0.2"]);
}

#[test]
fn interfaces_that_are_down_carry_nothing() {
    let mut a = host(&[("eth0", "10.0.0.1/24"), ("eth1", "10.0.1.1/24"), ("eth2", "10.0.2.1/24")]);
    a[2].up = false;
    a[3].running = false;
    let b = host(&[("eth0", "10.0.0.2/24"), ("eth1", "10.0.1.2/24"), ("eth2", "10.0.2.2/24")]);
    let remote = rail_addrs(&b, &[]);
    assert_eq!(show(&pair_rails(&a, &remote, false, false, &[])), ["10.0.2.1>10.0.2.2"]);
    assert_eq!(rail_addrs(&a, &[]).len(), 1);
}

#[test]
fn without_neighbours_the_kernel_routes_one_rail() {
    let (a, b) = (
        [("eth0", "10.0.0.1/24"), ("eth0", "fd00::1/64")],
        [("eth0", "fd01::2/64"), ("eth1", "169.254.0.3/16"), ("eth1", "10.1.0.2/24")],
    );
    assert_eq!(rails(&a, &b), ["*>10.1.0.2"]);
    assert_eq!(rails_v6(&a, &b), ["*>fd01::2"]);
    // a family that we do not have
    assert!(rails(&[("eth0", "fd00::1/64")], &[("eth0", "10.1.0.2/24")]).is_empty());
    // pods have a network of one address
    assert_eq!(rails(&[("eth0", "10.0.0.1/32")], &[("eth0", "10.0.0.2/32")]), ["*>10.0.0.2"]);
    // a pinned address is kept
    let only = ips(&["10.0.0.1"]);
    let remote = rail_addrs(&host(&b), &[]);
    assert_eq!(show(&pair_rails(&host(&a), &remote, false, false, &only)), ["10.0.0.1>10.1.0.2"]);
}

#[test]
fn both_sides_must_count_the_other_to_their_network() {
    let (a, b) = ([("eth0", "10.0.0.1/8")], [("eth0", "10.1.0.2/24")]);
    assert_eq!(rails(&a, &b), ["*>10.1.0.2"]);
}

#[test]
fn one_host_has_one_loopback_rail() {
    let a = host(&[("eth0", "10.0.0.1/24")]);
    let remote = rail_addrs(&a, &[]);
    assert_eq!(show(&pair_rails(&a, &remote, true, false, &[])), ["127.0.0.1>127.0.0.1"]);
    assert_eq!(show(&pair_rails(&a, &remote, true, true, &[])), ["::1>::1"]);
    // nothing but lo, and a peer that publishes nothing
    assert_eq!(show(&pair_rails(&host(&[]), &[], true, false, &[])), ["127.0.0.1>127.0.0.1"]);
    assert!(pair_rails(&host(&[]), &remote, false, false, &[]).is_empty());
}

#[test]
fn one_host_with_listed_addresses_has_a_rail_for_each() {
    let a = host(&[("eth0", "10.0.0.1/24")]);
    let only = ips(&["127.0.0.1", "127.0.0.2", "::1"]);
    let published = rail_addrs(&a, &only);
    assert_eq!(published[1].interface, "lo");
    let same = ["127.0.0.1>127.0.0.1", "127.0.0.2>127.0.0.2", "::1>::1"];
    assert_eq!(show(&pair_rails(&a, &published, true, false, &only)), same);
    // a peer that lists others, one that lists fewer, and one that lists none
    let others = rail_addrs(&a, &ips(&["::1", "127.0.0.3", "127.0.0.4"]));
    assert_eq!(
        show(&pair_rails(&a, &others, true, false, &only)),
        ["127.0.0.1>127.0.0.3", "127.0.0.2>127.0.0.4", "::1>::1"]
    );
    assert_eq!(show(&pair_rails(&a, &published[..1], true, false, &only)), same);
    assert_eq!(show(&pair_rails(&a, &rail_addrs(&a, &[]), true, false, &only)), same);
    // what is not ours is not used, and with nothing left the one rail remains to be routed
    let foreign = ips(&["10.0.0.99"]);
    assert!(pair_rails(&a, &published, true, false, &foreign).is_empty());
}

#[test]
fn a_host_without_loopback_has_no_loopback_rail() {
    let a = [iface("eth0", "10.0.0.1/24")];
    assert!(pair_rails(&a, &rail_addrs(&a, &[]), true, false, &[]).is_empty());
}

#[test]
fn this_machine_lists_its_interfaces() {
    let all = interfaces(Path::new(SYSFS_NET)).unwrap();
    assert!(all.iter().any(|i| i.loopback && !i.bridge));
}

#[test]
fn sysfs_tells_bridges_and_speeds() {
    let root = std::env::temp_dir().join(format!("tent-topology-{}", std::process::id()));
    for dir in ["docker0/bridge", "eth0", "eth1", "eth2"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::write(root.join("eth0/speed"), "100000\n").unwrap();
    fs::write(root.join("eth1/speed"), "-1\n").unwrap();
    assert!(is_bridge(&root, "docker0") && !is_bridge(&root, "eth0") && !is_bridge(&root, "none"));
    assert_eq!(speed_mbps(&root, "eth0"), Some(100_000));
    assert_eq!((speed_mbps(&root, "eth1"), speed_mbps(&root, "eth2")), (None, None));
    fs::remove_dir_all(&root).unwrap();
}

fn any_net() -> impl Strategy<Value = (IpAddr, u8)> {
    let v4 = (0..3_u32, 0..6_u32, 0..33_u8)
        .prop_map(|(net, n, p)| (IpAddr::V4(Ipv4Addr::from_bits(10 << 24 | net << 8 | n)), p));
    let v6 = (0..3_u128, 0..6_u128, 0..129_u8)
        .prop_map(|(net, n, p)| (IpAddr::V6(Ipv6Addr::from_bits(0xfd << 120 | net << 64 | n)), p));
    let other = prop_oneof![Just("127.0.0.1"), Just("::1"), Just("fe80::1"), Just("0.0.0.0")]
        .prop_map(|ip| (ip.parse().unwrap(), 8));
    prop_oneof![v4, v6, other]
}

proptest! {
    /// Whatever is listed: rails leave from addresses that we have, lead to addresses that the peer
    /// lists, none comes twice, and no pair of interfaces has two.
    #[test]
    fn rails_join_listed_addresses_once(
        local in vec((0..5_u8, any_net()), 0..20),
        remote in vec((0..5_u8, any_net()), 0..20),
        prefer_v6 in any::<bool>(),
    ) {
        let local: Vec<_> = local
            .into_iter()
            .map(|(n, (ip, p))| iface(&format!("eth{n}"), &format!("{ip}/{p}")))
            .collect();
        let remote: Vec<_> = remote
            .into_iter()
            .map(|(n, (ip, prefix))| RailAddr { ip, prefix, interface: format!("eth{n}") })
            .collect();
        let pairs = pair_rails(&local, &remote, false, prefer_v6, &[]);
        prop_assert!(pairs.len() <= 25);
        for (at, pair) in pairs.iter().enumerate() {
            prop_assert!(remote.iter().any(|r| r.ip == pair.remote));
            prop_assert!(pair.local.is_none_or(|ip| local.iter().any(|i| i.addr == ip)));
            prop_assert!(!pairs[..at].contains(pair));
            prop_assert!(!pair.remote.is_loopback() && pair.local != Some(pair.remote));
        }
    }

    #[test]
    fn the_number_of_rails_is_bounded(a in 0..40_u8, b in 0..40_u8) {
        let nics = |from: u8, count: u8| -> Vec<_> {
            (0..count).map(|n| iface(&format!("eth{n}"), &format!("10.0.{from}.{n}/16"))).collect()
        };
        let pairs = pair_rails(&nics(1, a), &rail_addrs(&nics(2, b), &[]), false, false, &[]);
        prop_assert_eq!(pairs.len(), (usize::from(a) * usize::from(b)).min(MAX_RAIL_PAIRS));
    }
}

#[test]
fn filters_keep_and_drop_interfaces_but_never_loopback() {
    let all = host(&[("eth0", "10.0.0.1/24"), ("eth1", "10.0.1.1/24")]);
    let names = |keep: &[&str], drop: &[&str]| {
        let text = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let left = select(&all, &text(keep), &text(drop))?;
        Some(left.into_iter().map(|i| i.name).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(names(&[], &[]).unwrap(), "lo lo eth0 eth1");
    assert_eq!(names(&["eth1"], &[]).unwrap(), "lo lo eth1");
    assert_eq!(names(&[], &["eth1", "lo"]).unwrap(), "lo lo eth0");
    assert_eq!(names(&["eth0", "eth1"], &["eth0"]).unwrap(), "lo lo eth1");
    assert_eq!(names(&["mlx5_0"], &[]), None, "none of them is here");
    assert_eq!(names(&["eth0"], &["eth0"]), None);
}

#[test]
fn an_rdma_device_stands_for_its_interfaces() {
    let sysfs = std::env::temp_dir().join(format!("tent-rdma-{}", std::process::id()));
    fs::create_dir_all(sysfs.join("mlx5_0/device/net/ens1np0")).unwrap();
    let found = net_devices(&sysfs, &["mlx5_0".into(), "eth0".into(), "../mlx5_0".into()]);
    fs::remove_dir_all(&sysfs).unwrap();
    assert_eq!(found, ["ens1np0", "mlx5_0", "eth0", "../mlx5_0"]);
}
