//! What is shared with whom: from a policy's file at the donor to Istio's objects at the acceptor.

use std::collections::BTreeSet;
use std::time::Duration;

use super::support::cluster::Snapshot;
use super::support::objects::{binding, binding_of, policy, policy_of, service};
use super::support::{Cluster, Site};

/// A donor that exposes `reviews` to an acceptor that binds it, both running.
pub fn pair(site: &Site) -> (Cluster, Cluster) {
    let (mut donor, mut acceptor) = (site.cluster("donor"), site.cluster("acceptor"));
    donor.configure("", &[acceptor.as_consumer()]);
    acceptor.configure("", &[donor.as_donor()]);
    donor.write("services.yaml", service("reviews", 9080) + &service("ratings", 9080));
    donor.write("policy.yaml", policy("reviews", &["acceptor"]));
    acceptor.write("binding.yaml", binding("books", "donor", &["reviews"]));
    donor.start();
    acceptor.start();
    site.until("the acceptor binds reviews", || acceptor.bound("reviews").then_some(()));
    (donor, acceptor)
}

#[test]
fn a_listed_cluster_gets_it_and_an_unlisted_one_gets_nothing() {
    let site = Site::new();
    let (mut donor, mut listed, mut other) = (site.cluster("donor"), site.cluster("listed"), site.cluster("other"));
    donor.configure("", &[listed.as_consumer(), other.as_consumer()]);
    for cluster in [&mut listed, &mut other] {
        cluster.configure("", &[donor.as_donor()]);
        cluster.write("binding.yaml", binding("books", "donor", &["reviews"]));
    }
    donor.write("services.yaml", service("reviews", 9080));
    donor.write("policy.yaml", policy("reviews", &["listed"]));
    for cluster in [&mut donor, &mut listed, &mut other] {
        cluster.start();
    }
    site.until("the listed cluster binds it", || listed.bound("reviews").then_some(()));
    let entries = listed.find("ServiceEntry", "192.0.2.1");
    assert_eq!(entries.len(), 1, "{entries:?}");
    let reason = || other.binding("books")?.status.services.first().map(|s| s.reason.clone());
    site.until("the other is told why not", || reason().filter(|r| r == "NotExposed"));
    assert_eq!(other.status().unwrap().offers, vec![]);
    assert_eq!(other.objects().len(), 0);
    let gateways = donor.find("Gateway", "reviews.default.svc.cluster.local");
    let text = gateways.first().expect("a gateway").to_string();
    assert!(text.contains("spiffe://wharf/cluster/listed") && !text.contains("cluster/other"), "{text}");
    site.until("the donor sees who bound it", || {
        let exposed = donor.policy("reviews")?.status.exposed.into_iter().next()?;
        (exposed.bound_by == ["listed"] && exposed.offered_to == ["listed"]).then_some(())
    });
}

#[test]
fn a_name_that_moves_from_one_policy_to_another_goes_on_working() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site);
    let entry = "{name: ratings, alias: reviews, clusters: [acceptor]}";
    donor.write("ahead.yaml", policy_of("ahead", &[entry]));
    let condition = || super::support::cluster::condition(&donor.policy("ahead")?.status.conditions, "Exposed");
    site.until("the name is the other's", || condition().filter(|(reason, _)| reason == "NameConflict"));
    donor.remove("policy.yaml");
    let offered = || donor.policy("ahead")?.status.exposed.first().map(|e| e.offered_to.clone());
    site.until("it has the name now", || offered().filter(|to| *to == ["acceptor"]));
    site.until("its gateway leads there", || (!donor.find("VirtualService", "ratings").is_empty()).then_some(()));
    site.until("bound", || (acceptor.bound("reviews") && acceptor.in_step("donor")).then_some(()));
}

#[test]
fn what_is_withdrawn_leaves_its_name_behind_and_disturbs_nothing_else() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site);
    donor.write("more.yaml", policy_of("more", &["{name: ratings, clusters: [acceptor]}"]));
    acceptor.write("more.yaml", binding("more", "donor", &["ratings"]));
    site.until("ratings", || acceptor.bound("ratings").then_some(()));
    let before = acceptor.snapshot();
    donor.remove("more.yaml");
    site.until("ratings is gone", || (!acceptor.bound("ratings")).then_some(()));
    let of_others = |all: Snapshot| all.into_iter().filter(|(name, _)| !name.contains("ratings")).collect::<Vec<_>>();
    let rest = of_others(before);
    let answered = || acceptor.said_to_callers("ratings").filter(|why| why == "NotExposed by donor");
    site.until("its callers read why", answered);
    site.until("everything but the name is gone", || (acceptor.snapshot().len() == rest.len() + 2).then_some(()));
    site.stays("the others, untouched", Duration::from_millis(300), || of_others(acceptor.snapshot()) == rest);
    donor.remove("policy.yaml");
    site.until("nothing is left at the donor", || donor.objects().is_empty().then_some(()));
    site.until("the names are left", || acceptor.names_alone().filter(|names| *names == ["ratings", "reviews"]));
    acceptor.remove("more.yaml");
    acceptor.remove("binding.yaml");
    site.until("names go with their bindings", || acceptor.objects().is_empty().then_some(()));
}

