//! Derives from istiod's counters which gateway refuses its configuration now. Pure: the time is a parameter.
//!
//! Istiod's metrics show the proxies that ever refused something, and the number of refusals. They do not show which
//! proxy accepts its configuration again. That follows from later values: each change of configuration goes to every
//! gateway, so if one was pushed, with resources of this kind, and nothing more was refused, the gateways accepted it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::metrics_text::{GatewayRole, MetricsSample, XdsResource};

/// Most replicas of istiod that are told apart.
const MAX_REPLICAS: usize = 16;
/// Time without an answer after which a replica is gone, and its gateways belong to another.
const GONE: Duration = Duration::from_secs(300);

/// A gateway's refusal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigRefusal {
    pub resources: BTreeSet<XdsResource>,
    /// Pods as istiod names them: `<pod>.<namespace>`.
    pub pods: BTreeSet<String>,
    /// This process observed the refusal. Otherwise it happened at some time since istiod started, and the gateway may
    /// have accepted a newer configuration since.
    pub seen: bool,
}

/// The gateways' refusals. Empty: no refusal is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatewayRefusals {
    by_role: BTreeMap<GatewayRole, ConfigRefusal>,
}

impl GatewayRefusals {
    pub fn of_gateway(&self, role: GatewayRole) -> Option<&ConfigRefusal> {
        self.by_role.get(&role)
    }
}

/// The observed counters of each replica of istiod.
#[derive(Debug, Default)]
pub struct RefusalHistory {
    /// Replicas by the bits of their start time.
    replicas: BTreeMap<u64, ReplicaHistory>,
}

#[derive(Debug)]
struct ReplicaHistory {
    last: MetricsSample,
    seen: Duration,
    refusing: BTreeMap<XdsResource, OpenRefusal>,
}

/// A refusal that nothing contradicts yet.
#[derive(Debug)]
struct OpenRefusal {
    seen: bool,
    /// Numbers of pushed changes, and of resources of this kind, at the last refusal.
    config_pushes: f64,
    pushes: f64,
    /// One look showed that the gateways accepted a change. The next look confirms it, because a refusal may have been
    /// on its way.
    taken: bool,
}

impl RefusalHistory {
    /// Takes in the counters of one replica.
    pub fn add_sample(&mut self, sample: MetricsSample, now: Duration) {
        self.replicas.retain(|_, replica| now.saturating_sub(replica.seen) < GONE);
        let key = sample.started.to_bits();
        if let Some(replica) = self.replicas.get_mut(&key) {
            replica.add_sample(sample, now);
        } else if self.replicas.len() < MAX_REPLICAS {
            let mut refusing = BTreeMap::new();
            for (resource, pods) in &sample.refused {
                if !pods.is_empty() {
                    refusing.insert(*resource, OpenRefusal::from_sample(&sample, *resource, false));
                }
            }
            self.replicas.insert(key, ReplicaHistory { last: sample, seen: now, refusing });
        }
    }

    /// Combines the refusals of all replicas.
    pub fn combined_refusals(&self, now: Duration) -> GatewayRefusals {
        let mut all = GatewayRefusals::default();
        for replica in self.replicas.values().filter(|r| now.saturating_sub(r.seen) < GONE) {
            for (resource, open) in &replica.refusing {
                for (role, pod) in replica.last.refused.get(resource).into_iter().flatten() {
                    let refusal = all.by_role.entry(*role).or_default();
                    refusal.resources.insert(*resource);
                    refusal.pods.insert(pod.clone());
                    refusal.seen |= open.seen;
                }
            }
        }
        all
    }
}

impl ReplicaHistory {
    fn add_sample(&mut self, sample: MetricsSample, now: Duration) {
        for resource in XdsResource::ALL {
            let count = |s: &MetricsSample| s.rejects.get(&resource).copied().unwrap_or_default();
            let refused_since = count(&sample) > count(&self.last);
            let by_gateways = sample.refused.get(&resource).is_some_and(|pods| !pods.is_empty());
            if refused_since && by_gateways {
                // The metrics do not name the proxy of this refusal. If a gateway ever refused something, it may be the
                // gateway.
                self.refusing.insert(resource, OpenRefusal::from_sample(&sample, resource, true));
            } else if let Some(open) = self.refusing.get_mut(&resource) {
                let taken = open.is_taken(&sample, resource);
                if taken && open.taken {
                    self.refusing.remove(&resource);
                } else {
                    open.taken = taken;
                }
            }
        }
        self.last = sample;
        self.seen = now;
    }
}

impl OpenRefusal {
    fn from_sample(sample: &MetricsSample, resource: XdsResource, seen: bool) -> OpenRefusal {
        let pushes = sample.pushes.get(&resource).copied().unwrap_or_default();
        OpenRefusal { seen, config_pushes: sample.config_pushes, pushes, taken: false }
    }

