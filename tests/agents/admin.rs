//! What an agent says of itself, and how it ends.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::share::pair;
use super::support::objects::{policy, service};
use super::support::site::WHARF;
use super::support::{Site, cluster};

#[test]
fn an_agent_that_is_told_to_stop_tells_its_streams_and_ends_with_0() {
    let site = Site::new();
    let (mut donor, mut acceptor) = pair(&site);
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    for cluster in [&mut donor, &mut acceptor] {
        let (status, took) = cluster.stop();
        assert_eq!(status.code(), Some(0), "{}: {}", cluster.name, cluster.log());
        assert!(took < Duration::from_secs(3), "{} took {took:?}", cluster.name);
        assert!(cluster.log().contains("stopped"));
    }
    let log = acceptor.log();
    assert!(log.contains("ended the stream: the agent is shutting down"), "{log}");
    assert!(!donor.log().contains("panicked") && !log.contains("panicked"));
}

#[test]
fn health_and_readiness_say_what_is_so() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site);
    for cluster in [&donor, &acceptor] {
        for path in ["/healthz", "/readyz"] {
            assert_eq!(cluster.get(path), Some((200, "ok\n".to_owned())), "{path}");
        }
        assert!(
            cluster.get("/status").is_some_and(|(_, body)| body.ends_with("}\n")),
            "a prompt follows on its own line"
        );
        assert_eq!(cluster.get("/nothing").map(|(code, _)| code), Some(404));
    }
}

#[test]
fn status_tells_both_sides_of_an_exposition() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site);
    let bound = || {
        let exposed = donor.policy("reviews")?.status.exposed.into_iter().next()?;
        (exposed.bound_by == ["acceptor"] && exposed.offered_to == ["acceptor"]).then_some(exposed)
    };
    let exposed = site.until("the policy is bound", bound);
    assert_eq!(exposed.host, "reviews.default.svc.cluster.local");
    let view = acceptor.status().unwrap();
    assert_eq!((view.cluster.as_str(), view.identity.as_str()), ("acceptor", "spiffe://wharf/cluster/acceptor"));
    assert!(view.synced && view.problems.is_empty(), "{:?}", view.problems);
    let offer = view.offers.first().unwrap();
    assert_eq!((offer.name.as_str(), &offer.bound_by[..]), ("reviews", &["default/books".to_owned()][..]));
    let service = acceptor.binding("books").unwrap().status.services.remove(0);
    assert_eq!(service.version, offer.version);
    assert_eq!(service.local_host, "reviews.default.svc.cluster.local");
    let peer = acceptor.peer("donor").unwrap();
    assert!(peer.status.last_sync.is_some() && peer.status.certificate_expires.is_some());
    assert_eq!((peer.status.offered, peer.status.bound), (1, 1));
    // What stands beside the files says the same.
    let file = |c: &cluster::Cluster, kind: &str, name: &str| c.status_file(kind, name);
    site.until("the policy's status file", || {
        let status = file(&donor, "serviceexpositionpolicy", "default.reviews")?;
        (status["status"]["exposed"][0]["boundBy"][0] == "acceptor").then_some(())
    });
    site.until("the binding's status file", || {
        let status = file(&acceptor, "remoteservicebinding", "default.books")?;
        (status["status"]["services"][0]["bound"] == true).then_some(())
    });
    donor.remove("policy.yaml");
    site.until("a policy that is gone has no status", || {
        file(&donor, "serviceexpositionpolicy", "default.reviews").is_none().then_some(())
    });
}

#[test]
fn a_missing_gateway_is_a_problem_of_whoever_exposes_something() {
    let site = Site::new();
    let mut donor = site.cluster("donor");
    donor.configure("ingress: {namespace: istio-system}\n", &["{name: acceptor, consume: true}".to_owned()]);
    donor.write("services.yaml", service("reviews", 9080));
    donor.start();
    site.until("it is ready", || (donor.get("/readyz")?.0 == 200).then_some(()));
    assert_eq!(donor.problems("ingress gateway"), Vec::<String>::new(), "nothing is exposed");
    donor.write("policy.yaml", policy("reviews", &["acceptor"]));
    let problem = site.until("it is told", || donor.problems("ingress gateway").pop());
    assert!(problem.contains("no file of the folder has it; put it there"), "{problem}");
    donor.remove("policy.yaml");
    site.until("it is none any more", || donor.problems("ingress gateway").is_empty().then_some(()));
}

