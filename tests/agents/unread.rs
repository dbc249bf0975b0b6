//! A file that cannot be read takes nothing away, also when the agent is started again meanwhile.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use wharf::store::dir::MAX_FILES;

use super::share::pair;
use super::support::objects::{binding, binding_of, policy, policy_of, service};
use super::support::{Cluster, Site};

const A_WHILE: Duration = Duration::from_millis(300);

/// A field that only a newer version knows.
fn of_a_newer_version(text: &str) -> String {
    text.replace("spec:\n", "spec:\n  fairness: 3\n")
}

fn restart(site: &Site, cluster: &mut Cluster) {
    cluster.stop();
    cluster.start();
    site.until("it has read its store", || cluster.status().filter(|v| v.synced));
}

/// Both ways in which a file of an object is unreadable that was read before.
fn damages(text: &str) -> [String; 4] {
    [of_a_newer_version(text), text.replace('{', "{{"), "kind: [".to_owned(), text.replace("kind:", "kind: {}")]
}

#[test]
fn a_policy_that_cannot_be_read_over_a_restart_stays_in_force_at_both_ends() {
    let site = Site::new();
    let (mut donor, acceptor) = pair(&site);
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    let (gateway, bound) = (donor.objects(), acceptor.snapshot());
    let good = policy("reviews", &["acceptor"]);
    for damage in damages(&good) {
        donor.stop();
        donor.write("policy.yaml", &damage);
        donor.start();
        let held = || donor.problems("held objects").into_iter().find(|p| p.contains("policy.default.reviews"));
        site.until("what is held is told", held);
        site.until_in_step_again(&acceptor, "donor");
        let same = |donor: &Cluster| donor.objects() == gateway && acceptor.snapshot() == bound;
        site.stays(&format!("all objects, with {damage:?}"), A_WHILE, || same(&donor));
        // Over a second restart it is known just as well.
        restart(&site, &mut donor);
        site.until_in_step_again(&acceptor, "donor");
        site.stays(&format!("all objects, twice, with {damage:?}"), A_WHILE, || same(&donor));
        donor.write("policy.yaml", &good);
        site.until("all is well", || donor.problems("").is_empty().then_some(()));
        site.stays("all objects when it is mended", A_WHILE, || same(&donor));
    }
    restart(&site, &mut donor);
    donor.write("policy.yaml", of_a_newer_version(&good));
    restart(&site, &mut donor);
    donor.remove("policy.yaml");
    site.until("what is gone is gone", || donor.objects().is_empty().then_some(()));
    site.until("nothing leads there", || acceptor.names_alone().filter(|names| *names == ["reviews"]));
    site.until("all is well", || donor.problems("").is_empty().then_some(()));
}

#[test]
fn a_binding_that_cannot_be_read_over_a_restart_stays_in_force() {
    let site = Site::new();
    let (_donor, mut acceptor) = pair(&site);
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    let bound = acceptor.snapshot();
    let good = binding("books", "donor", &["reviews"]);
    for damage in damages(&good) {
        acceptor.stop();
        acceptor.write("binding.yaml", &damage);
        acceptor.start();
        let held = || acceptor.problems("held objects").into_iter().find(|p| p.contains("binding.default.reviews"));
        site.until("what is held is told", held);
        site.until("in step", || acceptor.in_step("donor").then_some(()));
        site.stays(&format!("all objects, with {damage:?}"), A_WHILE, || acceptor.snapshot() == bound);
        acceptor.write("binding.yaml", &good);
        site.until("all is well", || acceptor.problems("").is_empty().then_some(()));
        site.stays("all objects when it is mended", A_WHILE, || acceptor.snapshot() == bound);
    }
    restart(&site, &mut acceptor);
    acceptor.write("binding.yaml", of_a_newer_version(&good));
    restart(&site, &mut acceptor);
    acceptor.remove("binding.yaml");
    site.until("what is gone is gone", || acceptor.objects().is_empty().then_some(()));
}

