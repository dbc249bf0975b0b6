//! Fields of VirtualServices that reach the shared gateway, and those that do not.

use serde_json::{Value, json};

use super::build::*;
use crate::translate::ProblemReason;

/// The routes that the gateway gets of a VirtualService with these, after the refusal of strangers; or why it gets none.
fn carried(http: Value) -> Result<Value, String> {
    let mut inventory = shop();
    inventory.set_object(routes("shop", "custom", json!({"hosts": ["till"], "http": http})));
    let entries = json!([{"name": "till", "virtualService": "custom"}, {"name": "ledger", "port": 9000}]);
    let out = exposed(entries, &inventory, &harbor());
    assert!(out.entries[1].problem.is_none(), "the other entry works");
    if let Some(problem) = &out.entries[0].problem {
        assert_eq!(
            (problem.reason, problem.field.as_str()),
            (ProblemReason::VirtualServiceUnusable, "spec.exposed[0].virtualService")
        );
        assert!(!out.objects.iter().any(|o| o.key().name.contains("till")), "nothing of the entry is exposed");
        return Err(problem.line());
    }
    let written = out.objects.iter().find(|o| o.key().name == "ingressgateway-to-till-shop").unwrap();
    let mut all = serde_json::to_value(written).unwrap()["spec"]["http"].take();
    all.as_array_mut().unwrap().remove(0);
    Ok(all)
}

/// A route to the till with more fields.
fn route(more: Value) -> Value {
    let mut route = json!({"route": [{"destination": {"host": "till"}}]});
    route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!([route])
}

fn matching(condition: Value) -> Value {
    route(json!({"match": [condition]}))
}

fn setting(name: &str, value: &str) -> Value {
    route(json!({"headers": {"request": {"set": {name: value}}}}))
}

/// All of it is carried as it is.
fn is_carried(http: Value) {
    let told = carried(http.clone()).unwrap_or_else(|line| panic!("{http}: {line}"));
    for (given, told) in http.as_array().unwrap().iter().zip(told.as_array().unwrap()) {
        for (field, value) in given.as_object().unwrap().iter().filter(|(f, _)| *f != "route") {
            let mut told = told[field].clone();
            if field == "rewrite" && value.get("authority").is_none() {
                // The exposed name, by whichever of the port's names it was called.
                let authority = told.as_object_mut().unwrap().remove("authority");
                assert_eq!(authority, Some(json!("till.shop.svc.cluster.local")));
            }
            assert_eq!(&told, value);
        }
    }
}

/// It is refused, by the path of the field.
fn is_refused(http: Value, path: &str) {
    let line = carried(http.clone()).expect_err(&format!("{http} is refused"));
    assert!(line.contains(&format!(": custom: {path}: ")), "{http}: {line}, not {path}");
    assert!(line.chars().all(|c| !c.is_control()), "{line:?}");
}

#[test]
fn a_header_value_with_a_command_of_envoys_is_refused() {
    let path = "http[0].headers.request.set[\"x-a\"]";
    for value in [
        "%BOGUS%",
        "%ENVIRONMENT(HOME)%",
        "%FILE_CONTENT(/etc/passwd)%",
        "%DYNAMIC_METADATA([\"a\", \"b\"])%",
        "%METADATA(ROUTE:a)%",
        "%FILTER_STATE(a)%",
        "%UPSTREAM_METADATA([\"a\", \"b\"])%",
        "%PER_REQUEST_STATE(a)%",
        "100%",
        "%",
        "%%%",
        "a%%%b",
        "%REQ(%",
        "%REQ()%",
        "%REQ(a b)%",
        "%REQ(x?y)%",
        "%REQ(x):9%",
        "%REQ(:authority)%",
        "%REQ(x-forwarded-client-cert)%",
        "%START_TIME(%s)%",
        "%req(x)%",
        "%PROTOCOL%%",
        "%DOWNSTREAM_REMOTE_ADDRESS",
        "%HOSTNAME%",
        "%RES(x)%",
        "% %",
    ] {
        is_refused(setting("x-a", value), path);
    }
    for value in [
        "",
        "plain",
        "100%%",
        "%%BOGUS%%",
        "%REQ(x-b)%",
        "a %REQ(:path)% b",
        "%DOWNSTREAM_REMOTE_ADDRESS%",
        "%PROTOCOL%%%",
        "%START_TIME%",
    ] {
        is_carried(setting("x-a", value));
    }
}

