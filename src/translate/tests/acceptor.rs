use serde_json::json;

use super::build::*;
use crate::api::Kind;
use crate::model::{NameAnswers, Protocol, Style, TlsMode};
use crate::translate::{
    Inventory, LocalName, MissingExposition, PassthroughHosts, ProblemReason, Source, bind_local_name, shared_egress,
    split_binding, validate_exposition,
};

fn reason(bound: &crate::translate::LocalTranslation, i: usize) -> Option<ProblemReason> {
    bound.outcomes[i].problem.as_ref().map(|p| p.reason)
}

#[test]
fn an_http_binding_changes_no_listener_of_the_egress_gateway() {
    let facts = isle(Style::EgressIngress);
    let source = source("harbor", "till", offered("harbor", "till", TlsMode::Cluster), |_| {});
    let bound = bound(&[source], &Inventory::default(), &facts);
    assert!(bound.shared && bound.objects.iter().all(|o| o.kind() != Kind::Gateway));
    assert_eq!(bound.objects.len(), 5);
    assert!(shared_egress(&Inventory::default(), &facts).iter().any(|o| o.kind() == Kind::Gateway));
}

#[test]
fn the_shared_listener_takes_routes_of_wharf_alone() {
    let facts = isle(Style::EgressIngress);
    let listener = only(&shared_egress(&Inventory::default(), &facts), Kind::Gateway);
    assert_eq!(listener["servers"][0]["hosts"], json!(["./*"]), "a VirtualService of another namespace cannot attach");
    let source = source("harbor", "till", offered("harbor", "till", TlsMode::Cluster), |_| {});
    let objects = json_of(&bound(&[source], &Inventory::default(), &facts).objects);
    let at_gateway = named(&objects, "VirtualService istio-system/egressgateway-to-till-office-p8080");
    let at_gateway = &at_gateway["spec"];
    assert_eq!((&at_gateway["gateways"], &at_gateway["exportTo"]), (&json!(["wharf-egress"]), &json!(["."])));
    assert_eq!(at_gateway["http"][2]["route"][0]["destination"]["host"], "remote.till.office.svc.cluster.local");
    let in_mesh = &objects["VirtualService office/wharf-till-office"]["spec"];
    assert_eq!((&in_mesh["gateways"], &in_mesh["exportTo"]), (&json!(["mesh"]), &json!(["*"])));
    assert_eq!(in_mesh["http"].as_array().unwrap().len(), 1, "nothing in it is for the gateway: {in_mesh}");
}

/// Of rules for one host that are exported differently, Istio takes one and leaves the others out.
#[test]
fn wharfs_rules_for_the_egress_gateway_are_merged_with_those_of_its_owner() {
    let facts = isle(Style::EgressIngress);
    let host = "istio-egressgateway.istio-system.svc.cluster.local";
    let exported = |inventory: &Inventory| {
        let rule = only(&shared_egress(inventory, &facts), Kind::DestinationRule);
        let tcp = offered("harbor", "till", TlsMode::Cluster).protocol(Protocol::Tcp);
        let chain = json_of(&bound(&[source("harbor", "till", tcp, |_| {})], inventory, &facts).objects);
        let own = &chain["DestinationRule istio-system/egressgateway-dest-rule-till-office"]["spec"];
        assert_eq!(rule.get("exportTo"), own.get("exportTo"), "all of Wharf's are exported alike");
        rule.get("exportTo").cloned()
    };
    let mut inventory = Inventory::default();
    assert_eq!(exported(&inventory), Some(json!(["*"])));
    inventory.set_object(rule("office", "elsewhere", json!({"host": host})));
    inventory.set_object(rule("istio-system", "for-some", json!({"host": host, "exportTo": ["."]})));
    assert_eq!(exported(&inventory), Some(json!(["*"])), "these are not merged anyway");
    inventory.set_object(rule("istio-system", "owners", json!({"host": host})));
    assert_eq!(exported(&inventory), None);
}