#[test]
fn what_went_while_the_agent_was_away_goes_although_another_file_is_broken() {
    let site = Site::new();
    let (mut donor, acceptor) = pair(&site);
    acceptor.write("more.yaml", binding("more", "donor", &["ratings"]));
    donor.write("more.yaml", policy("ratings", &["acceptor"]));
    site.until("both are bound", || acceptor.bound("ratings").then_some(()));
    donor.stop();
    donor.remove("more.yaml");
    donor.write("policy.yaml", of_a_newer_version(&policy("reviews", &["acceptor"])));
    donor.start();
    site.until("what was withdrawn is withdrawn", || (!acceptor.bound("ratings")).then_some(()));
    assert!(acceptor.bound("reviews"), "and nothing else");
    assert!(!donor.find("Gateway", "reviews").is_empty() && donor.find("Gateway", "ratings").is_empty());
}

/// Its name is in use, as far as anybody knows.
#[test]
fn a_name_of_a_policy_that_cannot_be_read_is_nobody_elses() {
    let site = Site::new();
    let (mut donor, acceptor) = pair(&site);
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    let bound = acceptor.snapshot();
    donor.stop();
    donor.write("policy.yaml", of_a_newer_version(&policy("reviews", &["acceptor"])));
    let other = policy_of("a-new-one", &["{name: ratings, alias: reviews, clusters: [acceptor]}"]);
    donor.write("other.yaml", other);
    donor.start();
    let refused = || {
        let entry = donor.policy("a-new-one")?.status.exposed.into_iter().next()?;
        (entry.reason == "NameConflict").then_some(())
    };
    site.until("the other policy is refused", refused);
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    site.stays("the name leads where it did", A_WHILE, || acceptor.snapshot() == bound);
}

/// A local name that two bindings feed is not given to one of them because the other cannot be read.
#[test]
fn a_local_name_keeps_all_that_feeds_it_while_one_of_its_bindings_cannot_be_read() {
    let site = Site::new();
    let (donor, mut acceptor) = pair(&site);
    donor.write("more.yaml", policy("ratings", &["acceptor"]));
    let shares = |name: &str, of: &str| {
        binding_of(name, "", &[&format!("{{cluster: donor, services: [{{name: {of}, alias: reviews, weight: 1}}]}}")])
    };
    acceptor.write("binding.yaml", shares("books", "reviews"));
    let more = shares("more", "ratings");
    acceptor.write("more.yaml", &more);
    let both =
        || !acceptor.find("ServiceEntry", "ratings").is_empty() && !acceptor.find("ServiceEntry", "reviews").is_empty();
    site.until("both feed it", || both().then_some(()));
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    let objects = acceptor.objects();
    acceptor.write("more.yaml", of_a_newer_version(&more));
    restart(&site, &mut acceptor);
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    site.stays("all objects", A_WHILE, || acceptor.objects() == objects);
    let programmed = || {
        let status = acceptor.binding("books")?.status;
        super::support::cluster::condition(&status.conditions, "Programmed").filter(|(reason, _)| reason == "Held")
    };
    site.until("the binding that can be read says so", programmed);
    acceptor.remove("more.yaml");
    site.until("the other one has the name alone", || {
        (acceptor.find("ServiceEntry", "ratings").is_empty() && acceptor.bound("reviews")).then_some(())
    });
}

#[test]
fn a_service_that_cannot_be_read_over_a_restart_withdraws_nothing() {
    let site = Site::new();
    let (mut donor, acceptor) = pair(&site);
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    let (gateway, bound) = (donor.objects(), acceptor.snapshot());
    donor.stop();
    donor.write("services.yaml", service("reviews", 9080).replace("ports: [", "ports: [["));
    donor.start();
    site.until("it is told", || donor.problems("held objects").pop());
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    site.stays("all objects", A_WHILE, || donor.objects() == gateway && acceptor.snapshot() == bound);
    donor.write("services.yaml", service("reviews", 9080));
    site.until("all is well", || donor.problems("").is_empty().then_some(()));
    site.stays("all objects when it is mended", A_WHILE, || donor.objects() == gateway && acceptor.snapshot() == bound);
}

