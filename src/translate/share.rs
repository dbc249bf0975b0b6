//! Shares of the calls for donors behind one name: weights over all their addresses, tiers of priority, nearness.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::istio::{
    DestinationRuleTrafficPolicyLoadBalancer as LoadBalancer,
    DestinationRuleTrafficPolicyLoadBalancerLocalityLbSetting as LocalityLbSetting,
    DestinationRuleTrafficPolicyLoadBalancerSimple as Simple,
};
use crate::model::GatewayAddress;

use super::merge::SourceCandidate;
use super::plan::PlanEndpoint;

/// The label of an endpoint that says whose gateway it is.
const DONOR: &str = "multicluster.istio.io/donor";

/// The gateways of the donors of one group, each with its share, and whose it is. `several`: the donors have to be told
/// apart.
pub(super) fn build_endpoints<'a, 'b>(
    members: &[&'b SourceCandidate<'a>],
    several: bool,
) -> Vec<(&'b SourceCandidate<'a>, PlanEndpoint)> {
    // A donor's weight is split over its addresses exactly: all weights times what every number of addresses divides.
    let count = |c: &SourceCandidate<'_>| c.gateways().len().max(1) as u128;
    let common = members.iter().map(|c| count(c)).fold(1, lcm);
    let shares = members.iter().flat_map(|c| {
        let share = u128::from(c.weight()).saturating_mul(common) / count(c);
        std::iter::repeat_n(share, c.gateways().len())
    });
    let shares = reduce_weights(shares.collect(), u32::MAX as u128);
    let equal = shares.windows(2).all(|w| matches!(w, [a, b] if a == b));
    let all = members.iter().flat_map(|c| c.gateways().iter().map(move |g| (c, g)));
    let one = |((c, gateway), weight): ((&&'b SourceCandidate<'a>, &GatewayAddress), u32)| {
        let mut labels = BTreeMap::new();
        if several {
            labels.insert(DONOR.to_owned(), c.wanted().cluster.to_string());
        }
        (*c, PlanEndpoint { gateway: gateway.clone(), labels, weight: (!equal).then_some(weight) })
    };
    all.zip(shares).map(one).collect()
}

pub(super) fn priority_tiers(accepted: &[SourceCandidate<'_>]) -> BTreeSet<u32> {
    accepted.iter().map(|c| c.wanted().priority).collect()
}

/// Marks the endpoints by tier. Istio orders endpoints by how many of a list of labels they match from its beginning
/// (`failoverPriority`): the first of n+1 tiers has all n of them, the next one less, the last none.
pub(super) fn mark_tiers(endpoints: &mut [PlanEndpoint], accepted: &[SourceCandidate<'_>], tiers: &BTreeSet<u32>) {
    let by_donor: BTreeMap<&str, usize> =
        accepted.iter().map(|c| (c.wanted().cluster.as_str(), tiers.range(..c.wanted().priority).count())).collect();
    for endpoint in endpoints {
        let tier = endpoint.labels.get(DONOR).and_then(|d| by_donor.get(d.as_str())).copied().unwrap_or(0);
        for n in 1..tiers.len() - tier {
            endpoint.labels.insert(tier_label(n), "in".to_owned());
        }
    }
}

fn tier_label(n: usize) -> String {
    format!("wharf-priority-{n}")
}

pub(super) fn build_balance(endpoints: &[PlanEndpoint], tiers: usize, weighted: bool) -> Option<LoadBalancer> {
    if endpoints.len() < 2 {
        return None;
    }
    let failover_priority = (tiers > 1).then(|| (1..tiers).map(|n| format!("{}=in", tier_label(n))).collect());
    let enabled = match &failover_priority {
        Some(_) => Some(true),
        // Preferring what is near would not keep the weights that somebody asked for.
        None if weighted => Some(false),
        None => endpoints.iter().any(|e| e.gateway.locality.is_some()).then_some(true),
    };
    let locality =
        enabled.map(|e| LocalityLbSetting { enabled: Some(e), failover_priority, ..LocalityLbSetting::default() });
    Some(LoadBalancer { simple: Some(Simple::RoundRobin), locality_lb_setting: locality, ..LoadBalancer::default() })
}

/// Reduces weights to the same proportions in small numbers, whose sum is at most `max` (Envoy's weights are of 32
/// bits).
pub(super) fn reduce_weights(weights: Vec<u128>, max: u128) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let sum: u128 = weights.iter().map(|w| w / divisor).sum();
    let scale = |w: u128| {
        let w = w / divisor;
        let fitting = if sum > max { (w.saturating_mul(max / 2) / sum).max(1) } else { w };
        u32::try_from(fitting).unwrap_or(u32::MAX)
    };
    weights.into_iter().map(scale).collect()
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn lcm(a: u128, b: u128) -> u128 {
    (a / gcd(a, b).max(1)).saturating_mul(b)
}