#[test]
fn the_donor_is_pinned_by_what_this_cluster_knows() {
    let mut facts = isle(Style::EgressIngress);
    facts.peers.get_mut(&cluster("harbor")).unwrap().identity = "spiffe://corp.example/harbor".parse().unwrap();
    let source = source("harbor", "till", offered("harbor", "till", TlsMode::Cluster), |_| {});
    let bound = bound(&[source], &Inventory::default(), &facts);
    let tls = &only(&bound.objects, Kind::DestinationRule)["trafficPolicy"]["tls"];
    assert_eq!(tls["subjectAltNames"], json!(["spiffe://corp.example/harbor"]));
    assert_eq!((tls["mode"].as_str(), tls["credentialName"].as_str()), (Some("MUTUAL"), Some("wharf-identity")));
}

#[test]
fn a_service_of_the_user_keeps_its_name() {
    let mut inventory = Inventory::default();
    inventory.set_object(service("office", "till", json!([{"name": "http", "port": 80}])));
    let source = source("harbor", "till", offered("harbor", "till", TlsMode::Cluster), |_| {});
    let bound = bound(&[source], &inventory, &isle(Style::EgressIngress));
    assert!(bound.objects.is_empty());
    assert_eq!(reason(&bound, 0), Some(ProblemReason::NameConflict));
    assert!(bound.outcomes[0].problem.as_ref().unwrap().message.contains("office/till"));
}

/// Also where nothing is known of the gateways' Services, as in a folder.
#[test]
fn the_names_of_the_gateways_are_no_local_names() {
    let bound_at = |facts: &crate::model::ClusterFacts, namespace: &str, name: &str, mode: TlsMode| {
        let mut source = source("harbor", "till", offered("harbor", "till", mode), |_| {});
        let local = LocalName { namespace: label(namespace), name: label(name) };
        std::sync::Arc::make_mut(&mut source.wanted).local = local.clone();
        bind_local_name(&local, &[source], &Inventory::default(), &PassthroughHosts::default(), facts, false)
    };
    let facts = isle(Style::EgressIngress);
    for service in [&facts.ingress.service, &facts.egress.service] {
        let bound = bound_at(&facts, "istio-system", service.as_str(), TlsMode::Cluster);
        assert_eq!(reason(&bound, 0), Some(ProblemReason::NameConflict), "{service}");
        assert!(bound.objects.is_empty());
        assert_eq!(reason(&bound_at(&facts, "office", service.as_str(), TlsMode::Cluster), 0), None);
    }
    let direct = isle(Style::DirectIngress);
    let egress = direct.egress.service.clone();
    assert_eq!(reason(&bound_at(&direct, "istio-system", egress.as_str(), TlsMode::Workload), 0), None);
}

#[test]
fn a_style_that_cannot_carry_the_mode_refuses_that_source_alone() {
    let facts = isle(Style::DirectIngress);
    let bad = source("harbor", "till", offered("harbor", "till", TlsMode::Cluster), |_| {});
    let good = source("reef", "till", offered("reef", "till", TlsMode::Workload), |w| w.remote = 1);
    let bound = bound(&[bad, good], &Inventory::default(), &facts);
    assert_eq!((reason(&bound, 0), reason(&bound, 1)), (Some(ProblemReason::StyleCannotCarry), None));
    let endpoints = only(&bound.objects, Kind::ServiceEntry)["endpoints"].clone();
    assert_eq!(endpoints.as_array().unwrap().len(), 1);
}

