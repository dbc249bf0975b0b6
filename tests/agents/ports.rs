//! Where a local port leads, whatever ports come and go at the donor.

use super::share::pair;
use super::support::objects::{binding_of, service, service_with_ports};
use super::support::{Cluster, Site};

/// The one service of the binding `books`: its reason, and where its local ports lead.
fn told(acceptor: &Cluster) -> Option<(String, Vec<(u16, u16)>)> {
    let service = acceptor.binding("books")?.status.services.into_iter().next()?;
    Some((service.reason, service.ports.iter().map(|p| (p.local_port, p.port)).collect()))
}

/// A donor and an acceptor whose binding `books` asks for `reviews` as it is exposed, with these ports.
fn with_ports(site: &Site, ports: &str) -> (Cluster, Cluster) {
    let (donor, acceptor) = pair(site);
    donor.write("services.yaml", ports_of(ports));
    let count = ports.split("}, ").count();
    site.until("the ports", || (told(&acceptor)?.1.len() == count).then_some(()));
    let numbers = || Some(local_service(&acceptor)?["spec"]["ports"].as_array()?.len());
    site.until("the Service", || (numbers()? == count).then_some(()));
    (donor, acceptor)
}

fn ports_of(ports: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: reviews, namespace: default}}\nspec: {{selector: {{app: reviews}}, ports: \
         [{ports}]}}\n---\n"
    )
}

/// The Service of the local name `reviews`.
fn local_service(acceptor: &Cluster) -> Option<serde_json::Value> {
    acceptor.objects().get("service_default_reviews.yaml").cloned()
}

#[test]
fn a_local_name_keeps_its_ports_over_withdrawals_and_restarts_of_either_side() {
    let site = Site::new();
    let (mut donor, mut acceptor) = with_ports(&site, "{name: http, port: 9080}, {name: tcp-feed, port: 7000}");
    let service = local_service(&acceptor);
    let alone = |acceptor: &Cluster| {
        let left: Vec<String> =
            acceptor.objects().into_values().map(|o| o["kind"].as_str().unwrap().to_owned()).collect();
        left == ["Service", "VirtualService"]
    };
    donor.remove("policy.yaml");
    site.until("callers read why", || acceptor.said_to_callers("reviews").filter(|why| why == "NotExposed by donor"));
    site.until("no way is left", || alone(&acceptor).then_some(()));
    assert_eq!(local_service(&acceptor), service, "the name is as it was");
    let row = || acceptor.binding("books")?.status.services.into_iter().next();
    let row =
        site.until("the status says it", || row().filter(|row| row.ports.iter().all(|p| p.reason == "NotExposed")));
    assert!(row.message.contains("calls of port 9080 are answered with 503"), "{}", row.message);
    assert!(row.message.contains("connections to port 7000 are closed"), "{}", row.message);
    let kept = || {
        let text = acceptor.status_file("remoteservicebinding", "default.books")?;
        (text["status"]["services"][0]["ports"][1]["reason"] == "NotExposed").then_some(())
    };
    site.until("it is written down", kept);
    let before = acceptor.snapshot();
    acceptor.kill();
    donor.kill();
    acceptor.start();
    site.until("the donor is away", || {
        acceptor.peer_condition("donor", "Connected").filter(|(r, _)| r == "PeerUnreachable")
    });
    site.stays("the name, without the donor", std::time::Duration::from_millis(300), || acceptor.snapshot() == before);
    donor.start();
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    site.stays("the name", std::time::Duration::from_millis(300), || acceptor.snapshot() == before);
    donor.write("policy.yaml", super::support::objects::policy("reviews", &["acceptor"]));
    site.until("bound again", || acceptor.bound("reviews").then_some(()));
    assert_eq!(local_service(&acceptor), service);
    assert_eq!(acceptor.said_to_callers("reviews"), None);
}

/// The status remembers the ports of a name. Until it is written, the Service does.
#[test]
fn a_local_name_stays_although_the_agent_ended_before_it_wrote_a_status() {
    let site = Site::new();
    let (_donor, mut acceptor) = with_ports(&site, "{name: http, port: 9080}, {name: tcp-feed, port: 7000}");
    let service = local_service(&acceptor);
    acceptor.kill();
    acceptor.remove(".wharf/status/remoteservicebinding/default.books.yaml");
    acceptor.configure("", &[]); // and nobody is behind the name any more
    acceptor.start();
    let row = || acceptor.binding("books")?.status.services.into_iter().next();
    let row = site.until("the status says it", || row().filter(|row| row.reason == "PeerUnknown"));
    assert!(row.message.contains("calls of port 9080 are answered with 503"), "{}", row.message);
    assert!(row.message.contains("connections to port 7000 are closed"), "{}", row.message);
    site.until("callers read why", || acceptor.said_to_callers("reviews"));
    assert_eq!(local_service(&acceptor), service);
}

#[test]
fn a_port_that_goes_says_why_and_the_others_work() {
    let site = Site::new();
    let (donor, acceptor) = with_ports(&site, "{name: http, port: 9080}, {name: http-admin, port: 8000}");
    let service = local_service(&acceptor);
    donor.write("services.yaml", ports_of("{name: http, port: 9080}"));
    site.until("callers read why", || {
        acceptor.said_to_callers("reviews").filter(|why| why == "PortNotExposed by donor")
    });
    site.until("the other one is led to the donor", || {
        (!acceptor.find("ServiceEntry", "9080").is_empty()).then_some(())
    });
    assert_eq!(local_service(&acceptor), service);
    let row = acceptor.binding("books").unwrap().status.services.remove(0);
    assert!(row.bound && row.message.contains("port 8000 is not exposed any more"), "{row:?}");
    donor.write("services.yaml", ports_of("{name: http, port: 9080}, {name: http-admin, port: 8000}"));
    site.until("it works again", || acceptor.said_to_callers("reviews").is_none().then_some(()));
}

/// The status of 0.1 tells no ports: what is remembered of the donor does.
#[test]
fn a_name_of_an_older_version_is_kept_when_its_donor_withdraws_during_the_upgrade() {
    let site = Site::new();
    let (donor, mut acceptor) = pair(&site);
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    let service = local_service(&acceptor);
    acceptor.stop();
    let status = acceptor.store.join(".wharf/status/remoteservicebinding/default.books.yaml");
    let text = std::fs::read_to_string(&status).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    let first = lines.iter().position(|line| line.trim() == "ports:").unwrap();
    let depth = lines[first].len() - lines[first].trim_start().len();
    let is_below = |line: &&str| line.len() - line.trim_start().len() > depth || line.trim_start().starts_with("- ");
    let count = lines[first + 1..].iter().take_while(|line| is_below(line)).count();
    lines.drain(first..=first + count);
    std::fs::write(&status, lines.join("\n") + "\n").unwrap();
    donor.remove("policy.yaml");
    site.until("withdrawn", || donor.objects().is_empty().then_some(()));
    acceptor.start();
    site.until("callers read why", || acceptor.said_to_callers("reviews").filter(|why| why == "NotExposed by donor"));
    assert_eq!(local_service(&acceptor), service);
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
