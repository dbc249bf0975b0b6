//! Fields of DestinationRules that reach the shared gateway, and those that do not.

use serde_json::{Value, json};

use super::build::*;
use crate::api::Kind;
use crate::translate::ProblemReason;

/// The subset `odd` of the till, in the gateway's namespace, or why there is none.
fn carried_rule(policy: Value, subset: Value) -> Result<Value, String> {
    let mut inventory = shop();
    inventory.set_object(rule(
        "shop",
        "till",
        json!({"host": "till", "trafficPolicy": policy, "subsets": [{"name": "stable"}, subset]}),
    ));
    inventory.set_object(routes(
        "shop",
        "custom",
        json!({"hosts": ["till"], "http": [{"route": [{"destination": {"host": "till", "subset": "stable"}}]}]}),
    ));
    let mut told = Vec::new();
    for entry in [
        json!({"name": "till", "subset": "stable"}),
        json!({"name": "till", "virtualService": "custom"}),
        json!({"name": "till", "tls": "Passthrough"}),
    ] {
        let out = exposed(json!([entry]), &inventory, &harbor());
        match &out.entries[0].problem {
            Some(problem) => {
                assert_eq!(problem.reason, ProblemReason::Unsupported, "{problem}");
                assert!(out.objects.is_empty());
                told.push(Err(problem.line()));
            }
            None => told.push(Ok(only(&out.objects, Kind::DestinationRule))),
        }
    }
    assert!(told.iter().all(|t| t.is_ok() == told[0].is_ok()), "in every mode: {told:?}");
    told.swap_remove(0)
}

#[test]
fn a_rule_with_files_credentials_or_ways_outside_is_refused() {
    for (policy, path) in [
        (json!({"tls": {"mode": "SIMPLE", "caCertificates": "/etc/ssl/ca.pem"}}), "trafficPolicy.tls.caCertificates"),
        (json!({"tls": {"mode": "SIMPLE", "credentialName": "of-others"}}), "trafficPolicy.tls.credentialName"),
        (
            json!({"tls": {"mode": "MUTUAL", "clientCertificate": "/a", "privateKey": "/b"}}),
            "trafficPolicy.tls.clientCertificate",
        ),
        (json!({"tls": {"mode": "MUTUAL"}}), "trafficPolicy.tls.mode"),
        (json!({"tls": {"mode": "SIMPLE", "caCrl": "/a"}}), "trafficPolicy.tls.caCrl"),
        (json!({"tls": {"mode": "SIMPLE", "sni": "a b"}}), "trafficPolicy.tls.sni"),
        (json!({"proxyProtocol": {"version": "V2"}}), "trafficPolicy.proxyProtocol"),
        (json!({"tunnel": {"targetHost": "example.com", "targetPort": 443}}), "trafficPolicy.tunnel"),
        (json!({"loadBalancer": {"simple": "PASSTHROUGH"}}), "trafficPolicy.loadBalancer.simple"),
        (
            json!({"portLevelSettings": [{"port": {"number": 8080}, "tls": {"mode": "SIMPLE", "credentialName": "x"}}]}),
            "trafficPolicy.portLevelSettings[0].tls.credentialName",
        ),
    ] {
        let line = carried_rule(policy.clone(), json!({"name": "odd"})).expect_err(&format!("{policy}"));
        assert!(line.contains(&format!("the DestinationRule shop/till of till: {path}: ")), "{line}");
        let line =
            carried_rule(json!({"tls": {"mode": "ISTIO_MUTUAL"}}), json!({"name": "odd", "trafficPolicy": policy}))
                .expect_err("in a subset");
        assert!(line.contains(&format!("subsets[\"odd\"].{path}: ")), "{line}");
    }
}

