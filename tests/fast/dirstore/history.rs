//! Whatever happens to the folder, and however fast, what is told in the end is what is there.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use proptest::prelude::*;
use wharf::store::{Change, Input, InputKey};

use super::Folder;
use crate::store_contract::{Ear, policy};

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
