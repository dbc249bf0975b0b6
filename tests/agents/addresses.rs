//! Where the gateways of a peer may be.

use super::support::objects::{binding, policy, service};
use super::support::{Cluster, Site};

/// A donor whose gateway is at `address`, and an acceptor that wants its `reviews`. Both run.
fn pair(site: &Site, address: &str) -> (Cluster, Cluster) {
    let (mut donor, mut acceptor) = (site.cluster("donor"), site.cluster("acceptor"));
    donor.configure(&format!("ingress: {{address: {address}}}\n"), &[acceptor.as_consumer()]);
    acceptor.configure("", &[donor.as_donor()]);
    donor.write("services.yaml", service("reviews", 9080));
    donor.write("policy.yaml", policy("reviews", &["acceptor"]));
    acceptor.write("binding.yaml", binding("books", "donor", &["reviews"]));
    donor.start();
    acceptor.start();
    (donor, acceptor)
}

/// What the binding's status says of its one service.
fn told(acceptor: &Cluster) -> Option<String> {
    let service = acceptor.binding("books")?.status.services.into_iter().next()?;
    (service.reason == "Rejected").then_some(service.message)
}

fn allow(donor: &Cluster, acceptor: &Cluster, line: &str) {
    acceptor.configure("", &[format!("{{name: donor, endpoint: \"{}\", {line}}}", donor.peering)]);
}

#[test]
fn a_gateway_in_a_private_network_is_refused_until_the_peers_entry_allows_the_network() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site, "10.20.30.40");
    let message = site.until("the binding says why", || told(&acceptor));
    let cure = "add `allowedGateways: [10.0.0.0/8]` to ClusterPeering donor";
    assert!(message.contains("10.20.30.40 is a private address (RFC 1918)") && message.contains(cure), "{message}");
    let in_step = site.until("the peering says so", || {
        acceptor.peer_condition("donor", "Connected").filter(|(_, message)| message.contains("rejected"))
    });
    assert!(in_step.1.contains(cure), "{in_step:?}");
    assert!(acceptor.objects().is_empty());
    let exposed = || donor.policy("reviews")?.status.exposed.into_iter().next();
    let note = site.until("the donor's operator is warned", || exposed().map(|e| e.message));
    assert!(note.contains("10.20.30.40, which is not public"), "{note}");
    allow(&donor, &acceptor, "allowedGateways: [10.0.0.0/8]");
    site.until("it is bound", || (acceptor.find("ServiceEntry", "10.20.30.40").len() == 1).then_some(()));
    allow(&donor, &acceptor, "allowedGateways: [192.168.0.0/16]");
    site.until("it is taken away", || acceptor.names_alone().filter(|names| *names == ["reviews"]));
    assert_eq!(acceptor.said_to_callers("reviews").as_deref(), Some("Rejected for donor"));
}

#[test]
fn a_gateways_name_that_cannot_be_looked_up_is_refused_until_it_is_allowed() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site, "gateway.donor.example");
    let message = site.until("the binding says why", || told(&acceptor));
    let cure = "add `allowedGatewayNames: [gateway.donor.example]` to ClusterPeering donor";
    assert!(message.contains("cannot be looked up") && message.contains(cure), "{message}");
    assert!(acceptor.in_step("donor") && acceptor.objects().is_empty());
    let why = site
        .until("the donor sees it", || donor.policy("reviews")?.status.exposed.into_iter().next()?.rejected_by.pop())
        .message;
    assert!(why.contains("allowedGatewayNames") && !why.contains("looked up"), "nothing of the resolver: {why}");
    allow(&donor, &acceptor, "allowedGatewayNames: [donor.example]");
    site.until("it is bound", || (acceptor.find("ServiceEntry", "gateway.donor.example").len() == 1).then_some(()));
}
