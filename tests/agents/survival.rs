//! What peers, restarts and lost connections may not do to what is configured.

use std::time::Duration;

use super::share::pair;
use super::support::objects::{binding, binding_of, policy, service};
use super::support::proxy::{Link, Proxy};
use super::support::{Cluster, Site};

const A_WHILE: Duration = Duration::from_millis(300);

fn unreachable(acceptor: &Cluster) -> Option<String> {
    acceptor.peer_condition("donor", "Connected").filter(|(reason, _)| reason == "PeerUnreachable").map(|(_, m)| m)
}

#[test]
fn a_donor_that_dies_takes_nothing_with_it_and_is_followed_again_without_a_write() {
    let site = Site::new();
    let (mut donor, acceptor) = pair(&site);
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    let before = acceptor.snapshot();
    donor.kill();
    let message = site.until("the loss", || unreachable(&acceptor));
    assert!(!message.is_empty());
    let connected = || {
        let status = acceptor.binding("books")?.status;
        super::support::cluster::condition(&status.conditions, "PeerConnected")
    };
    site.until("the binding tells of it", || connected().filter(|(reason, _)| reason == "PeerUnreachable"));
    site.stays("all objects", A_WHILE, || acceptor.snapshot() == before);
    donor.start();
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    site.stays("all objects, not written again", A_WHILE, || acceptor.snapshot() == before);
}

#[test]
fn a_donors_agent_that_is_replaced_changes_no_bindings_status() {
    let site = Site::new();
    let (mut donor, acceptor) = pair(&site);
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    let told = || Some(serde_json::to_value(acceptor.binding("books")?.status.conditions).expect("JSON"));
    let before = site.until("the binding's status", told);
    donor.kill();
    site.until("the loss", || unreachable(&acceptor));
    assert_eq!(told().as_ref(), Some(&before), "its peering says that the donor is away, the binding waits");
    donor.start();
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    site.stays("the binding's status", A_WHILE, || told().as_ref() == Some(&before));
}

#[test]
fn an_acceptor_that_restarts_while_its_donor_is_away_works_from_what_it_remembers() {
    let site = Site::new();
    let (mut donor, mut acceptor) = pair(&site);
    donor.write("more.yaml", policy("ratings", &["acceptor"]));
    site.until("two offers", || (acceptor.status()?.offers.len() == 2).then_some(()));
    let before = acceptor.snapshot();
    donor.kill();
    acceptor.kill();
    acceptor.start();
    site.until("it has read its store", || acceptor.status().filter(|v| v.synced));
    site.stays("all objects", A_WHILE, || acceptor.snapshot() == before);
    let remote = "{cluster: donor, services: [{name: reviews, alias: critics}, {name: ratings}]}";
    acceptor.write("binding.yaml", binding_of("books", "", &[remote]));
    site.until("the changed binding is followed", || {
        (acceptor.bound("critics") && acceptor.bound("ratings") && !acceptor.bound("reviews")).then_some(())
    });
    assert_eq!(acceptor.find("ServiceEntry", "192.0.2.1").len(), 2);
}

#[test]
fn a_binding_that_went_while_its_agent_was_away_is_not_told_of_at_the_donor() {
    let site = Site::new();
    let (donor, mut acceptor) = pair(&site);
    let bound_by = || donor.policy("reviews")?.status.exposed.into_iter().next().map(|e| e.bound_by);
    site.until("bound", || bound_by().filter(|by| *by == ["acceptor"]));
    acceptor.kill();
    acceptor.remove("binding.yaml");
    acceptor.start();
    site.until("bound no more", || bound_by().filter(Vec::is_empty));
}

#[test]
fn a_peer_that_is_an_object_is_remembered_as_one_of_the_configuration_is() {
    let site = Site::new();
    let (mut donor, mut acceptor) = (site.cluster("donor"), site.cluster("acceptor"));
    donor.configure("", &[acceptor.as_consumer()]);
    acceptor.configure("", &["{name: nobody}".to_owned()]);
    let peering = donor.peering;
    acceptor.write(
        "peering.yaml",
        format!(
            "apiVersion: multicluster.istio.io/v1alpha1\nkind: ClusterPeering\nmetadata: {{name: donor}}\nspec: \
             {{endpoint: \"{peering}\"}}\n"
        ),
    );
    donor.write("services.yaml", service("reviews", 9080));
    donor.write("policy.yaml", policy("reviews", &["acceptor"]));
    acceptor.write("binding.yaml", binding("books", "donor", &["reviews"]));
    donor.start();
    acceptor.start();
    site.until("bound", || acceptor.bound("reviews").then_some(()));
    let status = || acceptor.status_file("clusterpeering", "donor").filter(|s| s.to_string().contains("InStep"));
    site.until("the peering's status", status);
    let before = acceptor.snapshot();
    donor.kill();
    acceptor.kill();
    acceptor.start();
    site.until("it has read its store", || acceptor.status().filter(|v| v.synced));
    site.stays("all objects", A_WHILE, || acceptor.snapshot() == before);
    donor.start();
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    assert_eq!(acceptor.snapshot(), before);
}

