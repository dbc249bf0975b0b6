//! Load balancing of a DestinationRule, field by field.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::istio::{
    DestinationRuleTrafficPolicyLoadBalancer as LoadBalancer,
    DestinationRuleTrafficPolicyLoadBalancerConsistentHash as ConsistentHash,
    DestinationRuleTrafficPolicyLoadBalancerConsistentHashHttpCookie as HttpCookie,
    DestinationRuleTrafficPolicyLoadBalancerConsistentHashHttpCookieAttributes as CookieAttribute,
    DestinationRuleTrafficPolicyLoadBalancerConsistentHashMaglev as Maglev,
    DestinationRuleTrafficPolicyLoadBalancerConsistentHashRingHash as RingHash,
    DestinationRuleTrafficPolicyLoadBalancerLocalityLbSetting as LocalitySetting,
    DestinationRuleTrafficPolicyLoadBalancerLocalityLbSettingDistribute as Distribute,
    DestinationRuleTrafficPolicyLoadBalancerLocalityLbSettingFailover as Failover,
    DestinationRuleTrafficPolicyLoadBalancerSimple as Simple, DestinationRuleTrafficPolicyLoadBalancerWarmup as Warmup,
    DestinationRuleTrafficPolicyLoadBalancerZoneAwareLbSetting as ZoneSetting,
};

use super::limits::{MAX_ATTRIBUTES, MAX_LOCALITIES, MAX_RING, MAX_TABLE};
use super::numbers::{carry_duration, carry_number, carry_timeout, check_percentage, is_prime};
use super::refusal::{AtField, FieldRefusal, quote_shortened};
use super::text::{check_header_name, check_token, check_written_path, is_label_key, is_label_value, is_printable};

pub(super) fn carry_load_balancer(balancer: &LoadBalancer) -> Result<LoadBalancer, FieldRefusal> {
    let LoadBalancer {
        consistent_hash,
        locality_lb_setting,
        simple,
        warmup,
        warmup_duration_secs,
        zone_aware_lb_setting,
    } = balancer;
    if *simple == Some(Simple::Passthrough) {
        let refusal = FieldRefusal::new("PASSTHROUGH leads to the address that was called, which is the gateway's own");
        return Err(refusal.cure("use another algorithm").below("simple"));
    }
    if simple.is_some() && consistent_hash.is_some() {
        return Err(FieldRefusal::new("simple and consistentHash exclude each other").below("simple"));
    }
    if locality_lb_setting.is_some() && zone_aware_lb_setting.is_some() {
        let refusal = FieldRefusal::new("localityLbSetting and zoneAwareLbSetting exclude each other");
        return Err(refusal.below("zoneAwareLbSetting"));
    }
    Ok(LoadBalancer {
        consistent_hash: consistent_hash.as_ref().map(carry_consistent_hash).transpose().at("consistentHash")?,
        locality_lb_setting: locality_lb_setting.as_ref().map(carry_locality).transpose().at("localityLbSetting")?,
        simple: simple.clone(),
        warmup: warmup.as_ref().map(carry_warmup).transpose().at("warmup")?,
        warmup_duration_secs: carry_duration(warmup_duration_secs.as_ref()).at("warmupDurationSecs")?,
        zone_aware_lb_setting: zone_aware_lb_setting.as_ref().map(carry_zones).transpose().at("zoneAwareLbSetting")?,
    })
}

fn carry_warmup(warmup: &Warmup) -> Result<Warmup, FieldRefusal> {
    let Warmup { aggression, duration, minimum_percent } = warmup;
    const MOST_AGGRESSION: f64 = 100.0;
    if aggression.is_some_and(|a| !(0.1..=MOST_AGGRESSION).contains(&a)) {
        return Err(FieldRefusal::new(format!("it is between 0.1 and {MOST_AGGRESSION}")).below("aggression"));
    }
    if let Some(percent) = minimum_percent {
        check_percentage(*percent).at("minimumPercent")?;
    }
    let duration = carry_duration(Some(duration)).at("duration")?.unwrap_or_default();
    Ok(Warmup { aggression: *aggression, duration, minimum_percent: *minimum_percent })
}

