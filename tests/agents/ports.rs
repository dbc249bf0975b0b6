//! Where a local port leads, whatever ports come and go at the donor.

use super::share::pair;
use super::support::objects::{binding_of, service, service_with_ports};
use super::support::{Cluster, Site};

/// The one service of the binding `books`: its reason, and where its local ports lead.
fn told(acceptor: &Cluster) -> Option<(String, Vec<(u16, u16)>)> {
    let service = acceptor.binding("books")?.status.services.into_iter().next()?;
    Some((service.reason, service.ports.iter().map(|p| (p.local_port, p.port)).collect()))
}

fn says(reason: &str, ports: &[(u16, u16)]) -> Option<(String, Vec<(u16, u16)>)> {
    Some((reason.to_owned(), ports.to_vec()))
}

#[test]
fn a_port_leads_where_it_led_over_restarts_and_whatever_the_donor_adds_meanwhile() {
    let site = Site::new();
    let (donor, mut acceptor) = pair(&site);
    acceptor
        .write("binding.yaml", binding_of("books", "", &["{cluster: donor, services: [{name: reviews, port: 80}]}"]));
    site.until("it is bound", || (told(&acceptor) == says("Bound", &[(80, 9080)])).then_some(()));
    let written = || {
        acceptor.status_file("remoteservicebinding", "default.books")?["status"]["services"][0]["ports"][0]["port"]
            .as_u64()
    };
    site.until("the status is written", || written().filter(|port| *port == 9080));
    acceptor.kill();
    let both = "apiVersion: v1\nkind: Service\nmetadata: {name: reviews, namespace: default}\n\
                spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}, {name: http-admin, port: 8000}]}\n---\n";
    donor.write("services.yaml", both);
    site.until("the donor exposes both", || donor.find("Gateway", "p8000.reviews").first().cloned());
    acceptor.start();
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    site.until("it leads there still", || (told(&acceptor) == says("Bound", &[(80, 9080)])).then_some(()));
    donor.write("services.yaml", service("reviews", 8000));
    site.until("nobody meant 8000", || (told(&acceptor)? == says("PortNotExposed", &[(80, 9080)])?).then_some(()));
    assert!(acceptor.find("DestinationRule", "p8000").is_empty());
    donor.write("services.yaml", service("reviews", 9080));
    site.until("it is back", || (told(&acceptor) == says("Bound", &[(80, 9080)])).then_some(()));
}

#[test]
fn a_binding_that_makes_itself_follows_the_ports_that_are_offered() {
    let site = Site::new();
    let (mut donor, mut acceptor) = (site.cluster("donor"), site.cluster("acceptor"));
    donor.configure("", &[acceptor.as_consumer()]);
    acceptor.configure("", &[format!("{{name: donor, endpoint: \"{}\", connectionMode: live}}", donor.peering)]);
    donor.write("services.yaml", service("reviews", 9080));
    donor.write("policy.yaml", super::support::objects::policy("reviews", &["acceptor"]));
    donor.start();
    acceptor.start();
    let numbers = || {
        let services = acceptor.find("Service", "reviews");
        let ports = services.first()?["spec"]["ports"].as_array()?.clone();
        Some(ports.iter().filter_map(|p| p["port"].as_u64()).collect::<Vec<_>>())
    };
    site.until("the port of now", || numbers().filter(|n| *n == [9080]));
    donor.write("services.yaml", service_with_ports("reviews", 2));
    site.until("those that came instead", || numbers().filter(|n| *n == [8001, 8002]));
}
