//! Bindings that make themselves.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use super::support::objects::{policy, policy_of, service};
use super::support::{Cluster, Site, cluster};

const FILE: &str = "bindings/default.donor-services.yaml";

fn start(site: &Site, mode: &str) -> (Cluster, Cluster) {
    let (mut donor, mut acceptor) = (site.cluster("donor"), site.cluster("acceptor"));
    donor.configure("", &[acceptor.as_consumer()]);
    acceptor.configure("", &[peer(&donor, mode)]);
    donor.write("services.yaml", service("reviews", 9080) + &service("ratings", 9080));
    donor.write("reviews.yaml", policy("reviews", &["acceptor"]));
    donor.start();
    acceptor.start();
    (donor, acceptor)
}

fn peer(donor: &Cluster, mode: &str) -> String {
    format!("{{name: donor, endpoint: \"{}\", connectionMode: {mode}}}", donor.peering)
}

fn made(acceptor: &Cluster) -> Option<Value> {
    fs::read_to_string(acceptor.store.join(FILE)).ok().map(|text| cluster::parse(&text))
}

#[test]
fn a_live_peer_configures_itself_and_what_it_withdraws_goes() {
    let site = Site::new();
    let (donor, acceptor) = start(&site, "live");
    site.until("reviews is configured", || acceptor.bound("reviews").then_some(()));
    assert_eq!(made(&acceptor).unwrap()["metadata"]["labels"]["connection"], "live");
    donor.write("ratings.yaml", policy("ratings", &["acceptor"]));
    site.until("ratings too", || acceptor.bound("ratings").then_some(()));
    donor.remove("reviews.yaml");
    site.until("reviews goes", || (!acceptor.bound("reviews") && acceptor.bound("ratings")).then_some(()));
    donor.remove("ratings.yaml");
    site.until("nothing is left", || (acceptor.objects().is_empty() && made(&acceptor).is_none()).then_some(()));
}

#[test]
fn a_potential_peer_makes_an_offer_that_waits_until_somebody_makes_it_live() {
    let site = Site::new();
    let (donor, acceptor) = start(&site, "potential");
    let offer = site.until("the offer", || made(&acceptor));
    assert_eq!(offer["metadata"]["labels"]["connection"], "potential");
    let view = site.until("it is read", || acceptor.binding("donor-services"));
    assert_eq!(view.connection, "potential");
    site.stays("nothing is configured", Duration::from_millis(300), || acceptor.objects().is_empty());
    let text = fs::read_to_string(acceptor.store.join(FILE)).unwrap();
    acceptor.write(FILE, text.replace("connection: potential", "connection: live"));
    site.until("it is configured", || acceptor.bound("reviews").then_some(()));
    donor.write("ratings.yaml", policy("ratings", &["acceptor"]));
    site.until("what comes later is too", || acceptor.bound("ratings").then_some(()));
    assert_eq!(made(&acceptor).unwrap()["metadata"]["labels"]["connection"], "live", "what somebody wrote stays");
}

#[test]
fn a_binding_that_made_itself_follows_its_donor() {
    let site = Site::new();
    let (donor, acceptor) = start(&site, "live");
    site.until("reviews is configured", || acceptor.bound("reviews").then_some(()));
    donor.write("services.yaml", service("reviews", 9090));
    site.until("the new port", || {
        let objects = acceptor.find("ServiceEntry", "reviews");
        (!objects.is_empty() && acceptor.binding("donor-services")?.status.services.first()?.bound).then_some(())
    });
    donor.write("reviews.yaml", policy_of("reviews", &["{name: reviews, alias: critics, clusters: [acceptor]}"]));
    site.until("the new name", || (acceptor.bound("critics") && !acceptor.bound("reviews")).then_some(()));
}

#[test]
fn a_peer_that_is_not_to_bind_by_itself_any_more_loses_the_binding_that_did() {
    for other in ["none", "gone", "elsewhere"] {
        let site = Site::new();
        let (donor, acceptor) = start(&site, "live");
        site.until("reviews is configured", || acceptor.bound("reviews").then_some(()));
        let endpoint = donor.peering;
        let peers = match other {
            "none" => vec![peer(&donor, "none")],
            "gone" => vec![],
            _ => vec![format!("{{name: donor, endpoint: \"{endpoint}\", connectionMode: live, namespace: imported}}")],
        };
        acceptor.configure("", &peers);
        site.until(&format!("the binding is gone ({other})"), || made(&acceptor).is_none().then_some(()));
        site.until("and what it configured", || (!acceptor.bound("reviews")).then_some(()));
        if other == "elsewhere" {
            let there = || acceptor.objects().contains_key("service_imported_reviews.yaml").then_some(());
            site.until("it is where it is wanted now", there);
        }
    }
}

#[test]
fn a_binding_of_somebody_else_under_that_name_is_not_touched() {
    let site = Site::new();
    let (mut donor, mut acceptor) = (site.cluster("donor"), site.cluster("acceptor"));
    donor.configure("", &[acceptor.as_consumer()]);
    acceptor.configure("", &[peer(&donor, "live")]);
    donor.write("services.yaml", service("reviews", 9080) + &service("ratings", 9080));
    donor.write("policies.yaml", policy("reviews", &["acceptor"]) + &policy("ratings", &["acceptor"]));
    let mine = super::support::objects::binding("donor-services", "donor", &["reviews"]);
    acceptor.write("mine.yaml", &mine);
    donor.start();
    acceptor.start();
    site.until("mine is in force", || acceptor.bound("reviews").then_some(()));
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    site.stays("nothing but mine", Duration::from_millis(300), || {
        made(&acceptor).is_none() && !acceptor.bound("ratings")
    });
    assert_eq!(fs::read_to_string(acceptor.store.join("mine.yaml")).unwrap(), mine);
}
