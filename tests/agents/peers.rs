//! Peers come, change and go in the configuration file, and nobody restarts anything.

use std::fs;
use std::time::Duration;

use super::share::pair;
use super::support::objects::{binding, policy, service};
use super::support::proxy::{Link, Proxy};
use super::support::{Cluster, Site};

fn reason(cluster: &Cluster, name: &str) -> Option<String> {
    cluster.binding(name)?.status.services.first().map(|s| s.reason.clone())
}

#[test]
fn a_peer_that_is_added_changed_and_removed_takes_effect_at_once() {
    let site = Site::new();
    let (mut donor, mut acceptor) = (site.cluster("donor"), site.cluster("acceptor"));
    donor.configure("", &[]);
    acceptor.configure("", &[]);
    donor.write("services.yaml", service("reviews", 9080));
    donor.write("policy.yaml", policy("reviews", &[]));
    acceptor.write("binding.yaml", binding("books", "donor", &["reviews"]));
    donor.start();
    acceptor.start();
    site.until("no such peer", || reason(&acceptor, "books").filter(|r| r == "PeerUnknown"));
    acceptor.configure("", &[donor.as_donor()]);
    site.until("the donor does not know it", || reason(&acceptor, "books").filter(|r| r == "NotPermitted"));
    donor.configure("", &[acceptor.as_consumer()]);
    site.until("bound", || acceptor.bound("reviews").then_some(()));
    let before = acceptor.snapshot();

    let proxy = Proxy::new(site.address(), donor.peering);
    acceptor.configure("", &[donor.as_donor_at(proxy.address)]);
    site.until("dialled at its new endpoint", || (proxy.connections() == 1 && acceptor.in_step("donor")).then_some(()));
    assert_eq!(acceptor.snapshot(), before, "another way to the donor changes no object");

    acceptor.configure("", &[]);
    site.until("nothing leads to the removed peer", || acceptor.names_alone().filter(|names| *names == ["reviews"]));
    assert_eq!(acceptor.said_to_callers("reviews").as_deref(), Some("PeerUnknown for donor"));
    assert_eq!(reason(&acceptor, "books").as_deref(), Some("PeerUnknown"));
    assert_eq!(acceptor.status().unwrap().offers, vec![]);
    site.until("and so is what was remembered of it", || {
        let mut known = fs::read_dir(acceptor.store.join(".wharf/known/donor")).into_iter().flatten();
        known.next().is_none().then_some(())
    });
    site.until("its stream is closed", || {
        (donor.metric("wharf_peer_subscriptions{peer=\"acceptor\"}") == Some(0.0)).then_some(())
    });
    acceptor.configure("", &[donor.as_donor()]);
    site.until("bound again", || acceptor.bound("reviews").then_some(()));
}

#[test]
fn a_peer_that_may_consume_no_longer_loses_what_it_had_and_gets_it_back() {
    let site = Site::new();
    let (mut donor, acceptor) = pair(&site);
    donor.configure("", &["{name: acceptor, consume: false}".to_owned()]);
    site.until("not permitted", || reason(&acceptor, "books").filter(|r| r == "NotPermitted"));
    site.until("nothing leads to it", || acceptor.names_alone().filter(|names| *names == ["reviews"]));
    let said = || acceptor.said_to_callers("reviews").filter(|why| why == "NotPermitted by donor");
    site.until("callers read why", said);
    let (reason, message) = acceptor.peer_condition("donor", "Connected").unwrap();
    assert_eq!(reason, "NotPermitted");
    assert!(message.contains("consume: true"), "{message}");
    site.until("the gateway is closed", || donor.find("Gateway", "cluster/acceptor").is_empty().then_some(()));
    donor.configure("", &[acceptor.as_consumer()]);
    site.until("bound again", || acceptor.bound("reviews").then_some(()));
    donor.stop();
}

