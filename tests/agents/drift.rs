//! Wharf's own objects come back; those of others are left alone.

use std::fs;
use std::time::Duration;

use super::share::pair;
use super::support::objects::{binding, policy, service};
use super::support::{Cluster, Site, cluster};

/// `<kind>_<namespace>_<name>.yaml` of an object that Wharf wrote.
fn file_of(cluster: &Cluster, kind: &str, text: &str) -> String {
    let fits = |o: &serde_json::Value| o["kind"] == kind && o.to_string().contains(text);
    cluster.objects().into_iter().find(|(_, o)| fits(o)).map(|(file, _)| file).expect("an object")
}

#[test]
fn an_object_that_somebody_edits_or_deletes_comes_back_as_it_was() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site);
    // What becomes of the donor's objects may reach the acceptor for a moment: what is compared is how both were before it.
    let (gives, takes) = (donor.objects(), acceptor.objects());
    for (cluster, before) in [(&donor, &gives), (&acceptor, &takes)] {
        site.until(&format!("{} is as it was", acceptor.name), || (acceptor.objects() == takes).then_some(()));
        for (i, file) in before.keys().enumerate() {
            let path = cluster.store.join("istio").join(file);
            let text = fs::read_to_string(&path).unwrap();
            match i % 4 {
                0 => fs::remove_file(&path).unwrap(),
                1 => fs::write(&path, text.replace("reviews", "elsewhere")).unwrap(),
                2 => fs::write(&path, "").unwrap(),
                _ => cluster::replace(&path, text.replace("spec:", "spec:\n  injected: true").as_bytes()),
            }
        }
        let back = || (cluster.objects() == *before).then_some(());
        site.until(&format!("all objects of {} are back", cluster.name), back);
    }
    // The agent may be writing into it.
    site.until("the folder goes", || fs::remove_dir_all(acceptor.store.join("istio")).ok());
    site.until("the folder is back with all that was in it", || (acceptor.objects() == takes).then_some(()));
}

#[test]
fn an_object_that_goes_while_the_agent_starts_comes_back() {
    let site = Site::new();
    let (_donor, mut acceptor) = pair(&site);
    let before = acceptor.objects();
    for round in 0..15 {
        acceptor.kill();
        acceptor.start();
        std::thread::sleep(Duration::from_millis(round * 2)); // anywhere between its first step and its last
        let file = before.keys().nth(round as usize % before.len()).unwrap();
        fs::remove_file(acceptor.store.join("istio").join(file)).unwrap();
        site.until(&format!("{file} is back"), || (acceptor.objects() == before).then_some(()));
    }
}

/// The reason of a binding's first service, and whether it is bound.
fn service_reason(cluster: &Cluster, binding: &str) -> Option<(String, bool)> {
    cluster.binding(binding)?.status.services.first().map(|s| (s.reason.clone(), s.bound))
}

#[test]
fn a_users_service_in_the_way_of_a_new_name_is_a_name_conflict_and_is_not_touched() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site);
    let mine = service("ratings", 1234);
    acceptor.write("mine.yaml", &mine);
    donor.write("more.yaml", policy("ratings", &["acceptor"]));
    acceptor.write("more.yaml", binding("more", "donor", &["ratings"]));
    site.until("the conflict", || (service_reason(&acceptor, "more")? == ("NameConflict".into(), false)).then_some(()));
    assert!(acceptor.find("ServiceEntry", "ratings").is_empty());
    assert_eq!(fs::read_to_string(acceptor.store.join("mine.yaml")).unwrap(), mine);
    assert_eq!(service_reason(&acceptor, "books"), Some(("Bound".into(), true)));
    site.until("the donor hears of it", || {
        let exposed = donor.policy("ratings")?.status.exposed.into_iter().next()?;
        exposed.rejected_by.iter().any(|r| r.reason == "NameConflict").then_some(())
    });
    acceptor.remove("mine.yaml");
    site.until("the name is free", || acceptor.bound("ratings").then_some(()));
}