#[test]
fn clients_are_enforced_where_they_can_be_seen_or_nothing_is_bound() {
    let facts = isle(Style::EgressIngress);
    let only_office = |tls| source("harbor", "till", offered("harbor", "till", tls).clients(&["office"]), |_| {});
    let cluster = bound(&[only_office(TlsMode::Cluster)], &Inventory::default(), &facts);
    let spec = only(&cluster.objects, Kind::EnvoyFilter);
    let patch = &spec["configPatches"][0];
    let rules = &patch["patch"]["value"]["typed_config"]["rules"]["policies"]["permitted"];
    let office = json!([{"authenticated": {"principal_name": {"prefix": "spiffe://isle/ns/office/"}}}]);
    assert_eq!(rules["principals"], office);
    assert_eq!(patch["match"]["listener"]["filterChain"]["sni"], "p8080.local.till.office.svc.cluster.local");
    assert_eq!(spec["workloadSelector"]["labels"], json!({"istio": "egressgateway"}));
    assert!(
        cluster.objects.iter().all(|o| o.kind() != Kind::AuthorizationPolicy),
        "it would change every filter chain"
    );
    let objects = json_of(&cluster.objects);
    let at_gateway = named(&objects, "VirtualService istio-system/egressgateway-to-till-office-p8080");
    assert_eq!(at_gateway["spec"]["http"][0]["directResponse"]["status"], 403, "the second lock");
    assert!(!cluster.shared, "others could come in by the shared listener");
    let workload = bound(&[only_office(TlsMode::Workload)], &Inventory::default(), &facts);
    assert_eq!(reason(&workload, 0), Some(ProblemReason::StyleCannotCarry));
    assert!(workload.objects.is_empty());
}

#[test]
fn weights_are_split_exactly_over_a_donors_addresses() {
    let facts = isle(Style::DirectIngress);
    let weighted = |donor: &str, n: usize, weight: u32, addresses: &[&str]| {
        source(donor, "till", offered(donor, "till", TlsMode::Workload).at(addresses), |w| {
            w.remote = n;
            w.weight = Some(weight);
        })
    };
    let all = [
        weighted("harbor", 0, 50, &["192.0.2.1", "192.0.2.2"]),
        weighted("reef", 1, 50, &["192.0.2.3", "192.0.2.4", "192.0.2.5"]),
        weighted("cove", 2, 0, &["192.0.2.6"]),
    ];
    let bound = bound(&all, &Inventory::default(), &facts);
    let entry = only(&bound.objects, Kind::ServiceEntry);
    let weights: Vec<_> =
        entry["endpoints"].as_array().unwrap().iter().map(|e| e["weight"].as_u64().unwrap()).collect();
    assert_eq!(weights, [3, 3, 2, 2, 2], "harbor's two and reef's three take half each; cove's none");
    let rule = only(&bound.objects, Kind::DestinationRule);
    let locality = &rule["trafficPolicy"]["loadBalancer"]["localityLbSetting"];
    assert_eq!(locality["enabled"], false, "nearness would not keep the weights");
}

#[test]
fn priorities_become_an_order_of_any_depth() {
    let facts = isle(Style::EgressIngress);
    let at = |donor: &str, n: usize, priority: u32| {
        source(donor, "till", offered(donor, "till", TlsMode::Cluster), |w| {
            w.remote = n;
            w.priority = priority;
        })
    };
    let bound = bound(&[at("harbor", 0, 7), at("reef", 1, 1), at("cove", 2, 30)], &Inventory::default(), &facts);
    let setting = &only(&bound.objects, Kind::DestinationRule)["trafficPolicy"]["loadBalancer"]["localityLbSetting"];
    assert_eq!(setting["failoverPriority"], json!(["wharf-priority-1=in", "wharf-priority-2=in"]));
    let entry = only(&bound.objects, Kind::ServiceEntry);
    let marks = |address: &str| {
        let endpoint = entry["endpoints"].as_array().unwrap().iter().find(|e| e["address"] == address).unwrap().clone();
        endpoint["labels"].as_object().unwrap().keys().filter(|k| k.starts_with("wharf-priority")).count()
    };
    assert_eq!((marks("192.0.2.30"), marks("192.0.2.10"), marks("192.0.2.40")), (2, 1, 0));
}