#[test]
fn a_header_value_with_controls_or_too_long_is_refused_in_every_place() {
    for value in ["a\r\nb", "a\nb", "a\0b", "a\u{7f}", "ä", &"a".repeat(4097)] {
        for side in ["request", "response"] {
            for change in ["set", "add"] {
                is_refused(
                    route(json!({"headers": {side: {change: {"x-a": value}}}})),
                    &format!("http[0].headers.{side}.{change}[\"x-a\"]"),
                );
                let destination = json!([{"route": [{"destination": {"host": "till"}, "headers": {side: {change: {"x-a": value}}}}]}]);
                is_refused(destination, &format!("http[0].route[0].headers.{side}.{change}[\"x-a\"]"));
            }
        }
    }
    is_carried(setting("x-a", &"a".repeat(4096)));
}

#[test]
fn a_header_that_tells_who_calls_or_where_a_message_ends_is_refused() {
    let of_others = [
        "host",
        "Host",
        ":authority",
        ":path",
        ":status",
        "x-forwarded-client-cert",
        "X-Forwarded-For",
        "x-forwarded-proto",
        "x-envoy-retry-on",
        "x-envoy-upstream-rq-timeout-ms",
        "content-length",
        "transfer-encoding",
        "connection",
        "a b",
        "",
        "a\r\nb",
        "ä",
        "x(y)",
    ];
    for name in of_others {
        for change in ["set", "add"] {
            is_refused(
                route(json!({"headers": {"request": {change: {name: "1"}}}})),
                &format!("http[0].headers.request.{change}[{name:?}]"),
            );
            is_refused(
                route(json!({"headers": {"response": {change: {name: "1"}}}})),
                &format!("http[0].headers.response.{change}[{name:?}]"),
            );
        }
        is_refused(
            route(json!({"headers": {"request": {"remove": ["x-fine", name]}}})),
            "http[0].headers.request.remove[1]",
        );
    }
    is_carried(route(
        json!({"headers": {"request": {"set": {"x-forwarded-prefix": "/shop", "authorization": "Bearer t"}, "remove": ["cookie"]},
        "response": {"remove": ["x-envoy-upstream-service-time", "server"], "add": {"strict-transport-security": "max-age=1"}}}}),
    ));
}

#[test]
fn a_condition_that_means_something_else_at_the_gateway_is_refused() {
    for (condition, field) in [
        (json!({"authority": {"exact": "till"}}), "authority"),
        (json!({"scheme": {"exact": "http"}}), "scheme"),
        (json!({"sourceLabels": {"app": "web"}}), "sourceLabels"),
        (json!({"sourceNamespace": "shop"}), "sourceNamespace"),
    ] {
        is_refused(matching(condition), &format!("http[0].match[0].{field}"));
    }
    for name in [
        "host",
        ":authority",
        ":scheme",
        ":path",
        "x-forwarded-proto",
        "X-Forwarded-Client-Cert",
        "x-forwarded-for",
        "x-envoy-external-address",
        "Connection",
        "te",
        "transfer-encoding",
        "@request.auth.claims.group",
        "a b",
    ] {
        for field in ["headers", "withoutHeaders"] {
            is_refused(
                matching(json!({field: {name: {"exact": "a"}}})),
                &format!("http[0].match[0].{field}[{name:?}]"),
            );
        }
    }
}

#[test]
fn a_tcp_route_by_where_a_call_comes_from_is_refused() {
    for (condition, field) in [
        (json!({"sourceSubnet": "10.0.0.0/8"}), "sourceSubnet"),
        (json!({"destinationSubnets": ["10.0.0.0/8"]}), "destinationSubnets"),
        (json!({"sourceLabels": {"app": "web"}}), "sourceLabels"),
        (json!({"sourceNamespace": "shop"}), "sourceNamespace"),
    ] {
        let mut inventory = shop();
        let route = json!([{"match": [condition], "route": [{"destination": {"host": "ledger"}}]}]);
        inventory.set_object(routes("shop", "custom", json!({"hosts": ["ledger"], "tcp": route})));
        let entry = json!([{"name": "ledger", "port": 5000, "virtualService": "custom"}]);
        let problem = exposed(entry, &inventory, &harbor()).entries[0].problem.clone().unwrap();
        assert!(problem.line().contains(&format!(": custom: tcp[0].match[0].{field}: ")), "{problem}");
    }
}