/// istiod makes a hash policy of it in each route: what Envoy does not take there makes it reject all routes.
fn carry_consistent_hash(hash: &ConsistentHash) -> Result<ConsistentHash, FieldRefusal> {
    let ConsistentHash {
        http_cookie,
        http_header_name,
        http_query_parameter_name,
        maglev,
        minimum_ring_size,
        ring_hash,
        use_source_ip,
    } = hash;
    let keys = [
        http_cookie.is_some(),
        http_header_name.is_some(),
        http_query_parameter_name.is_some(),
        use_source_ip.is_some(),
    ];
    if keys.iter().filter(|given| **given).count() > 1 {
        let message = "httpCookie, httpHeaderName, httpQueryParameterName and useSourceIp exclude each other";
        return Err(FieldRefusal::new(message));
    }
    let algorithms = [maglev.is_some(), ring_hash.is_some(), minimum_ring_size.is_some_and(|s| s != 0)];
    if algorithms.iter().filter(|given| **given).count() > 1 {
        return Err(FieldRefusal::new("maglev, ringHash and minimumRingSize exclude each other"));
    }
    if let Some(name) = http_header_name {
        check_header_name(name).at("httpHeaderName")?;
    }
    if let Some(name) = http_query_parameter_name {
        check_token(name, "a query parameter").at("httpQueryParameterName")?;
    }
    Ok(ConsistentHash {
        http_cookie: http_cookie.as_ref().map(carry_cookie).transpose().at("httpCookie")?,
        http_header_name: http_header_name.clone(),
        http_query_parameter_name: http_query_parameter_name.clone(),
        maglev: maglev.as_ref().map(carry_maglev).transpose().at("maglev")?,
        minimum_ring_size: carry_number(*minimum_ring_size, 0..=MAX_RING).at("minimumRingSize")?,
        ring_hash: ring_hash.as_ref().map(carry_ring_hash).transpose().at("ringHash")?,
        use_source_ip: *use_source_ip,
    })
}

fn carry_maglev(maglev: &Maglev) -> Result<Maglev, FieldRefusal> {
    let Maglev { table_size } = maglev;
    if let Some(size) = carry_number(*table_size, 1..=MAX_TABLE).at("tableSize")?
        && !is_prime(size)
    {
        return Err(FieldRefusal::new(format!("{size} is not a prime number")).below("tableSize"));
    }
    Ok(Maglev { table_size: *table_size })
}

fn carry_ring_hash(ring: &RingHash) -> Result<RingHash, FieldRefusal> {
    let RingHash { minimum_ring_size } = ring;
    Ok(RingHash { minimum_ring_size: carry_number(*minimum_ring_size, 0..=MAX_RING).at("minimumRingSize")? })
}

fn carry_cookie(cookie: &HttpCookie) -> Result<HttpCookie, FieldRefusal> {
    let HttpCookie { attributes, name, path, ttl } = cookie;
    check_token(name, "a cookie").at("name")?;
    if let Some(path) = path.as_ref().filter(|p| !p.is_empty()) {
        // A ; would begin another attribute of the cookie.
        check_written_path(path, "").at("path")?;
        if path.contains(';') {
            return Err(FieldRefusal::new("a path of a cookie has no ;").below("path"));
        }
    }
    let given = attributes.as_deref().unwrap_or_default();
    if given.len() > MAX_ATTRIBUTES {
        return Err(FieldRefusal::new(format!("it has at most {MAX_ATTRIBUTES}")).below("attributes"));
    }
    let mut names = BTreeSet::new();
    let mut carried = Vec::with_capacity(given.len());
    for (i, CookieAttribute { name, value }) in given.iter().enumerate() {
        check_token(name, "an attribute of a cookie").at("name").at_index("attributes", i)?;
        let text = value.as_deref().unwrap_or_default();
        if text.len() > 256 || !is_printable(text) || text.contains(';') || !names.insert(name.to_ascii_lowercase()) {
            let refusal = FieldRefusal::new("its value is no value of an attribute, or its name is there twice");
            return Err(refusal).at_index("attributes", i);
        }
        carried.push(CookieAttribute { name: name.clone(), value: value.clone() });
    }
    let attributes = attributes.as_ref().map(|_| carried);
    let ttl = carry_timeout(ttl.as_ref()).at("ttl")?;
    Ok(HttpCookie { attributes, name: name.clone(), path: path.clone(), ttl })
}

