//! Routes, field by field.

use crate::api::istio::{
    VirtualServiceHttp, VirtualServiceHttpMatch, VirtualServiceHttpMirror as Destination,
    VirtualServiceHttpMirrorPercentage as Percentage, VirtualServiceHttpMirrorPort as DestinationPort,
    VirtualServiceHttpMirrors as Mirror, VirtualServiceHttpRoute, VirtualServiceTcp, VirtualServiceTcpRoute,
};

use super::action::{carry_direct_response, carry_fault, carry_redirect, carry_retries, carry_rewrite};
use super::budget::CarryBudget;
use super::cors::carry_cors;
use super::headers::carry_header_rules;
use super::limits::{MAX_DESTINATIONS, MAX_MIRRORS, MAX_WEIGHT};
use super::numbers::{carry_duration, carry_number, check_percentage};
use super::refusal::{AtField, FieldRefusal};
use super::text::carry_name;

/// Turns the destination of a route into one at the gateway.
pub(in crate::translate) type CarryDestination<'a> = dyn FnMut(&Destination) -> Result<Destination, FieldRefusal> + 'a;

/// Carries an HTTP route with the matches that were carried for it. `destination` resolves its destinations.
pub(in crate::translate) fn carry_http_route(
    route: &VirtualServiceHttp,
    matches: Option<Vec<VirtualServiceHttpMatch>>,
    budget: &mut CarryBudget,
    destination: &mut CarryDestination<'_>,
) -> Result<VirtualServiceHttp, FieldRefusal> {
    let VirtualServiceHttp {
        cors_policy,
        delegate,
        direct_response,
        fault,
        headers,
        r#match: _,
        mirror,
        mirror_percent,
        mirror_percentage,
        mirror_percent_x,
        mirrors,
        name,
        redirect,
        retries,
        rewrite,
        route: destinations,
        timeout,
    } = route;
    if delegate.is_some() {
        return Err(FieldRefusal::new("it leads to another VirtualService")
            .cure("write the routes into this VirtualService")
            .below("delegate"));
    }
    check_combination(route)?;
    let percent = carry_number(mirror_percent.or(*mirror_percent_x), 0..=100).at("mirrorPercent")?;
    Ok(VirtualServiceHttp {
        cors_policy: carry_cors(cors_policy.as_ref(), budget).at("corsPolicy")?,
        delegate: None,
        direct_response: carry_direct_response(direct_response.as_ref()).at("directResponse")?,
        fault: carry_fault(fault.as_ref()).at("fault")?,
        headers: carry_header_rules(headers.as_ref(), budget).at("headers")?,
        redirect: carry_redirect(redirect.as_ref(), matches.as_deref().unwrap_or_default()).at("redirect")?,
        r#match: matches,
        mirror: mirror.as_ref().map(&mut *destination).transpose().at("mirror")?,
        mirror_percent: percent,
        mirror_percentage: carry_percentage(mirror_percentage.as_ref()).at("mirrorPercentage")?,
        mirror_percent_x: None,
        mirrors: carry_mirrors(mirrors.as_deref(), destination)?,
        name: carry_name(name.as_ref()).at("name")?,
        retries: carry_retries(retries.as_ref()).at("retries")?,
        rewrite: carry_rewrite(rewrite.as_ref(), budget).at("rewrite")?,
        route: carry_destinations(destinations.as_deref(), budget, destination)?,
        timeout: carry_duration(timeout.as_ref()).at("timeout")?,
    })
}

/// Checks Istio's own rules for fields that exclude each other. istiod makes a route without a way, which Envoy
/// rejects, of a route that has none.
fn check_combination(route: &VirtualServiceHttp) -> Result<(), FieldRefusal> {
    let routed = route.route.as_ref().is_some_and(|r| !r.is_empty());
    let ways =
        usize::from(routed) + usize::from(route.redirect.is_some()) + usize::from(route.direct_response.is_some());
    if ways != 1 {
        return Err(FieldRefusal::new("it takes exactly one of route, redirect and directResponse"));
    }
    if !routed {
        let given = [
            ("fault", route.fault.is_some()),
            ("rewrite", route.rewrite.is_some()),
            ("mirror", route.mirror.is_some()),
            ("mirrors", route.mirrors.as_ref().is_some_and(|m| !m.is_empty())),
        ];
        if let Some((field, _)) = given.iter().find(|(_, given)| *given) {
            return Err(FieldRefusal::new("it does not go with redirect or directResponse").below(field));
        }
    }
    if route.mirror.is_some() && route.mirrors.as_ref().is_some_and(|m| !m.is_empty()) {
        return Err(FieldRefusal::new("mirror and mirrors exclude each other").below("mirror"));
    }
    if route.mirror_percent.is_some() && route.mirror_percent_x.is_some() {
        return Err(FieldRefusal::new("it is there twice, as mirror_percent too").below("mirrorPercent"));
    }
    Ok(())
}