#[test]
fn a_route_that_leads_to_another_virtual_service_is_refused() {
    is_refused(json!([{"delegate": {"name": "other"}}]), "http[0].delegate");
    is_refused(route(json!({"delegate": {"name": "other", "namespace": "shop"}})), "http[0].delegate");
}

#[test]
fn a_regular_expression_that_re2_does_not_take_is_refused_wherever_it_stands() {
    let large = r"/[\w\s]{1000}".repeat(3);
    let bad = [
        r"/\p{L}",
        r"[\pN]",
        "(",
        "[",
        "a**",
        "a{2}{3}",
        "a{1001}",
        "(?:a{100}){11}",
        r"\u0061",
        r"\<a",
        r"[a&&b]",
        "[[a]]",
        "(?x)a",
        "(?<n>a)",
        "(?=a)",
        r"(a)\1",
        r"a\Z",
        r"\Qa\E",
        "",
        "ä",
        "a\nb",
        "+",
        "(?i)*",
        "x*+",
        large.as_str(),
        &"a".repeat(1025),
        &"(".repeat(40),
        &format!("{}a{}", "(".repeat(40), ")".repeat(40)),
        r"/[\p{L}\p{N}\p{S}]{1000}",
    ];
    for regex in bad {
        let comparison = json!({"regex": regex});
        for field in ["uri", "method"] {
            is_refused(matching(json!({field: comparison})), &format!("http[0].match[0].{field}.regex"));
        }
        for field in ["headers", "withoutHeaders", "queryParams"] {
            is_refused(matching(json!({field: {"x": comparison}})), &format!("http[0].match[0].{field}[\"x\"].regex"));
        }
        is_refused(
            route(json!({"corsPolicy": {"allowOrigins": [comparison]}})),
            "http[0].corsPolicy.allowOrigins[0].regex",
        );
        is_refused(
            route(json!({"rewrite": {"uriRegexRewrite": {"match": regex, "rewrite": "/"}}})),
            "http[0].rewrite.uriRegexRewrite.match",
        );
    }
    for regex in [
        ".*",
        "/v[0-9]+/.*",
        r"/(?P<id>[a-z0-9-]{1,36})(/.*)?",
        "(?i)yes|on",
        r"^\d{1,3}\.\w+\s?$",
        r"[^/?#]+",
        r"[[:alpha:]_]+",
        r"\x2f.*",
        "a*?b+?",
    ] {
        is_carried(matching(json!({"uri": {"regex": regex}, "headers": {"x": {"regex": regex}}})));
    }
    let present = json!({"headers": {"x": {"regex": "*"}, "y": {}}, "withoutHeaders": {"z": {"regex": "*"}}});
    let told = carried(matching(present)).unwrap()[0]["match"][0].take();
    assert_eq!(told, json!({"headers": {"x": {}, "y": {}}, "withoutHeaders": {"z": {}}}));
}

#[test]
fn regular_expressions_together_are_bounded_by_route_and_by_entry() {
    // Each about 3,000 instructions.
    let one = json!({"regex": "[a-z]{600}"});
    let two = json!([{"uri": one}, {"uri": one}]);
    let three = json!([{"uri": one}, {"uri": one}, {"uri": one}]);
    is_carried(route(json!({"match": two})));
    is_refused(route(json!({"match": three})), "http[0].match[2].uri.regex");
    let many: Vec<Value> = (0..20).map(|_| route(json!({"match": two}))[0].clone()).collect();
    let line = carried(json!(many)).unwrap_err();
    assert!(line.contains("instructions of RE2 in the regular expressions of one entry"), "{line}");
}

