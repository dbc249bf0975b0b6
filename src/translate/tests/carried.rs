//! What reaches the gateway of any VirtualService, judged by other rules than those that let it through.

use std::cell::Cell;
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Map, Value, json};

use super::build::*;
use crate::api::Kind;

fn one_of(texts: &'static [&'static str]) -> BoxedStrategy<Value> {
    prop::sample::select(texts).prop_map(|t| json!(t)).boxed()
}

/// Mostly what is fine, now and then what is not, and now and then any text at all.
fn mixed(good: BoxedStrategy<Value>, bad: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    prop_oneof![60 => good, 2 => bad, 1 => ".{0,60}".prop_map(|t| json!(t))].boxed()
}

/// An object with some of these fields.
fn object(fields: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    let (names, values): (Vec<&str>, Vec<_>) =
        fields.into_iter().map(|(name, value)| (name, prop::option::weighted(0.4, value))).unzip();
    values
        .prop_map(move |values| {
            let given = names.iter().zip(values).filter_map(|(name, value)| Some(((*name).to_owned(), value?)));
            Value::Object(given.collect())
        })
        .boxed()
}

fn map_of(keys: BoxedStrategy<Value>, values: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    prop::collection::vec((keys, values), 0..4)
        .prop_map(|pairs| {
            let named = pairs.into_iter().map(|(k, v)| (k.as_str().unwrap_or_default().to_owned(), v));
            Value::Object(named.collect::<Map<String, Value>>())
        })
        .boxed()
}

fn list_of(values: BoxedStrategy<Value>, most: usize) -> BoxedStrategy<Value> {
    prop::collection::vec(values, 0..=most).prop_map(Value::Array).boxed()
}

fn any_regex() -> BoxedStrategy<Value> {
    let parts = prop::sample::select(vec![
        "a", "/", ".", "[a-z]", "[^/]", r"\d", r"\.", "(x|y)", "(?:b)", "(?P<n>c)", r"\w", "(?i)k",
    ]);
    let ends = prop::sample::select(vec!["", "", "*", "+", "?", "{2}", "{0,9}", "{300}", "{900}"]);
    let made = prop::collection::vec((parts, ends), 1..6)
        .prop_map(|p| json!(p.iter().map(|(a, b)| format!("{a}{b}")).collect::<String>()));
    mixed(
        made.boxed(),
        one_of(&[
            r"\p{L}{100}",
            "(",
            "[",
            "a**",
            r"(a)\1",
            "(?=a)",
            "(?<x>a)",
            "[a&&b]",
            r"\u0041",
            "a{2}{2}",
            "",
            "(?x) a",
            r"[\w\W]{1000}",
        ]),
    )
}

fn any_header() -> BoxedStrategy<Value> {
    mixed(
        one_of(&["x-a", "X-B", "cookie", "x_c", "authorization"]),
        one_of(&["host", ":authority", "x-forwarded-for", "x-envoy-retry-on", "content-length", "a b", "", "a\r\n"]),
    )
}

fn any_value() -> BoxedStrategy<Value> {
    let good = one_of(&[
        "a",
        "",
        "100%%",
        "%REQ(x-a)%",
        "%PROTOCOL%",
        "a %DOWNSTREAM_REMOTE_ADDRESS% b",
        "%%%%",
        "%START_TIME%",
    ]);
    let pieces = prop::sample::select(vec![
        "%",
        "%%",
        "REQ(",
        "x",
        ")",
        "ENVIRONMENT(HOME)",
        "PROTOCOL",
        "BOGUS",
        ":5",
        "METADATA(a)",
        "\n",
        "FILE_CONTENT(/a)",
    ]);
    let bad = prop::collection::vec(pieces, 1..6).prop_map(|p| json!(p.concat())).boxed();
    mixed(good, bad)
}

fn any_comparison(text: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    let field = |name: &'static str, value: BoxedStrategy<Value>| value.prop_map(move |v| json!({name: v})).boxed();
    prop_oneof![
        5 => field("exact", text.clone()),
        5 => field("prefix", text.clone()),
        5 => field("regex", any_regex()),
        1 => object(vec![("exact", text.clone()), ("prefix", text), ("regex", any_regex())]),
    ]
    .boxed()
}

fn any_path() -> BoxedStrategy<Value> {
    mixed(
        one_of(&["/", "/a", "/a/b%20c", "/x?y"]),
        one_of(&["a", "", "/%BOGUS%", "/a b", "/\r\n", "/{x}", "/%REQ(x)%", "/a%"]),
    )
}

fn any_host() -> BoxedStrategy<Value> {
    mixed(
        one_of(&["example.com", "www.example.com:8443"]),
        one_of(&["till", "till.shop.svc.cluster.local", "10.0.0.1", "a b", "%REQ(x)%", "example.com\n", ""]),
    )
}

