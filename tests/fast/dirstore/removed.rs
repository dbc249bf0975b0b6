//! Folders that are removed, made again, moved, or led elsewhere.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use wharf::api::Kind;
use wharf::store::dir::DirStore;
use wharf::store::{Change, InputKey, ObjectStatus, ObjectStore, StatusSink};

use super::{Folder, object_file, problem, set};
use crate::store_contract::{Ear, key, object, owner, policy, policy_key, reapply, short};

/// A folder in a folder, so that it may be removed; with a policy, an object of ours and a status.
async fn doomed() -> (Folder, DirStore, Ear, PathBuf) {
    let folder = Folder::make();
    folder.write("above/store/p.yaml", policy("a", 1).to_string());
    folder.write("above/store/q.yaml", policy("b", 1).to_string());
    let path = folder.path().join("above/store");
    let store = DirStore::open(&path).unwrap();
    let ear = Ear::synced(&store).await;
    store.apply_objects(&owner("x"), vec![object(Kind::ServiceEntry, "a")]).await.unwrap();
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
    let error = store.apply_objects(&owner("x"), vec![object(Kind::Gateway, "a")]).await.unwrap_err();
    assert!(error.transient && error.message.contains("make it"), "{error}");
    assert!(!path.exists());
}

#[tokio::test]
async fn a_folder_that_is_made_again_is_read_and_written_again() {
    for above in [false, true] {
        let (folder, store, mut ear, path) = doomed().await;
        let instance = store.read_instance().await.unwrap();
        let removed = if above { path.parent().unwrap() } else { &path };
        fs::remove_dir_all(removed).unwrap();
        until_problem(&mut ear, &path).await;

        // Empty, it says nothing about what its owner wants; ours come back at once.
        fs::create_dir_all(&path).unwrap();
        let told = ear.until_drift(&owner("x")).await;
        assert!(!short(&told).iter().any(|t| t.starts_with("gone")), "{told:?}");
        store.apply_objects(&owner("x"), vec![object(Kind::ServiceEntry, "a")]).await.unwrap();
        assert!(path.join(object_file(&key(Kind::ServiceEntry, "a"))).exists());
        assert_eq!(DirStore::open(&path).unwrap().read_instance().await.unwrap(), instance);

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
    let instance = store.read_instance().await.unwrap();
    let wanted = vec![object(Kind::ServiceEntry, "a"), object(Kind::Service, "a")];
    store.apply_objects(&owner("x"), wanted.clone()).await.unwrap();
    fs::remove_dir_all(folder.path().join("istio")).unwrap();
    fs::remove_dir_all(folder.path().join(".wharf")).unwrap();
    reapply(&mut ear, &store, &owner("x"), &wanted, |applied| applied.written == 2).await;
    let InputKey::Policy(named) = policy_key("a") else { unreachable!() };
    store.set_status(ObjectStatus::Policy(named, Default::default())).await.unwrap();
    assert!(folder.path().join(".wharf/status/serviceexpositionpolicy/default.a.yaml").exists());
    assert_eq!(folder.store().read_instance().await.unwrap(), instance);
    // The new folder is watched as the old one was.
    folder.remove("istio/service_default_a.yaml");
    ear.until_drift(&owner("x")).await;
}