#[test]
fn a_peer_that_was_removed_while_the_agent_was_away_is_forgotten() {
    let site = Site::new();
    let (donor, mut acceptor) = pair(&site);
    let written = || {
        let status = acceptor.status_file("remoteservicebinding", "default.books")?;
        status["status"]["services"][0]["ports"][0]["port"].as_u64()
    };
    site.until("the status, which remembers the ports, is written", written);
    acceptor.kill();
    acceptor.configure("", &[]);
    acceptor.start();
    site.until("nothing leads to it", || acceptor.names_alone().filter(|names| *names == ["reviews"]));
    site.until("nothing is offered any more", || acceptor.status().filter(|v| v.offers.is_empty()));
    drop(donor);
}

#[test]
fn a_broken_configuration_keeps_the_last_good_one_and_says_so() {
    let site = Site::new();
    let (mut donor, acceptor) = pair(&site);
    for broken in ["cluster: [", "cluster: acceptor\nconsum: true\n", "\u{0}\u{1}"] {
        fs::write(&acceptor.config, broken).unwrap();
        let problem = || acceptor.problems("configuration").pop().filter(|p| p.contains("acceptor.yaml"));
        site.until("the problem", problem);
        assert_eq!(acceptor.metric("wharf_problems"), Some(1.0));
        assert!(acceptor.in_step("donor") && acceptor.bound("reviews"));
        acceptor.configure("", &[donor.as_donor()]);
        site.until("the problem is gone", || acceptor.problems("").is_empty().then_some(()));
    }
    fs::remove_file(&acceptor.config).unwrap();
    site.until("a configuration that is gone is a problem", || acceptor.problems("configuration").pop());
    donor.write("more.yaml", policy("ratings", &["acceptor"]));
    acceptor.write("more.yaml", binding("more", "donor", &["ratings"]));
    site.until("and everything works", || acceptor.bound("ratings").then_some(()));
    donor.stop();
}

/// Logs are often written into the folder of the configuration.
#[test]
fn a_configuration_in_a_busy_folder_is_followed() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site);
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let beside = site.path().join("something.log");
    let writer = std::thread::spawn(move || {
        while stopped.recv_timeout(Duration::from_millis(5)).is_err() {
            fs::write(&beside, "busy").unwrap();
        }
    });
    acceptor.configure("", &[]);
    site.until("the peer is gone", || acceptor.names_alone().filter(|names| *names == ["reviews"]));
    stop.send(()).unwrap();
    writer.join().unwrap();
    drop(donor);
}

#[test]
fn a_configuration_that_changes_while_its_agent_starts_is_in_force() {
    let site = Site::new();
    let mut agent = site.cluster("donor");
    for round in 0..20 {
        agent.configure("", &["{name: one}".to_owned()]);
        agent.start();
        std::thread::sleep(Duration::from_millis(round)); // anywhere between its first step and its last
        agent.configure("", &["{name: two}".to_owned()]);
        site.until("the second", || agent.peer("two"));
        assert_eq!(agent.peer("one"), None);
        agent.kill();
    }
}

#[test]
fn two_clusters_under_one_name_are_told_apart_and_both_operators_see_it() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site);
    let mut twin = site.twin(&acceptor, "twin");
    twin.configure("", &[donor.as_donor()]);
    twin.write("binding.yaml", binding("books", "donor", &["reviews"]));
    twin.start();
    let refused = || twin.peer_condition("donor", "Connected").filter(|(_, m)| m.contains("is taken"));
    let (reason, message) = site.until("the second is refused", refused);
    assert_ne!(reason, "InStep");
    assert!(message.contains("the name acceptor is taken"), "{message}");
    assert!(twin.objects().is_empty());
    let clash = || donor.peer_condition("acceptor", "Subscribed").filter(|(reason, _)| reason == "NameClash");
    let (_, message) = site.until("the donor's operator sees it", clash);
    assert!(message.contains(&twin.status().unwrap().instance), "{message}");
    assert!(acceptor.in_step("donor"), "the first goes on");
    donor.write("more.yaml", policy("ratings", &["acceptor"]));
    acceptor.write("more.yaml", binding("more", "donor", &["ratings"]));
    site.until("the first is served", || acceptor.bound("ratings").then_some(()));
    assert!(twin.objects().is_empty());
}