/// The peer is refused by nobody: its own agent would take that for the end of all offers.
#[test]
fn a_peering_that_cannot_be_read_over_a_restart_takes_nothing_from_the_peer() {
    let site = Site::new();
    let (mut donor, mut acceptor) = (site.cluster("donor"), site.cluster("acceptor"));
    let peering = |name: &str, spec: &str| {
        format!(
            "apiVersion: multicluster.istio.io/v1alpha1\nkind: ClusterPeering\nmetadata: {{name: {name}}}\nspec:\n  {spec}\n"
        )
    };
    let (consumes, offers) =
        (peering("acceptor", "consume: true"), peering("donor", &format!("endpoint: \"{}\"", donor.peering)));
    for cluster in [&donor, &acceptor] {
        cluster.configure("", &["{name: nobody}".to_owned()]);
    }
    donor.write("peering.yaml", &consumes);
    donor.write("services.yaml", service("reviews", 9080) + &policy("reviews", &["acceptor"]));
    acceptor.write("peering.yaml", &offers);
    acceptor.write("binding.yaml", binding("books", "donor", &["reviews"]));
    donor.start();
    acceptor.start();
    site.until("bound", || acceptor.bound("reviews").then_some(()));
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    let (gateway, bound) = (donor.objects(), acceptor.snapshot());
    donor.write("peering.yaml", of_a_newer_version(&consumes));
    restart(&site, &mut donor);
    site.until("it is told", || donor.problems("held objects").pop());
    let unread = || {
        acceptor.peer_condition("donor", "Connected").filter(|(_, m)| m.contains("not all entries there can be read"))
    };
    site.until("the acceptor is told that it is not known", unread);
    site.stays("all objects", A_WHILE, || donor.objects() == gateway && acceptor.snapshot() == bound);
    donor.write("peering.yaml", &consumes);
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    site.stays("all objects", A_WHILE, || donor.objects() == gateway && acceptor.snapshot() == bound);
    acceptor.write("peering.yaml", of_a_newer_version(&offers));
    restart(&site, &mut acceptor);
    site.until("it is told", || acceptor.problems("held objects").pop());
    site.stays("all objects", A_WHILE, || donor.objects() == gateway && acceptor.snapshot() == bound);
    acceptor.write("peering.yaml", &offers);
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    site.until("all is well", || acceptor.problems("").is_empty().then_some(()));
    site.stays("all objects", A_WHILE, || acceptor.snapshot() == bound);
}

#[test]
fn a_folder_that_may_not_be_read_over_a_restart_withdraws_nothing() {
    let site = Site::new();
    let (mut donor, acceptor) = pair(&site);
    donor.write("team/more.yaml", policy("ratings", &["acceptor"]));
    acceptor.write("more.yaml", binding("more", "donor", &["ratings"]));
    site.until("both are bound", || acceptor.bound("ratings").then_some(()));
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    donor.stop();
    donor.start_unprivileged(&site);
    site.until("it runs", || donor.status().filter(|v| v.synced));
    let bound = acceptor.snapshot();
    let gateway = donor.objects();
    let team = donor.store.join("team");
    fs::set_permissions(&team, fs::Permissions::from_mode(0o000)).unwrap();
    donor.stop();
    donor.start_unprivileged(&site);
    site.until("it is told", || donor.problems("held objects").pop());
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    site.stays("all objects", A_WHILE, || donor.objects() == gateway && acceptor.snapshot() == bound);
    fs::set_permissions(&team, fs::Permissions::from_mode(0o755)).unwrap();
    site.until("all is well", || donor.problems("").is_empty().then_some(()));
    site.stays("all objects when it may be read again", A_WHILE, || acceptor.snapshot() == bound);
}

/// A process that never read the file, as after a checkout without Wharf's own folder.
#[test]
fn a_broken_file_holds_what_may_be_its_own_also_without_a_memory() {
    let site = Site::new();
    let (mut donor, acceptor) = pair(&site);
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    let bound = acceptor.snapshot();
    donor.stop();
    fs::remove_dir_all(donor.store.join(".wharf/files")).unwrap();
    donor.write("policy.yaml", policy("reviews", &["acceptor"]).replace("clusters: [", "clusters: [["));
    donor.start();
    site.until("it is told", || donor.problems("held objects").pop());
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    site.stays("all objects", A_WHILE, || acceptor.snapshot() == bound);
}