fn carry_locality(setting: &LocalitySetting) -> Result<LocalitySetting, FieldRefusal> {
    let LocalitySetting { distribute, enabled, failover, failover_priority } = setting;
    let given = distribute.as_deref().unwrap_or_default();
    let leaves = failover.as_ref().is_some_and(|f| !f.is_empty());
    if !given.is_empty() && leaves {
        return Err(FieldRefusal::new("distribute and failover exclude each other").below("failover"));
    }
    if given.len() > MAX_LOCALITIES {
        return Err(FieldRefusal::new(format!("it has at most {MAX_LOCALITIES}")).below("distribute"));
    }
    let mut carried = Vec::with_capacity(given.len());
    for (i, Distribute { from, to }) in given.iter().enumerate() {
        check_locality(from.as_deref().unwrap_or_default()).at("from").at_index("distribute", i)?;
        check_shares(to.as_ref()).at("to").at_index("distribute", i)?;
        carried.push(Distribute { from: from.clone(), to: to.clone() });
    }
    Ok(LocalitySetting {
        distribute: distribute.as_ref().map(|_| carried),
        enabled: *enabled,
        failover: carry_failovers(failover.as_deref())?,
        failover_priority: carry_priorities(failover_priority.as_deref())?,
    })
}

fn check_shares(to: Option<&BTreeMap<String, i64>>) -> Result<(), FieldRefusal> {
    let shares = to.into_iter().flatten();
    let mut sum = 0_i64;
    for (n, (locality, share)) in shares.enumerate() {
        check_locality(locality)?;
        carry_number(Some(*share), 1..=100).at_key("", locality)?;
        sum += share;
        if n >= MAX_LOCALITIES {
            return Err(FieldRefusal::new(format!("it has at most {MAX_LOCALITIES}")));
        }
    }
    if sum == 100 { Ok(()) } else { Err(FieldRefusal::new(format!("the shares come to {sum}, not to 100"))) }
}

/// `region/zone/subzone`, with a star for any.
fn check_locality(text: &str) -> Result<(), FieldRefusal> {
    let parts: Vec<&str> = text.split('/').collect();
    let fits = |part: &&str| *part == "*" || (!part.is_empty() && is_label_value(part));
    if parts.len() <= 3 && parts.iter().all(fits) {
        return Ok(());
    }
    Err(FieldRefusal::new(format!("{} is not a locality", quote_shortened(text))))
}

fn carry_zones(setting: &ZoneSetting) -> Result<ZoneSetting, FieldRefusal> {
    let ZoneSetting { enabled, failover, failover_priority, min_cluster_size } = setting;
    Ok(ZoneSetting {
        enabled: *enabled,
        failover: carry_failovers(failover.as_deref())?,
        failover_priority: carry_priorities(failover_priority.as_deref())?,
        min_cluster_size: carry_number(*min_cluster_size, 0..=i64::from(i32::MAX)).at("minClusterSize")?,
    })
}

fn carry_failovers(failovers: Option<&[Failover]>) -> Result<Option<Vec<Failover>>, FieldRefusal> {
    let Some(failovers) = failovers else { return Ok(None) };
    let mut carried = Vec::with_capacity(failovers.len());
    for (i, Failover { from, to }) in failovers.iter().enumerate() {
        let is_region = |r: &Option<String>| r.as_deref().is_some_and(|r| !r.is_empty() && is_label_value(r));
        if i >= MAX_LOCALITIES || from == to || !is_region(from) || !is_region(to) {
            let message = format!("it leads from one region to another, and there are at most {MAX_LOCALITIES}");
            return Err(FieldRefusal::new(message)).at_index("failover", i);
        }
        carried.push(Failover { from: from.clone(), to: to.clone() });
    }
    Ok(Some(carried))
}

fn carry_priorities(priorities: Option<&[String]>) -> Result<Option<Vec<String>>, FieldRefusal> {
    let Some(priorities) = priorities else { return Ok(None) };
    for (i, label) in priorities.iter().enumerate() {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        if i >= MAX_LOCALITIES || !is_label_key(key) || !is_label_value(value) {
            let message = format!("{} is not a label, or one of more than {MAX_LOCALITIES}", quote_shortened(label));
            return Err(FieldRefusal::new(message)).at_index("failoverPriority", i);
        }
    }
    Ok(Some(priorities.to_vec()))
}