#[test]
fn a_redirect_that_leads_to_the_gateway_is_refused() {
    let redirect = |more: Value| json!([{"redirect": more}]);
    for (more, field) in [
        (json!({"uri": "/new"}), "authority"),
        (json!({"uri": "/new", "authority": ""}), "authority"),
        (json!({"authority": "till"}), "authority"),
        (json!({"authority": "till:8080"}), "authority"),
        (json!({"authority": "till.shop"}), "authority"),
        (json!({"authority": "TILL.shop.svc"}), "authority"),
        (json!({"authority": "till.shop.svc.cluster.local"}), "authority"),
        (json!({"authority": "10.0.0.1"}), "authority"),
        (json!({"authority": "example.com/x"}), "authority"),
        (json!({"authority": "a@example.com"}), "authority"),
        (json!({"authority": "example.com:0"}), "authority"),
        (json!({"authority": "%REQ(x)%.example.com"}), "authority"),
        (json!({"authority": "exa mple.com"}), "authority"),
        (json!({"authority": "example.com\r\nx: y"}), "authority"),
        (json!({"authority": "example.com", "derivePort": "FROM_REQUEST_PORT"}), "derivePort"),
        (json!({"authority": "example.com", "derivePort": "FROM_PROTOCOL_DEFAULT"}), "derivePort"),
        (json!({"authority": "example.com", "port": 70000}), "port"),
        (json!({"authority": "example.com", "scheme": "javascript"}), "scheme"),
        (json!({"authority": "example.com", "redirectCode": 304}), "redirectCode"),
        (json!({"authority": "example.com", "uri": "new"}), "uri"),
        (json!({"authority": "example.com", "uri": "/a\nb"}), "uri"),
        (json!({"authority": "example.com", "uri": "/%BOGUS%"}), "uri"),
        (json!({"authority": "example.com", "uri": "/{x}"}), "uri"),
        (json!({"authority": "example.com", "uri": "/a", "prefixRewrite": "/b"}), "prefixRewrite"),
    ] {
        is_refused(redirect(more), &format!("http[0].redirect.{field}"));
    }
    // Inside the mesh the request came over HTTP, and so does the redirect; at the gateway it would be HTTPS.
    let told = carried(redirect(json!({"uri": "/new?a=b", "authority": "example.com"}))).unwrap();
    assert_eq!(told[0]["redirect"], json!({"uri": "/new?a=b", "authority": "example.com", "scheme": "http"}));
    is_carried(redirect(
        json!({"authority": "www.example.com:8443", "scheme": "https", "redirectCode": 308, "uri": "/a%20b"}),
    ));
}

