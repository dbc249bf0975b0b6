//! Policies and bindings that are split, merged and renamed: a name leads to its service or nowhere, and in the end it works.

use std::collections::BTreeMap;
use std::fs;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

use super::support::objects::{binding, policy_of, service};
use super::support::{Cluster, Site};

const NAMES: [&str; 3] = ["books", "cds", "dvds"];
const STEPS: usize = 25;

/// Which names each policy, or each binding, has now: by its own name, which is its file's, too.
type Parts = BTreeMap<String, Vec<&'static str>>;

/// Moves one name into another part, new or old; or renames a part.
fn move_something(parts: &Parts, step: usize, random: &mut StdRng) -> Parts {
    let mut moved = parts.clone();
    let name = NAMES[random.random_range(0..NAMES.len())];
    let from = parts.iter().find(|(_, names)| names.contains(&name)).map(|(part, _)| part.clone()).expect("a part");
    let fresh = format!("{}{step}", ["a", "z"][random.random_range(0..2)]); // before and after the others by name
    if random.random_bool(0.3) {
        let names = moved.remove(&from).expect("the part");
        moved.insert(fresh, names);
        return moved;
    }
    let others: Vec<_> = parts.keys().filter(|part| **part != from).cloned().collect();
    let to = match others.is_empty() || random.random_bool(0.5) {
        true => fresh,
        false => others[random.random_range(0..others.len())].clone(),
    };
    let left = moved.get_mut(&from).expect("the part");
    left.retain(|other| *other != name);
    if left.is_empty() {
        moved.remove(&from);
    }
    moved.entry(to).or_default().push(name);
    moved
}

/// Writes what is new first, or removes what is old first.
fn write(cluster: &Cluster, before: &Parts, after: &Parts, new_first: bool, text: impl Fn(&str, &[&str]) -> String) {
    let remove = || {
        for part in before.keys().filter(|part| !after.contains_key(*part)) {
            fs::remove_file(cluster.store.join(format!("{part}.yaml"))).expect("the part's file");
        }
    };
    if !new_first {
        remove();
    }
    for (part, names) in after.iter().filter(|(part, names)| before.get(*part) != Some(names)) {
        cluster.write(&format!("{part}.yaml"), text(part, names));
    }
    if new_first {
        remove();
    }
}

/// The objects of a name that speak of another one.
fn misled(cluster: &Cluster) -> Vec<Value> {
    let of_name = |object: &Value, name: &str| object["spec"]["hosts"].to_string().contains(&format!("{name}.default"));
    let routes = cluster.find("VirtualService", "default");
    let is_misled = |object: &Value| {
        NAMES.iter().filter(|name| of_name(object, name)).any(|name| {
            let text = object["spec"].to_string();
            NAMES.iter().any(|other| other != name && text.contains(&format!("{other}.default")))
        })
    };
    routes.into_iter().filter(is_misled).collect()
}

#[test]
fn histories_of_parts_that_are_split_and_renamed_lead_no_name_astray() {
    let seed = std::env::var("WHARF_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random::<u64>);
    println!("WHARF_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let site = Site::new();
    let (mut donor, mut acceptor) = (site.cluster("donor"), site.cluster("acceptor"));
    donor.configure("", &[acceptor.as_consumer()]);
    acceptor.configure("", &[donor.as_donor()]);
    donor.write("services.yaml", NAMES.map(|name| service(name, 9080)).concat());
    let exposes = |part: &str, names: &[&str]| {
        let entries: Vec<_> = names.iter().map(|name| format!("{{name: {name}, clusters: [acceptor]}}")).collect();
        policy_of(part, &entries.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let binds = |part: &str, names: &[&str]| binding(part, "donor", names);
    let all = |part: &str| Parts::from([(part.to_owned(), NAMES.to_vec())]);
    let (mut policies, mut bindings) = (all("m"), all("m"));
    write(&donor, &Parts::new(), &policies, true, exposes);
    write(&acceptor, &Parts::new(), &bindings, true, binds);
    donor.start();
    acceptor.start();
    for step in 0..STEPS {
        let at_donor = random.random_bool(0.5);
        let (cluster, parts) = if at_donor { (&mut donor, &mut policies) } else { (&mut acceptor, &mut bindings) };
        let after = move_something(parts, step, &mut random);
        let (new_first, away) = (random.random_bool(0.5), random.random_bool(0.3));
        if away {
            cluster.stop();
        }
        match at_donor {
            true => write(cluster, parts, &after, new_first, exposes),
            false => write(cluster, parts, &after, new_first, binds),
        }
        if away {
            cluster.start();
        }
        *parts = after;
        let works = || {
            for cluster in [&donor, &acceptor] {
                let misled = misled(cluster);
                assert!(misled.is_empty(), "step {step}: {policies:?}, {bindings:?}: {misled:?}");
            }
            let bound = |name: &&str| {
                let part = bindings.iter().find(|(_, names)| names.contains(name)).map(|(part, _)| part)?;
                let binding = acceptor.binding(part)?;
                let service =
                    binding.status.services.into_iter().find(|s| s.exposition.ends_with(&format!("/{name}")))?;
                (service.bound && acceptor.bound(name)).then_some(())
            };
            let exposed = |name: &&str| {
                let part = policies.iter().find(|(_, names)| names.contains(name)).map(|(part, _)| part)?;
                let entry = donor.policy(part)?.status.exposed.into_iter().find(|e| e.name == **name)?;
                (entry.reason == "Exposed" && entry.bound_by == ["acceptor"]).then_some(())
            };
            NAMES.iter().all(|name| bound(name).is_some() && exposed(name).is_some()).then_some(())
        };
        site.until(&format!("step {step}: {policies:?}, {bindings:?}"), works);
    }
}