/// What somebody writes for a name that is bound, in a file of its own.
fn claims() -> [(&'static str, String); 3] {
    let routes = |name: &str, namespace: &str, host: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: \
             {namespace}}}\nspec:\n  hosts: [\"{host}\"]\n  http: [{{route: [{{destination: {{host: elsewhere}}}}]}}]\n"
        )
    };
    [
        ("a-service", service("reviews", 1234)),
        ("own-routes", routes("mine", "default", "reviews")),
        ("routes-of-another", routes("theirs", "lab", "*.default.svc.cluster.local")),
    ]
}

#[test]
fn what_claims_a_bound_name_later_takes_nothing_away_also_after_a_restart() {
    let site = Site::new();
    let (donor, mut acceptor) = pair(&site);
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    let before = acceptor.snapshot();
    let contested = |acceptor: &Cluster| {
        let programmed = cluster::condition(&acceptor.binding("books")?.status.conditions, "Programmed")?;
        (service_reason(acceptor, "books")? == ("NameConflict".into(), true) && programmed.0 == "NameConflict")
            .then_some(programmed.1)
    };
    for (what, text) in claims() {
        let file = format!("{what}.yaml");
        acceptor.write(&file, &text);
        let message = site.until("it is told", || contested(&acceptor));
        assert!(!message.contains("lab") && !message.contains("theirs"), "a tenant reads of another one: {message}");
        acceptor.kill();
        acceptor.start();
        site.until("in step", || acceptor.in_step("donor").then_some(()));
        site.until("it is told again", || contested(&acceptor));
        assert_eq!(acceptor.snapshot(), before, "{what}: what was there first is written no more, and stays");
        if what == "routes-of-another" {
            assert!(acceptor.log().contains("VirtualService lab/theirs"), "the operator learns which it is");
        }
        acceptor.remove(&file);
        let bound = || (service_reason(&acceptor, "books")? == ("Bound".into(), true)).then_some(());
        site.until("there is no conflict any more", bound);
    }
    let exposed = donor.policy("reviews").unwrap().status.exposed.remove(0);
    assert_eq!((exposed.bound_by, exposed.rejected_by), (vec!["acceptor".to_owned()], Vec::new()));
}

#[test]
fn a_claim_takes_nothing_away_while_nothing_is_exposed_and_has_the_name_when_the_binding_is_gone() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site);
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    acceptor.write("mine.yaml", service("reviews", 80));
    let said = |reason: &'static str, bound: bool| {
        service_reason(&acceptor, "books").filter(|said| *said == (reason.into(), bound)).map(drop)
    };
    site.until("the claim changes nothing yet", || said("NameConflict", true));
    donor.remove("policy.yaml");
    site.until("the name stays", || acceptor.names_alone().filter(|names| *names == ["reviews"]));
    site.until("the status says what is exposed", || said("NotExposed", false));
    let message = acceptor.binding("books").unwrap().status.services[0].message.clone();
    assert!(message.contains("503") && message.contains("there is a Service default/reviews"), "{message}");
    acceptor.remove("binding.yaml");
    site.until("the name goes with the binding", || acceptor.objects().is_empty().then_some(()));
    acceptor.write("binding.yaml", binding("books", "donor", &["reviews"]));
    site.until("it is somebody else's now", || said("NameConflict", false));
}

#[test]
fn a_name_that_is_contested_follows_its_donor_all_the_same() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site);
    let [_, (_, text), _] = claims();
    acceptor.write("mine.yaml", text);
    site.until("contested", || service_reason(&acceptor, "books").filter(|(reason, _)| reason == "NameConflict"));
    donor.write("services.yaml", service("reviews", 9090));
    site.until("the new port", || (!acceptor.find("ServiceEntry", "9090").is_empty()).then_some(()));
    donor.remove("policy.yaml");
    site.until("the name stays", || acceptor.names_alone().filter(|names| *names == ["reviews"]));
    donor.write("policy.yaml", policy("reviews", &["acceptor"]));
    let contested = || service_reason(&acceptor, "books").filter(|said| *said == ("NameConflict".into(), true));
    site.until("bound again, and contested still", contested);
    site.until("it leads there", || (!acceptor.find("ServiceEntry", "9090").is_empty()).then_some(()));
}

