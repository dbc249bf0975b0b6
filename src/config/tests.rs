use super::*;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, "agent.yaml", Path::new("/base")).map_err(|e| e.to_string())
}

#[test]
fn the_smallest_configuration_has_the_documented_defaults() {
    let c = parse("cluster: shore\n").unwrap();
    assert_eq!(c.listen.to_string(), "0.0.0.0:7443");
    assert_eq!(c.admin.to_string(), "127.0.0.1:7444");
    assert_eq!((c.style, c.tls), (Style::EgressIngress, TlsMode::Cluster));
    assert_eq!(c.trust_domain.as_str(), "cluster.local");
    assert_eq!((c.ingress.namespace.as_str(), c.ingress.service.as_str()), ("istio-system", "istio-ingressgateway"));
    assert_eq!(c.egress.selector, BTreeMap::from([("istio".to_owned(), "egressgateway".to_owned())]));
    assert_eq!(c.store, StoreConfig::Kube(KubeConfig::default()));
    assert!(c.peers.is_empty() && !c.trust_any);
}

#[test]
fn an_unknown_key_is_refused_with_its_name_and_line() {
    let e = parse("cluster: shore\nlisen: 0.0.0.0:1\n").unwrap_err();
    assert!(e.contains("agent.yaml") && e.contains("lisen") && e.contains("line 2"), "{e}");
    let e = parse("cluster: shore\npeers:\n- name: far\n  consum: true\n").unwrap_err();
    assert!(e.contains("consum") && e.contains("line 4"), "{e}");
}

#[test]
fn paths_are_relative_to_the_file() {
    let c = parse(
        "cluster: shore\nidentity: {certificate: tls.crt, key: /abs/tls.key, root: ca.crt}\nstore: {dir: ./objects}\n",
    )
    .unwrap();
    let Some(IdentityConfig::Files(identity)) = c.identity else { panic!("{:?}", c.identity) };
    assert_eq!(identity.certificate, Path::new("/base/tls.crt"));
    assert_eq!(identity.key, Path::new("/abs/tls.key"));
    assert_eq!(c.store, StoreConfig::Dir("/base/./objects".into()));
}

#[test]
fn the_originals_keys_are_read_with_the_originals_defaults() {
    let c = parse(
        "ID: shore\nGatewayIP: 192.0.2.7\nGatewayPort: 31444\nAgentPort: 8998\nTrustedPeers: [isle]\nWatchedPeers:\n- \
         ID: isle\n  GatewayIP: 192.0.2.8\n  GatewayPort: 80\n  AgentPort: 8999\n  ConnectionMode:\n",
    )
    .unwrap();
    assert_eq!(c.listen.to_string(), "0.0.0.0:8998");
    assert_eq!(c.ingress.port, 31444);
    assert_eq!(c.ingress.addresses[0].address.to_string(), "192.0.2.7");
    let isle = &c.peers[&"isle".parse().unwrap()];
    assert_eq!(isle.endpoint.as_ref().unwrap().to_string(), "192.0.2.8:8999", "the agent is where the gateway is");
    assert_eq!(isle.connection_mode, ConnectionMode::Live, "no mode means live");
    assert!(isle.consume);
    assert_eq!(isle.gateway_hint[0].port, 80);
}

#[test]
fn everyone_trusted_means_every_cluster_by_name_and_says_so() {
    let c = parse("ID: shore\nTrustedPeers: ['*']\n").unwrap();
    let facts = c.cluster_facts(SpiffeId::of_cluster(&c.cluster));
    assert!(c.trust_any);
    assert!(facts.find_consumer(&"anyone".parse().unwrap()).is_some());
}

#[test]
fn a_configuration_inside_a_config_map_is_read() {
    let c = parse("kind: ConfigMap\nmetadata: {name: mc}\ndata:\n  config.yaml: |\n    ID: shore\n    AgentPort: 1\n");
    assert_eq!(c.unwrap().cluster.as_str(), "shore");
}