    fn is_taken(&self, sample: &MetricsSample, resource: XdsResource) -> bool {
        let pushes = sample.pushes.get(&resource).copied().unwrap_or_default();
        sample.config_pushes > self.config_pushes && pushes > self.pushes
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::agent::istiod::metrics_text::GatewayPods;
    use crate::config::Config;

    pub fn pods() -> GatewayPods {
        let config = Config::parse("cluster: c", "test", std::path::Path::new(".")).unwrap();
        GatewayPods::from_config(&config)
    }

    const POD: &str = "istio-ingressgateway-1.istio-system";

    /// Rejected routes, pushed routes, changes of configuration; `refused`: the ingress gateway ever refused routes.
    fn sample(started: f64, rejects: f64, pushes: f64, config_pushes: f64, refused: bool) -> MetricsSample {
        let pods = refused.then(|| (XdsResource::Routes, BTreeSet::from([(GatewayRole::Ingress, POD.to_owned())])));
        MetricsSample {
            started,
            rejects: BTreeMap::from([(XdsResource::Routes, rejects)]),
            pushes: BTreeMap::from([(XdsResource::Routes, pushes)]),
            config_pushes,
            refused: pods.into_iter().collect(),
            is_istiod: true,
        }
    }

    /// After each look: None, nothing is refused; else whether it was seen to be.
    fn looks(samples: &[MetricsSample]) -> Vec<Option<bool>> {
        let mut history = RefusalHistory::default();
        let mut after = Vec::new();
        for (i, sample) in samples.iter().enumerate() {
            let now = Duration::from_secs(15 * i as u64);
            history.add_sample(sample.clone(), now);
            let refusals = history.combined_refusals(now);
            assert_eq!(refusals.of_gateway(GatewayRole::Egress), None);
            after.push(refusals.of_gateway(GatewayRole::Ingress).map(|r| r.seen));
        }
        after
    }

    #[test]
    fn a_refusal_is_told_until_a_change_was_pushed_and_not_refused() {
        let history = [
            sample(1.0, 0.0, 10.0, 5.0, false),
            sample(1.0, 1.0, 11.0, 6.0, true),
            sample(1.0, 1.0, 11.0, 6.0, true), // nothing happens: it still refuses
            sample(1.0, 1.0, 12.0, 6.0, true), // a pod came, and got its routes: that says nothing of the gateway
            sample(1.0, 1.0, 13.0, 7.0, true), // a change was pushed; its refusal may be on its way
            sample(1.0, 2.0, 13.0, 7.0, true), // it was
            sample(1.0, 2.0, 14.0, 8.0, true),
            sample(1.0, 2.0, 14.0, 8.0, true),
        ];
        let seen = Some(true);
        assert_eq!(looks(&history), [None, seen, seen, seen, seen, seen, seen, None]);
    }

    #[test]
    fn a_refusal_of_another_proxy_is_none_of_a_gateway() {
        let history = [sample(1.0, 0.0, 1.0, 1.0, false), sample(1.0, 5.0, 9.0, 9.0, false)];
        assert_eq!(looks(&history), [None, None]);
    }

    #[test]
    fn a_refusal_before_the_first_look_is_not_known_to_last() {
        let history =
            [sample(1.0, 4.0, 10.0, 5.0, true), sample(1.0, 4.0, 11.0, 6.0, true), sample(1.0, 4.0, 11.0, 6.0, true)];
        assert_eq!(looks(&history), [Some(false), Some(false), None]);
    }

    #[test]
    fn replicas_behind_one_address_do_not_count_as_one() {
        let history = [
            sample(1.0, 7.0, 10.0, 5.0, false),
            sample(2.0, 0.0, 3.0, 5.0, false),
            sample(1.0, 7.0, 10.0, 5.0, false),
            sample(2.0, 1.0, 4.0, 6.0, true),
            sample(1.0, 7.0, 11.0, 6.0, false),
        ];
        assert_eq!(looks(&history), [None, None, None, Some(true), Some(true)]);
    }

    #[test]
    fn a_replica_that_is_gone_says_nothing_any_more_and_replicas_are_bounded() {
        let mut history = RefusalHistory::default();
        history.add_sample(sample(1.0, 1.0, 1.0, 1.0, true), Duration::ZERO);
        assert!(history.combined_refusals(GONE / 2).of_gateway(GatewayRole::Ingress).is_some());
        assert_eq!(history.combined_refusals(GONE), GatewayRefusals::default());
        (0..1000).for_each(|i| history.add_sample(sample(f64::from(i), 0.0, 0.0, 0.0, true), GONE));
        assert_eq!(history.replicas.len(), MAX_REPLICAS);
    }
}