#[test]
fn a_users_gateway_in_the_way_keeps_one_policy_back_and_no_other() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site);
    let gateway = file_of(&donor, "Gateway", "reviews");
    let theirs = donor.objects()[&gateway].clone();
    let before = acceptor.snapshot();
    donor.remove("policy.yaml");
    site.until("withdrawn", || donor.objects().is_empty().then_some(()));
    let name = theirs["metadata"]["name"].as_str().unwrap();
    let namespace = theirs["metadata"]["namespace"].as_str().unwrap();
    let mine = format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: \
         {{selector: {{app: mine}}, servers: []}}\n"
    );
    donor.write("mine.yaml", &mine);
    donor.write("policies.yaml", policy("reviews", &["acceptor"]) + &policy("ratings", &["acceptor"]));
    let conflict = || cluster::condition(&donor.policy("reviews")?.status.conditions, "Programmed");
    let message = site.until("the conflict", || conflict().filter(|(reason, _)| reason == "NameConflict")).1;
    assert!(message.contains(&format!("Gateway {namespace}/{name}")), "{message}");
    acceptor.write("more.yaml", binding("more", "donor", &["ratings"]));
    site.until("the other policy works", || acceptor.bound("ratings").then_some(()));
    assert!(!acceptor.bound("reviews"), "what the gateway does not know is not offered");
    assert_eq!(fs::read_to_string(donor.store.join("mine.yaml")).unwrap(), mine);
    donor.remove("mine.yaml");
    site.until("the first works again", || {
        let now = acceptor.objects();
        before.iter().all(|(file, (_, object))| now.get(file) == Some(object)).then_some(())
    });
}

/// All HTTP bindings lean on one Gateway of the egress gateway: if that is somebody else's, none of them works.
#[test]
fn a_users_object_in_the_way_of_what_bindings_share_is_told_by_the_bindings() {
    let site = Site::new();
    let (mut donor, mut acceptor) = (site.cluster("donor"), site.cluster("acceptor"));
    donor.configure("", &[acceptor.as_consumer()]);
    acceptor.configure("", &[donor.as_donor()]);
    donor.write("services.yaml", service("reviews", 9080));
    donor.write("policy.yaml", policy("reviews", &["acceptor"]));
    acceptor.write(
        "mine.yaml",
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: wharf-egress, namespace: istio-system}\n\
         spec: {selector: {app: mine}, servers: []}\n",
    );
    acceptor.write("binding.yaml", binding("books", "donor", &["reviews"]));
    donor.start();
    acceptor.start();
    let programmed = || cluster::condition(&acceptor.binding("books")?.status.conditions, "Programmed");
    let message = site.until("the conflict", || programmed().filter(|(reason, _)| reason == "NameConflict")).1;
    assert!(message.contains("Gateway istio-system/wharf-egress"), "{message}");
    acceptor.remove("mine.yaml");
    site.until("it works", || programmed().filter(|(reason, _)| reason == "Programmed"));
    site.until("the donor sees it", || {
        (donor.policy("reviews")?.status.exposed.first()?.bound_by == ["acceptor"]).then_some(())
    });
}

#[test]
fn an_unchanged_configuration_is_not_written_again() {
    let site = Site::new();
    let (mut donor, mut acceptor) = pair(&site);
    let before = (donor.snapshot(), acceptor.snapshot());
    for cluster in [&mut donor, &mut acceptor] {
        cluster.kill();
        cluster.start();
    }
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    site.stays("every file as it was", Duration::from_millis(300), || {
        (donor.snapshot(), acceptor.snapshot()) == before
    });
}