#[test]
fn what_was_remembered_and_may_not_be_used_any_more_is_rejected_alone() {
    let site = Site::new();
    let (mut donor, mut acceptor) = pair(&site);
    acceptor.kill();
    acceptor.configure("allowedGateways: [198.51.100.0/24]\n", &[donor.as_donor()]);
    acceptor.start();
    let rejected = || {
        let offer = acceptor.status()?.offers.into_iter().next()?;
        (offer.rejected.contains("allowedGateways") && acceptor.in_step("donor")).then_some(())
    };
    site.until("the offer is rejected, and the donor is still heard", rejected);
    site.until("the donor sees it", || {
        let exposed = donor.policy("reviews")?.status.exposed.into_iter().next()?;
        exposed.rejected_by.iter().any(|r| r.message.contains("allowedGateways")).then_some(())
    });
    // The cure is an address of the operator's own.
    let at = donor.peering;
    acceptor.configure(
        "allowedGateways: [198.51.100.0/24]\n",
        &[format!("{{name: donor, endpoint: \"{at}\", gateway: [\"198.51.100.7:15443\"]}}")],
    );
    site.until("it is bound", || (acceptor.find("ServiceEntry", "198.51.100.7").len() == 1).then_some(()));
    acceptor.configure("allowedGateways: [198.51.100.0/24]\n", &[donor.as_donor()]);
    site.until("without it, nothing is", || acceptor.names_alone().filter(|names| *names == ["reviews"]));
    site.until("and it is told why", rejected);
    donor.remove("policy.yaml");
    site.until("what is withdrawn is not rejected any more", || acceptor.status().filter(|v| v.offers.is_empty()));
    donor.kill();
}

