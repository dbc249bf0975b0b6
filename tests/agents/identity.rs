//! Certificates are renewed, expire, and break.

use std::fs;
use std::time::Duration;

use super::share::pair;
use super::support::cluster::replace;
use super::support::objects::{binding, policy, service};
use super::support::proxy::{Link, Proxy};
use super::support::{Cluster, Site};

/// A pair with a proxy between, that counts connections.
fn proxied(site: &Site) -> (Cluster, Cluster, Proxy) {
    let (mut donor, mut acceptor) = (site.cluster("donor"), site.cluster("acceptor"));
    let proxy = Proxy::new(site.address(), donor.peering);
    donor.configure("", &[acceptor.as_consumer()]);
    acceptor.configure("", &[donor.as_donor_at(proxy.address)]);
    donor.write("services.yaml", service("reviews", 9080) + &service("ratings", 9080));
    donor.write("policy.yaml", policy("reviews", &["acceptor"]));
    acceptor.write("binding.yaml", binding("books", "donor", &["reviews", "ratings"]));
    donor.start();
    acceptor.start();
    site.until("bound", || (acceptor.bound("reviews") && acceptor.in_step("donor")).then_some(()));
    (donor, acceptor, proxy)
}

#[test]
fn a_renewed_certificate_is_shown_by_the_next_connection_and_ends_none() {
    let site = Site::new();
    let (donor, acceptor, proxy) = proxied(&site);
    assert_eq!(proxy.connections(), 1);
    let own = |c: &Cluster| c.status().map(|v| v.certificate_expires);
    let seen = |by: &Cluster, of: &str| by.peer(of).and_then(|p| p.status.certificate_expires);
    let old = (own(&donor), own(&acceptor));
    for cluster in ["donor", "acceptor"] {
        site.renew(cluster, &["--ttl", "30d"]);
    }
    site.until("both have the new one", || {
        (own(&donor) != old.0 && own(&acceptor) != old.1 && own(&donor).is_some()).then_some(())
    });
    donor.write("more.yaml", policy("ratings", &["acceptor"]));
    site.until("the stream goes on", || acceptor.bound("ratings").then_some(()));
    assert_eq!(proxy.connections(), 1, "a renewal ends no connection");
    assert_eq!(seen(&acceptor, "donor"), old.0);
    proxy.set(Link::Cut);
    proxy.set(Link::Up);
    site.until("the next connection shows it", || {
        (seen(&acceptor, "donor")? == own(&donor)? && seen(&donor, "acceptor")? == own(&acceptor)?).then_some(())
    });
}

#[test]
fn garbage_in_the_place_of_a_certificate_keeps_the_last_good_one_and_says_so() {
    let site = Site::new();
    let (mut donor, mut acceptor) = pair(&site);
    let file = site.path().join("acceptor.crt");
    let good = fs::read(&file).unwrap();
    for bad in [&b"garbage"[..], &b""[..], &fs::read(site.path().join("donor.crt")).unwrap()] {
        fs::write(&file, bad).unwrap();
        let problem = site.until("the problem", || acceptor.problems("identity").pop());
        assert!(problem.contains("acceptor.crt") && problem.contains("stays in force"), "{problem}");
        // Also the next connection has the last good one.
        donor.kill();
        donor.start();
        site.until("connected", || acceptor.in_step("donor").then_some(()));
        fs::write(&file, &good).unwrap();
        site.until("the problem is gone", || acceptor.problems("").is_empty().then_some(()));
    }
    fs::write(&file, "garbage").unwrap();
    acceptor.kill();
    acceptor.start();
    let log = || Some(acceptor.log()).filter(|log| log.contains("acceptor.crt: "));
    site.until("an agent does not start with it, and says why", log);
}

#[test]
fn an_expired_certificate_is_told_and_costs_nothing_but_news() {
    let site = Site::new();
    let (mut donor, mut acceptor) = (site.cluster("donor"), site.cluster("acceptor"));
    site.renew("acceptor", &["--ttl", "4s"]);
    donor.configure("", &[acceptor.as_consumer()]);
    acceptor.configure("", &[donor.as_donor()]);
    donor.write("services.yaml", service("reviews", 9080) + &service("ratings", 9080));
    donor.write("policy.yaml", policy("reviews", &["acceptor"]));
    acceptor.write("binding.yaml", binding("books", "donor", &["reviews", "ratings"]));
    donor.start();
    acceptor.start();
    site.until("bound", || acceptor.bound("reviews").then_some(()));
    let before = acceptor.snapshot();
    let problem = site.until("it expires", || acceptor.problems("identity").pop());
    assert!(problem.contains("expired"), "{problem}");
    let connected = || acceptor.peer_condition("donor", "Connected");
    let why = || connected().filter(|(reason, why)| reason == "PeerUnreachable" && why.contains("expired"));
    site.until("no stream, and why", why);
    donor.write("more.yaml", policy("ratings", &["acceptor"]));
    site.stays("what is configured", Duration::from_millis(200), || acceptor.snapshot() == before);
    site.renew("acceptor", &[]);
    site.until("a new one is taken up, and what was missed", || acceptor.bound("ratings").then_some(()));
    assert_eq!(acceptor.problems(""), Vec::<String>::new());
}