#[test]
fn a_rewrite_that_is_no_path_or_names_no_group_is_refused() {
    for (rewrite, field) in [
        (json!({"uri": "inner"}), "uri"),
        (json!({"uri": "/in ner"}), "uri"),
        (json!({"uri": "/%ENVIRONMENT(X)%"}), "uri"),
        (json!({"uri": "/a\r\nb"}), "uri"),
        (json!({"uri": "/{a}"}), "uri"),
        (json!({"authority": "exa mple"}), "authority"),
        (json!({"authority": "a%b"}), "authority"),
        (json!({"authority": "a\nb"}), "authority"),
        (json!({"uri": "/a", "uriRegexRewrite": {"match": "a", "rewrite": "/b"}}), "uriRegexRewrite"),
        (json!({"uriRegexRewrite": {"match": "/(a)", "rewrite": r"/\2"}}), "uriRegexRewrite.rewrite"),
        (json!({"uriRegexRewrite": {"match": "/(?:a)", "rewrite": r"/\1"}}), "uriRegexRewrite.rewrite"),
        (json!({"uriRegexRewrite": {"match": "/(a)", "rewrite": r"/\"}}), "uriRegexRewrite.rewrite"),
        (json!({"uriRegexRewrite": {"match": "/(a)", "rewrite": "/\n"}}), "uriRegexRewrite.rewrite"),
        (json!({"uriRegexRewrite": {"match": "/(a)"}}), "uriRegexRewrite.rewrite"),
    ] {
        is_refused(route(json!({"rewrite": rewrite})), &format!("http[0].rewrite.{field}"));
    }
    is_carried(route(json!({"rewrite": {"uri": "/inner/", "authority": "inner.shop:8080"}})));
    is_carried(route(
        json!({"rewrite": {"uriRegexRewrite": {"match": "^/a/([^/]+)/(?P<x>.*)$", "rewrite": r"/b/\2/\1\0"}}}),
    ));
}

#[test]
fn an_answer_that_envoy_does_not_take_is_refused() {
    let answer = |status: i64, body: Value| json!([{"directResponse": {"status": status, "body": body}}]);
    is_refused(answer(200, json!({"string": "a".repeat(4097)})), "http[0].directResponse.body");
    is_refused(answer(200, json!({"bytes": "AAAA".repeat(1366)})), "http[0].directResponse.body");
    is_refused(answer(200, json!({"bytes": "not base64!"})), "http[0].directResponse.body.bytes");
    for status in [0, 100, 199, 600, -1] {
        is_refused(answer(status, json!({"string": "no"})), "http[0].directResponse.status");
    }
    is_carried(answer(599, json!({"string": "a".repeat(4096)})));
    is_carried(json!([{"directResponse": {"status": 204}}]));
}

#[test]
fn a_route_without_a_way_or_with_two_is_refused() {
    for http in [
        json!([{"timeout": "1s"}]),
        json!([{"route": []}]),
        json!([{"route": [{"destination": {"host": "till"}}], "directResponse": {"status": 200}}]),
        json!([{"redirect": {"authority": "example.com"}, "directResponse": {"status": 200}}]),
    ] {
        is_refused(http, "http[0]");
    }
    is_refused(json!([{"directResponse": {"status": 200}, "fault": {"abort": {"httpStatus": 500}}}]), "http[0].fault");
    let two = |a: i64, b: i64| json!([{"route": [{"destination": {"host": "till"}, "weight": a}, {"destination": {"host": "till"}, "weight": b}]}]);
    is_refused(two(0, 0), "http[0].route");
    is_refused(two(50, -1), "http[0].route[1].weight");
    is_refused(two(i64::from(i32::MAX), 1), "http[0].route[0].weight");
    assert_eq!(carried(two(100, 0)).unwrap()[0]["route"][1]["weight"], 0);
}

#[test]
fn timeouts_retries_and_faults_are_within_limits() {
    for (more, path) in [
        (json!({"timeout": "0s"}), "timeout"),
        (json!({"timeout": "soon"}), "timeout"),
        (json!({"timeout": "-1s"}), "timeout"),
        (json!({"timeout": "1µs"}), "timeout"),
        (json!({"timeout": "10us"}), "timeout"),
        (json!({"timeout": "9999999h"}), "timeout"),
        (json!({"timeout": "99999999999999999999s"}), "timeout"),
        (json!({"retries": {"attempts": -1}}), "retries.attempts"),
        (json!({"retries": {"attempts": 26}}), "retries.attempts"),
        (json!({"retries": {"attempts": 2, "perTryTimeout": "0s"}}), "retries.perTryTimeout"),
        (json!({"retries": {"attempts": 2, "backoff": "x"}}), "retries.backoff"),
        (json!({"retries": {"attempts": 2, "retryOn": "5xx,whenever"}}), "retries.retryOn"),
        (json!({"retries": {"attempts": 2, "retryOn": "999"}}), "retries.retryOn"),
        (json!({"retries": {"attempts": 0, "retryOn": "5xx"}}), "retries.attempts"),
        (json!({"fault": {}}), "fault"),
        (json!({"fault": {"abort": {"percentage": {"value": 1}}}}), "fault.abort"),
        (json!({"fault": {"abort": {"httpStatus": 600}}}), "fault.abort.httpStatus"),
        (json!({"fault": {"abort": {"grpcStatus": "FINE"}}}), "fault.abort.grpcStatus"),
        (json!({"fault": {"abort": {"http2Error": "x"}}}), "fault.abort.http2Error"),
        (
            json!({"fault": {"abort": {"httpStatus": 500, "percentage": {"value": 100.5}}}}),
            "fault.abort.percentage.value",
        ),
        (json!({"fault": {"abort": {"httpStatus": 500, "percentage": {"value": -1}}}}), "fault.abort.percentage.value"),
        (json!({"fault": {"delay": {"fixedDelay": "0s"}}}), "fault.delay.fixedDelay"),
        (json!({"fault": {"delay": {"fixedDelay": "2h"}}}), "fault.delay.fixedDelay"),
        (json!({"fault": {"delay": {"exponentialDelay": "1s"}}}), "fault.delay.exponentialDelay"),
        (json!({"fault": {"delay": {"fixedDelay": "1s", "percent": 101}}}), "fault.delay.percent"),
        (json!({"mirror": {"host": "till"}, "mirrorPercentage": {"value": 101}}), "mirrorPercentage.value"),
        (json!({"mirror": {"host": "till"}, "mirrorPercent": 101}), "mirrorPercent"),
        (json!({"mirror": {"host": "till"}, "mirrors": [{"destination": {"host": "till"}}]}), "mirror"),
        (json!({"mirrors": [{"destination": {"host": "elsewhere.com"}}]}), "mirrors[0].destination"),
    ] {
        is_refused(route(more), &format!("http[0].{path}"));
    }
    is_carried(route(
        json!({"timeout": "1ms", "retries": {"attempts": 3, "retryOn": "5xx,503,reset", "perTryTimeout": "1m30.5s", "backoff": "25ms",
        "retryRemoteLocalities": true}, "fault": {"delay": {"fixedDelay": "5s", "percentage": {"value": 0.1}}, "abort": {"grpcStatus": "UNAVAILABLE", "percentage": {"value": 100.0}}}}),
    ));
}

#[test]
fn cross_origin_fields_are_tokens() {
    for (policy, path) in [
        (json!({"allowHeaders": ["a b"]}), "allowHeaders[0]"),
        (json!({"allowMethods": ["GET", "a\r\nb"]}), "allowMethods[1]"),
        (json!({"exposeHeaders": ["ä"]}), "exposeHeaders[0]"),
        (json!({"allowMethods": ["FETCH"]}), "allowMethods[0]"),
        (json!({"allowOrigin": ["a\nb"]}), "allowOrigin[0]"),
        (json!({"allowOrigins": [{}]}), "allowOrigins[0]"),
        (json!({"allowOrigins": [{"exact": "a\nb"}]}), "allowOrigins[0].exact"),
        (json!({"maxAge": "1.5s"}), "maxAge"),
        (json!({"allowHeaders": vec!["a"; 65]}), "allowHeaders"),
    ] {
        is_refused(route(json!({"corsPolicy": policy})), &format!("http[0].corsPolicy.{path}"));
    }
    is_carried(route(
        json!({"corsPolicy": {"allowOrigins": [{"exact": "https://example.com"}, {"regex": ".*"}], "allowMethods": ["GET", "*"], "allowHeaders": ["*"],
        "exposeHeaders": ["x-a"], "maxAge": "24h", "allowCredentials": true, "unmatchedPreflights": "IGNORE"}}),
    ));
}

#[test]
fn names_and_comparisons_are_bounded() {
    for (condition, path) in [
        (json!({"uri": {}}), "uri"),
        (json!({"uri": {"prefix": "/a", "exact": "/a"}}), "uri"),
        (json!({"uri": {"prefix": ""}}), "uri.prefix"),
        (json!({"uri": {"prefix": "a"}}), "uri.prefix"),
        (json!({"uri": {"exact": "/a b"}}), "uri.exact"),
        (json!({"uri": {"exact": "/a\0"}}), "uri.exact"),
        (json!({"uri": {"exact": format!("/{}", "a".repeat(1024))}}), "uri.exact"),
        (json!({"method": {"exact": "G T"}}), "method.exact"),
        (json!({"headers": {"x": {"prefix": ""}}}), "headers[\"x\"].prefix"),
        (json!({"queryParams": {"": {"exact": "a"}}}), "queryParams[\"\"]"),
        (json!({"queryParams": {"a": {"exact": "\n"}}}), "queryParams[\"a\"].exact"),
        (json!({"name": "a".repeat(64)}), "name"),
        (json!({"name": "a%b"}), "name"),
        (json!({"statPrefix": "a b"}), "statPrefix"),
    ] {
        is_refused(matching(condition), &format!("http[0].match[0].{path}"));
    }
    is_refused(route(json!({"name": "a\nb"})), "http[0].name");
    is_carried(route(
        json!({"name": "the-way.1", "match": [{"name": "m", "statPrefix": "till", "uri": {"prefix": "/a"}, "ignoreUriCase": true,
        "method": {"exact": "GET"}, "queryParams": {"q": {"exact": "1"}, "r": {}}}]}),
    ));
}

#[test]
fn an_entry_brings_no_more_than_its_share() {
    let one = route(json!({}))[0].clone();
    is_carried(json!(vec![one.clone(); 512]));
    let line = carried(json!(vec![one; 513])).unwrap_err();
    assert!(line.contains("http[512]: more than 512 routes of one entry"), "{line}");
    let line = carried(route(json!({"match": vec![json!({"uri": {"prefix": "/a"}}); 1025]}))).unwrap_err();
    assert!(line.contains("more than 1024 matches of one entry"), "{line}");
    let headers: serde_json::Map<String, Value> = (0..129).map(|i| (format!("x-{i}"), json!("1"))).collect();
    let line = carried(route(json!({"headers": {"request": {"set": headers}}}))).unwrap_err();
    assert!(line.contains("more than 128 header rules and conditions of one route"), "{line}");
    let large: Vec<Value> = (0..100).map(|_| setting("x-a", &"a".repeat(4000))[0].clone()).collect();
    let line = carried(json!(large)).unwrap_err();
    assert!(line.contains("more than 262144 bytes of one entry"), "{line}");
    let line =
        carried(json!([{"route": vec![json!({"destination": {"host": "till"}, "weight": 1}); 33]}])).unwrap_err();
    assert!(line.contains("at most 32 destinations"), "{line}");
}

#[test]
fn http_routes_for_a_port_that_does_not_say_what_it_speaks_are_refused() {
    let mut inventory = shop();
    inventory.set_object(service("shop", "kiosk", json!([{"name": "web", "port": 80}])));
    let http = json!([{"match": [{"uri": {"prefix": "/admin"}}], "directResponse": {"status": 403}}, {"route": [{"destination": {"host": "kiosk"}}]}]);
    inventory.set_object(routes("shop", "kiosk", json!({"hosts": ["kiosk"], "http": http})));
    let out = exposed(json!([{"name": "kiosk", "virtualService": "kiosk"}]), &inventory, &harbor());
    let problem = out.entries[0].problem.clone().unwrap();
    assert_eq!(problem.reason, ProblemReason::VirtualServiceUnusable);
    assert!(problem.line().contains("port 80 of kiosk does not say what it speaks"), "{problem}");
    assert!(out.objects.is_empty());
}

#[test]
fn a_port_that_the_virtual_service_leaves_alone_is_exposed_the_plain_way() {
    let mut inventory = shop();
    let http = json!([{"match": [{"port": 9000}], "timeout": "3s", "route": [{"destination": {"host": "ledger"}}]}]);
    inventory.set_object(routes("shop", "ledger", json!({"hosts": ["ledger"], "http": http})));
    let out =
        exposed(json!([{"name": "ledger", "ports": [8080, 9000], "virtualService": "ledger"}]), &inventory, &harbor());
    assert_eq!(out.entries[0].problem, None);
    let last = |name: &str| {
        let found = out.objects.iter().find(|o| o.key().name.starts_with(name)).unwrap();
        serde_json::to_value(found).unwrap()["spec"]["http"].as_array().unwrap().last().unwrap().clone()
    };
    assert_eq!(last("ingressgateway-to-ledger-shop-p8080")["timeout"], Value::Null);
    assert_eq!(last("ingressgateway-to-ledger-shop-p8080")["route"][0]["destination"]["port"]["number"], 8080);
    let behaving: Vec<_> =
        out.objects.iter().filter(|o| serde_json::to_string(o).unwrap().contains("\"timeout\":\"3s\"")).collect();
    assert_eq!(behaving.len(), 1, "the behaviour is at the port that it is for");
}