/// Statuses say what is so: what a policy or binding names is there, and cannot be read.
#[test]
fn what_cannot_be_read_is_not_told_as_missing() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site);
    let routes = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: ratings}\nspec:\n  \
                  hosts: [ratings]\n  http: [{route: [{destination: {host: ratings}}]}]\n";
    donor.write("more.yaml", policy_of("ratings", &["{name: ratings, virtualService: ratings, clusters: [acceptor]}"]));
    let entry = || donor.policy("ratings")?.status.exposed.into_iter().next();
    let says = |reason: &str| entry().filter(|e| e.reason == reason).map(|e| e.message);
    site.until("there is none", || says("VirtualServiceNotFound"));
    donor.write("routes.yaml", of_a_newer_version(routes));
    let message = site.until("it cannot be read", || says("Unreadable"));
    assert!(message.contains("the VirtualService ratings in the namespace default cannot be read"), "{message}");
    assert!(message.contains("routes.yaml") && message.contains("spec.fairness"), "{message}");
    donor.remove("routes.yaml");
    site.until("there is none again", || says("VirtualServiceNotFound"));
    donor.write("torn.yaml", "kind: VirtualService\nmetadata: [");
    let message = site.until("it may be in what cannot be read", || {
        says("Unreadable").filter(|m| m.contains("it is not known whether there is a VirtualService ratings"))
    });
    assert!(message.contains("torn.yaml"), "{message}");
    donor.write("routes.yaml", routes);
    site.until("it can be read", || says("Exposed"));
    donor.remove("torn.yaml");
    donor.write("more.yaml", policy_of("kiosk", &["{name: kiosk, clusters: [acceptor]}"]));
    let says = |reason: &str| {
        let entry = donor.policy("kiosk")?.status.exposed.into_iter().next()?;
        (entry.reason == reason).then_some(entry.message)
    };
    site.until("there is no such Service", || says("ServiceNotFound"));

    // A peering that cannot be read.
    acceptor.write("more.yaml", binding("more", "skerry", &["kiosk"]));
    let service = |reason: &str| {
        let service = acceptor.binding("more")?.status.services.into_iter().next()?;
        (service.reason == reason).then_some(service.message)
    };
    site.until("there is no such peer", || service("PeerUnknown"));
    let peering = "apiVersion: multicluster.istio.io/v1alpha1\nkind: ClusterPeering\nmetadata: {name: skerry}\nspec:\n  \
                   fairness: 3\n";
    acceptor.write("peering.yaml", peering);
    let message = site.until("it cannot be read", || service("Unreadable"));
    assert!(message.contains("not known whether skerry is a peer") && message.contains("peering.yaml"), "{message}");
    acceptor.remove("peering.yaml");
    site.until("there is no such peer", || service("PeerUnknown"));
}

/// A service of another cluster is not exposed again, and the status says why.
#[test]
fn a_service_that_wharf_made_is_not_told_as_missing() {
    let site = Site::new();
    let (donor, mut acceptor) = pair(&site);
    acceptor.write("again.yaml", policy_of("again", &["{name: reviews, clusters: [donor]}"]));
    let says = |acceptor: &Cluster, reason: &str| {
        let entry = acceptor.policy("again")?.status.exposed.into_iter().next()?;
        (entry.reason == reason).then_some(entry.message)
    };
    let message = site.until("it is Wharf's own", || says(&acceptor, "Unsupported"));
    assert!(message.contains("the Service reviews in the namespace default is Wharf's own"), "{message}");
    restart(&site, &mut acceptor);
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    site.until("also after a restart", || says(&acceptor, "Unsupported"));
    acceptor.remove("binding.yaml");
    site.until("it is gone", || says(&acceptor, "ServiceNotFound"));
    acceptor.write("binding.yaml", binding("books", "donor", &["reviews"]));
    site.until("it is there again", || says(&acceptor, "Unsupported"));
    drop(donor);
}

