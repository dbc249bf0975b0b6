//! What the API servers need for as many objects, when nobody but the benchmark applies them.

use std::time::{Duration, Instant};

use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ListParams};
use serde_json::Value;

use crate::site::{self, Pattern, Side, Site};

pub struct Bare {
    /// Policies and bindings.
    pub inputs: Duration,
    /// What Wharf makes of them.
    pub objects: Duration,
    /// One status of each policy and binding.
    pub statuses: Duration,
}

impl Bare {
    pub fn sum(&self) -> Duration {
        self.inputs + self.objects + self.statuses
    }
}

/// Both API servers at the same time, each with as many requests at a time as Wharf has, and clean again after it.
pub async fn measure(site: &Site, pattern: &Pattern, count: usize) -> Bare {
    let inputs = async |side, make: fn(&str, usize) -> Value| {
        site.apply_all(side, (0..count).map(|i| make("floor", i)).collect()).await;
    };
    let begun = Instant::now();
    tokio::join!(inputs(Side::Donor, site::policy), inputs(Side::Acceptor, site::binding));
    let took = begun.elapsed();
    let [donor, acceptor] = [Side::Donor, Side::Acceptor].map(|side| {
        let texts: Vec<_> = pattern.at(side).iter().map(ToString::to_string).collect();
        let all = (0..count).flat_map(|i| {
            texts.iter().map(move |text| {
                let text = text.replace(&pattern.name, &format!("f{i}")).replace("wharf", "floor");
                serde_json::from_str::<Value>(&text).expect("JSON")
            })
        });
        all.collect::<Vec<_>>()
    });
    // As Wharf's are: by watches.
    let mut eyes = site.eyes(pattern, count).await;
    let begun = Instant::now();
    tokio::join!(site.apply_all(Side::Donor, donor), site.apply_all(Side::Acceptor, acceptor));
    let seen = site::all_seen(&mut eyes, begun).await;
    let objects = seen - begun;
    drop(eyes);
    let mut eyes = site.eyes_for_ready().await;
    let begun = Instant::now();
    tokio::join!(site.tell_all(Side::Donor, pattern, count), site.tell_all(Side::Acceptor, pattern, count));
    for eye in &mut eyes {
        eye.see(count).await;
    }
    let bare = Bare { inputs: took, objects, statuses: begun.elapsed() };
    let seconds = [bare.inputs, bare.objects, bare.statuses].map(|d| d.as_secs_f64());
    eprintln!(
        "without: policies and bindings {:.2} s, objects {:.2} s, statuses {:.2} s",
        seconds[0], seconds[1], seconds[2]
    );
    clean(site, pattern).await;
    bare
}

async fn clean(site: &Site, pattern: &Pattern) {
    for side in [Side::Donor, Side::Acceptor] {
        let mut kinds: Vec<_> = pattern.kinds(side).into_iter().collect();
        kinds.push(if side == Side::Donor { "ServiceExpositionPolicy" } else { "RemoteServiceBinding" }.to_owned());
        for kind in kinds {
            let own = kind.starts_with("ServiceExp") || kind.starts_with("Remote");
            let namespaces: &[&str] = if own { &["floor"] } else { &["shop", "istio-system"] };
            let mut which = ListParams::default();
            if !own {
                which = which.labels("app.kubernetes.io/managed-by=floor");
            }
            for namespace in namespaces {
                let api: Api<DynamicObject> =
                    Api::namespaced_with(site.cluster(side).client(), namespace, &site::resource(&kind));
                api.delete_collection(&DeleteParams::default(), &which).await.expect("an answer");
            }
        }
    }
}