/// The fields of an audit line that both sides have: event, exposition and version.
fn trail(cluster: &Cluster, side: &str, peer: &str) -> BTreeSet<(String, String, String)> {
    let log = cluster.log();
    let lines = log.lines().filter(|line| line.contains("wharf::audit") && line.contains(&format!("side={side} ")));
    let of_peer = lines.filter(|line| line.contains(&format!("peer={peer} ")));
    let field = |line: &str, name: &str| {
        let rest = line.split(&format!(" {name}=")).nth(1).unwrap_or_default();
        rest.split(' ').next().unwrap_or_default().trim_matches('"').to_owned()
    };
    of_peer.map(|line| (field(line, "event"), field(line, "exposition"), field(line, "version"))).collect()
}

#[test]
fn both_sides_tell_the_same_trail_joined_by_exposition_and_version() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site);
    site.until("bound", || donor.policy("reviews")?.status.exposed.first()?.bound_by.first().cloned());
    let both = || (trail(&donor, "donor", "acceptor"), trail(&acceptor, "acceptor", "donor"));
    let events = |trail: &BTreeSet<(String, String, String)>| {
        trail
            .iter()
            .filter(|(_, exposition, _)| exposition == "default/reviews")
            .map(|(e, ..)| e.clone())
            .collect::<BTreeSet<_>>()
    };
    let named = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
    site.until("it is offered and bound", || {
        let (ours, theirs) = both();
        (events(&ours) == named(&["offered", "bound"]) && ours == theirs).then_some(())
    });
    assert!(donor.log().contains("event=exposed"), "{}", donor.log());
    donor.remove("policy.yaml");
    site.until("it is withdrawn", || {
        let (ours, theirs) = both();
        (events(&ours) == named(&["offered", "bound", "withdrawn"]) && ours == theirs).then_some(())
    });
    let lines = acceptor.log();
    let bound = lines.lines().find(|line| line.contains("wharf::audit") && line.contains("event=bound")).unwrap();
    assert!(bound.contains("object=\"RemoteServiceBinding default/books\""), "{bound}");
}

/// Two policies that want one name at the donor, two bindings that want one name at the acceptor.
#[test]
fn conflicts_of_two_policies_and_of_two_bindings_are_in_the_trail_once() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site);
    let ahead = policy_of("ahead", &["{name: ratings, alias: reviews, clusters: [acceptor]}"]);
    donor.write("more.yaml", &ahead);
    acceptor.write("more.yaml", binding_of("later", "", &["{cluster: donor, services: [{name: reviews}]}"]));
    let taken = binding_of("taken", "", &["{cluster: donor, services: [{name: reviews, alias: kiosk}]}"]);
    let taken = service("kiosk", 80) + &taken;
    acceptor.write("taken.yaml", &taken);
    let lines = |cluster: &Cluster, object: &str| {
        let log = cluster.log();
        let object = format!("object=\"{object}\"");
        let of_object = log.lines().filter(|line| line.contains("event=conflict") && line.contains(&object));
        of_object.map(str::to_owned).collect::<Vec<_>>()
    };
    let of_policy = || lines(&donor, "ServiceExpositionPolicy default/ahead");
    let of_binding = || lines(&acceptor, "RemoteServiceBinding default/taken");
    site.until("the policy's conflict", || of_policy().pop().filter(|line| line.contains("side=donor")));
    site.until("the binding's conflict", || {
        of_binding().pop().filter(|line| line.contains("side=acceptor peer=donor"))
    });
    let line = of_policy().remove(0);
    assert!(line.contains("exposition=default/reviews") && line.contains("reason=NameConflict"), "{line}");
    assert!(!line.contains("peer=") && !line.contains("version="), "{line}");
    // Other changes near the objects say nothing again.
    donor.write("other.yaml", policy("ratings", &["acceptor"]));
    site.until("something else was offered", || donor.log().contains("exposition=default/ratings").then_some(()));
    acceptor.write("other.yaml", binding("other", "donor", &["ratings"]));
    site.until("something else was bound", || acceptor.bound("ratings").then_some(()));
    assert_eq!((of_policy().len(), of_binding().len()), (1, 1));
    // The object is changed, and in conflict still.
    donor.write("more.yaml", ahead.replace("alias: reviews", "alias: reviews, port: 9080"));
    site.until("it is said of the policy as it is now", || (of_policy().len() == 2).then_some(()));
}
