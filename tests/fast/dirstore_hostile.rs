//! A folder that means harm, or has bad luck.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // of helpers, too

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use wharf::api::Kind;
use wharf::store::dir::DirStore;
use wharf::store::{Change, Input, InputKey, Status, Store};

use crate::dirstore::{Folder, object_file};
use crate::store_contract::{Ear, key, object, owner, policy, policy_key, reapply, short};

fn set(name: &str) -> String {
    format!("set ServiceExpositionPolicy default/{name}")
}

/// The message of the problem at a place.
fn problem<'a>(changes: &'a [Change], at: &str) -> &'a str {
    let found = changes.iter().find_map(|change| match change {
        Change::Problem { place, message } if place == at => Some(message.as_str()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no problem at {at}: {changes:?}"))
}

#[tokio::test]
async fn whatever_lies_in_the_folder_the_good_is_read_and_the_bad_is_named() {
    let folder = Folder::make();
    let at = |name: &str| folder.path().join(name);
    folder.write("good.yaml", policy("good", 1).to_string());
    folder.write("binary.yaml", [0x7f, b'E', b'L', b'F', 0xff, 0, 1, 2]);
    folder.write("zeros.json", vec![0; 100_000]);
    folder.write("large.yaml", vec![b'#'; (16 << 20) + 1]);
    folder.write("folder.yaml/inner.yaml", policy("inner", 1).to_string());
    symlink("nowhere", at("dangling.yaml")).unwrap();
    symlink("b.yaml", at("a.yaml")).unwrap();
    symlink("a.yaml", at("b.yaml")).unwrap();
    symlink("/dev/zero", at("device.yaml")).unwrap();
    symlink(".", at("self")).unwrap();
    symlink("..", at("up")).unwrap();
    assert!(Command::new("mkfifo").arg(at("pipe.yaml")).status().unwrap().success());
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..12 {
        bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(","));
    }
    folder.write("bomb.yaml", bomb);
    folder.write("tower.yaml", "[".repeat(1 << 20));

    // ".." would lead out of the folder into whatever the system's temporary folder holds.
    fs::remove_file(at("up")).unwrap();
    let (mut ear, start) = Ear::new(&folder.store()).await;
    let mut told = short(&start);
    told.retain(|t| t.starts_with("set"));
    assert_eq!(told, [set("inner"), set("good")].map(|t| t).into_iter().rev().collect::<Vec<_>>());
    for (file, message) in [
        ("binary.yaml", "it is not text in UTF-8 (byte 4)"),
        ("large.yaml", "it has more than 16 MiB"),
        ("dangling.yaml", "the link leads nowhere"),
        ("a.yaml", "symbolic links"),
        ("device.yaml", "it is not a regular file"),
        ("pipe.yaml", "it is not a regular file"),
        ("bomb.yaml:5", "too large or too complex"),
        ("zeros.json:1", "not valid YAML"),
        ("tower.yaml:1", "not valid YAML"),
    ] {
        let told = problem(&start, &folder.place(file));
        assert!(told.contains(message), "{file}: {told}");
    }
    // All of it together stops nothing, and what is mended is told.
    folder.write("good.yaml", policy("good", 2).to_string());
    assert_eq!(short(&ear.until_key(&policy_key("good")).await), [set("good")]);
    folder.remove("dangling.yaml");
    folder.write("dangling.yaml", policy("mended", 1).to_string());
    let told = short(&ear.until_key(&policy_key("mended")).await);
    assert!(told.contains(&set("mended")), "{told:?}");
}

#[tokio::test]
async fn ten_megabytes_of_yaml_are_read_and_delay_nobody_for_long() {
    let folder = Folder::make();
    let filler =
        format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: x}}\ndata: {{a: {}}}\n", "x".repeat(100_000));
    folder.write("large.yaml", format!("{}---\n{}\n", filler.repeat(100), policy("last", 1)));
    let (_ear, start) = Ear::new(&folder.store()).await;
    assert_eq!(short(&start), [set("last"), "synced".into()]);
}