#[test]
fn a_donor_that_comes_back_with_much_to_read_withdraws_nothing_meanwhile() {
    const COUNT: usize = 300;
    let site = Site::new();
    let (mut donor, mut acceptor) = (site.cluster("donor"), site.cluster("acceptor"));
    donor.configure("", &[acceptor.as_consumer()]);
    acceptor.configure("", &[donor.as_donor()]);
    let names: Vec<_> = (0..COUNT).map(|i| format!("s{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    donor.write("services.yaml", names.iter().map(|n| service(n, 8080)).collect::<String>());
    donor.write("policies.yaml", names.iter().map(|n| policy(n, &["acceptor"])).collect::<String>());
    acceptor.write("binding.yaml", binding("all", "donor", &names));
    donor.start();
    acceptor.start();
    let entries = || {
        let folder = std::fs::read_dir(acceptor.store.join("istio")).into_iter().flatten().flatten();
        folder.filter(|e| e.file_name().to_string_lossy().starts_with("serviceentry")).count()
    };
    site.until("all are bound", || (entries() == COUNT && acceptor.in_step("donor")).then_some(()));
    let before = acceptor.snapshot();
    donor.kill();
    site.until("the loss", || unreachable(&acceptor));
    donor.start();
    site.until("in step again, with all of it all the time", || {
        assert_eq!(entries(), COUNT, "a restart withdrew something");
        acceptor.in_step("donor").then_some(())
    });
    site.stays("everything, not written again", A_WHILE, || acceptor.snapshot() == before);
    let removed = acceptor.metric("wharf_objects_removed_total");
    assert_eq!(removed, Some(0.0), "nothing was ever removed");
}

#[test]
fn a_cut_and_a_stalled_network_delay_and_lose_nothing() {
    let site = Site::new();
    let (mut donor, mut acceptor) = (site.cluster("donor"), site.cluster("acceptor"));
    let proxy = Proxy::new(site.address(), donor.peering);
    donor.configure("", &[acceptor.as_consumer()]);
    acceptor.configure("", &[donor.as_donor_at(proxy.address)]);
    donor.write("services.yaml", service("reviews", 9080) + &service("ratings", 9080) + &service("details", 9080));
    donor.write("reviews.yaml", policy("reviews", &["acceptor"]));
    acceptor.write("binding.yaml", binding("books", "donor", &["reviews", "ratings", "details"]));
    donor.start();
    acceptor.start();
    site.until("reviews", || acceptor.bound("reviews").then_some(()));
    proxy.set(Link::Stalled);
    donor.write("ratings.yaml", policy("ratings", &["acceptor"]));
    donor.remove("reviews.yaml");
    site.until("the donor has done its part", || (!donor.find("Gateway", "ratings").is_empty()).then_some(()));
    assert!(acceptor.bound("reviews"));
    proxy.set(Link::Up);
    site.until("both changes", || (acceptor.bound("ratings") && !acceptor.bound("reviews")).then_some(()));
    proxy.set(Link::Cut);
    site.until("the loss", || unreachable(&acceptor));
    donor.write("details.yaml", policy("details", &["acceptor"]));
    donor.remove("ratings.yaml");
    site.until("the donor has done its part", || donor.find("Gateway", "ratings").is_empty().then_some(()));
    assert!(acceptor.bound("ratings"));
    proxy.set(Link::Up);
    site.until("both changes", || (acceptor.bound("details") && !acceptor.bound("ratings")).then_some(()));
}

#[test]
fn an_acceptor_that_does_not_read_delays_no_other_and_costs_the_donor_nothing() {
    const COUNT: usize = 200;
    let site = Site::new();
    let (mut donor, mut frozen, mut other) = (site.cluster("donor"), site.cluster("frozen"), site.cluster("other"));
    donor.configure("", &[frozen.as_consumer(), other.as_consumer()]);
    let names: Vec<_> = (0..COUNT).map(|i| format!("s{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let services = |port| names.iter().map(|n| service(n, port)).collect::<String>();
    donor.write("services.yaml", services(8000));
    donor.write("policies.yaml", names.iter().map(|n| policy(n, &[])).collect::<String>());
    donor.start();
    for acceptor in [&mut frozen, &mut other] {
        acceptor.configure("", &[donor.as_donor()]);
        acceptor.write("binding.yaml", binding("all", "donor", &names));
        acceptor.start();
    }
    let all_at = |acceptor: &Cluster, port: u16| {
        let view = acceptor.status()?;
        let at = |o: &wharf::agent::view::OfferView| o.exposition.as_ref().is_some_and(|e| e.ports[0].number == port);
        (view.offers.iter().filter(|o| at(o)).count() == COUNT).then_some(())
    };
    site.until("both have all", || all_at(&frozen, 8000).and_then(|()| all_at(&other, 8000)));
    frozen.stall();
    let before = donor.memory();
    for port in 8001..8006 {
        donor.write("services.yaml", services(port));
        site.until("the other follows", || all_at(&other, port));
    }
    let grown = donor.memory().saturating_sub(before);
    assert!(grown < 32 << 20, "the donor grew by {} MiB", grown >> 20);
    frozen.resume();
    site.until("it catches up", || all_at(&frozen, 8005));
}

/// A frozen agent answers nothing; what it had configured stays, and it catches up when it goes on.
#[test]
fn an_agent_that_freezes_for_a_while_catches_up() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site);
    acceptor.stall();
    donor.write("more.yaml", policy("ratings", &["acceptor"]));
    acceptor.write("more.yaml", binding("more", "donor", &["ratings"]));
    site.until("the donor has done its part", || (!donor.find("Gateway", "ratings").is_empty()).then_some(()));
    acceptor.resume();
    site.until("the change", || acceptor.bound("ratings").then_some(()));
}

/// One of two clusters behind a name was never reached: the other one serves it.
#[test]
fn a_donor_that_was_never_reached_does_not_hold_up_another_behind_the_same_name() {
    let site = Site::new();
    let (mut donor, absent) = (site.cluster("donor"), site.cluster("absent"));
    let mut acceptor = site.cluster("acceptor");
    donor.configure("", &[acceptor.as_consumer()]);
    acceptor.configure("", &[donor.as_donor(), absent.as_donor()]);
    donor.write("services.yaml", service("reviews", 9080));
    donor.write("policy.yaml", policy("reviews", &["acceptor"]));
    let remote = |name: &str| format!("{{cluster: {name}, services: [{{name: reviews}}]}}");
    acceptor.write("binding.yaml", binding_of("books", "", &[&remote("donor"), &remote("absent")]));
    donor.start();
    acceptor.start();
    site.until("bound by the one that answers", || acceptor.bound("reviews").then_some(()));
    let services = || acceptor.binding("books").map(|b| b.status.services);
    let reasons = || services().map(|s| s.into_iter().map(|s| s.reason).collect::<Vec<_>>());
    site.until("both are told", || (reasons()? == ["Bound", "PeerUnreachable"]).then_some(()));
    acceptor.write(
        "binding.yaml",
        binding_of(
            "books",
            "",
            &[
                "{cluster: donor, services: [{name: reviews, alias: critics}]}",
                "{cluster: absent, services: [{name: reviews, alias: critics}]}",
            ],
        ),
    );
    site.until("a change is followed", || (acceptor.bound("critics") && !acceptor.bound("reviews")).then_some(()));
}
