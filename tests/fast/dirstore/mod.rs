//! The store in a folder, on a real file system.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // of helpers, too

mod disk;
mod history;
mod hostile;
mod ours;
mod removed;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use wharf::api::ObjectKey;
use wharf::store::dir::DirStore;
use wharf::store::{Change, Input, NamedKey, ObjectStore};

use crate::store_contract::{Ear, World, policy, policy_key, promises, short};

/// A folder that ends with the test.
pub struct Folder(TempDir);

impl Folder {
    pub fn make() -> Folder {
        Folder(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file as most people do: in its place, not atomically.
    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(&path, text).expect("a file");
        path
    }

    pub fn remove(&self, path: &str) {
        fs::remove_file(self.path().join(path)).expect("to be removed");
    }

    pub fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path().join(from), self.path().join(to)).expect("to be renamed");
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path().join(path)).expect("a file")
    }

    pub fn store(&self) -> DirStore {
        DirStore::open(self.path()).expect("a store")
    }

    /// The name of a file as messages have it.
    pub fn place(&self, path: &str) -> String {
        self.path().join(path).display().to_string()
    }

    /// Every file that is neither somebody's nor in its final place.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.path() {
                    path if entry.file_type().is_ok_and(|t| t.is_dir()) => walk(&path, found),
                    path if path.extension().is_some_and(|e| e == "tmp") => found.push(path),
                    _ => {}
                }
            }
        }
        let mut found = Vec::new();
        walk(self.path(), &mut found);
        found
    }
}

impl World for Folder {
    type Store = DirStore;

    async fn new() -> Folder {
        Folder::make()
    }
    async fn open(&self) -> DirStore {
        self.store()
    }
    async fn put(&self, object: &Value) {
        self.write(&file_of(object), object.to_string());
    }
    async fn delete(&self, object: &Value) {
        self.remove(&file_of(object));
    }
    async fn tamper(&self, key: &ObjectKey) {
        let path = self.path().join(object_file(key));
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, text.replace("spec:", "spec:\n  exportTo: ['*']")).unwrap();
    }
    async fn destroy(&self, key: &ObjectKey) {
        fs::remove_file(self.path().join(object_file(key))).unwrap();
    }
    async fn get(&self, key: &ObjectKey) -> Option<Value> {
        let ours = self.path().join(object_file(key));
        let theirs = self.path().join(format!("{}-{}.json", key.kind, key.name));
        let text = fs::read_to_string(ours).or_else(|_| fs::read_to_string(theirs)).ok()?;
        serde_saphyr::from_str(&text).ok()
    }
    async fn status(&self, key: &NamedKey) -> Option<Value> {
        let file = format!(".wharf/status/serviceexpositionpolicy/{}.{}.yaml", key.namespace, key.name);
        let text = fs::read_to_string(self.path().join(file)).ok()?;
        serde_saphyr::from_str::<Value>(&text).ok().map(|v| v["status"].clone())
    }
}

fn file_of(object: &Value) -> String {
    format!("{}-{}.json", object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap())
}

pub fn object_file(key: &ObjectKey) -> String {
    format!("istio/{}_{}_{}.yaml", key.kind.as_str().to_lowercase(), key.namespace, key.name)
}

promises!(Folder);

fn set(name: &str) -> String {
    format!("set ServiceExpositionPolicy default/{name}")
}