#[tokio::test]
async fn circles_of_folders_are_walked_once() {
    let folder = Folder::make();
    folder.write("a/b/p.yaml", policy("a", 1).to_string());
    for link in ["a/b/up", "a/b/again", "a/over"] {
        symlink(folder.path(), folder.path().join(link)).unwrap();
    }
    let (mut ear, start) = Ear::new(&folder.store()).await;
    assert_eq!(short(&start), [set("a"), "synced".into()]);
    folder.write("a/b/again/q.yaml", policy("b", 1).to_string()); // that is, q.yaml in the folder itself
    assert_eq!(short(&ear.until_key(&policy_key("b")).await), [set("b")]);
}

#[tokio::test]
async fn folders_deeper_than_anybody_needs_are_named_and_not_read() {
    let folder = Folder::make();
    let deep = "d/".repeat(40);
    folder.write(&format!("{deep}p.yaml"), policy("deep", 1).to_string());
    folder.write("p.yaml", policy("good", 1).to_string());
    let (_ear, start) = Ear::new(&folder.store()).await;
    assert!(short(&start).contains(&set("good")) && !short(&start).contains(&set("deep")));
    let place = folder.place(deep[..2 * 33].trim_end_matches('/'));
    assert!(problem(&start, &place).contains("more than 32 folders deep"));
}

/// A folder in a folder, so that it may be removed; with a policy, an object of ours and a status.
async fn doomed() -> (Folder, DirStore, Ear, PathBuf) {
    let folder = Folder::make();
    folder.write("above/store/p.yaml", policy("a", 1).to_string());
    folder.write("above/store/q.yaml", policy("b", 1).to_string());
    let path = folder.path().join("above/store");
    let store = DirStore::open(&path).unwrap();
    let ear = Ear::synced(&store).await;
    store.apply(&owner("x"), vec![object(Kind::ServiceEntry, "a")]).await.unwrap();
    (folder, store, ear, path)
}

async fn until_problem(ear: &mut Ear, path: &Path) -> Vec<Change> {
    let place = path.display().to_string();
    ear.until(|change| matches!(change, Change::Problem { place: p, .. } if *p == place)).await
}

#[tokio::test]
async fn a_folder_that_is_removed_withdraws_nothing_and_is_not_made_by_wharf() {
    let (_folder, store, mut ear, path) = doomed().await;
    fs::remove_dir_all(&path).unwrap();
    let told = until_problem(&mut ear, &path).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(problem(&told, &path.display().to_string()).contains("all that it held stays in force"));
    let error = store.apply(&owner("x"), vec![object(Kind::Gateway, "a")]).await.unwrap_err();
    assert!(error.transient && error.message.contains("make it"), "{error}");
    assert!(!path.exists());
}

#[tokio::test]
async fn a_folder_that_is_made_again_is_read_and_written_again() {
    for above in [false, true] {
        let (folder, store, mut ear, path) = doomed().await;
        let instance = store.instance().await.unwrap();
        let removed = if above { path.parent().unwrap() } else { &path };
        fs::remove_dir_all(removed).unwrap();
        until_problem(&mut ear, &path).await;

        // Empty, it says nothing about what its owner wants; ours come back at once.
        fs::create_dir_all(&path).unwrap();
        let told = ear.until_drift(&owner("x")).await;
        assert!(!short(&told).iter().any(|t| t.starts_with("gone")), "{told:?}");
        store.apply(&owner("x"), vec![object(Kind::ServiceEntry, "a")]).await.unwrap();
        assert!(path.join(object_file(&key(Kind::ServiceEntry, "a"))).exists());
        assert_eq!(DirStore::open(&path).unwrap().instance().await.unwrap(), instance);

        // With something in it, it counts.
        folder.write("above/store/p.yaml", policy("a", 2).to_string());
        let told = short(&ear.until_key(&policy_key("b")).await);
        assert!(told.contains(&set("a")), "{told:?}");
        assert_eq!(told.last().unwrap(), "gone ServiceExpositionPolicy default/b");
        assert!(told.contains(&format!("solved {}", path.display())), "{told:?}");
        folder.write("above/store/q.yaml", policy("b", 2).to_string());
        assert_eq!(short(&ear.until_key(&policy_key("b")).await), [set("b")]);
    }
}

