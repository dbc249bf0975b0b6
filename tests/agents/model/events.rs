//! What can happen.

use std::fs;

use rand::RngExt as _;
use rand::rngs::StdRng;

use super::texts::{self, one_in, pick};
use super::world::{Entry, NAMES, World};
use crate::support::cluster::replace;
use crate::support::proxy::Link;

/// Does something, and says what.
pub fn next(world: &mut World, rng: &mut StdRng) -> String {
    let of = rng.random_range(0..NAMES.len());
    let what = match rng.random_range(0..100) {
        0..22 => policy(world, rng, of),
        22..42 => binding(world, rng, of),
        42..56 => facts(world, rng, of),
        56..60 => litter(world, rng, of),
        60..74 => peer(world, rng, of),
        74..80 => process(world, rng, of),
        80..87 => network(world, rng, of),
        87..90 => {
            world.site.renew(NAMES[of], &[]);
            "its certificate is renewed".into()
        }
        90..97 => drift(world, rng, of),
        _ => self_made(world, rng, of),
    };
    format!("{}: {what}", NAMES[of])
}

/// Writes a file in one of the ways in which files are written, or removes it.
fn put(world: &mut World, rng: &mut StdRng, of: usize, file: &str, text: impl FnOnce(&mut StdRng) -> String) -> String {
    let path = world.clusters[of].store.join(file);
    if path.exists() && one_in(rng, 6) {
        fs::remove_file(&path).unwrap();
        return format!("{file} is removed");
    }
    let text = text(rng);
    world.litter.remove(&(of, file.to_owned()));
    if one_in(rng, 2) {
        world.clusters[of].write(file, &text);
    } else {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        replace(&path, text.as_bytes());
    }
    format!("{file} is written: {}", text.replace('\n', " "))
}

fn policy(world: &mut World, rng: &mut StdRng, of: usize) -> String {
    let name = format!("p{}", rng.random_range(0..4));
    put(world, rng, of, &format!("policies/{name}.yaml"), |rng| texts::policy(rng, &name))
}

fn binding(world: &mut World, rng: &mut StdRng, of: usize) -> String {
    let name = format!("b{}", rng.random_range(0..4));
    put(world, rng, of, &format!("{name}.yaml"), |rng| texts::binding(rng, NAMES[of], &name))
}

fn facts(world: &mut World, rng: &mut StdRng, of: usize) -> String {
    let n = rng.random_range(0..3);
    let name = texts::SERVICES[n];
    match rng.random_range(0..10) {
        // Two files come to hold the same object: the first by name counts.
        0 => put(world, rng, of, "more.yaml", |rng| texts::service(rng, name)),
        1..4 => put(world, rng, of, &format!("service-{n}.yaml"), |rng| texts::service(rng, name)),
        4..6 => put(world, rng, of, &format!("rule-{n}.yaml"), |rng| texts::rule(rng, name)),
        6 | 7 => put(world, rng, of, "routes.yaml", texts::routes),
        _ => put(world, rng, of, &format!("mine-{n}.yaml"), texts::in_the_way),
    }
}

/// A file of which nothing can be read, sometimes in the place of a good one: what was good there stays in force, as long
/// as the agent runs.
fn litter(world: &mut World, rng: &mut StdRng, of: usize) -> String {
    let file = pick(rng, &["garbage.yaml", "policies/p0.yaml", "b1.yaml", "service-0.yaml"]).to_owned();
    let text = pick(
        rng,
        &["kind: [", "\u{0}\u{1}", "a: &a [*a]", "apiVersion: multicluster.istio.io/v1alpha1\nkind: Nothing\n"],
    );
    world.clusters[of].write(&file, text);
    world.litter.insert((of, file.clone()));
    format!("{file} is rubble")
}