fn any_duration() -> BoxedStrategy<Value> {
    mixed(
        one_of(&["1s", "500ms", "1m30s", "0.5s"]),
        one_of(&["0s", "-1s", "soon", "1ns", "99999999h", "1", "", "1s1", "9e9s"]),
    )
}

fn any_percentage() -> BoxedStrategy<Value> {
    prop_oneof![8 => 0.0..100.0, 1 => -5.0..200.0].prop_map(|v: f64| json!({"value": v})).boxed()
}

fn any_number(usual: std::ops::Range<i64>) -> BoxedStrategy<Value> {
    prop_oneof![30 => usual, 1 => -10..1000_i64, 1 => any::<i32>().prop_map(i64::from)].prop_map(|n| json!(n)).boxed()
}

fn any_header_rules() -> BoxedStrategy<Value> {
    let operations = || {
        object(vec![
            ("set", map_of(any_header(), any_value())),
            ("add", map_of(any_header(), any_value())),
            ("remove", list_of(any_header(), 2)),
        ])
    };
    object(vec![("request", operations()), ("response", operations())])
}

fn any_match() -> BoxedStrategy<Value> {
    let conditions = || map_of(any_header(), any_comparison(any_value()));
    let method = mixed(one_of(&["GET", "POST"]), one_of(&["", "G T"]));
    let name = || mixed(one_of(&["a", "b.c-d_1"]), one_of(&["a b", "%"]));
    object(vec![
        ("uri", any_comparison(any_path())),
        ("method", any_comparison(method)),
        ("headers", conditions()),
        ("withoutHeaders", conditions()),
        ("queryParams", map_of(any_header(), any_comparison(any_value()))),
        ("ignoreUriCase", any::<bool>().prop_map(|b| json!(b)).boxed()),
        ("name", name()),
        ("statPrefix", name()),
        ("port", prop::sample::select(vec![0, 8080, 8080, 81]).prop_map(|p| json!(p)).boxed()),
        ("gateways", prop::sample::select(vec!["mesh", "mesh", "front"]).prop_map(|g| json!([g])).boxed()),
    ])
}

fn any_redirect() -> BoxedStrategy<Value> {
    let scheme = mixed(one_of(&["http", "https"]), one_of(&["ftp", "%REQ(x)%"]));
    let more = object(vec![
        ("uri", any_path()),
        ("scheme", scheme),
        ("port", any_number(1..65_000)),
        ("redirectCode", any_number(301..304)),
    ]);
    (any_host(), more)
        .prop_map(|(host, mut more)| {
            more["authority"] = host;
            json!({"redirect": more})
        })
        .boxed()
}

fn any_answer() -> BoxedStrategy<Value> {
    let body =
        prop_oneof![8 => 0..4096_usize, 1 => 4090..4200_usize].prop_map(|n| json!({"string": "é".repeat(n / 2)}));
    (any_number(200..599), prop::option::of(body))
        .prop_map(|(status, body)| json!({"directResponse": {"status": status, "body": body}}))
        .boxed()
}