/// How a policy's file is, for the history below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileState {
    Gone,
    Good,
    /// Broken, and good before.
    Broken,
    /// Broken from the beginning.
    NeverGood,
}

/// Whatever happens to files and to the agent, in whatever order: the objects of a policy are there from the time when its
/// file is good until it is good and says otherwise, or is gone.
#[test]
fn histories_of_broken_files_and_restarts_take_nothing_away() {
    const STEPS: usize = 60;
    let seed = std::env::var("WHARF_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random::<u64>);
    println!("WHARF_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let site = Site::new();
    let mut donor = site.cluster("donor");
    donor.configure("", &["{name: acceptor, consume: true}".to_owned()]);
    let names = ["books", "cds", "dvds"];
    let services: String = names.iter().map(|name| service(name, 9080)).collect();
    donor.write("services.yaml", &services);
    donor.start();
    let mut files = [FileState::Gone; 3];
    for step in 0..STEPS {
        let before = files;
        let (which, name) = names.iter().copied().enumerate().nth(random.random_range(0..3)).unwrap();
        let (file, good) = (format!("{name}.yaml"), policy(name, &["acceptor"]));
        let away = random.random_bool(0.5);
        if away {
            donor.stop();
        }
        files[which] = match random.random_range(0..4) {
            0 | 1 => {
                let damage = damages(&good);
                donor.write(&file, &damage[random.random_range(0..damage.len())]);
                match before[which] {
                    FileState::Good | FileState::Broken => FileState::Broken,
                    FileState::Gone | FileState::NeverGood => FileState::NeverGood,
                }
            }
            2 => {
                donor.write(&file, &good);
                FileState::Good
            }
            _ => {
                let _ = fs::remove_file(donor.store.join(&file)); // it may be gone already
                FileState::Gone
            }
        };
        if away {
            donor.start();
        }
        let is_there = |name: &str| !donor.find("Gateway", &format!("policy.default.{name}\"")).is_empty();
        let kept = |state: FileState| matches!(state, FileState::Good | FileState::Broken);
        let holds = || {
            for (i, name) in names.iter().enumerate() {
                let protected = kept(before[i]) && kept(files[i]);
                assert!(!protected || is_there(name), "step {step}: {name} lost its objects: {before:?} -> {files:?}");
            }
            // A file that nobody ever read may be where a policy was moved to.
            let unsure = files.contains(&FileState::NeverGood);
            let is_right = |name: &str, state| is_there(name) == kept(state) || (unsure && !kept(state));
            let right = names.iter().zip(files).all(|(name, state)| is_right(name, state));
            (donor.status().is_some_and(|v| v.synced) && right).then_some(())
        };
        site.until(&format!("step {step}: {before:?} -> {files:?}"), holds);
    }
}

/// The folder is read up to the limit, and what lies beyond is not known to be gone.
#[test]
fn a_folder_with_more_files_than_are_read_takes_nothing_away_over_a_restart() {
    let site = Site::new();
    let (mut donor, acceptor) = pair(&site);
    donor.write("later/policy.yaml", policy("reviews", &["acceptor"]));
    donor.remove("policy.yaml");
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    let (gateway, bound) = (donor.objects(), acceptor.snapshot());
    donor.stop();
    donor.write_many("first", MAX_FILES);
    donor.start();
    let held = || donor.problems("held objects").into_iter().find(|p| p.contains("policy.default.reviews"));
    site.until("what is held is told", held);
    assert!(donor.policy("reviews").is_none(), "it is beyond the limit");
    assert!(
        donor.problems("").iter().any(|p| p.contains("there are more than 100000 files")),
        "{:?}",
        donor.problems("")
    );
    assert!(donor.log().contains("there are more than 100000 files"), "{}", donor.log());
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    site.stays("all objects", A_WHILE, || donor.objects() == gateway && acceptor.snapshot() == bound);
    // With room for it, the policy is read without another start.
    (0..10).for_each(|n| donor.remove(&format!("first/{n}.yaml")));
    site.until("the policy is read", || donor.policy("reviews"));
    site.until("all is well", || donor.problems("").is_empty().then_some(()));
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    assert!(donor.objects() == gateway && acceptor.snapshot() == bound);
}