#[test]
fn what_an_acceptor_rejects_is_seen_by_both_operators_with_the_reason() {
    let site = Site::new();
    let (mut donor, mut acceptor) = (site.cluster("donor"), site.cluster("acceptor"));
    donor.configure("", &[acceptor.as_consumer()]);
    acceptor.configure("allowedGateways: [198.51.100.0/24]\n", &[donor.as_donor()]);
    donor.write("services.yaml", service("reviews", 9080));
    donor.write("policy.yaml", policy("reviews", &["acceptor"]));
    acceptor.write("binding.yaml", binding("books", "donor", &["reviews"]));
    donor.start();
    acceptor.start();
    let exposed = || donor.policy("reviews")?.status.exposed.into_iter().next();
    let why = site.until("the donor sees it", || exposed()?.rejected_by.pop());
    assert!(why.cluster == "acceptor" && why.message.contains("192.0.2.1"), "{why:?}");
    site.until("the acceptor's binding says so", || reason(&acceptor, "books").filter(|r| r == "Rejected"));
    let offer = acceptor.status().unwrap().offers.pop().unwrap();
    assert!(offer.rejected.contains("192.0.2.1") && offer.rejected.contains("allowedGateways"), "{}", offer.rejected);
    assert!(acceptor.objects().is_empty());
    assert_eq!(acceptor.metric("wharf_expositions_rejected_total{peer=\"donor\"}").map(|n| n >= 1.0), Some(true));
}

#[test]
fn a_donor_whose_gateway_is_a_loopback_address_exposes_nothing_and_says_why() {
    let site = Site::new();
    let (mut donor, mut acceptor) = (site.cluster("donor"), site.cluster("acceptor"));
    donor.configure("ingress: {address: 127.0.0.1}\n", &[acceptor.as_consumer()]);
    acceptor.configure("", &[donor.as_donor()]);
    donor.write("services.yaml", service("reviews", 9080));
    donor.write("policy.yaml", policy("reviews", &["acceptor"]));
    acceptor.write("binding.yaml", binding("books", "donor", &["reviews"]));
    donor.start();
    acceptor.start();
    // Whichever end finds out first: the policy's status has to say it.
    let told = || {
        let exposed = donor.policy("reviews")?.status.exposed.into_iter().next()?;
        let text = format!("{:?}{}", exposed.rejected_by, exposed.message);
        (text.contains("127.0.0.1") && text.contains("loopback")).then_some(())
    };
    site.until("the donor's operator reads why", told);
    site.until("the acceptor is told", || acceptor.in_step("donor").then_some(()));
    site.stays("nothing is configured", Duration::from_millis(200), || acceptor.objects().is_empty());
}

#[test]
fn a_donor_that_comes_back_elsewhere_is_found_by_its_new_endpoint() {
    let site = Site::new();
    let (mut donor, mut acceptor) = (site.cluster("donor"), site.cluster("acceptor"));
    let (old, new) = (Proxy::new(site.address(), donor.peering), Proxy::new(site.address(), donor.peering));
    donor.configure("", &[acceptor.as_consumer()]);
    acceptor.configure("", &[donor.as_donor_at(old.address)]);
    donor.write("services.yaml", service("reviews", 9080) + &service("ratings", 9080));
    donor.write("policy.yaml", policy("reviews", &["acceptor"]));
    acceptor.write("binding.yaml", binding("books", "donor", &["reviews", "ratings"]));
    donor.start();
    acceptor.start();
    site.until("bound", || acceptor.bound("reviews").then_some(()));
    let before = acceptor.snapshot();
    old.set(Link::Cut);
    donor.remove("policy.yaml");
    donor.write("other.yaml", policy("ratings", &["acceptor"]));
    acceptor.configure("", &[donor.as_donor_at(new.address)]);
    site.until("what changed meanwhile is followed", || {
        (acceptor.bound("ratings") && !acceptor.bound("reviews")).then_some(())
    });
    assert_ne!(acceptor.snapshot(), before);
}