/// The families of an OpenMetrics text (OpenMetrics 1.0, section 4): type by name. Panics where it is none.
fn families(text: &str) -> BTreeMap<String, String> {
    let mut families: BTreeMap<String, String> = BTreeMap::new();
    assert!(text.ends_with("# EOF\n"), "the last line is not # EOF");
    for line in text.lines().filter(|l| *l != "# EOF") {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (what, name) = (words.next().unwrap(), words.next().unwrap());
            match what {
                "TYPE" => drop(families.insert(name.to_owned(), words.next().unwrap().to_owned())),
                "UNIT" => assert!(name.ends_with(words.next().unwrap()), "{line}"),
                "HELP" => assert!(!words.next().unwrap().is_empty(), "{line}"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
        let name = series.split('{').next().unwrap();
        let of = |suffix: &str| name.strip_suffix(suffix).and_then(|n| families.get(n)).map(String::as_str);
        let known = match families.get(name).map(String::as_str) {
            Some("gauge") => true,
            _ => {
                of("_total") == Some("counter")
                    || of("_info") == Some("info")
                    || ["_bucket", "_sum", "_count"].iter().any(|s| of(s) == Some("histogram"))
            }
        };
        assert!(known, "{line} belongs to no family");
    }
    families
}

#[test]
fn metrics_are_openmetrics_under_their_documented_names() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site);
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    let names = |text: &str| families(text).into_keys().collect::<Vec<_>>();
    let (code, text) = acceptor.get("/metrics").unwrap();
    assert_eq!(code, 200);
    let there = families(&text);
    for (name, kind) in [
        ("wharf_build", "info"),
        ("wharf_policies", "gauge"),
        ("wharf_bindings", "gauge"),
        ("wharf_problems", "gauge"),
        ("wharf_objects_written", "counter"),
        ("wharf_objects_removed", "counter"),
        ("wharf_object_conflicts", "counter"),
        ("wharf_write_errors", "counter"),
        ("wharf_reconciles", "counter"),
        ("wharf_reconcile_seconds", "histogram"),
        ("wharf_certificate_expiry_timestamp_seconds", "gauge"),
        ("wharf_peer_connected", "gauge"),
        ("wharf_peer_last_sync_timestamp_seconds", "gauge"),
        ("wharf_peer_offered_expositions", "gauge"),
        ("wharf_connections", "gauge"),
        ("wharf_handshakes_failed", "counter"),
        ("wharf_connections_refused", "counter"),
        ("wharf_calls_refused", "counter"),
    ] {
        assert_eq!(there.get(name).map(String::as_str), Some(kind), "{name} in\n{text}");
    }
    assert_eq!(acceptor.metric("wharf_peer_connected{peer=\"donor\"}"), Some(1.0));
    assert_eq!(acceptor.metric("wharf_peer_offered_expositions{peer=\"donor\"}"), Some(1.0));
    assert_eq!(donor.metric("wharf_peer_exposed_expositions{peer=\"acceptor\"}"), Some(1.0));
    assert_eq!(donor.metric("wharf_policies"), Some(1.0));
    assert!(acceptor.metric("wharf_objects_written_total").is_some_and(|n| n > 3.0));
    // A peer that is gone takes its series along.
    acceptor.configure("", &[]);
    site.until("the series are gone", || {
        let (_, text) = acceptor.get("/metrics")?;
        (!text.contains("peer=\"donor\"") && !names(&text).is_empty()).then_some(())
    });
}

#[test]
fn the_command_line_shows_a_running_agent_as_tables_json_and_yaml() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site);
    site.until("bound", || donor.policy("reviews")?.status.exposed.first()?.bound_by.first().cloned());
    let admin = acceptor.admin.to_string();
    let ask = |command: &str, format: &str| site.run(&[command, "--admin", &admin, "-o", format]);
    let table = ask("status", "table");
    assert!(table.contains("BINDING") && table.contains("reviews.default.svc.cluster.local"), "{table}");
    let table = ask("offers", "table");
    assert!(table.contains("donor") && table.contains("9080/HTTP") && table.contains("default/books"), "{table}");
    let table = ask("peers", "table");
    assert!(table.contains("donor") && table.contains("yes"), "{table}");
    for command in ["status", "offers", "peers"] {
        let json: Value = serde_json::from_str(&ask(command, "json")).unwrap();
        let yaml = cluster::parse(&ask(command, "yaml"));
        assert_eq!(json, yaml, "{command}");
    }
    let peers: Value = serde_json::from_str(&ask("peers", "json")).unwrap();
    assert_eq!(peers[0]["name"], "donor");
    let by_config = site.run(&["status", "--config", "donor.yaml"]);
    assert!(by_config.contains("POLICY") && by_config.contains("acceptor"), "{by_config}");
    let nobody = site.try_run(&["status", "--admin", &site.address().to_string()]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no agent answers"));
}