#[tokio::test]
async fn a_folder_that_was_moved_away_and_back_is_as_before() {
    let (folder, _store, mut ear, path) = doomed().await;
    for _ in 0..3 {
        folder.rename("above/store", "above/elsewhere");
        until_problem(&mut ear, &path).await;
        folder.rename("above/elsewhere", "above/store");
        let told = ear.until_drift(&owner("x")).await; // told to be applied again, to be sure
        assert!(!short(&told).iter().any(|t| t.starts_with("gone")), "{told:?}");
        folder.write("above/store/r.yaml", policy("marker", 1).to_string());
        ear.until_key(&policy_key("marker")).await;
        folder.remove("above/store/r.yaml");
        ear.until_key(&policy_key("marker")).await;
    }
}

#[tokio::test]
async fn a_folder_that_is_a_link_may_be_led_elsewhere() {
    // As git-sync does it.
    let folder = Folder::make();
    folder.write("one/p.yaml", policy("a", 1).to_string());
    folder.write("two/p.yaml", policy("a", 2).to_string());
    let (current, next) = (folder.path().join("current"), folder.path().join("next"));
    symlink("one", &current).unwrap();
    let store = DirStore::open(&current).unwrap();
    let mut ear = Ear::synced(&store).await;
    symlink("two", &next).unwrap();
    fs::rename(&next, &current).unwrap();
    let told = ear.until_key(&policy_key("a")).await;
    assert_eq!(short(&told), [set("a")]);
    folder.write("two/p.yaml", policy("a", 3).to_string());
    assert_eq!(short(&ear.until_key(&policy_key("a")).await), [set("a")]);
}

#[tokio::test]
async fn a_folder_within_that_is_removed_takes_its_objects_with_it() {
    let folder = Folder::make();
    folder.write("sub/p.yaml", policy("a", 1).to_string());
    folder.write("keep.yaml", policy("b", 1).to_string());
    let mut ear = Ear::synced(&folder.store()).await;
    for _ in 0..3 {
        fs::remove_dir_all(folder.path().join("sub")).unwrap();
        let told = short(&ear.until_key(&policy_key("a")).await);
        assert_eq!(told, ["gone ServiceExpositionPolicy default/a"]);
        folder.write("sub/p.yaml", policy("a", 1).to_string());
        assert_eq!(short(&ear.until_key(&policy_key("a")).await), [set("a")]);
    }
}

#[tokio::test]
async fn wharfs_own_folders_may_be_removed_at_any_time() {
    let folder = Folder::make();
    folder.write("p.yaml", policy("a", 1).to_string());
    let store = folder.store();
    let mut ear = Ear::synced(&store).await;
    let instance = store.instance().await.unwrap();
    let wanted = vec![object(Kind::ServiceEntry, "a"), object(Kind::Service, "a")];
    store.apply(&owner("x"), wanted.clone()).await.unwrap();
    fs::remove_dir_all(folder.path().join("istio")).unwrap();
    fs::remove_dir_all(folder.path().join(".wharf")).unwrap();
    reapply(&mut ear, &store, &owner("x"), &wanted, |applied| applied.written == 2).await;
    let InputKey::Policy(named) = policy_key("a") else { unreachable!() };
    store.set_status(Status::Policy(named, Default::default())).await.unwrap();
    assert!(folder.path().join(".wharf/status/serviceexpositionpolicy/default.a.yaml").exists());
    assert_eq!(folder.store().instance().await.unwrap(), instance);
    // The new folder is watched as the old one was.
    folder.remove("istio/service_default_a.yaml");
    ear.until_drift(&owner("x")).await;
}

#[tokio::test]
async fn an_instance_that_somebody_garbled_is_an_error_and_is_left_alone() {
    let folder = Folder::make();
    folder.write(".wharf/instance", "cluster1\n");
    let error = DirStore::open(folder.path()).err().expect("an error");
    assert_eq!(error.place, folder.place(".wharf/instance"));
    assert!(!error.transient && error.message.contains("32 hexadecimal digits"), "{error}");
    assert_eq!(folder.read(".wharf/instance"), "cluster1\n");
}

