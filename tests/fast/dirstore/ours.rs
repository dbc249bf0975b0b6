//! What is Wharf's and what is not.

use std::fs;
use std::path::PathBuf;

use wharf::api::Kind;
use wharf::store::{InputKey, ObjectStatus, ObjectStore, StatusSink};

use super::{Folder, set, stream};
use crate::store_contract::{Ear, key, object, owner, policy, policy_key, reapply, service, short};

#[tokio::test]
async fn a_copy_of_what_wharf_made_is_neither_an_input_nor_in_the_way() {
    let folder = Folder::make();
    let store = folder.store();
    store.apply_objects(&owner("x"), vec![object(Kind::Service, "a")]).await.unwrap();
    let text = folder.read("istio/service_default_a.yaml");
    folder.write("backup/a.yaml", &text);
    folder.write("istio/copy.yaml", &text);
    let store = folder.store();
    let (_ear, start) = Ear::new(&store).await;
    assert_eq!(short(&start), ["synced"]);
    assert_eq!(store.list_owners().await.unwrap(), [owner("x")]);
    assert_eq!(store.apply_objects(&owner("x"), vec![]).await.unwrap().removed, 1);
    assert!(folder.path().join("istio/copy.yaml").exists());
}

#[tokio::test]
async fn an_object_of_wharfs_that_stands_under_the_name_of_another_is_an_edit_and_goes() {
    let folder = Folder::make();
    let store = folder.store();
    store.apply_objects(&owner("x"), vec![object(Kind::Service, "a")]).await.unwrap();
    folder.write("istio/service_default_b.yaml", folder.read("istio/service_default_a.yaml"));
    let store = folder.store();
    assert_eq!(store.apply_objects(&owner("x"), vec![object(Kind::Service, "a")]).await.unwrap().removed, 1);
    assert!(folder.path().join("istio/service_default_a.yaml").exists());
    assert!(!folder.path().join("istio/service_default_b.yaml").exists());
}

#[tokio::test]
async fn what_somebody_puts_into_wharfs_folder_stays_theirs() {
    let folder = Folder::make();
    folder.write("istio/service_default_a.yaml", service("a").to_string());
    folder.write("istio/note.yaml", policy("p", 1).to_string());
    let store = folder.store();
    let (mut ear, start) = Ear::new(&store).await;
    assert!(short(&start).contains(&"set Service default/a".to_owned()));
    assert!(short(&start).contains(&set("p")));
    let applied = store.apply_objects(&owner("x"), vec![object(Kind::Service, "a")]).await.unwrap();
    assert_eq!(applied.conflicts, [key(Kind::Service, "a")]);
    assert_eq!(folder.read("istio/service_default_a.yaml"), service("a").to_string());

    // In a place that Wharf wants, but not what Wharf would put there.
    folder.write("istio/service_default_b.yaml", service("other").to_string());
    ear.until_key(&InputKey::Object(key(Kind::Service, "other"))).await;
    let applied = store.apply_objects(&owner("x"), vec![object(Kind::Service, "b")]).await.unwrap();
    assert_eq!(applied.conflicts, [key(Kind::Service, "b")]);
}

#[tokio::test]
async fn an_object_keeps_its_name_until_somebody_takes_its_place() {
    let folder = Folder::make();
    let store = folder.store();
    let mut ear = Ear::synced(&store).await;
    let wanted = vec![object(Kind::Service, "a"), object(Kind::ServiceEntry, "a")];
    store.apply_objects(&owner("x"), wanted.clone()).await.unwrap();
    folder.write("mine.yaml", service("a").to_string());
    // In a cluster there could be no other of its name.
    reapply(&mut ear, &store, &owner("x"), &wanted, |a| a.unchanged == 2 && a.conflicts.is_empty()).await;
    assert!(folder.path().join("istio/service_default_a.yaml").exists());
    // In its very place.
    let taken = [key(Kind::Service, "a")];
    folder.remove("mine.yaml");
    folder.write("istio/service_default_a.yaml", service("a").to_string());
    reapply(&mut ear, &store, &owner("x"), &wanted, |applied| applied.conflicts == taken).await;
    assert_eq!(folder.read("istio/service_default_a.yaml"), service("a").to_string());
}

#[tokio::test]
async fn a_file_of_wharfs_that_is_rubble_is_repaired() {
    let folder = Folder::make();
    let store = folder.store();
    let mut ear = Ear::synced(&store).await;
    let wanted = vec![object(Kind::ServiceEntry, "a")];
    store.apply_objects(&owner("x"), wanted.clone()).await.unwrap();
    let text = folder.read("istio/serviceentry_default_a.yaml");
    for rubble in ["", "kind: [", "\u{0}\u{1}", "# nothing\n"] {
        folder.write("istio/serviceentry_default_a.yaml", rubble);
        reapply(&mut ear, &store, &owner("x"), &wanted, |applied| applied.written == 1).await;
        assert_eq!(folder.read("istio/serviceentry_default_a.yaml"), text);
    }
    // While no agent runs, the first line alone says whose it is.
    drop(store);
    folder.write("istio/serviceentry_default_a.yaml", format!("{}\nkind: [", text.lines().next().unwrap()));
    let store = folder.store();
    assert_eq!(store.list_owners().await.unwrap(), [owner("x")]);
    assert_eq!(store.apply_objects(&owner("x"), wanted).await.unwrap().written, 1);
}

#[tokio::test]
async fn a_folder_in_the_place_of_an_object_is_a_conflict_and_the_others_are_written() {
    let folder = Folder::make();
    let store = folder.store();
    let all: Vec<_> = Kind::ALL.into_iter().rev().map(|kind| object(kind, "a")).collect();
    fs::create_dir_all(folder.path().join("istio")).unwrap();
    // One that cannot be written does not stop the others.
    fs::create_dir(folder.path().join("istio/gateway_default_a.yaml")).unwrap();
    let applied = store.apply_objects(&owner("x"), all).await.unwrap();
    let others = Kind::ALL.len() - 1;
    assert_eq!((applied.written, applied.conflicts), (others, vec![key(Kind::Gateway, "a")]));
    let guard = folder.path().join("istio/authorizationpolicy_default_a.yaml");
    assert!(guard.exists());
    assert_eq!(store.apply_objects(&owner("x"), vec![]).await.unwrap().removed, others);
    assert!(!guard.exists());
}

#[tokio::test]
async fn statuses_of_what_went_while_nobody_looked_are_removed_at_the_start() {
    let folder = Folder::make();
    folder.write("p.yaml", stream(&[policy("a", 1), policy("b", 1)]));
    let store = folder.store();
    let _ear = Ear::synced(&store).await;
    for name in ["a", "b"] {
        let InputKey::Policy(key) = policy_key(name) else { unreachable!() };
        store.set_status(ObjectStatus::Policy(key, Default::default())).await.unwrap();
    }
    drop(store);
    folder.write("p.yaml", policy("a", 1).to_string());
    let _ear = Ear::synced(&folder.store()).await;
    let status = |name: &str| folder.path().join(format!(".wharf/status/serviceexpositionpolicy/default.{name}.yaml"));
    assert!(status("a").exists());
    assert!(!status("b").exists());
}

#[tokio::test]
async fn nothing_of_wharfs_own_shows_in_a_checkout() {
    let folder = Folder::make();
    let store = folder.store();
    store.apply_objects(&owner("x"), vec![object(Kind::ServiceEntry, "a")]).await.unwrap();
    let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [".wharf", "istio"]);
    assert_eq!(folder.read(".wharf/.gitignore"), "*\n");
    assert_eq!(folder.leftovers(), Vec::<PathBuf>::new());
}
