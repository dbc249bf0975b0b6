use super::*;

fn rules(networks: &[&str], names: &[&str], peer: Peer) -> GatewayRules {
    let texts = |of: &[&str]| of.iter().map(|&t| t.to_owned()).collect::<Vec<_>>();
    GatewayRules::new(&peer, &AllowedGateways::parse(&texts(networks), &texts(names)).unwrap())
}

fn peer() -> Peer {
    Peer::with_name("reef".parse().unwrap())
}

fn judge(rules: &GatewayRules, address: &str) -> Result<GatewayVerdict, String> {
    rules.judge_address(&address.parse().unwrap()).map_err(|refusal| refusal.to_string())
}

#[test]
fn addresses_that_are_not_public_unicast_are_refused_by_default() {
    let closed = [
        ("0.1.2.3", "unspecified"),
        ("10.96.0.1", "private"),
        ("100.64.0.1", "shared"),
        ("100.100.100.200", "cloud"),
        ("127.8.9.1", "loopback"),
        ("168.63.129.16", "cloud"),
        ("169.254.169.254", "link-local"),
        ("172.31.255.255", "private"),
        ("192.0.0.9", "reserved"),
        ("192.0.0.192", "cloud"),
        ("192.88.99.1", "6to4"),
        ("192.168.1.10", "private"),
        ("198.19.0.1", "benchmarks"),
        ("224.0.0.251", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "broadcast"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:10.0.0.1", "private"),
        ("::127.0.0.1", "IPv4-compatible"),
        ("::ffff:0:10.0.0.1", "IPv4-translated"),
        ("64:ff9b::a9fe:a9fe", "NAT64"),
        ("64:ff9b::7f00:1", "NAT64"),
        ("64:ff9b:1::1", "NAT64"),
        ("100::1", "discarded"),
        ("2001::1", "Teredo"),
        ("2001:2::1", "benchmarks"),
        ("2001:10::1", "ORCHID"),
        ("2001:20::1", "ORCHID"),
        ("2001:1ff::1", "reserved"),
        ("2002:7f00:1::", "6to4"),
        ("4000::1", "reserved"),
        ("5f00::1", "reserved"),
        ("fc00::1", "unique local"),
        ("fd00:ec2::254", "cloud"),
        ("fd20:ce::254", "cloud"),
        ("fe80::1", "link-local"),
        ("fec0::1", "site-local"),
        ("ff02::1", "multicast"),
    ];
    for (address, word) in closed {
        let refusal = judge(&rules(&[], &[], peer()), address).unwrap_err();
        assert!(refusal.contains(word), "{address}: {refusal}");
        assert!(!is_public(&address.parse().unwrap()), "{address}");
    }
}

/// An interface identifier of ISATAP leads to the IPv4 address in it, whatever the prefix.
#[test]
fn an_address_of_the_network_inside_a_public_one_is_refused() {
    for inside in ["10.0.0.1", "127.0.0.1", "169.254.169.254"] {
        for prefix in ["2600::5efe", "2a00:1450:1:2:200:5efe"] {
            let refusal = judge(&rules(&[], &[], peer()), &format!("{prefix}:{inside}")).unwrap_err();
            assert!(refusal.starts_with("an ISATAP address (RFC 5214) around"), "{refusal}");
        }
    }
    assert_eq!(judge(&rules(&[], &[], peer()), "2600::5efe:192.0.2.1"), Ok(GatewayVerdict::Allowed));
    assert_eq!(
        judge(&rules(&["10.0.0.0/8", "2600::/16"], &[], peer()), "2600::5efe:10.0.0.1"),
        Ok(GatewayVerdict::Allowed)
    );
}

#[test]
fn public_addresses_and_those_for_documentation_are_open_by_default() {
    let open = ["8.8.8.8", "169.62.129.93", "172.32.0.1", "192.0.1.1", "192.0.2.1", "198.51.100.1", "203.0.113.9"];
    for address in open.into_iter().chain(["2001:db8::1", "3fff::1", "2600::1", "2a00:1450::1", "::ffff:192.0.2.1"]) {
        assert_eq!(judge(&rules(&[], &[], peer()), address), Ok(GatewayVerdict::Allowed), "{address}");
    }
}

#[test]
fn a_listed_network_opens_what_is_private_and_closes_the_rest() {
    let listed = rules(&["10.0.0.0/8", "fd12::/16"], &[], peer());
    for open in ["10.1.2.3", "fd12::1", "::ffff:10.1.2.3"] {
        assert_eq!(judge(&listed, open), Ok(GatewayVerdict::Allowed), "{open}");
    }
    for closed in ["192.168.0.1", "fd13::1", "127.0.0.1"] {
        assert!(judge(&listed, closed).is_err(), "{closed}");
    }
    assert!(judge(&listed, "192.0.2.1").unwrap_err().starts_with("outside allowedGateways"));
}

#[test]
fn the_networks_of_a_peer_add_to_those_of_all() {
    let own = AllowedGateways::parse(&["192.168.7.0/24".to_owned()], &[]).unwrap();
    let both = rules(&["10.0.0.0/8"], &[], Peer { allowed_gateways: own, ..peer() });
    assert!(judge(&both, "192.168.7.1").is_ok() && judge(&both, "10.1.1.1").is_ok());
    assert!(judge(&both, "192.168.8.1").is_err());
}

#[test]
fn a_wide_network_does_not_open_loopback_link_local_and_metadata() {
    let wide = rules(&["0.0.0.0/0", "::/0"], &[], peer());
    let named = ["127.0.0.1", "169.254.169.254", "168.63.129.16", "100.100.100.200", "fd00:ec2::254", "fe80::1", "::1"];
    for address in named {
        let refusal = judge(&wide, address).unwrap_err();
        assert!(!refusal.contains("add `allowed"), "nobody is led to open it: {refusal}");
        let length = if address.contains(':') { 128 } else { 32 };
        let exact = rules(&[&format!("{address}/{length}")], &[], peer());
        assert_eq!(judge(&exact, address), Ok(GatewayVerdict::Allowed), "{address}, by name");
    }
    for never in ["0.0.0.0", "255.255.255.255", "224.0.0.1", "ff02::1", "::"] {
        let length = if never.contains(':') { 128 } else { 32 };
        assert!(judge(&rules(&[&format!("{never}/{length}")], &[], peer()), never).is_err(), "{never}");
    }
    assert_eq!(judge(&wide, "10.0.0.1"), Ok(GatewayVerdict::Allowed));
}

#[test]
fn an_address_inside_another_is_judged_too() {
    let nat64 = rules(&["64:ff9b::/96", "2002::/16", "2001::/32"], &[], peer());
    assert_eq!(judge(&nat64, "64:ff9b::192.0.2.1"), Ok(GatewayVerdict::Allowed));
    assert_eq!(judge(&nat64, "2002:c000:201::1"), Ok(GatewayVerdict::Allowed));
    let inside = [
        "64:ff9b::169.254.169.254",
        "64:ff9b::10.0.0.1",
        "2002:7f00:1::",
        "2001:0:a00:1::1",
        "2001:0:808:808:0:0:80ff:fffe",
    ];
    for address in inside {
        let refusal = judge(&nat64, address).unwrap_err();
        assert!(refusal.contains(" around "), "{address}: {refusal}");
    }
}

#[test]
fn names_of_the_cluster_and_of_local_networks_are_refused_by_default() {
    let closed = "localhost a.localhost kubernetes kubernetes.default kubernetes.default.svc \
                  kubernetes.default.svc.cluster.local ledger.payments.svc.k8s.example 10-244-1-7.default.pod x.cluster.local \
                  vault.corp printer.lan router.home.arpa a.home wiki.intranet a.internal metadata.google.internal a.local \
                  a.private a.test a.invalid a.onion 4.3.2.1.in-addr.arpa gateway 0x7f.1 a.0x7f000001 gw.123";
    for name in closed.split_whitespace() {
        assert!(judge(&rules(&[], &[], peer()), name).is_err(), "{name}");
    }
    for text in ["127.1", "2130706433", "017700000001", "gw.example.", "a..b", "fe80::1%eth0", "gw.example:80", "", "."]
    {
        assert!(text.parse::<Address>().is_err(), "{text:?} is neither an address nor a name");
    }
}

#[test]
fn a_public_name_depends_on_what_it_leads_to() {
    let rules = rules(&[], &[], peer());
    let name: Host = "gw.reef.example".parse().unwrap();
    assert_eq!(judge(&rules, name.as_str()), Ok(GatewayVerdict::DependsOn(name.clone())));
    let answer = |texts: &[&str]| -> NameAnswer { Ok(texts.iter().map(|t| t.parse().unwrap()).collect()) };
    let judge = |texts: &[&str]| rules.judge_answer(&name, &answer(texts)).map_err(|refusal| refusal.to_string());
    assert_eq!(judge(&["192.0.2.1", "2001:db8::1"]), Ok(()));
    assert_eq!(judge(&["64:ff9b::192.0.2.1"]), Ok(()), "a network without IPv4 sees public addresses so");
    assert!(judge(&["64:ff9b::10.0.0.1"]).unwrap_err().contains("private"));
    let refusal = judge(&["192.0.2.1", "10.1.2.3"]).unwrap_err();
    let cure = "add `allowedGateways: [10.0.0.0/8]` to ClusterPeering reef";
    assert!(refusal.contains("leads to 10.1.2.3, a private address") && refusal.contains(cure), "{refusal}");
    assert!(judge(&["127.0.0.1"]).unwrap_err().contains("loopback"));
    let unresolved = rules.judge_answer(&name, &Err("no such name".to_owned())).unwrap_err().to_string();
    let cure = "add `allowedGatewayNames: [gw.reef.example]` to ClusterPeering reef";
    assert!(unresolved.contains("no such name") && unresolved.contains(cure), "{unresolved}");
    assert!(judge(&[]).is_err());
}

#[test]
fn what_a_name_leads_to_is_held_against_listed_networks() {
    let rules = rules(&["10.0.0.0/8"], &[], peer());
    let name: Host = "gw.reef.example".parse().unwrap();
    assert_eq!(rules.judge_answer(&name, &Ok(vec!["10.1.2.3".parse().unwrap()])), Ok(()));
    assert!(rules.judge_answer(&name, &Ok(vec!["192.0.2.1".parse().unwrap()])).is_err());
}

#[test]
fn listed_names_are_trusted_with_what_is_below_them_and_no_other_is() {
    let listed = rules(&[], &["gateways.example", "*.corp", ".Reef.Lan"], peer());
    for open in ["gateways.example", "a.b.gateways.example", "gw.corp", "gw.reef.lan"] {
        assert_eq!(judge(&listed, open), Ok(GatewayVerdict::Allowed), "{open}");
    }
    for closed in ["evilgateways.example", "gw.example", "gw.lan", "localhost"] {
        assert!(judge(&listed, closed).is_err(), "{closed}");
    }
    assert_eq!(judge(&listed, "192.0.2.1"), Ok(GatewayVerdict::Allowed), "names say nothing of addresses");
}

#[test]
fn names_of_the_cluster_are_opened_by_their_own_suffix_only() {
    let wide = rules(&[], &["local", "example", "internal"], peer());
    for closed in ["x.y.svc.cluster.local", "x.y.svc.k8s.example", "metadata.google.internal"] {
        assert!(judge(&wide, closed).is_err(), "{closed}");
    }
    assert!(judge(&wide, "gw.local").is_ok());
    let named = rules(&[], &["edge.svc.cluster.local", "svc.k8s.example"], peer());
    for open in ["gw.edge.svc.cluster.local", "x.y.svc.k8s.example"] {
        assert!(judge(&named, open).is_ok(), "{open}");
    }
    assert!(judge(&named, "x.y.svc.cluster.local").is_err());
}

#[test]
fn the_addresses_of_the_peers_own_entry_are_open() {
    let at = |endpoint: &str| Peer { endpoint: Some(endpoint.parse().unwrap()), ..peer() };
    assert!(judge(&rules(&[], &[], at("10.1.2.3:7443")), "10.1.2.3").is_ok());
    assert!(judge(&rules(&[], &[], at("10.1.2.3:7443")), "10.1.2.4").is_err());
    assert!(judge(&rules(&["192.0.2.0/24"], &[], at("10.1.2.3:7443")), "10.1.2.3").is_ok());
    assert_eq!(judge(&rules(&[], &[], at("reef.corp:7443")), "reef.corp"), Ok(GatewayVerdict::Allowed));
    assert!(judge(&rules(&[], &[], at("127.0.0.1:7443")), "127.0.0.1").is_err(), "a tunnel's end is no gateway");
    assert!(judge(&rules(&[], &[], at("localhost:7443")), "localhost").is_err());
}

#[test]
fn what_is_no_network_or_name_is_refused_by_field() {
    let refused = |networks: &[&str], names: &[&str]| {
        let texts = |of: &[&str]| of.iter().map(|&t| t.to_owned()).collect::<Vec<_>>();
        AllowedGateways::parse(&texts(networks), &texts(names)).unwrap_err()
    };
    assert!(refused(&["10.0.0.0/8", "10.0.0.0/33"], &[]).starts_with("allowedGateways[1]: \"10.0.0.0/33\""));
    for name in ["*", "", ".", "a b", "*.*.example", "gw.example."] {
        assert!(refused(&[], &[name]).starts_with("allowedGatewayNames[0]: "), "{name:?}");
    }
}