#[test]
fn a_cluster_under_a_new_root_that_both_know_is_let_in() {
    let site = Site::new();
    let (mut donor, mut acceptor) = pair(&site);
    // A root is replaced in three steps, and at no time does anything stop.
    site.run(&["ca", "init", "--dir", "next", "--name", "The next root"]);
    let old = fs::read_to_string(site.path().join("ca.crt")).unwrap();
    let new = fs::read_to_string(site.path().join("next/ca.crt")).unwrap();
    fs::write(site.path().join("ca.crt"), format!("{old}{new}")).unwrap();
    site.run(&["ca", "issue", "acceptor", "--dir", "next"]);
    for extension in ["crt", "key"] {
        let file = format!("acceptor.{extension}");
        fs::rename(site.path().join("next").join(&file), site.path().join(&file)).unwrap();
    }
    let issued = fs::metadata(site.path().join("acceptor.key")).unwrap();
    assert!(issued.len() > 0);
    site.until("both have read it", || {
        let quiet = acceptor.problems("").is_empty() && donor.problems("").is_empty();
        (quiet && acceptor.log().contains("a new certificate is in use")).then_some(())
    });
    donor.kill();
    donor.start();
    site.until("in step under the new root", || acceptor.in_step("donor").then_some(()));
    acceptor.stop();
}

/// A pair whose donor follows a revocation list, empty yet, with a proxy between.
fn with_list(site: &Site) -> (Cluster, Cluster, Proxy) {
    site.run(&["ca", "revoke"]);
    let (mut donor, mut acceptor) = (site.cluster("donor"), site.cluster("acceptor"));
    let proxy = Proxy::new(site.address(), donor.peering);
    let text = donor.configuration("", &[acceptor.as_consumer()]).replace("root: ca.crt", "root: ca.crt, crl: ca.crl");
    replace(&donor.config, text.as_bytes());
    acceptor.configure("", &[donor.as_donor_at(proxy.address)]);
    donor.write("services.yaml", service("reviews", 9080));
    donor.write("policy.yaml", policy("reviews", &["acceptor"]));
    acceptor.write("binding.yaml", binding("books", "donor", &["reviews"]));
    donor.start();
    acceptor.start();
    site.until("bound", || acceptor.bound("reviews").then_some(()));
    (donor, acceptor, proxy)
}

#[test]
fn a_revoked_cluster_is_let_in_no_more_until_it_shows_another_certificate() {
    let site = Site::new();
    let (donor, acceptor, proxy) = with_list(&site);
    assert_eq!(donor.find("Gateway", "spiffe://wharf/cluster/acceptor").len(), 1);
    // Also one that is away when it is revoked: what it has open at the gateway is not its agent's.
    proxy.set(Link::Cut);
    site.until("away", || {
        donor.peer_condition("acceptor", "Subscribed").filter(|(reason, _)| reason == "NotSubscribed")
    });
    site.run(&["ca", "revoke", "acceptor"]);
    site.until("the gateway lets nobody in", || donor.objects().is_empty().then_some(()));
    let (reason, why) = site.until("the peer's condition", || {
        donor.peer_condition("acceptor", "Subscribed").filter(|(reason, _)| reason != "NotSubscribed")
    });
    assert!(reason == "CertificateRevoked" && why.contains("wharf ca issue acceptor"), "{reason}: {why}");
    let exposed = || donor.policy("reviews")?.status.exposed.into_iter().next();
    let told = site.until("the policy says why", || exposed().filter(|e| e.reason == "NoConsumers"));
    assert!(told.message.contains("the certificate that acceptor showed last is revoked"), "{}", told.message);
    proxy.set(Link::Up);
    site.stays("nobody let in", Duration::from_millis(300), || donor.objects().is_empty());
    site.renew("acceptor", &[]);
    site.until("let in again", || (donor.find("Gateway", "spiffe://wharf/cluster/acceptor").len() == 1).then_some(()));
    site.until("bound again", || (acceptor.bound("reviews") && acceptor.in_step("donor")).then_some(()));
}

#[test]
fn a_renewed_cluster_loses_nothing_when_its_old_certificate_is_revoked() {
    let site = Site::new();
    let (donor, acceptor, proxy) = with_list(&site);
    fs::copy(site.path().join("acceptor.crt"), site.path().join("old.crt")).unwrap();
    site.renew("acceptor", &[]);
    site.until("it has the new one", || acceptor.log().contains("a new certificate is in use").then_some(()));
    assert_eq!(proxy.connections(), 1, "its stream is older");
    let before = (donor.snapshot(), acceptor.snapshot());
    site.run(&["ca", "revoke", "./old.crt"]);
    site.until("it comes back with the new one", || {
        (proxy.connections() == 2 && acceptor.in_step("donor")).then_some(())
    });
    site.stays("what is configured", Duration::from_millis(1500), || (donor.snapshot(), acceptor.snapshot()) == before);
    assert_eq!(donor.peer_condition("acceptor", "Subscribed").map(|(reason, _)| reason).as_deref(), Some("Subscribed"));
}