fn peer(world: &mut World, rng: &mut StdRng, of: usize) -> String {
    let to = (of + rng.random_range(1..NAMES.len())) % NAMES.len();
    let pair = (of, to);
    if one_in(rng, 6) {
        // An object overlays the entry of the file.
        let address = world.links[&pair].address;
        let (consume, mode) = (!one_in(rng, 3), pick(rng, &["none", "live", "potential"]));
        let name = NAMES[to];
        return put(world, rng, of, &format!("peering-{name}.yaml"), |_| {
            format!(
                "apiVersion: multicluster.istio.io/v1alpha1\nkind: ClusterPeering\nmetadata: {{name: {name}}}\nspec: \
                 {{endpoint: \"{address}\", consume: {consume}, connectionMode: {mode}, trustDomain: {name}, allowedGatewayNames: [{name}.example]}}\n"
            )
        });
    }
    let what = match world.entries.get_mut(&pair) {
        None => {
            world.entries.insert(pair, Entry::default());
            "is a peer".to_owned()
        }
        Some(entry) => match rng.random_range(0..8) {
            0 => {
                world.entries.remove(&pair);
                "is no peer".to_owned()
            }
            1 => set(rng, "dialled", &mut entry.dialled),
            2 | 3 => set(rng, "permitted", &mut entry.consume),
            4 => set(rng, "given a gateway", &mut entry.gateway),
            5 => {
                entry.namespace = pick(rng, &["", "imported"]);
                format!("binds by itself in {:?}", entry.namespace)
            }
            _ => {
                entry.mode = pick(rng, &["none", "live", "live", "potential"]);
                format!("binds by itself: {}", entry.mode)
            }
        },
    };
    world.configure(of);
    format!("{} {what}", NAMES[to])
}

fn set(rng: &mut StdRng, what: &str, flag: &mut bool) -> String {
    *flag = !one_in(rng, 3);
    format!("is {}{what}", if *flag { "" } else { "not " })
}

fn process(world: &mut World, rng: &mut StdRng, of: usize) -> String {
    let cluster = &mut world.clusters[of];
    if !cluster.runs() {
        cluster.start();
        return "it starts".into();
    }
    // Before it handles signals, they end it.
    let ready = cluster.get("/healthz").is_some();
    if one_in(rng, 4) && ready {
        let (status, _) = cluster.stop();
        assert_eq!(status.code(), Some(0), "{}", cluster.log());
    } else {
        cluster.kill();
    }
    if one_in(rng, 3) {
        return "it goes".into();
    }
    cluster.start();
    "it is started anew".into()
}

fn network(world: &World, rng: &mut StdRng, of: usize) -> String {
    let to = (of + rng.random_range(1..NAMES.len())) % NAMES.len();
    let link = [Link::Cut, Link::Stalled, Link::Up, Link::Up][rng.random_range(0..4)];
    world.links[&(of, to)].set(link);
    format!("its way to {} is {link:?}", NAMES[to])
}

/// Somebody lays hands on what Wharf wrote.
fn drift(world: &mut World, rng: &mut StdRng, of: usize) -> String {
    let folder = world.clusters[of].store.join("istio");
    let mut files: Vec<_> = fs::read_dir(&folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    files.sort();
    let Some(path) = files.get(rng.random_range(0..files.len().max(1))).cloned() else {
        return "there is nothing to lay hands on".into();
    };
    let file = path.file_name().unwrap().to_string_lossy().into_owned();
    // The agent may have removed it in the meantime; then it is a file of nobody's, and goes when all is healed.
    let Ok(text) = fs::read_to_string(&path) else { return format!("{file} is gone already") };
    let what = match rng.random_range(0..5) {
        0 => {
            let _ = fs::remove_file(&path);
            "removed"
        }
        1 => {
            fs::write(&path, text.replace("spec:", "spec:\n  injected: yes")).unwrap();
            "edited"
        }
        2 => {
            fs::write(&path, &text[..text.len() / 2]).unwrap();
            "cut short"
        }
        3 => {
            fs::write(&path, text.replace("name: ", "name: x")).unwrap();
            "renamed inside"
        }
        _ => {
            let theirs = text.lines().filter(|l| !l.contains("managed-by") && !l.starts_with('#'));
            replace(&path, theirs.collect::<Vec<_>>().join("\n").as_bytes());
            world.litter.insert((of, format!("istio/{file}")));
            "taken over"
        }
    };
    format!("{file} is {what}")
}

/// Somebody makes an offer live, or gives it another name.
fn self_made(world: &World, rng: &mut StdRng, of: usize) -> String {
    let folder = world.clusters[of].store.join("bindings");
    let mut files: Vec<_> = fs::read_dir(&folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    files.sort();
    let Some(path) = files.first() else { return "no binding made itself".into() };
    let Ok(text) = fs::read_to_string(path) else { return "the binding is gone already".into() };
    let changed = if one_in(rng, 2) {
        text.replace("connection: potential", "connection: live")
    } else {
        text.replacen("- name: ", "- alias: l9\n      name: ", 1)
    };
    // A second alias for one service is no YAML; Wharf keeps what was good, and so must this.
    if changed.matches("alias: l9").count() < 2 {
        fs::write(path, changed).unwrap();
    }
    "a binding that made itself is edited".into()
}