#[test]
fn status_says_by_its_exit_code_whether_all_is_ready_and_waits_for_it() {
    let site = Site::new();
    let (donor, _acceptor) = pair(&site);
    site.until("bound", || donor.policy("reviews")?.status.exposed.first()?.bound_by.first().cloned());
    let admin = donor.admin.to_string();
    assert!(site.try_run(&["status", "--admin", &admin]).status.success());
    donor.write("cart.yaml", policy("cart", &["acceptor"]));
    site.until("it is read", || donor.policy("cart"));
    let broken = site.try_run(&["status", "--admin", &admin]);
    let table = String::from_utf8_lossy(&broken.stdout).into_owned();
    assert_eq!(broken.status.code(), Some(1), "{table}");
    let state = |name: &str| table.lines().find(|l| l.split_whitespace().nth(1) == Some(name)).unwrap_or_default();
    assert!(state("cart").contains("ServiceNotFound") && state("reviews").contains("Ready"), "{table}");
    let late = site.try_run(&["status", "--admin", &admin, "--wait", "--timeout", "1s"]);
    assert_eq!(late.status.code(), Some(1));
    let mut command = std::process::Command::new(WHARF);
    command
        .args(["status", "--admin", &admin, "--wait", "--timeout", "60s"])
        .stderr(Stdio::piped())
        .stdout(Stdio::null());
    let mut waiting = command.spawn().unwrap();
    let mut lines = BufReader::new(waiting.stderr.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    assert!(line.contains("waiting for default/cart: ServiceNotFound"), "{line}");
    donor.write("cart-service.yaml", service("cart", 9080));
    assert!(waiting.wait().unwrap().success());
    let usage = site.try_run(&["status", "--timeout", "5s"]);
    assert_eq!(usage.status.code(), Some(2), "a timeout without a wait");
}

#[test]
fn taking_a_peer_away_is_tried_before_it_is_done() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site);
    site.until("bound", || donor.policy("reviews")?.status.exposed.first()?.bound_by.first().cloned());
    let delete = |config: &str, name: &str, more: &[&str]| {
        let args = [&["peers", "delete", name, "--config", config], more].concat();
        site.try_run(&args)
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let dry = delete("acceptor.yaml", "donor", &["--dry-run=client"]);
    let told = text(&dry.stdout);
    assert!(dry.status.success() && told.contains("\"donor\" deleted (dry run)"), "{told}");
    assert!(told.contains("default/reviews") && told.contains("answered with 503"), "{told}");
    let told = text(&delete("donor.yaml", "acceptor", &["--dry-run=client"]).stdout);
    assert!(told.contains("reviews.default.svc") && told.contains("those calls are refused"), "{told}");
    // An agent's peers stand in its files, and its users are told which.
    for (name, said) in [("donor", "remove the entry donor from `peers`"), ("nobody", "has no peer \"nobody\"")] {
        let refused = delete("acceptor.yaml", name, &[]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(text(&refused.stderr).contains(said), "{}", text(&refused.stderr));
    }
    assert!(acceptor.in_step("donor"), "nothing was done");
}

#[test]
fn an_agent_that_cannot_start_says_what_is_missing() {
    let site = Site::new();
    let mut donor = site.cluster("donor");
    for (what, told) in [("donor.key", "donor.key"), ("donor", "there is no such folder")] {
        donor.configure("", &[]);
        let (from, to) = (site.path().join(what), site.path().join("away"));
        std::fs::rename(&from, &to).unwrap();
        let output = site.try_run(&["agent", "--config", "donor.yaml"]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(told), "{error}");
        std::fs::rename(&to, &from).unwrap();
    }
    donor.write("policy.yaml", service("reviews", 80) + &policy("reviews", &[]));
    donor.start();
    site.until("it runs", || donor.status().filter(|v| v.synced));
    let second = site.try_run(&["agent", "--config", "donor.yaml"]);
    assert!(String::from_utf8_lossy(&second.stderr).contains("cannot listen there"));
}
