//! Writing: on full disks, beside others, over what is not ours to write.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use wharf::api::Kind;
use wharf::store::ObjectStore;
use wharf::store::dir::DirStore;

use super::{Folder, object_file, set};
use crate::store_contract::{Ear, key, object, owner, policy, policy_key, short};

#[tokio::test]
async fn an_instance_that_somebody_garbled_is_an_error_and_is_left_alone() {
    let folder = Folder::make();
    folder.write(".wharf/instance", "cluster1\n");
    let error = DirStore::open(folder.path()).err().expect("an error");
    assert_eq!(error.place, folder.place(".wharf/instance"));
    assert!(!error.transient && error.message.contains("32 hexadecimal digits"), "{error}");
    assert_eq!(folder.read(".wharf/instance"), "cluster1\n");
}

/// Opening a pipe would wait for somebody who writes into it, for ever, and no signal would end it.
#[test]
fn an_instance_that_is_no_file_is_an_error_and_nothing_waits_for_it() {
    let folder = Folder::make();
    folder.write(".wharf/.gitignore", "*\n");
    let pipe = folder.path().join(".wharf/instance");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let error = DirStore::open(folder.path()).err().expect("an error");
    assert!(error.message.contains("not a regular file"), "{error}");
    fs::remove_file(&pipe).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &pipe).unwrap();
    assert!(DirStore::open(folder.path()).is_err());
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
        let error = store.apply_objects(&owner("x"), vec![bad]).await.unwrap_err();
        assert!(!error.transient && error.message.contains("cannot be written"), "{error}");
    }
}

/// Runs a test of this file by itself, in a shell that prepares its surroundings. False if the system does not let us.
fn surrounded(test: &str, folder: &Path, shell: &[&str], script: &str) -> bool {
    let run = |script: &str| {
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).args(["sh", "-c", script, "sh"]).arg(std::env::current_exe().unwrap());
        command.arg(format!("dirstore::disk::{test}")).env("WHARF_TEST_FOLDER", folder);
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
    store.apply_objects(&owner("x"), wanted(0)).await.unwrap();
    let error = fs::write(path.join("ballast"), vec![0; 1 << 20]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);

    let error = store.apply_objects(&owner("x"), wanted(1)).await.unwrap_err();
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
    let applied = store.apply_objects(&owner("x"), wanted(1)).await.unwrap();
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
    let error = store.apply_objects(&owner("x"), vec![large]).await.unwrap_err();
    assert!(error.transient && error.message.contains("ulimit -f"), "{error}");
    assert_eq!(fs::read_dir(path.join(".wharf/tmp")).unwrap().count(), 0);
    assert_eq!(store.apply_objects(&owner("x"), vec![object(Kind::Service, "small")]).await.unwrap().written, 1);
    assert!(!path.join(object_file(&key(Kind::Service, "large"))).exists());
}

#[tokio::test]
async fn an_error_stops_before_what_relies_on_it() {
    let folder = Folder::make();
    let store = folder.store();
    folder.write("istio", "a file where the folder should be");
    let all: Vec<_> = Kind::ALL.into_iter().map(|kind| object(kind, "a")).collect();
    let error = store.apply_objects(&owner("x"), all.clone()).await.unwrap_err();
    assert!(error.transient && error.place.starts_with(&folder.place("istio")), "{error}");
    folder.remove("istio");
    assert_eq!(store.apply_objects(&owner("x"), all).await.unwrap().written, Kind::ALL.len());
}