#[test]
fn json_is_read_like_yaml() {
    let c = parse(r#"{"ID": "shore", "WatchedPeers": [], "ConnectionMode": "live"}"#).unwrap();
    assert_eq!(c.cluster.as_str(), "shore");
}

#[test]
fn a_style_that_cannot_carry_the_tls_mode_is_refused() {
    let e = parse("cluster: shore\nstyle: DIRECT_INGRESS\ntls: Cluster\n").unwrap_err();
    assert!(e.contains("DIRECT_INGRESS") && e.contains("Cluster"), "{e}");
    assert_eq!(parse("cluster: shore\nstyle: DIRECT_INGRESS\n").unwrap().tls, TlsMode::Workload);
}

#[test]
fn a_bad_name_is_refused_by_field_and_value() {
    let e = parse("cluster: shore\npeers: [{name: clusterC}]\n").unwrap_err();
    assert!(e.contains("peers[0].name") && e.contains("clusterC"), "{e}");
    let e = parse("cluster: shore\npeers: [{name: isle, endpoint: isle.example}]\n").unwrap_err();
    assert!(e.contains("isle") && e.contains("endpoint") && e.contains("port"), "{e}");
    assert!(parse("cluster: shore\npeers: [{name: shore}]\n").unwrap_err().contains("itself"));
    assert!(parse("cluster: shore\nstore: {dir: a, kube: {}}\n").unwrap_err().contains("exactly one"));
    assert!(parse("cluster: shore\nallowedGateways: [300.1.1.1/8]\n").unwrap_err().contains("allowedGateways"));
}

#[test]
fn the_admin_listener_is_told_its_names_and_who_may_read_the_status() {
    let c = parse("cluster: shore\nadminHosts: [Metrics.example, probe]\nadminStatusFrom: [192.0.2.0/28]\n").unwrap();
    assert_eq!(c.admin_hosts.iter().collect::<Vec<_>>(), ["metrics.example", "probe"]);
    assert_eq!(c.admin_status_from, ["192.0.2.0/28".parse().unwrap()]);
    for (wrong, field) in [
        ("adminHosts: ['metrics.example:80']", "adminHosts[0]"),
        ("adminHosts: [a, '*']", "adminHosts[1]"),
        ("adminStatusFrom: [anywhere]", "adminStatusFrom"),
    ] {
        let e = parse(&format!("cluster: shore\n{wrong}\n")).unwrap_err();
        assert!(e.contains(field), "{e}");
    }
}

#[test]
fn a_gateway_of_the_gateway_api_is_named_by_its_gateway() {
    let c = parse("cluster: shore\ningress: {namespace: edge, gateway: public}\n").unwrap();
    assert_eq!(c.ingress.service.as_str(), "public-istio");
    assert_eq!(c.ingress.service_account, "public-istio");
    assert_eq!(c.ingress.selector["gateway.networking.k8s.io/gateway-name"], "public");
    assert!(!c.peering_by_ingress, "peers dial the agent itself");
    assert!(parse("cluster: shore\ningress: {peering: true}\n").unwrap().peering_by_ingress);
    let both = parse("cluster: shore\ningress: {gateway: public, service: other}\n").unwrap_err().to_string();
    assert!(both.contains("ingress.gateway"), "{both}");
}

#[test]
fn an_identity_is_three_files_or_one_secret() {
    let c = parse("cluster: shore\nidentity: {secret: wharf-tls}\n").unwrap();
    assert_eq!(c.identity, Some(IdentityConfig::Secret("wharf-tls".parse().unwrap())));
    let c = parse("cluster: shore\nidentity: {certificate: a, key: b, root: c, crl: d}\n").unwrap();
    let Some(IdentityConfig::Files(files)) = c.identity else { panic!("{:?}", c.identity) };
    assert_eq!(files.crl.as_deref(), Some(Path::new("/base/d")));
    for bad in
        ["{}", "{secret: a, root: ca.crt}", "{certificate: a, key: b}", "{secret: A_b}", "{secret: a, crl: ca.crl}"]
    {
        let e = parse(&format!("cluster: shore\nidentity: {bad}\n")).unwrap_err().to_string();
        assert!(e.contains("identity"), "{e}");
    }
}

#[test]
fn a_kube_store_may_be_confined_to_namespaces() {
    let c = parse("cluster: shore\nstore: {kube: {namespaces: [shop, till]}}\n").unwrap();
    let StoreConfig::Kube(KubeConfig { context: None, namespaces: Some(names) }) = c.store else { panic!() };
    assert_eq!(names.iter().map(|n| n.as_str()).collect::<Vec<_>>(), ["shop", "till"]);
    let none = parse("cluster: shore\nstore: {kube: {namespaces: []}}\n").unwrap_err().to_string();
    assert!(none.contains("store.kube.namespaces"), "{none}");
}

#[test]
fn the_gateways_drain_time_is_istios_unless_it_is_told() {
    let drain = |ingress: &str| parse(&format!("cluster: shore\ningress: {{{ingress}}}\n")).map(|c| c.ingress.drain);
    assert_eq!(drain("port: 15443"), Ok(OwnGateway::DRAIN));
    assert_eq!(drain("drain: 1m30s"), Ok(std::time::Duration::from_secs(90)));
    let e = drain("drain: soon").unwrap_err();
    assert!(e.contains("ingress.drain") && e.contains("45s") && e.contains("soon"), "{e}");
}

#[test]
fn limits_that_are_not_set_are_left_to_their_defaults_and_wrong_ones_are_named() {
    assert_eq!(parse("cluster: shore\n").unwrap().limits, LimitSettings::default());
    let set = parse("cluster: shore\nlimits: {peerExpositions: 5000, peerBytes: 8388608}\n").unwrap().limits;
    assert_eq!((set.peer_expositions, set.peer_bytes, set.all_peers_bytes), (Some(5000), Some(8 << 20), None));
    let set = parse("cluster: shore\nlimits: {connections: 600}\n").unwrap().limits;
    assert_eq!(set, LimitSettings { connections: Some(600), ..LimitSettings::default() });
    let e = parse("cluster: shore\nlimits: {connections: 8}\n").unwrap_err();
    assert!(e.contains("limits.connections: expected a number from 16"), "{e}");
    let e = parse("cluster: shore\nlimits: {peerBytes: 8}\n").unwrap_err();
    assert!(e.contains("limits.peerBytes: expected a number from 65536"), "{e}");
    assert!(parse("cluster: shore\nlimits: {peerExposition: 8}\n").unwrap_err().contains("peerExposition"));
}

/// Place, key, what was expected, and the near name; nothing of Rust or of the YAML library.
#[test]
fn mistakes_are_told_in_a_persons_words() {
    for (text, parts) in [
        ("cluster:\nstore: {dir: .}\n", &["line 1: cluster: ", "no value", "the name of this cluster"][..]),
        ("store: {dir: .}\n", &["cluster: missing"]),
        ("cluster: a\nlisen: x\n", &["line 2: lisen", "is listen meant?"]),
        ("cluster: a\nzzz: x\n", &["line 2: zzz", "the keys here are", "listen"]),
        (
            "cluster: a\npeers:\n- name: b\n- name: c\n  consumes: true\n",
            &["line 5: peers[1].consumes", "is consume meant?"],
        ),
        (
            "cluster: a\npeers:\n- {name: b, connectionMode: Live}\n",
            &["peers[0].connectionMode", "live, potential, none", "is live meant?"],
        ),
        ("cluster: a\npeers:\n  b: {consume: true}\n", &["line 2: peers: ", "found a mapping", "expected a list"]),
        ("cluster: a\ningress: {port: 70000}\n", &["line 2: ingress.port", "70000", "from 0 to 65535"]),
        ("cluster: a\ncluster: b\n", &["there twice", "cluster"]),
        (
            "cluster: a\ningress: {address: \"203.0.113.5:30443\"}\n",
            &["ingress.address", "203.0.113.5:30443", "ingress.port"],
        ),
        (
            "cluster: a\npeers:\n- {name: b, endpoint: \"https://b.example:7443\"}\n",
            &["endpoint", "leave out the scheme"],
        ),
        ("cluster: a\npeers:\n- {name: b, identity: \"spiffe://wharf/cluster/c\"}\n", &["identity", "of c, not of b"]),
        ("- a\n- b\n", &["expected keys with values"]),
        ("apiVersion: v1\nkind: Service\n", &["an object of the kind \"Service\"", "cluster: NAME"]),
        ("cluster: a\nID: b\n", &["cluster: it is there twice"]),
        ("cluster: [a\n", &["line 1", "unclosed bracket"]),
        ("cluster: a\n\tstore: {}\n", &["spaces, not with tabs"]),
        ("cluster: a\nlisten: 7443\n", &["listen", "such as 0.0.0.0:7443"]),
    ] {
        let e = parse(text).expect_err(text);
        for part in parts {
            assert!(e.contains(part), "{part:?} is missing in: {e}");
        }
        for strange in ["Option", "DuplicateKeyPolicy", "u16", "sequence", "variant", "deserialize", "untagged"] {
            assert!(!e.contains(strange), "{strange:?} is in: {e}");
        }
    }
}

#[test]
fn empty_sections_are_treated_alike() {
    for section in
        ["ingress", "egress", "tls", "identity", "store", "peers", "istiod", "limits", "passthrough", "adminHosts"]
    {
        let c = parse(&format!("cluster: a\n{section}:\n"));
        assert_eq!(c.as_ref().ok(), parse("cluster: a\n").as_ref().ok(), "{section}: {c:?}");
    }
}

#[test]
fn what_is_given_in_another_form_is_told_without_words_of_rust() {
    for (text, told) in [
        ("ingress: []", "ingress: found a list, expected a mapping"),
        ("limits: []", "limits: found a list, expected a mapping"),
        ("peers: [[south]]", "peers[0]: found a list, expected a mapping"),
        ("peers: [{name: south, connectionMode: 1}]", "peers[0].connectionMode: found the number 1, expected a text"),
        ("peers: [{name: south, connectionMode: {}}]", "peers[0].connectionMode: found a mapping, expected a text"),
        ("limits: {peerBytes: x}", "limits.peerBytes: found the text \"x\", expected a whole number"),
    ] {
        let e = parse(&format!("cluster: shore\n{text}\n")).unwrap_err();
        assert!(e.contains(told), "{text}: {e}");
    }
}

#[test]
fn a_second_document_and_what_is_no_text_are_told_without_words_of_a_library() {
    let e = parse("cluster: shore\n---\ncluster: isle\n").unwrap_err();
    assert!(e.contains("another document begins here (`---`), and only one is read"), "{e}");
    assert!(e.contains("line ") && !e.contains("from_str"), "{e}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, [0xff, 0xfe, 0x80]).unwrap();
    let e = Config::load(&file).unwrap_err().to_string();
    assert!(e.ends_with("config.yaml: it is no text in UTF-8, which a configuration is"), "{e}");
}