#[test]
fn donors_under_different_names_are_chosen_by_weight_and_refuse_priorities() {
    let facts = isle(Style::DirectIngress);
    let first = source("harbor", "till", offered("harbor", "till", TlsMode::Workload), |w| {
        (w.weight, w.shares) = (Some(3), true)
    });
    let second = |priority| {
        source("reef", "till", offered("reef", "checkout", TlsMode::Workload), |w| {
            (w.remote, w.priority, w.shares) = (1, priority, true);
        })
    };
    let weighed = bound(&[first.clone(), second(0)], &Inventory::default(), &facts);
    let route = &only(&weighed.objects, Kind::VirtualService)["http"][2]["route"];
    assert_eq!(route.as_array().unwrap().iter().map(|r| r["weight"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 3]);
    let refused = bound(&[first, second(1)], &Inventory::default(), &facts);
    assert_eq!((reason(&refused, 0), reason(&refused, 1)), (None, Some(ProblemReason::Unsupported)));
    assert_eq!(refused.outcomes[1].problem.as_ref().unwrap().field, "spec.remote[1].services[0].priority");
}

#[test]
fn what_does_not_fit_behind_the_name_is_refused_and_the_first_stays() {
    let facts = isle(Style::EgressIngress);
    let first = source("cove", "till", offered("cove", "till", TlsMode::Cluster), |_| {});
    let tcp = offered("harbor", "till", TlsMode::Cluster).protocol(Protocol::Tcp);
    for other in [
        tcp,
        offered("harbor", "till", TlsMode::Passthrough),
        offered("harbor", "till", TlsMode::Cluster).clients(&["lab"]),
    ] {
        let other = source("harbor", "till", other, |w| w.remote = 1);
        let bound = bound(&[other, first.clone()], &Inventory::default(), &facts);
        assert_eq!((reason(&bound, 0), reason(&bound, 1)), (None, Some(ProblemReason::NameConflict)));
    }
}

#[test]
fn two_local_names_cannot_pass_through_to_different_donors_under_one_name() {
    let facts = isle(Style::EgressIngress);
    let a = [source("harbor", "aaa", offered("harbor", "till", TlsMode::Passthrough), |_| {})];
    let b = [source("reef", "bbb", offered("reef", "till", TlsMode::Passthrough), |_| {})];
    let mut passthroughs = PassthroughHosts::default();
    assert!(passthroughs.update_sources(&local("bbb"), &b).is_empty());
    assert_eq!(passthroughs.update_sources(&local("aaa"), &a).into_iter().collect::<Vec<_>>(), [local("bbb")]);
    let inventory = Inventory::default();
    let first = bind_local_name(&local("aaa"), &a, &inventory, &passthroughs, &facts, false);
    let second = bind_local_name(&local("bbb"), &b, &inventory, &passthroughs, &facts, false);
    assert_eq!((reason(&first, 0), reason(&second, 0)), (None, Some(ProblemReason::NameConflict)));
    assert_eq!(passthroughs.update_sources(&local("aaa"), &[]).len(), 1, "the other is to be looked at again");
    assert!(reason(&bind_local_name(&local("bbb"), &b, &inventory, &passthroughs, &facts, false), 0).is_none());
}

#[test]
fn names_that_share_what_passes_through_do_not_have_each_other_bound_for_ever() {
    let one = [source("harbor", "aaa", offered("harbor", "till", TlsMode::Passthrough), |_| {})];
    let other = [source("harbor", "bbb", offered("harbor", "till", TlsMode::Passthrough), |_| {})];
    let mut passthroughs = PassthroughHosts::default();
    passthroughs.update_sources(&local("aaa"), &one);
    assert_eq!(passthroughs.update_sources(&local("bbb"), &other).into_iter().collect::<Vec<_>>(), [local("aaa")]);
    assert!(passthroughs.update_sources(&local("aaa"), &one).is_empty(), "it is as it was");
    assert!(passthroughs.update_sources(&local("bbb"), &other).is_empty(), "it is as it was");
    assert_eq!(passthroughs.update_sources(&local("bbb"), &[]).len(), 1);
    assert!(passthroughs.update_sources(&local("bbb"), &[]).is_empty(), "it was gone already");
}

#[test]
fn missing_expositions_say_what_to_do_and_the_others_work() {
    let facts = isle(Style::EgressIngress);
    let good = source("harbor", "till", offered("harbor", "till", TlsMode::Cluster), |_| {});
    let missing = |why: MissingExposition, n| Source {
        exposition: Err(why),
        ..source("reef", "till", offered("reef", "till", TlsMode::Cluster), |w| w.remote = n)
    };
    let all = [
        good,
        missing(MissingExposition::NotExposed, 1),
        missing(MissingExposition::PeerUnreachable("timed out".into()), 2),
    ];
    let bound = bound(&all, &Inventory::default(), &facts);
    assert_eq!(
        [0, 1, 2].map(|i| reason(&bound, i)),
        [None, Some(ProblemReason::NotExposed), Some(ProblemReason::PeerUnreachable)]
    );
    assert_eq!(bound.objects.len(), 5);
}

#[test]
fn an_address_of_the_operators_own_overrides_the_advertised_one() {
    let mut facts = isle(Style::DirectIngress);
    let own = crate::model::GatewayAddress { address: "198.51.100.7".parse().unwrap(), port: 443, locality: None };
    facts.peers.get_mut(&cluster("harbor")).unwrap().gateway = vec![own];
    let source = source("harbor", "till", offered("harbor", "till", TlsMode::Workload), |_| {});
    let bound = bound(&[source], &Inventory::default(), &facts);
    let endpoint = only(&bound.objects, Kind::ServiceEntry)["endpoints"][0].clone();
    assert_eq!((endpoint["address"].as_str(), endpoint["ports"]["http"].as_u64()), (Some("198.51.100.7"), Some(443)));
}

#[test]
fn what_a_potential_or_broken_binding_asks_for_is_not_configured() {
    let mut offer = binding("suppliers", json!([{"cluster": "harbor", "services": [{"name": "till"}]}]));
    offer.metadata.labels = Some([("connection".to_owned(), "potential".to_owned())].into());
    assert!(split_binding(&offer).potential && split_binding(&offer).entries.is_empty());
    offer.metadata.labels = Some([("connection".to_owned(), "maybe".to_owned())].into());
    assert!(split_binding(&offer).entries.is_empty() && split_binding(&offer).problems.len() == 1);
    let split = split_binding(&binding(
        "suppliers",
        json!([
            {"cluster": "", "services": [{"name": "till"}]},
            {"cluster": "harbor", "services": [{"name": "$"}, {"name": "till", "alias": "Till"}, {"name": "till"}]},
        ]),
    ));
    let fields: Vec<_> = split.entries.iter().map(|e| e.wanted.as_ref().err().map(|p| p.field.as_str())).collect();
    assert_eq!(
        fields,
        [
            Some("spec.remote[0].cluster"),
            Some("spec.remote[1].services[0].name"),
            Some("spec.remote[1].services[1].alias"),
            None
        ]
    );
}

#[test]
fn what_a_donor_may_not_send_is_rejected() {
    let facts = isle(Style::EgressIngress);
    let try_it = |change: &dyn Fn(&mut crate::model::Exposition)| {
        let mut e = offered("harbor", "till", TlsMode::Cluster).0;
        change(&mut e);
        validate_exposition(&cluster("harbor"), &e, &facts, NameAnswers::NotAsked).map_err(|e| e.to_string())
    };
    assert_eq!(try_it(&|_| {}), Ok(()));
    type Change = Box<dyn Fn(&mut crate::model::Exposition)>;
    let bad: Vec<(&str, Change)> = vec![
        ("its host is", Box::new(|e| e.host = "istiod.istio-system.svc".parse().unwrap())),
        ("its host is", Box::new(|e| e.ports[0].host = "other.shop.svc.cluster.local".parse().unwrap())),
        ("no port", Box::new(|e| e.ports.clear())),
        ("port 0", Box::new(|e| e.ports[0].number = 0)),
        ("there twice", Box::new(|e| e.ports.push(e.ports[0].clone()))),
        ("not a port's", Box::new(|e| e.ports[0].name = "a\nb".into())),
        ("no identity", Box::new(|e| e.identities.clear())),
        ("pin another", Box::new(|e| e.identities.push("spiffe://wharf/cluster/reef".parse().unwrap()))),
        ("no gateway", Box::new(|e| e.gateways.clear())),
        ("more than 32", Box::new(|e| e.gateways = vec![e.gateways[0].clone(); 33])),
        ("link-local", Box::new(|e| e.gateways[0].address = "169.254.169.254".parse().unwrap())),
        ("loopback", Box::new(|e| e.gateways[0].address = "::ffff:127.0.0.1".parse().unwrap())),
        (
            "a name of the cluster",
            Box::new(|e| e.gateways[0].address = "kubernetes.default.svc.cluster.local".parse().unwrap()),
        ),
        ("region", Box::new(|e| e.gateways[0].locality = Some("a/b/c/d".into()))),
        ("region", Box::new(|e| e.gateways[0].locality = Some("a\nb".into()))),
        (
            "trust domain",
            Box::new(|e| {
                e.tls = TlsMode::Workload;
                e.identities = vec!["spiffe://reef/ns/istio-system/sa/istio-ingressgateway".parse().unwrap()];
            }),
        ),
    ];
    for (word, change) in &bad {
        let got = try_it(change);
        assert!(got.as_ref().is_err_and(|e| e.contains(word)), "{word}: {got:?}");
    }
    let e = offered("harbor", "till", TlsMode::Cluster).0;
    assert!(validate_exposition(&cluster("stranger"), &e, &facts, NameAnswers::NotAsked).is_err());
}

#[test]
fn an_identity_of_this_clusters_own_trust_domain_is_never_accepted_from_a_peer() {
    let mut facts = isle(Style::EgressIngress);
    let harbor = facts.peers.get_mut(&cluster("harbor")).unwrap();
    harbor.trust_domain = facts.trust_domain.clone();
    let own = format!("spiffe://{}/ns/payments/sa/ledger", facts.trust_domain);
    for (tls, identities) in [
        (TlsMode::Workload, vec![own.as_str()]),
        (TlsMode::Passthrough, vec![own.as_str()]),
        (TlsMode::Passthrough, vec![]),
    ] {
        let mut e = offered("harbor", "till", TlsMode::Cluster).0;
        (e.tls, e.identities) = (tls, identities.iter().map(|id| id.parse().unwrap()).collect());
        let refusal =
            validate_exposition(&cluster("harbor"), &e, &facts, NameAnswers::NotAsked).unwrap_err().to_string();
        assert!(refusal.contains("this cluster's own") && refusal.contains("tls: Cluster"), "{refusal}");
    }
    let mut e = offered("harbor", "till", TlsMode::Cluster).0;
    validate_exposition(&cluster("harbor"), &e, &facts, NameAnswers::NotAsked).unwrap();
    facts.peers.get_mut(&cluster("harbor")).unwrap().identity = facts.identity.clone();
    e.identities = vec![facts.identity.clone()];
    let refusal = validate_exposition(&cluster("harbor"), &e, &facts, NameAnswers::NotAsked).unwrap_err().to_string();
    assert!(refusal.contains("this cluster's own"), "{refusal}");
}

#[test]
fn with_passthrough_only_identities_of_the_peers_trust_domain_are_accepted() {
    let facts = isle(Style::EgressIngress);
    let judge = |identity: &str| {
        let mut e = offered("harbor", "till", TlsMode::Cluster).0;
        (e.tls, e.identities) = (TlsMode::Passthrough, vec![identity.parse().unwrap()]);
        validate_exposition(&cluster("harbor"), &e, &facts, NameAnswers::NotAsked).map_err(|e| e.to_string())
    };
    assert_eq!(judge("spiffe://harbor/ns/shop/sa/till"), Ok(()));
    let own = format!("spiffe://{}/ns/shop/sa/till", facts.trust_domain);
    for other in [own.as_str(), "spiffe://reef/ns/shop/sa/till", "spiffe://harbor.reef/ns/shop/sa/till"] {
        assert!(judge(other).unwrap_err().contains("outside the trust domain harbor"), "{other}");
    }
}
