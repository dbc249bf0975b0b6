//! A store is a folder, and folders are full of surprises.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::Duration;

use super::share::pair;
use super::support::objects::{binding, policy, service};
use super::support::{Site, cluster};

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_told_and_everything_is_made_up_for_when_there_is_room() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site);
    let before = acceptor.snapshot();
    acceptor.limit_files(Some(0));
    donor.write("more.yaml", policy("ratings", &["acceptor"]));
    acceptor.write("more.yaml", binding("more", "donor", &["ratings"]));
    let problem = site.until("the problem", || acceptor.problems("ratings").pop());
    assert!(problem.contains("cannot be written"), "{problem}");
    let programmed = || cluster::condition(&acceptor.binding("more")?.status.conditions, "Programmed");
    site.until("the binding says so", || programmed().filter(|(reason, _)| reason == "WriteFailed"));
    assert!(acceptor.metric("wharf_write_errors_total").is_some_and(|n| n >= 1.0));
    assert_eq!(acceptor.snapshot(), before, "what is there stays");
    acceptor.limit_files(None);
    site.until("it is made up for", || acceptor.bound("ratings").then_some(()));
    site.until("all is well", || acceptor.problems("").is_empty().then_some(()));
    site.until("the donor hears of it", || {
        (donor.policy("ratings")?.status.exposed.first()?.bound_by == ["acceptor"]).then_some(())
    });
}

#[test]
#[cfg(target_os = "linux")]
fn a_donor_with_a_full_disk_offers_nothing_new_and_withdraws_nothing() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site);
    acceptor.write("more.yaml", binding("more", "donor", &["ratings"]));
    let before = acceptor.snapshot();
    donor.limit_files(Some(0));
    donor.write("more.yaml", policy("ratings", &["acceptor"]));
    let programmed = || cluster::condition(&donor.policy("ratings")?.status.conditions, "Programmed");
    site.until("the policy says so", || programmed().filter(|(reason, _)| reason == "WriteFailed"));
    site.stays("nothing changes at the acceptor", Duration::from_millis(300), || acceptor.snapshot() == before);
    donor.limit_files(None);
    site.until("it is made up for", || acceptor.bound("ratings").then_some(()));
}

#[test]
fn what_may_not_be_written_or_removed_is_told_and_made_up_for() {
    let site = Site::new();
    let (mut donor, acceptor) = pair(&site);
    donor.write("more.yaml", policy("ratings", &["acceptor"]));
    acceptor.write("binding.yaml", binding("books", "donor", &["reviews", "ratings"]));
    site.until("both are bound", || acceptor.bound("ratings").then_some(()));
    donor.stop();
    donor.start_unprivileged(&site);
    site.until("it runs", || donor.status().filter(|v| v.synced));
    let folder = donor.store.join("istio");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    donor.write("services.yaml", service("reviews", 9090) + &service("ratings", 9080));
    donor.remove("more.yaml");
    let told = |what: &str| donor.problems(what).into_iter().find(|p| p.contains("right"));
    site.until("the write and the removal are told", || told("reviews").and_then(|_| told("ratings")));
    site.until("what is withdrawn is withdrawn all the same", || (!acceptor.bound("ratings")).then_some(()));
    assert!(!donor.find("Gateway", "ratings").is_empty());
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    site.until("the removal is made up for", || donor.find("Gateway", "ratings").is_empty().then_some(()));
    site.until("and the write", || (!donor.find("VirtualService", "9090").is_empty()).then_some(()));
    site.until("all is well", || donor.problems("").is_empty().then_some(()));
}