/// The message of the problem at a place.
fn problem<'a>(changes: &'a [Change], at: &str) -> &'a str {
    let found = changes.iter().find_map(|change| match change {
        Change::Problem { place, message, .. } if place == at => Some(message.as_str()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no problem at {at}: {changes:?}"))
}

fn gone(name: &str) -> String {
    format!("gone ServiceExpositionPolicy default/{name}")
}

/// Both policies in one stream.
fn stream(objects: &[Value]) -> String {
    objects.iter().map(|o| format!("---\n{o}\n")).collect()
}

fn port(change: Option<&Change>) -> Option<u16> {
    match change {
        Some(Change::Set(_, Input::Policy(policy))) => policy.spec.exposed[0].port,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn files_are_found_wherever_they_are_but_not_hidden_ones() {
    let folder = Folder::make();
    for (i, file) in
        ["a.yaml", "b.yml", "deep/er/c.json", ".hidden.yaml", ".git/d.yaml", "e.txt", "f.yaml~", ".wharf/g.yaml"]
            .into_iter()
            .enumerate()
    {
        folder.write(file, policy(&format!("p{i}"), 1).to_string());
    }
    let (mut ear, start) = Ear::new(&folder.store()).await;
    let mut told = short(&start);
    told.sort();
    assert_eq!(told, [set("p0"), set("p1"), set("p2"), "synced".into()]);
    // What was hidden and is no more counts at once; so does a folder that is moved here whole.
    folder.rename(".hidden.yaml", "shown.yaml");
    assert_eq!(short(&ear.until_key(&policy_key("p3")).await), [set("p3")]);
    folder.rename(".git", "git");
    assert_eq!(short(&ear.until_key(&policy_key("p4")).await), [set("p4")]);
}

#[tokio::test]
async fn files_in_new_folders_are_found_however_soon_they_are_written() {
    let folder = Folder::make();
    let mut ear = Ear::synced(&folder.store()).await;
    for i in 0..50 {
        folder.write(&format!("new{i}/below/p.yaml"), policy(&format!("p{i}"), 1).to_string());
    }
    let mut missing: std::collections::BTreeSet<String> = (0..50).map(|i| set(&format!("p{i}"))).collect();
    while !missing.is_empty() {
        let change = ear.next().await;
        for told in short(&[change]) {
            missing.remove(&told);
        }
    }
}

#[tokio::test]
async fn only_what_changed_in_a_file_is_told() {
    let folder = Folder::make();
    folder.write("p.yaml", stream(&[policy("a", 1), policy("b", 1), policy("c", 1)]));
    let mut ear = Ear::synced(&folder.store()).await;
    folder.write("p.yaml", format!("# a comment\n{}", stream(&[policy("a", 1), policy("b", 2), policy("d", 1)])));
    let mut told = short(&[ear.next().await, ear.next().await, ear.next().await]);
    told.sort();
    assert_eq!(told, [gone("c"), set("b"), set("d")]);
}

#[tokio::test]
async fn a_bad_document_keeps_what_it_held_and_is_told_once_until_it_is_mended() {
    let folder = Folder::make();
    let good = stream(&[policy("a", 1), policy("b", 1)]);
    folder.write("p.yaml", &good);
    let mut ear = Ear::synced(&folder.store()).await;

    // A field misspelt: the document still says which object it is, and the other one may go.
    folder.write("p.yaml", policy("a", 1).to_string().replace("\"port\"", "\"prot\""));
    let told = [ear.next().await, ear.next().await];
    let Some(Change::Problem { place, message, .. }) = told.iter().find(|c| matches!(c, Change::Problem { .. })) else {
        panic!("{told:?}")
    };
    assert_eq!(*place, folder.place("p.yaml:1"));
    assert!(
        message.contains(
            "ServiceExpositionPolicy default/a: spec.exposed[0].prot: there is no such field (is port meant?)"
        ),
        "{message}"
    );
    assert!(short(&told).contains(&gone("b")), "{told:?}");

    // Not even YAML: nothing of the file is withdrawn. The place of the mistake is another one now.
    folder.write("p.yaml", "kind: [");
    folder.write("q.yaml", policy("marker", 1).to_string());
    let told = short(&ear.until_key(&policy_key("marker")).await);
    assert!(!told.contains(&gone("a")), "{told:?}");

    folder.write("p.yaml", &good);
    let told = short(&ear.until_key(&policy_key("b")).await);
    assert!(!told.contains(&set("a")), "it never went: {told:?}");
    let mended = told.contains(&format!("solved {}", folder.place("p.yaml:1")));
    assert!(mended || matches!(ear.next().await, Change::Solved { .. }), "{told:?}");
}

#[tokio::test]
async fn a_file_that_is_being_written_withdraws_nothing() {
    use std::io::Write as _;
    let folder = Folder::make();
    let path = folder.write("p.yaml", policy("a", 1).to_string());
    let mut ear = Ear::synced(&folder.store()).await;
    let mut file = fs::File::create(path).unwrap(); // empty now
    folder.write("q.yaml", policy("marker", 1).to_string());
    assert_eq!(short(&ear.until_key(&policy_key("marker")).await), [set("marker")]);
    file.write_all(policy("a", 2).to_string().as_bytes()).unwrap();
    drop(file);
    let told = ear.until_key(&policy_key("a")).await;
    assert_eq!((short(&told), port(told.last())), (vec![set("a")], Some(2)));
}

#[tokio::test]
async fn a_file_that_was_emptied_holds_nothing() {
    let folder = Folder::make();
    folder.write("p.yaml", policy("a", 1).to_string());
    let mut ear = Ear::synced(&folder.store()).await;
    folder.write("p.yaml", "");
    assert_eq!(short(&ear.until_key(&policy_key("a")).await), [gone("a")]);
}

#[tokio::test]
async fn a_file_that_is_removed_and_made_anew_withdraws_nothing() {
    // As git checkout does it.
    let folder = Folder::make();
    folder.write("p.yaml", stream(&[policy("a", 1), policy("b", 1)]));
    let mut ear = Ear::synced(&folder.store()).await;
    for round in 2..20 {
        folder.remove("p.yaml");
        folder.write("p.yaml", stream(&[policy("a", round), policy("b", 1)]));
        let told = ear.until_key(&policy_key("a")).await;
        assert_eq!((short(&told), port(told.last())), (vec![set("a")], Some(round)));
    }
}

#[tokio::test]
async fn an_object_that_moves_to_another_file_is_not_withdrawn() {
    let folder = Folder::make();
    folder.write("z.yaml", policy("a", 1).to_string());
    let mut ear = Ear::synced(&folder.store()).await;
    folder.rename("z.yaml", "b.yaml");
    folder.rename("b.yaml", "zz.yaml");
    folder.write("q.yaml", policy("marker", 1).to_string());
    assert_eq!(short(&ear.until_key(&policy_key("marker")).await), [set("marker")]);
    folder.remove("zz.yaml");
    assert_eq!(short(&ear.until_key(&policy_key("a")).await), [gone("a")]);
}

#[tokio::test]
async fn of_an_object_in_two_files_the_first_by_name_counts_and_both_are_named() {
    let folder = Folder::make();
    folder.write("b.yaml", policy("a", 2).to_string());
    let mut ear = Ear::synced(&folder.store()).await;
    let both = |told: &[Change], at: &str, other: &str| {
        told.iter().any(|c| match c {
            Change::Problem { place, message, .. } => {
                *place == folder.place(at) && message.contains(&folder.place(other))
            }
            _ => false,
        })
    };
    folder.write("c.yaml", policy("a", 3).to_string());
    let told = vec![ear.next().await];
    assert!(both(&told, "c.yaml:1", "b.yaml"), "{told:?}");

    folder.write("a.yaml", policy("a", 1).to_string());
    let told = ear.until(|c| matches!(c, Change::Problem { place, .. } if place.contains("b.yaml"))).await;
    assert_eq!(port(told.iter().find(|c| matches!(c, Change::Set(..)))), Some(1), "{told:?}");
    assert!(both(&told, "b.yaml:1", "a.yaml"), "{told:?}");

    folder.remove("a.yaml");
    let told = ear.until_key(&policy_key("a")).await;
    assert_eq!(port(told.last()), Some(2), "the next one counts: {told:?}");
    folder.remove("b.yaml");
    let told = ear.until_key(&policy_key("a")).await;
    assert_eq!(port(told.last()), Some(3), "{told:?}");
    folder.remove("c.yaml");
    assert_eq!(short(&ear.until_key(&policy_key("a")).await).last(), Some(&gone("a")));
}

#[tokio::test]
async fn an_object_twice_in_a_file_is_told_and_the_first_counts() {
    let folder = Folder::make();
    folder.write("p.yaml", stream(&[policy("a", 1), policy("a", 2)]));
    let (_ear, told) = Ear::new(&folder.store()).await;
    assert_eq!(port(told.iter().find(|c| matches!(c, Change::Set(..)))), Some(1));
    assert!(short(&told).contains(&format!("problem {}", folder.place("p.yaml:4"))), "{told:?}");
}

#[tokio::test]
async fn links_to_files_are_followed_wherever_they_lead() {
    let outside = Folder::make();
    let target = outside.write("target.yaml", policy("a", 1).to_string());
    let folder = Folder::make();
    std::os::unix::fs::symlink(&target, folder.path().join("link.yaml")).unwrap();
    let (mut ear, start) = Ear::new(&folder.store()).await;
    assert_eq!(short(&start), [set("a"), "synced".into()]);
    outside.write("target.yaml", policy("a", 2).to_string());
    assert_eq!(port(ear.until_key(&policy_key("a")).await.last()), Some(2));
    // Editors write another file and move it to its place.
    outside.write("new", policy("a", 3).to_string());
    outside.rename("new", "target.yaml");
    assert_eq!(port(ear.until_key(&policy_key("a")).await.last()), Some(3));
    // A link made later counts at once, though nobody writes to it.
    let other = outside.write("other.yaml", policy("b", 1).to_string());
    std::os::unix::fs::symlink(other, folder.path().join("later.yaml")).unwrap();
    assert_eq!(short(&ear.until_key(&policy_key("b")).await), [set("b")]);
    folder.remove("link.yaml");
    assert_eq!(short(&ear.until_key(&policy_key("a")).await), [gone("a")]);
}

#[tokio::test]
async fn a_volume_of_kubernetes_is_exchanged_at_once() {
    // The kubelet writes a new hidden folder and turns the link ..data to it (its AtomicWriter).
    let folder = Folder::make();
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, folder.path().join(name)).unwrap();
    folder.write("..1/p.yaml", policy("a", 1).to_string());
    link("..1", "..data");
    link("..data/p.yaml", "p.yaml");
    let (mut ear, start) = Ear::new(&folder.store()).await;
    assert_eq!(short(&start), [set("a"), "synced".into()]);
    for round in 2..5 {
        folder.write(&format!("..{round}/p.yaml"), policy("a", round).to_string());
        link(&format!("..{round}"), "..data_tmp");
        folder.rename("..data_tmp", "..data");
        fs::remove_dir_all(folder.path().join(format!("..{}", round - 1))).unwrap();
        let told = ear.until_key(&policy_key("a")).await;
        assert_eq!(port(told.last()), Some(round), "{told:?}");
        assert!(!short(&told).contains(&gone("a")));
    }
}

#[tokio::test]
async fn the_end_of_the_store_is_the_end_of_its_changes() {
    let folder = Folder::make();
    let store = folder.store();
    let mut changes = store.watch_changes().await.unwrap();
    while !matches!(changes.recv().await, Some(Change::Synced)) {}
    assert!(store.watch_changes().await.is_err(), "only one may listen");
    drop(store);
    assert!(changes.recv().await.is_none());
}

#[tokio::test]
async fn harmless_files_of_a_checkout_are_passed_over_and_broken_ones_of_wharf_are_not() {
    let folder = Folder::make();
    let harmless = [
        ("chart/Chart.yaml", "apiVersion: v2\nname: pay\nversion: 1.2.0\n"),
        ("chart/values.yaml", "replicas: 2\nimage: {tag: v1}\n"),
        (
            "chart/templates/service.yaml",
            "apiVersion: v1\nkind: Service\nmetadata: {name: {{ .Release.Name }}}\n{{- end }}\n",
        ),
        ("chart/templates/quoted.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: \"{{ .Release.Name }}\"}\n"),
        ("chart/templates/deployment.yaml", "{{- if .Values.on }}\nkind: Deployment\n{{ end }}\n"),
        ("overlay/patch.yaml", "- op: replace\n  path: /spec/replicas\n  value: 2\n"),
        ("overlay/kustomization.yaml", "resources: [../base]\npatches: [{path: patch.yaml}]\n"),
        ("overlay/typed/kustomization.yaml", "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"),
        ("list.json", "[\"a\", {\"b\": 1}]"),
        ("text.yaml", "just a sentence\n"),
        ("secret.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\ndata: {a: Yg==}\n"),
    ];
    for (file, text) in harmless {
        folder.write(file, text);
    }
    folder.write("a.yaml", policy("a", 1).to_string());
    let store = folder.store();
    let (_, start) = Ear::new(&store).await;
    assert_eq!(short(&start), [set("a"), "synced".into()], "{start:?}");
    drop(store);
    let broken = [
        ("b.yaml", "apiVersion: multicluster.istio.io/v1alpha1\nmetadata: {name: b}\n"),
        ("c.yaml", "kind: ServiceExpositionPolicy\nmetadata: {name: c}\n"),
        ("d.yaml", "kind: RemoteServiceBinding\nspec: [\n"),
        ("e.yaml", "- apiVersion: multicluster.istio.io/v1alpha1\n  kind: ClusterPeering\n"),
        (
            "f.yaml",
            "apiVersion: multicluster.istio.io/v1alpha1\nkind: ServiceExpositionPolicy\nmetadata: {name: {{ .x }}}\n",
        ),
    ];
    for (file, text) in broken {
        folder.write(file, text);
    }
    let (_, start) = Ear::new(&folder.store()).await;
    for (file, _) in broken {
        assert!(start.iter().any(|c| matches!(c, Change::Problem { place, .. } if place.contains(file))), "{file}");
    }
}