#[test]
fn numbers_names_and_durations_of_a_rule_are_within_limits() {
    let hash = |hash: Value| json!({"loadBalancer": {"consistentHash": hash}});
    for (policy, path) in [
        (json!({"connectionPool": {"tcp": {"maxConnections": -1}}}), "connectionPool.tcp.maxConnections"),
        (json!({"connectionPool": {"tcp": {"connectTimeout": "0s"}}}), "connectionPool.tcp.connectTimeout"),
        (
            json!({"connectionPool": {"tcp": {"tcpKeepalive": {"probes": 128}}}}),
            "connectionPool.tcp.tcpKeepalive.probes",
        ),
        (
            json!({"connectionPool": {"http": {"http2KeepAlive": {"interval": "1s"}}}}),
            "connectionPool.http.http2KeepAlive",
        ),
        (json!({"connectionPool": {"http": {"idleTimeout": "x"}}}), "connectionPool.http.idleTimeout"),
        (
            json!({"connectionPool": {"http": {"useClientProtocol": true, "h2UpgradePolicy": "UPGRADE"}}}),
            "connectionPool.http.useClientProtocol",
        ),
        (json!({"outlierDetection": {"maxEjectionPercent": 101}}), "outlierDetection.maxEjectionPercent"),
        (json!({"outlierDetection": {"interval": "0s"}}), "outlierDetection.interval"),
        (
            json!({"outlierDetection": {"consecutive5xxErrors": 4_294_967_296_i64}}),
            "outlierDetection.consecutive5xxErrors",
        ),
        (json!({"retryBudget": {"percent": 101.0}}), "retryBudget.percent"),
        (json!({"portLevelSettings": [{"port": {"number": 0}}]}), "portLevelSettings[0].port.number"),
        (hash(json!({"httpHeaderName": "a b"})), "loadBalancer.consistentHash.httpHeaderName"),
        (hash(json!({"httpHeaderName": ""})), "loadBalancer.consistentHash.httpHeaderName"),
        (hash(json!({"httpCookie": {"name": "a;b"}})), "loadBalancer.consistentHash.httpCookie.name"),
        (hash(json!({"httpCookie": {"name": "a", "path": "/;b"}})), "loadBalancer.consistentHash.httpCookie.path"),
        (
            hash(json!({"httpCookie": {"name": "a", "attributes": [{"name": "b", "value": "c\nd"}]}})),
            "loadBalancer.consistentHash.httpCookie.attributes[0]",
        ),
        (hash(json!({"httpQueryParameterName": "a b"})), "loadBalancer.consistentHash.httpQueryParameterName"),
        (hash(json!({"maglev": {"tableSize": 4}})), "loadBalancer.consistentHash.maglev.tableSize"),
        (hash(json!({"maglev": {"tableSize": 5_000_011}})), "loadBalancer.consistentHash.maglev.tableSize"),
        (
            hash(json!({"ringHash": {"minimumRingSize": 8_388_608}})),
            "loadBalancer.consistentHash.ringHash.minimumRingSize",
        ),
        (hash(json!({"useSourceIp": true, "httpHeaderName": "x"})), "loadBalancer.consistentHash"),
        (json!({"loadBalancer": {"warmup": {"duration": "1s", "aggression": -1.0}}}), "loadBalancer.warmup.aggression"),
        (
            json!({"loadBalancer": {"localityLbSetting": {"distribute": [{"from": "a/*", "to": {"a/*": 50}}]}}}),
            "loadBalancer.localityLbSetting.distribute[0].to",
        ),
        (
            json!({"loadBalancer": {"localityLbSetting": {"failover": [{"from": "a", "to": "a"}]}}}),
            "loadBalancer.localityLbSetting.failover[0]",
        ),
    ] {
        let line = carried_rule(policy.clone(), json!({"name": "odd"})).expect_err(&format!("{policy}"));
        assert!(line.contains(&format!("the DestinationRule shop/till of till: trafficPolicy.{path}: ")), "{line}");
    }
    for (subset, path) in [
        (json!({"name": "o.d"}), "subsets[\"o.d\"].name"),
        (json!({"name": "a|b"}), "subsets[\"a|b\"].name"),
        (json!({"name": "odd", "labels": {"a": "b c"}}), "subsets[\"odd\"].labels[\"a\"]"),
        (json!({"name": "odd", "labels": {"": "b"}}), "subsets[\"odd\"].labels[\"\"]"),
    ] {
        let line = carried_rule(json!({}), subset.clone()).expect_err(&format!("{subset}"));
        assert!(line.contains(path), "{line}");
    }
}

#[test]
fn a_rule_that_keeps_the_limits_is_carried_as_it_is() {
    let policy = json!({
        "connectionPool": {"tcp": {"maxConnections": 50, "connectTimeout": "1s", "idleTimeout": "0s", "maxConnectionDuration": "1h", "tcpKeepalive": {"time": "7200s", "interval": "75s", "probes": 9}},
            "http": {"http1MaxPendingRequests": 1, "http2MaxRequests": 2, "maxRequestsPerConnection": 3, "maxRetries": 4, "idleTimeout": "1m", "h2UpgradePolicy": "UPGRADE",
                "maxConcurrentStreams": 100, "http2KeepAlive": {"interval": "1s", "timeout": "1s"}}},
        "outlierDetection": {"consecutive5xxErrors": 0, "consecutiveGatewayErrors": 5, "interval": "1s", "baseEjectionTime": "10s", "maxEjectionPercent": 100, "minHealthPercent": 1,
            "splitExternalLocalOriginErrors": true, "consecutiveLocalOriginFailures": 1},
        "loadBalancer": {"consistentHash": {"httpCookie": {"name": "user", "path": "/", "ttl": "0s", "attributes": [{"name": "SameSite", "value": "Strict"}]}, "maglev": {"tableSize": 65_537}},
            "localityLbSetting": {"enabled": true, "distribute": [{"from": "a/b/*", "to": {"a/b/*": 70, "a/c/*": 30}}]}},
        "retryBudget": {"percent": 20.0, "minRetryConcurrency": 3},
        "tls": {"mode": "SIMPLE", "sni": "till.example.com", "subjectAltNames": ["till.example.com"]},
        "portLevelSettings": [{"port": {"number": 8080}, "loadBalancer": {"simple": "ROUND_ROBIN", "warmup": {"duration": "10s", "aggression": 1.0, "minimumPercent": 10.0}}, "tls": {"mode": "ISTIO_MUTUAL"}}],
    });
    let subset = json!({"name": "odd", "labels": {"app.kubernetes.io/version": "v1.2"}, "trafficPolicy": policy});
    let spec = carried_rule(policy.clone(), subset.clone()).unwrap();
    assert_eq!(spec["trafficPolicy"], policy);
    assert_eq!(spec["subsets"].as_array().unwrap().last().unwrap(), &subset);
}

/// Istio's rule for names of subsets, `validateSubsetName`: that of DNS labels, in upper case too.
#[test]
fn subsets_have_the_names_that_istio_takes() {
    for name in ["odd", "V1", "Canary-2", "1", &"a".repeat(63)] {
        let rule = carried_rule(json!({}), json!({"name": name, "labels": {"track": "odd"}})).unwrap();
        assert!(rule["subsets"].as_array().unwrap().iter().any(|s| s["name"] == *name), "{name}");
    }
    for name in ["v1.2", "v_2", "-a", "a-", "", "a b", &"a".repeat(64)] {
        let told = carried_rule(json!({}), json!({"name": name})).unwrap_err();
        assert!(told.contains("63 letters, digits and hyphens"), "{name}: {told}");
    }
}