fn any_way() -> BoxedStrategy<Value> {
    let destination = (any_number(1..100), any_header_rules())
        .prop_map(|(weight, headers)| json!({"destination": {"host": "till"}, "weight": weight, "headers": headers}));
    let regex_rewrite = (any_regex(), mixed(one_of(&["/b", r"/\0"]), one_of(&[r"/\1\2", r"/\", "/%X%", ""])))
        .prop_map(|(m, r)| json!({"match": m, "rewrite": r}));
    let retries = object(vec![
        ("attempts", any_number(0..9)),
        ("perTryTimeout", any_duration()),
        ("retryOn", mixed(one_of(&["5xx", "reset,503"]), one_of(&["never", ",", "\n"]))),
    ]);
    let abort = object(vec![("httpStatus", any_number(400..600)), ("percentage", any_percentage())]);
    let delay = object(vec![("fixedDelay", any_duration()), ("percentage", any_percentage())]);
    let mirror = Just(json!({"host": "ledger", "port": {"number": 8080}})).boxed();
    let more = object(vec![
        (
            "rewrite",
            object(vec![("uri", any_path()), ("authority", any_host()), ("uriRegexRewrite", regex_rewrite.boxed())]),
        ),
        ("retries", retries),
        ("fault", object(vec![("abort", abort), ("delay", delay)])),
        ("mirror", mirror),
        ("mirrorPercentage", any_percentage()),
    ]);
    (list_of(destination.boxed(), 3), more)
        .prop_map(|(route, mut more)| {
            more["route"] = route;
            more
        })
        .boxed()
}

fn any_route() -> BoxedStrategy<Value> {
    let cors = object(vec![
        ("allowOrigins", list_of(any_comparison(any_value()), 2)),
        ("allowHeaders", list_of(any_header(), 2)),
        ("maxAge", any_duration()),
    ]);
    let more = object(vec![
        ("headers", any_header_rules()),
        ("corsPolicy", cors),
        ("timeout", any_duration()),
        ("match", list_of(any_match(), 3)),
    ]);
    (prop_oneof![6 => any_way(), 1 => any_redirect(), 1 => any_answer()], more)
        .prop_map(|(mut way, more)| {
            way.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            way
        })
        .boxed()
}

/// Every text that stands for `key` anywhere below.
fn texts<'a>(value: &'a Value, path: &str, found: &mut Vec<(String, &'a str)>) {
    match value {
        Value::String(text) => found.push((path.to_owned(), text)),
        Value::Array(all) => all.iter().for_each(|v| texts(v, path, found)),
        Value::Object(all) => all.iter().for_each(|(k, v)| {
            found.push((format!("{path}~"), k));
            texts(v, &format!("{path}.{k}"), found);
        }),
        _ => {}
    }
}

static COMMAND: LazyLock<regex::Regex> =
    LazyLock::new(|| regex::Regex::new(r"%%|%REQ\([\w:-]+\)%|%(PROTOCOL|START_TIME|DOWNSTREAM_[A-Z_]+)%").unwrap());
static ENCODED: LazyLock<regex::Regex> = LazyLock::new(|| regex::Regex::new("%[0-9A-Fa-f]{2}").unwrap());

/// What must be so of each text at the gateway, told in other words than in `carry`.
fn is_harmless(path: &str, text: &str) -> bool {
    if path.contains("directResponse") {
        return text.len() <= 4096;
    }
    if text.len() > 4096 || text.chars().any(|c| c.is_control() || !c.is_ascii()) {
        return false;
    }
    if path.ends_with("regex") || path.ends_with("uriRegexRewrite.match") {
        let compiled = regex::bytes::RegexBuilder::new(text).unicode(false).size_limit(1 << 20).build();
        return text == "*" || compiled.is_ok();
    }
    if path.ends_with("set~") || path.ends_with("add~") || path.ends_with("remove") {
        let lower = text.to_ascii_lowercase();
        let taken = ["host", "content-length", "transfer-encoding", "connection"].contains(&lower.as_str());
        return !taken
            && !lower.is_empty()
            && !lower.contains([':', ' '])
            && (!lower.starts_with("x-e") && !lower.starts_with("x-f") || path.contains("response.remove"));
    }
    if path.contains(".set.") || path.contains(".add.") {
        let rest = COMMAND.replace_all(text, "");
        return !rest.contains('%');
    }
    if path.contains("redirect") || path.contains("rewrite") {
        let rest = ENCODED.replace_all(text, "");
        return !rest.contains(['%', '{', ' '])
            && (!path.ends_with("redirect.authority") || text.contains("example.com"));
    }
    true
}

#[test]
fn whatever_a_virtual_service_says_only_what_envoy_takes_reaches_the_gateway() {
    let (carried, refused) = (Cell::new(0), Cell::new(0));
    let config = ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() };
    let run = TestRunner::new(config).run(&prop::collection::vec(any_route(), 1..4), |http| {
        let mut inventory = shop();
        inventory.set_object(routes("shop", "custom", json!({"hosts": ["till"], "http": http})));
        let out = exposed(
            json!([{"name": "till", "virtualService": "custom"}, {"name": "ledger", "port": 9000}]),
            &inventory,
            &harbor(),
        );
        prop_assert_eq!(
            out.offers.iter().filter(|o| o.key.name.as_str() == "ledger").count(),
            1,
            "the other entry works"
        );
        if out.entries[0].problem.is_some() {
            refused.set(refused.get() + 1);
            prop_assert!(!out.objects.iter().any(|o| o.key().name.contains("till")));
            return Ok(());
        }
        carried.set(carried.get() + 1);
        for object in out.objects.iter().filter(|o| o.kind() == Kind::VirtualService && o.key().name.contains("till")) {
            let spec = serde_json::to_value(object).unwrap()["spec"].clone();
            prop_assert!(spec.to_string().len() < 300_000);
            for route in spec["http"].as_array().unwrap().iter().skip(1) {
                let ways = ["route", "redirect", "directResponse"].iter().filter(|w| route.get(**w).is_some()).count();
                prop_assert_eq!(ways, 1, "{}", route);
                let mut found = Vec::new();
                texts(route, "", &mut found);
                for (path, text) in found {
                    prop_assert!(is_harmless(&path, text), "{}: {:?}", path, text);
                }
            }
        }
        Ok(())
    });
    run.unwrap();
    assert!(
        carried.get() > 25 && refused.get() > 25,
        "both happen: {} carried, {} refused",
        carried.get(),
        refused.get()
    );
}