#[test]
fn a_store_that_is_removed_withdraws_nothing_and_works_when_it_is_made_again() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site);
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    let told = || {
        donor.status_file("serviceexpositionpolicy", "default.reviews").filter(|s| s.to_string().contains("acceptor"))
    };
    site.until("the last status, so that nothing is written while the folder goes", || {
        told().filter(|s| !s["status"]["exposed"][0]["boundBy"].is_null())
    });
    let (before, gateway) = (acceptor.snapshot(), donor.objects());
    fs::remove_dir_all(&donor.store).unwrap();
    let here = donor.store.to_str().unwrap();
    site.until("the problem", || donor.problems(here).into_iter().find(|p| p.contains("was removed")));
    site.stays("the acceptor's objects", Duration::from_millis(300), || acceptor.snapshot() == before);
    fs::create_dir_all(&donor.store).unwrap(); // a status that was late has made it already
    site.until("an empty folder is a problem too", || donor.problems(here).into_iter().find(|p| p.contains("empty")));
    site.stays("the acceptor's objects", Duration::from_millis(300), || acceptor.snapshot() == before);
    donor.write("everything.yaml", service("reviews", 9080) + &policy("reviews", &["acceptor"]));
    site.until("all is well", || donor.problems("").is_empty().then_some(()));
    site.until("its own objects are back", || (donor.objects() == gateway).then_some(()));
    assert_eq!(acceptor.snapshot(), before);
    donor.write("more.yaml", service("ratings", 9080) + &policy("ratings", &["acceptor"]));
    acceptor.write("more.yaml", binding("more", "donor", &["ratings"]));
    site.until("it is watched", || acceptor.bound("ratings").then_some(()));
}

/// Each alias doubles what the one before stands for.
fn bomb() -> String {
    let mut text = "a0: &a0 [x, x]\n".to_owned();
    (1..64).for_each(|i| text += &format!("a{i}: &a{i} [*a{0}, *a{0}]\n", i - 1));
    text
}

#[test]
fn what_cannot_be_read_is_told_and_hurts_nobody_else() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site);
    let large = format!("{}data: [{}]\n", service("large", 80), "1234567, ".repeat(1_200_000));
    assert!(large.len() > 10_000_000);
    donor.write("large.yaml", large);
    donor.write("too-large.yaml", vec![b'#'; 17 << 20]);
    donor.write("bomb.yaml", bomb());
    donor.write("deep.yaml", "[".repeat(100_000));
    donor.write("binary.yaml", [0_u8, 159, 146, 150, 255, 0, 7].repeat(1000));
    donor.write("half.yaml", policy("ratings", &["acceptor"]).replace("clusters: [", "clusters: [["));
    donor.write("misspelt.yaml", policy("ratings", &["acceptor"]).replace("clusters:", "cluster:"));
    donor.write("photo.png", [137, 80, 78, 71]);
    symlink("nowhere", donor.store.join("dangling.yaml")).unwrap();
    symlink(".", donor.store.join("circle")).unwrap();
    symlink("itself.yaml", donor.store.join("itself.yaml")).unwrap();
    fs::create_dir(donor.store.join("folder.yaml")).unwrap();
    donor.write("good.yaml", policy("ratings", &["acceptor"]));
    acceptor.write("more.yaml", binding("more", "donor", &["ratings"]));
    site.until("the good policy works", || acceptor.bound("ratings").then_some(()));
    let bad = ["large", "too-large", "bomb", "deep", "binary", "half", "misspelt", "dangling", "itself"];
    let missing = || bad.iter().filter(|f| donor.problems(&format!("/{f}.yaml")).is_empty()).collect::<Vec<_>>();
    site.try_until(Duration::from_secs(20), || missing().is_empty().then_some(()));
    assert_eq!(missing(), Vec::<&&str>::new(), "each is told");
    assert_eq!(donor.get("/healthz").map(|(code, _)| code), Some(200));
    // The large ones were read, and are not kept.
    assert!(donor.memory() < 400 << 20, "{} MiB resident", donor.memory() >> 20);
    for file in bad {
        donor.remove(&format!("{file}.yaml"));
    }
    site.until("no problem is left", || donor.problems("").is_empty().then_some(()));
    assert!(acceptor.bound("reviews") && acceptor.bound("ratings"));
}

/// A tenant's folder may be a repository that others push to.
#[test]
fn a_files_name_begins_no_line_of_the_log() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site);
    let name = "a\n2026-01-01T00:00:00Z  INFO forged: all is well\u{1b}[2J\u{202e}.yaml";
    donor.write(name, "kind: [");
    let problem = site.until("the problem", || donor.problems("forged").pop());
    assert!(problem.contains("not valid YAML"), "{problem}");
    let log = site.until("the log", || Some(donor.log()).filter(|log| log.contains("forged")));
    assert!(log.contains("a\\n2026-01-01T00:00:00Z"), "{log}");
    assert!(!log.lines().any(|line| line.contains("forged") && !line.contains("WARN")), "{log}");
    assert!(!log.contains(['\u{1b}', '\u{202e}']), "{log}");
    drop(acceptor);
}