fn carry_mirrors(
    mirrors: Option<&[Mirror]>,
    resolve: &mut CarryDestination<'_>,
) -> Result<Option<Vec<Mirror>>, FieldRefusal> {
    let Some(mirrors) = mirrors else { return Ok(None) };
    if mirrors.len() > MAX_MIRRORS {
        return Err(FieldRefusal::new(format!("a route has at most {MAX_MIRRORS}")).below("mirrors"));
    }
    let mut carried = Vec::with_capacity(mirrors.len());
    for (i, Mirror { destination, percentage }) in mirrors.iter().enumerate() {
        carried.push(Mirror {
            destination: resolve(destination).at("destination").at_index("mirrors", i)?,
            percentage: carry_percentage(percentage.as_ref()).at("percentage").at_index("mirrors", i)?,
        });
    }
    Ok(Some(carried))
}

fn carry_destinations(
    routes: Option<&[VirtualServiceHttpRoute]>,
    budget: &mut CarryBudget,
    resolve: &mut CarryDestination<'_>,
) -> Result<Option<Vec<VirtualServiceHttpRoute>>, FieldRefusal> {
    let Some(routes) = routes.filter(|r| !r.is_empty()) else { return Ok(None) };
    check_weights(routes.iter().map(|r| r.weight))?;
    let mut carried = Vec::with_capacity(routes.len());
    for (i, VirtualServiceHttpRoute { destination, headers, weight }) in routes.iter().enumerate() {
        carried.push(VirtualServiceHttpRoute {
            destination: resolve(destination).at("destination").at_index("route", i)?,
            headers: carry_header_rules(headers.as_ref(), budget).at("headers").at_index("route", i)?,
            weight: *weight,
        });
    }
    Ok(Some(carried))
}

/// Carries the ways of a TCP route. Its matches say where it is for, and become the gateway's port.
pub(in crate::translate) fn carry_tcp_route(
    route: &VirtualServiceTcp,
    resolve: &mut CarryDestination<'_>,
) -> Result<VirtualServiceTcp, FieldRefusal> {
    let VirtualServiceTcp { r#match: _, route: routes } = route;
    let routes = routes.as_deref().unwrap_or_default();
    if routes.is_empty() {
        return Err(FieldRefusal::new("it leads nowhere").cure("name a destination").below("route"));
    }
    check_weights(routes.iter().map(|r| r.weight))?;
    let mut carried = Vec::with_capacity(routes.len());
    for (i, VirtualServiceTcpRoute { destination, weight }) in routes.iter().enumerate() {
        let destination = resolve(destination).at("destination").at_index("route", i)?;
        carried.push(VirtualServiceTcpRoute { destination, weight: *weight });
    }
    Ok(VirtualServiceTcp { r#match: None, route: Some(carried) })
}

fn check_weights(weights: impl Iterator<Item = Option<i32>>) -> Result<(), FieldRefusal> {
    let weights: Vec<i32> = weights.map(Option::unwrap_or_default).collect();
    if weights.len() > MAX_DESTINATIONS {
        return Err(FieldRefusal::new(format!("a route has at most {MAX_DESTINATIONS} destinations")).below("route"));
    }
    for (i, weight) in weights.iter().enumerate() {
        if !(0..=MAX_WEIGHT).contains(weight) {
            let refusal = FieldRefusal::new(format!("{weight} is not between 0 and {MAX_WEIGHT}"));
            return Err(refusal.below("weight").below(&format!("route[{i}]")));
        }
    }
    // istiod leaves out destinations without a weight. Envoy rejects a list of nothing (`WeightedCluster.clusters`),
    // and of TCP routes istiod itself ends with one (`buildOutboundNetworkFiltersWithWeightedClusters` reads its
    // first).
    if weights.len() > 1 && weights.iter().all(|w| *w == 0) {
        return Err(FieldRefusal::new("no destination has a weight").cure("give one of them a weight").below("route"));
    }
    Ok(())
}

/// A destination, in all its fields.
pub(in crate::translate) struct NamedDestination<'a> {
    pub host: &'a str,
    pub port: Option<i64>,
    pub subset: Option<&'a str>,
}

impl<'a> From<&'a Destination> for NamedDestination<'a> {
    fn from(destination: &'a Destination) -> NamedDestination<'a> {
        let Destination { host, port, subset } = destination;
        let port = port.as_ref().and_then(|DestinationPort { number }| *number).filter(|n| *n != 0);
        NamedDestination { host, port, subset: subset.as_deref().filter(|s| !s.is_empty()) }
    }
}

pub(super) fn carry_percentage(percentage: Option<&Percentage>) -> Result<Option<Percentage>, FieldRefusal> {
    let Some(Percentage { value }) = percentage else { return Ok(None) };
    check_percentage(value.unwrap_or_default()).at("value")?;
    Ok(Some(Percentage { value: *value }))
}
