//! How much of the shared gateway one namespace may take.

use super::share::pair;
use super::support::objects::{policy_of, service};
use super::support::{Cluster, Site};

/// The reasons of a policy's entries, in order.
fn reasons(donor: &Cluster, policy: &str) -> Option<String> {
    let status = donor.status_file("serviceexpositionpolicy", &format!("default.{policy}"))?;
    let entries = status["status"]["exposed"].as_array()?;
    Some(entries.iter().map(|e| e["reason"].as_str().unwrap_or_default()).collect::<Vec<_>>().join(","))
}

#[test]
fn a_namespace_that_has_its_share_of_the_gateway_keeps_what_it_has_and_gets_no_more() {
    let site = Site::new();
    let (mut donor, acceptor) = pair(&site); // exposes reviews
    let all = ["a1", "a2", "m1", "m2"].map(|name| service(name, 9080)).join("---\n");
    donor.write("more-services.yaml", all);
    let limits = "limits: {expositionsPerNamespace: 3}\n";
    donor.stop();
    donor.configure(limits, &[acceptor.as_consumer()]);
    donor.start();
    let entry = |name: &str| format!("{{name: {name}, clusters: [acceptor]}}");
    donor.write("m.yaml", policy_of("m", &[&entry("m1"), &entry("m2")]));
    site.until("all fit", || (reasons(&donor, "m")? == "Exposed,Exposed").then_some(()));
    donor.write("a.yaml", policy_of("a", &[&entry("a1"), &entry("a2")]));
    let waits = || (reasons(&donor, "a")? == "QuotaExceeded,QuotaExceeded").then_some(());
    site.until("one that comes later waits", waits);
    assert!(donor.find("Gateway", "a1").is_empty() && acceptor.bound("reviews"));
    let (_, message) =
        super::support::cluster::condition(&donor.policy("a").unwrap().status.conditions, "Exposed").unwrap();
    assert!(message.contains("expose 3 services with 3 ports of 3"), "{message}");

    donor.stop();
    donor.start(); // its name is the first, and it has nothing all the same
    donor.write("services-2.yaml", service("later", 9080));
    donor.write("z.yaml", policy_of("z", &[&entry("later")]));
    site.until("the last one is judged", || (reasons(&donor, "z")? == "QuotaExceeded").then_some(()));
    assert_eq!(reasons(&donor, "m").as_deref(), Some("Exposed,Exposed"));
    assert_eq!(reasons(&donor, "a").as_deref(), Some("QuotaExceeded,QuotaExceeded"));

    donor.remove("m.yaml");
    site.until("those that waited get the places", || (reasons(&donor, "a")? == "Exposed,Exposed").then_some(()));
    assert_eq!(reasons(&donor, "z").as_deref(), Some("QuotaExceeded"));
}
