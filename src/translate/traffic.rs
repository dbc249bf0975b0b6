//! Behaviour of the leg between two clusters: detection of dead gateways, retries, sharing of calls among donors.
//!
//! The figures were measured against gateways that were killed, frozen and cut off: a dead one is left within two
//! seconds, slow answers are not cut, and nothing that may be repeated is lost.

use std::collections::BTreeMap;

use crate::api::istio::{
    DestinationRuleTrafficPolicy as TrafficPolicy, DestinationRuleTrafficPolicyConnectionPool as Pool,
    DestinationRuleTrafficPolicyConnectionPoolHttp as HttpPool,
    DestinationRuleTrafficPolicyConnectionPoolHttpH2UpgradePolicy as Upgrade,
    DestinationRuleTrafficPolicyConnectionPoolHttpHttp2KeepAlive as KeepAlive,
    DestinationRuleTrafficPolicyConnectionPoolTcp as TcpPool,
    DestinationRuleTrafficPolicyConnectionPoolTcpTcpKeepalive as TcpKeepalive,
    DestinationRuleTrafficPolicyLoadBalancer as LoadBalancer,
    DestinationRuleTrafficPolicyOutlierDetection as OutlierDetection, DestinationRuleTrafficPolicyTls as Tls,
    VirtualServiceHttp, VirtualServiceHttpMatch, VirtualServiceHttpMatchUri as StringMatch, VirtualServiceHttpRetries,
};
use crate::model::{ClusterFacts, NewerField, Protocol};

/// Methods that may be repeated (RFC 9110, section 9.2.2), as Envoy's regular expression of a whole method.
const IDEMPOTENT: &str = "GET|HEAD|OPTIONS|TRACE|PUT|DELETE";
const RETRY_IDEMPOTENT: &str = "connect-failure,refused-stream,reset";
/// Failures after which any request may be repeated, since it never reached the other side.
const RETRY_ANY: &str = "connect-failure,refused-stream";
const SECOND: &str = "1s";

/// The policy of one port of the leg between clusters.
pub(super) fn between_clusters(
    facts: &ClusterFacts,
    protocol: Protocol,
    tls: Option<Tls>,
    balance: Option<LoadBalancer>,
) -> TrafficPolicy {
    TrafficPolicy {
        connection_pool: Some(connection_pool(facts, protocol)),
        outlier_detection: Some(outlier_detection()),
        load_balancer: balance,
        tls,
        ..TrafficPolicy::default()
    }
}

fn connection_pool(facts: &ClusterFacts, protocol: Protocol) -> Pool {
    let keep_alive = || KeepAlive { interval: Some(SECOND.to_owned()), timeout: Some(SECOND.to_owned()) };
    let tcp_keepalive = TcpKeepalive { time: Some("10s".to_owned()), interval: Some("2s".to_owned()), probes: Some(3) };
    let tcp = TcpPool {
        connect_timeout: Some(SECOND.to_owned()),
        tcp_keepalive: (protocol == Protocol::Tcp).then_some(tcp_keepalive),
        ..TcpPool::default()
    };
    let http = protocol.is_http().then(|| HttpPool {
        // HTTP/2 and gRPC are HTTP/2 already. Its keep-alive finds a frozen peer without cutting slow answers.
        h2_upgrade_policy: (protocol == Protocol::Http).then_some(Upgrade::Upgrade),
        http2_keep_alive: (!facts.absent_fields.contains(&NewerField::Http2KeepAlive)).then(keep_alive),
        ..HttpPool::default()
    });
    Pool { tcp: Some(tcp), http }
}

/// Forces HTTP/1.1 for WebSocket, which HTTP/2 between gateways breaks.
pub(super) fn http1_policy(tls: Option<Tls>) -> TrafficPolicy {
    let tcp = TcpPool { connect_timeout: Some(SECOND.to_owned()), ..TcpPool::default() };
    let http = HttpPool { h2_upgrade_policy: Some(Upgrade::DoNotUpgrade), ..HttpPool::default() };
    TrafficPolicy { connection_pool: Some(Pool { tcp: Some(tcp), http: Some(http) }), tls, ..TrafficPolicy::default() }
}

fn outlier_detection() -> OutlierDetection {
    OutlierDetection {
        // A gateway that cannot be reached, or breaks off, is left at once. Answers that come through it are not its
        // fault: five answers in a row of a service that is gone (502, 503, 504) count, an application's own error does
        // not.
        split_external_local_origin_errors: Some(true),
        consecutive_local_origin_failures: Some(1),
        consecutive_gateway_errors: Some(5),
        consecutive5xx_errors: Some(0),
        interval: Some(SECOND.to_owned()),
        base_ejection_time: Some("10s".to_owned()),
        max_ejection_percent: Some(100),
        min_health_percent: Some(1), // with 0, all donors gone and back stay gone for 18 s
        ..OutlierDetection::default()
    }
}

/// The kind of upstream that requests of one HTTP port go to.
pub(super) enum RouteUpstream {
    WebSocket,
    Other,
}

/// The routes of one HTTP port over the leg between clusters. `route` makes one that goes on; `matches` is what all of
/// them match.
pub(super) fn http_routes(
    protocol: Protocol,
    matches: &VirtualServiceHttpMatch,
    route: impl Fn(&RouteUpstream) -> VirtualServiceHttp,
) -> Vec<VirtualServiceHttp> {
    let mut routes = Vec::with_capacity(3);
    let only = |m: VirtualServiceHttpMatch| (m != VirtualServiceHttpMatch::default()).then(|| vec![m]);
    if protocol == Protocol::Http {
        let upgrade = BTreeMap::from([("upgrade".to_owned(), regex_match("(?i)websocket"))]);
        let r#match = only(VirtualServiceHttpMatch { headers: Some(upgrade), ..matches.clone() });
        let retries = Some(retries_between(RETRY_ANY));
        routes.push(VirtualServiceHttp { r#match, retries, ..route(&RouteUpstream::WebSocket) });
    }
    if protocol != Protocol::Grpc {
        // Every call of gRPC is a POST.
        let r#match = only(VirtualServiceHttpMatch { method: Some(regex_match(IDEMPOTENT)), ..matches.clone() });
        let retries = Some(retries_between(RETRY_IDEMPOTENT));
        routes.push(VirtualServiceHttp { r#match, retries, ..route(&RouteUpstream::Other) });
    }
    let retries = Some(retries_between(RETRY_ANY));
    routes.push(VirtualServiceHttp { r#match: only(matches.clone()), retries, ..route(&RouteUpstream::Other) });
    routes
}

/// Retries on the leg inside this cluster: Istio's default would also repeat what the other side answered with 503.
pub(super) fn retries_inside() -> VirtualServiceHttpRetries {
    build_retries(RETRY_ANY)
}

/// Retries between the clusters. A gateway whose ejection has ended is tried again, and may be gone still: all that
/// call in that moment find it healthy. From the second retry on Envoy leaves the priorities that it has tried (its
/// `previous_priorities`, which Istio sets up for every second try), so that another donor is asked; the third is for
/// what fails there.
fn retries_between(on: &str) -> VirtualServiceHttpRetries {
    VirtualServiceHttpRetries { attempts: Some(3), retry_remote_localities: Some(true), ..build_retries(on) }
}

fn build_retries(on: &str) -> VirtualServiceHttpRetries {
    VirtualServiceHttpRetries {
        attempts: Some(2),
        retry_on: Some(on.to_owned()),
        ..VirtualServiceHttpRetries::default()
    }
}

fn regex_match(text: &str) -> StringMatch {
    StringMatch { regex: Some(text.to_owned()), ..StringMatch::default() }
}