#[tokio::test]
async fn many_that_start_at_once_are_one_instance() {
    let folder = Folder::make();
    let path = folder.path();
    let instances: BTreeSet<String> = std::thread::scope(|scope| {
        let open = || fs::read_to_string(DirStore::open(path).unwrap().path().join(".wharf/instance")).unwrap();
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(instances.len(), 1, "{instances:?}");
}

#[test]
fn a_folder_that_is_not_there_is_an_error_and_is_not_made() {
    let folder = Folder::make();
    let path = folder.path().join("misspelt");
    let error = DirStore::open(&path).err().expect("an error");
    assert!(error.to_string().contains("misspelt: there is no such folder: make it"), "{error}");
    assert!(!path.exists());
    let file = folder.write("file", "");
    assert!(DirStore::open(file).is_err());
}

#[test]
fn what_a_killed_process_left_unfinished_is_removed() {
    let folder = Folder::make();
    folder.write(".wharf/tmp/.wharf-1-2.tmp", "x");
    folder.write("istio/.wharf-1-3.tmp", "x");
    let hidden = folder.write("istio/.keep", "");
    folder.store();
    assert_eq!(folder.leftovers(), Vec::<PathBuf>::new());
    assert!(hidden.exists());
}

#[tokio::test]
async fn names_that_would_lead_out_of_the_folder_are_refused() {
    let folder = Folder::make();
    let store = folder.store();
    for (namespace, name) in [("default", "../../evil"), ("..", "a"), ("default", ""), ("a/b", "c"), ("default", "a_b")]
    {
        let mut bad = object(Kind::Service, "a");
        bad.metadata_mut().namespace = Some(namespace.into());
        bad.metadata_mut().name = Some(name.into());
        let error = store.apply(&owner("x"), vec![bad]).await.unwrap_err();
        assert!(!error.transient && error.message.contains("cannot be written"), "{error}");
    }
}

#[tokio::test]
async fn more_news_than_can_be_remembered_lose_nothing() {
    let folder = Folder::make();
    let mut ear = Ear::synced(&folder.store()).await;
    // Nobody listens, so that the reader stands still when its channel is full, and the news pile up.
    for i in 0..600 {
        folder.write(&format!("p{i}.yaml"), policy(&format!("p{i}"), 1).to_string());
    }
    for i in 0..21_000 {
        folder.write(&format!("noise{i}.txt"), "");
    }
    folder.write("p0.yaml", policy("p0", 2).to_string());
    folder.remove("p1.yaml");
    folder.write("last.yaml", policy("last", 1).to_string());
    let mut there = BTreeMap::new();
    while there.len() < 600 || there.contains_key("p1") || there.get("p0") != Some(&2) {
        note(&mut there, ear.next().await);
    }
    assert!(there.contains_key("last"));
}

/// Keeps account of policies and their ports.
fn note(there: &mut BTreeMap<String, u16>, change: Change) {
    match change {
        Change::Set(InputKey::Policy(key), Input::Policy(policy)) => {
            there.insert(key.name, policy.spec.exposed[0].port.unwrap());
        }
        Change::Gone(InputKey::Policy(key)) => {
            there.remove(&key.name).expect("only what was told can go");
        }
        _ => {}
    }
}

/// What somebody may do to the folder.
#[derive(Debug, Clone)]
enum Deed {
    Write { file: usize, policies: Vec<(u8, u16)> },
    Replace { file: usize, policies: Vec<(u8, u16)> },
    Remove { file: usize },
    Rename { from: usize, to: usize },
    RemoveFolder,
    MoveFolder,
    Link { file: usize, to: usize },
}

const FILES: [&str; 6] = ["a.yaml", "b.yaml", "sub/c.yaml", "sub/d.yaml", "sub/deep/e.yaml", "istio/f.yaml"];

fn deed() -> impl Strategy<Value = Deed> {
    let file = || 0..FILES.len();
    let policies = || prop::collection::vec((0..4u8, 1..4u16), 0..4);
    prop_oneof![
        6 => (file(), policies()).prop_map(|(file, policies)| Deed::Write { file, policies }),
        3 => (file(), policies()).prop_map(|(file, policies)| Deed::Replace { file, policies }),
        3 => file().prop_map(|file| Deed::Remove { file }),
        3 => (file(), file()).prop_map(|(from, to)| Deed::Rename { from, to }),
        1 => Just(Deed::RemoveFolder),
        1 => Just(Deed::MoveFolder),
        2 => (file(), file()).prop_map(|(file, to)| Deed::Link { file, to }),
    ]
}

fn text(policies: &[(u8, u16)]) -> String {
    policies.iter().map(|(name, port)| format!("---\n{}\n", policy(&format!("p{name}"), *port))).collect()
}

fn act(folder: &Path, deed: &Deed) {
    let at = |file: usize| {
        let path = folder.join(FILES[file]);
        let _ = fs::create_dir_all(path.parent().unwrap());
        path
    };
    // Not everything can be done at any time; then it is not done.
    let _ = match deed {
        Deed::Write { file, policies } => fs::write(at(*file), text(policies)),
        Deed::Replace { file, policies } => {
            let temporary = folder.join(".new");
            fs::write(&temporary, text(policies)).and_then(|()| fs::rename(temporary, at(*file)))
        }
        Deed::Remove { file } => fs::remove_file(at(*file)),
        Deed::Rename { from, to } => fs::rename(at(*from), at(*to)),
        Deed::RemoveFolder => fs::remove_dir_all(folder.join("sub")),
        Deed::MoveFolder => fs::rename(folder.join("sub"), folder.join("moved")),
        Deed::Link { file, to } => {
            let (link, target) = (at(*file), at(*to));
            if link == target || fs::symlink_metadata(&link).is_ok() { Ok(()) } else { symlink(target, link) }
        }
    };
}

fn remove_dangling(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match fs::metadata(entry.path()) {
            Ok(metadata) if metadata.is_dir() => remove_dangling(&entry.path()),
            Ok(_) => {}
            Err(_) => fs::remove_file(entry.path()).unwrap(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 20, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_history_ends_in_what_a_fresh_start_would_tell(deeds in prop::collection::vec(deed(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = Folder::make();
            let mut ear = Ear::synced(&folder.store()).await;
            deeds.iter().for_each(|deed| act(folder.path(), deed));
            remove_dangling(folder.path()); // for as long as they dangle, what they led to stays in force
            let mut fresh = BTreeMap::new();
            Ear::new(&folder.store()).await.1.into_iter().for_each(|change| note(&mut fresh, change));
            fresh.insert("marker".into(), 1);
            folder.write("zz.yaml", policy("marker", 1).to_string());
            let mut there = BTreeMap::new();
            while there != fresh {
                let Some(change) = ear.try_next().await else {
                    prop_assert_eq!(there, fresh, "it stays like this");
                    unreachable!()
                };
                note(&mut there, change);
            }
            Ok(())
        })?;
    }
}

/// Runs a test of this file by itself, in a shell that prepares its surroundings. False if the system does not let us.
fn surrounded(test: &str, folder: &Path, shell: &[&str], script: &str) -> bool {
    let run = |script: &str| {
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).args(["sh", "-c", script, "sh"]).arg(std::env::current_exe().unwrap());
        command.arg(format!("dirstore_hostile::{test}")).env("WHARF_TEST_FOLDER", folder);
        command.output()
    };
    let prepared = run(&format!("{script}; true")).is_ok_and(|o| o.status.success());
    if !prepared {
        return false;
    }
    let output = run(&format!("{script} && exec \"$1\" --ignored --exact --nocapture \"$2\"")).unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    true
}

#[test]
fn a_full_disk_is_told_and_leaves_everything_as_it_was() {
    let folder = Folder::make();
    let mount = "mount -t tmpfs -o size=256k none \"$WHARF_TEST_FOLDER\"";
    if !surrounded("on_a_small_disk", folder.path(), &["unshare", "-rm"], mount) {
        eprintln!("skipped: this system lets nobody mount a small disk in a namespace of their own");
    }
}

#[tokio::test]
#[ignore = "a_full_disk_is_told_and_leaves_everything_as_it_was runs it on a small disk"]
async fn on_a_small_disk() {
    let path = PathBuf::from(std::env::var_os("WHARF_TEST_FOLDER").unwrap());
    let store = DirStore::open(&path).unwrap();
    let mut ear = Ear::synced(&store).await;
    let wanted = |i: usize| vec![object(Kind::AuthorizationPolicy, "a"), object(Kind::ServiceEntry, &format!("a{i}"))];
    store.apply(&owner("x"), wanted(0)).await.unwrap();
    let error = fs::write(path.join("ballast"), vec![0; 1 << 20]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);

    let error = store.apply(&owner("x"), wanted(1)).await.unwrap_err();
    let place = path.join(object_file(&key(Kind::ServiceEntry, "a1"))).display().to_string();
    assert_eq!((error.place.as_str(), error.transient), (place.as_str(), true));
    assert!(error.message.contains("free some space"), "{error}");
    for file in ["authorizationpolicy_default_a.yaml", "serviceentry_default_a0.yaml"] {
        let text = fs::read_to_string(path.join("istio").join(file)).unwrap();
        assert!(text.ends_with("\n") && text.contains("spec:"), "{text}"); // what was there is whole
    }
    assert_eq!(fs::read_dir(path.join(".wharf/tmp")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(path.join("istio")).unwrap().count(), 2);

    fs::remove_file(path.join("ballast")).unwrap();
    let applied = store.apply(&owner("x"), wanted(1)).await.unwrap();
    assert_eq!((applied.written, applied.unchanged, applied.removed), (1, 1, 1));
    fs::write(path.join("p.yaml"), policy("marker", 1).to_string()).unwrap();
    assert_eq!(short(&ear.until_key(&policy_key("marker")).await), [set("marker")]);
}

#[test]
fn a_file_that_grows_beyond_the_systems_limit_is_told_and_leaves_nothing_behind() {
    let folder = Folder::make();
    // Blocks of 512 bytes; the signal would end the process.
    assert!(surrounded("with_a_limit_on_files", folder.path(), &["env"], "trap '' XFSZ; ulimit -f 16"));
}

#[tokio::test]
#[ignore = "a_file_that_grows_beyond_the_systems_limit_is_told_and_leaves_nothing_behind runs it under a limit"]
async fn with_a_limit_on_files() {
    let path = PathBuf::from(std::env::var_os("WHARF_TEST_FOLDER").unwrap());
    let store = DirStore::open(&path).unwrap();
    let mut large = object(Kind::Service, "large");
    large.metadata_mut().annotations.get_or_insert_default().insert("a".into(), "x".repeat(100_000));
    let error = store.apply(&owner("x"), vec![large]).await.unwrap_err();
    assert!(error.transient && error.message.contains("ulimit -f"), "{error}");
    assert_eq!(fs::read_dir(path.join(".wharf/tmp")).unwrap().count(), 0);
    assert_eq!(store.apply(&owner("x"), vec![object(Kind::Service, "small")]).await.unwrap().written, 1);
    assert!(!path.join(object_file(&key(Kind::Service, "large"))).exists());
}

#[tokio::test]
async fn an_error_stops_before_what_relies_on_it() {
    let folder = Folder::make();
    let store = folder.store();
    folder.write("istio", "a file where the folder should be");
    let all: Vec<_> = Kind::ALL.into_iter().map(|kind| object(kind, "a")).collect();
    let error = store.apply(&owner("x"), all.clone()).await.unwrap_err();
    assert!(error.transient && error.place.starts_with(&folder.place("istio")), "{error}");
    folder.remove("istio");
    assert_eq!(store.apply(&owner("x"), all).await.unwrap().written, 6);
}
