//! The owner's DestinationRules, field by field.

use std::collections::BTreeMap;

use crate::api::istio::{
    DestinationRuleSubsets as Subset, DestinationRuleTrafficPolicy as TrafficPolicy,
    DestinationRuleTrafficPolicyConnectionPool as ConnectionPool,
    DestinationRuleTrafficPolicyConnectionPoolHttp as HttpPool,
    DestinationRuleTrafficPolicyConnectionPoolHttpH2UpgradePolicy as UpgradePolicy,
    DestinationRuleTrafficPolicyConnectionPoolHttpHttp2KeepAlive as KeepAlive,
    DestinationRuleTrafficPolicyConnectionPoolTcp as TcpPool,
    DestinationRuleTrafficPolicyConnectionPoolTcpTcpKeepalive as TcpKeepalive,
    DestinationRuleTrafficPolicyOutlierDetection as OutlierDetection,
    DestinationRuleTrafficPolicyPortLevelSettings as PortSettings,
    DestinationRuleTrafficPolicyPortLevelSettingsPort as SettingsPort,
    DestinationRuleTrafficPolicyRetryBudget as RetryBudget, DestinationRuleTrafficPolicyTls as ClientTls,
    DestinationRuleTrafficPolicyTlsMode as ClientTlsMode,
};

use super::balance::carry_load_balancer;
use super::limits::{MAX_KEEPALIVE, MAX_LABELS, MAX_NAMES, MAX_PORT_SETTINGS, MAX_PROBES, MAX_TEXT};
use super::numbers::{carry_duration, carry_duration_between, carry_number, carry_timeout, check_percentage};
use super::refusal::{AtField, FieldRefusal, quote_shortened};
use super::text::{is_host, is_label_key, is_label_value, is_printable, is_subset_name};

use std::time::Duration;

const POSITIVE: std::ops::RangeInclusive<i64> = 0..=i32::MAX as i64;

/// A subset, under its own name.
pub(in crate::translate) fn carry_subset(subset: &Subset) -> Result<Subset, FieldRefusal> {
    let Subset { labels, name, traffic_policy } = subset;
    if !is_subset_name(name) {
        let message = format!("{} is not a name of at most 63 letters, digits and hyphens", quote_shortened(name));
        return Err(FieldRefusal::new(message).below("name"));
    }
    Ok(Subset {
        labels: carry_labels(labels.as_ref())?,
        name: name.clone(),
        traffic_policy: carry_traffic_policy(traffic_policy.as_ref()).at("trafficPolicy")?,
    })
}

fn carry_labels(labels: Option<&BTreeMap<String, String>>) -> Result<Option<BTreeMap<String, String>>, FieldRefusal> {
    let Some(labels) = labels else { return Ok(None) };
    if labels.len() > MAX_LABELS {
        return Err(FieldRefusal::new(format!("a subset has at most {MAX_LABELS}")).below("labels"));
    }
    for (key, value) in labels {
        if !is_label_key(key) || !is_label_value(value) {
            let refusal = FieldRefusal::new(format!("{} is not a label of a pod", quote_shortened(value)));
            return Err(refusal).at_key("labels", key);
        }
    }
    Ok(Some(labels.clone()))
}

/// Returns a part, or None if it is empty: Istio takes no empty ones.
fn unless_empty<T: Default + PartialEq>(part: T) -> Option<T> {
    (part != T::default()).then_some(part)
}

pub(in crate::translate) fn carry_traffic_policy(
    policy: Option<&TrafficPolicy>,
) -> Result<Option<TrafficPolicy>, FieldRefusal> {
    let Some(policy) = policy else { return Ok(None) };
    let TrafficPolicy {
        connection_pool,
        load_balancer,
        outlier_detection,
        port_level_settings,
        proxy_protocol,
        retry_budget,
        tls,
        tunnel,
    } = policy;
    refuse_outside(proxy_protocol.is_some(), "proxyProtocol")?;
    refuse_outside(tunnel.is_some(), "tunnel")?;
    let settings = port_level_settings.as_deref().unwrap_or_default();
    if settings.len() > MAX_PORT_SETTINGS {
        return Err(FieldRefusal::new(format!("it has at most {MAX_PORT_SETTINGS}")).below("portLevelSettings"));
    }
    let mut carried = Vec::with_capacity(settings.len());
    for (i, one) in settings.iter().enumerate() {
        carried.extend(carry_port_settings(one).at_index("portLevelSettings", i)?);
    }
    Ok(unless_empty(TrafficPolicy {
        connection_pool: carry_connection_pool(connection_pool.as_ref()).at("connectionPool")?,
        load_balancer: load_balancer.as_ref().map(carry_load_balancer).transpose().at("loadBalancer")?,
        outlier_detection: outlier_detection.as_ref().map(carry_outliers).transpose().at("outlierDetection")?,
        port_level_settings: (!carried.is_empty()).then_some(carried),
        proxy_protocol: None,
        retry_budget: retry_budget.as_ref().map(carry_retry_budget).transpose().at("retryBudget")?,
        tls: tls.as_ref().map(carry_tls).transpose().at("tls")?,
        tunnel: None,
    }))
}

/// Refuses a setting that makes the gateway, which others share, read files, show certificates, or call something else.
fn refuse_outside(given: bool, field: &str) -> Result<(), FieldRefusal> {
    if !given {
        return Ok(());
    }
    Err(FieldRefusal::new("it is not carried to a gateway that others share")
        .cure("give the Service a DestinationRule without it")
        .below(field))
}

fn carry_port_settings(settings: &PortSettings) -> Result<Option<PortSettings>, FieldRefusal> {
    let PortSettings { connection_pool, load_balancer, outlier_detection, port, tls } = settings;
    let number = port.as_ref().and_then(|SettingsPort { number }| *number);
    if number.is_none() {
        return Err(FieldRefusal::new("it takes the number of a port").below("port"));
    }
    let number = carry_number(number, 1..=65_535).at("number").at("port")?;
    let carried = unless_empty(PortSettings {
        connection_pool: carry_connection_pool(connection_pool.as_ref()).at("connectionPool")?,
        load_balancer: load_balancer.as_ref().map(carry_load_balancer).transpose().at("loadBalancer")?,
        outlier_detection: outlier_detection.as_ref().map(carry_outliers).transpose().at("outlierDetection")?,
        port: None,
        tls: tls.as_ref().map(carry_tls).transpose().at("tls")?,
    });
    Ok(carried.map(|settings| PortSettings { port: Some(SettingsPort { number }), ..settings }))
}

fn carry_connection_pool(pool: Option<&ConnectionPool>) -> Result<Option<ConnectionPool>, FieldRefusal> {
    let Some(ConnectionPool { http, tcp }) = pool else { return Ok(None) };
    Ok(unless_empty(ConnectionPool {
        http: http.as_ref().map(carry_http_pool).transpose().at("http")?,
        tcp: tcp.as_ref().map(carry_tcp_pool).transpose().at("tcp")?,
    }))
}

fn carry_http_pool(pool: &HttpPool) -> Result<HttpPool, FieldRefusal> {
    let HttpPool {
        h2_upgrade_policy,
        http1_max_pending_requests,
        http2_keep_alive,
        http2_max_requests,
        idle_timeout,
        max_concurrent_streams,
        max_requests_per_connection,
        max_retries,
        use_client_protocol,
    } = pool;
    if *use_client_protocol == Some(true) && *h2_upgrade_policy == Some(UpgradePolicy::Upgrade) {
        let refusal = FieldRefusal::new("it does not go with h2UpgradePolicy: UPGRADE");
        return Err(refusal.below("useClientProtocol"));
    }
    Ok(HttpPool {
        h2_upgrade_policy: h2_upgrade_policy.clone(),
        http1_max_pending_requests: carry_number(*http1_max_pending_requests, POSITIVE)
            .at("http1MaxPendingRequests")?,
        http2_keep_alive: http2_keep_alive.as_ref().map(carry_keep_alive).transpose().at("http2KeepAlive")?,
        http2_max_requests: carry_number(*http2_max_requests, POSITIVE).at("http2MaxRequests")?,
        idle_timeout: carry_duration(idle_timeout.as_ref()).at("idleTimeout")?,
        max_concurrent_streams: carry_number(*max_concurrent_streams, POSITIVE).at("maxConcurrentStreams")?,
        max_requests_per_connection: carry_number(*max_requests_per_connection, POSITIVE)
            .at("maxRequestsPerConnection")?,
        max_retries: carry_number(*max_retries, POSITIVE).at("maxRetries")?,
        use_client_protocol: *use_client_protocol,
    })
}

fn carry_keep_alive(settings: &KeepAlive) -> Result<KeepAlive, FieldRefusal> {
    let KeepAlive { interval, timeout } = settings;
    if interval.is_none() || timeout.is_none() {
        return Err(FieldRefusal::new("it takes interval and timeout"));
    }
    Ok(KeepAlive {
        interval: carry_duration(interval.as_ref()).at("interval")?,
        timeout: carry_duration(timeout.as_ref()).at("timeout")?,
    })
}

fn carry_tcp_pool(pool: &TcpPool) -> Result<TcpPool, FieldRefusal> {
    let TcpPool { connect_timeout, idle_timeout, max_connection_duration, max_connections, tcp_keepalive } = pool;
    Ok(TcpPool {
        connect_timeout: carry_duration(connect_timeout.as_ref()).at("connectTimeout")?,
        idle_timeout: carry_timeout(idle_timeout.as_ref()).at("idleTimeout")?,
        max_connection_duration: carry_duration(max_connection_duration.as_ref()).at("maxConnectionDuration")?,
        max_connections: carry_number(*max_connections, POSITIVE).at("maxConnections")?,
        tcp_keepalive: tcp_keepalive.as_ref().map(carry_tcp_keepalive).transpose().at("tcpKeepalive")?,
    })
}

fn carry_tcp_keepalive(settings: &TcpKeepalive) -> Result<TcpKeepalive, FieldRefusal> {
    let TcpKeepalive { interval, probes, time } = settings;
    let least = Duration::from_secs(1);
    Ok(TcpKeepalive {
        interval: carry_duration_between(interval.as_ref(), least, MAX_KEEPALIVE).at("interval")?,
        probes: carry_number(*probes, 0..=MAX_PROBES).at("probes")?,
        time: carry_duration_between(time.as_ref(), least, MAX_KEEPALIVE).at("time")?,
    })
}

fn carry_outliers(settings: &OutlierDetection) -> Result<OutlierDetection, FieldRefusal> {
    let OutlierDetection {
        base_ejection_time,
        consecutive5xx_errors,
        consecutive_errors,
        consecutive_gateway_errors,
        consecutive_local_origin_failures,
        interval,
        max_ejection_percent,
        min_health_percent,
        outlier_detection_http_error_codes,
        split_external_local_origin_errors,
    } = settings;
    refuse_outside(
        outlier_detection_http_error_codes.as_ref().is_some_and(|c| !c.is_empty()),
        "outlierDetectionHttpErrorCodes",
    )?;
    let local = consecutive_local_origin_failures.is_some_and(|n| n > 0);
    if local && *split_external_local_origin_errors != Some(true) {
        let refusal = FieldRefusal::new("it needs splitExternalLocalOriginErrors: true");
        return Err(refusal.below("consecutiveLocalOriginFailures"));
    }
    Ok(OutlierDetection {
        base_ejection_time: carry_duration(base_ejection_time.as_ref()).at("baseEjectionTime")?,
        consecutive5xx_errors: carry_number(*consecutive5xx_errors, POSITIVE).at("consecutive5xxErrors")?,
        consecutive_errors: carry_number(*consecutive_errors, POSITIVE).at("consecutiveErrors")?,
        consecutive_gateway_errors: carry_number(*consecutive_gateway_errors, POSITIVE)
            .at("consecutiveGatewayErrors")?,
        consecutive_local_origin_failures: carry_number(*consecutive_local_origin_failures, POSITIVE)
            .at("consecutiveLocalOriginFailures")?,
        interval: carry_duration(interval.as_ref()).at("interval")?,
        max_ejection_percent: carry_number(*max_ejection_percent, 0..=100).at("maxEjectionPercent")?,
        min_health_percent: carry_number(*min_health_percent, 0..=100).at("minHealthPercent")?,
        outlier_detection_http_error_codes: None,
        split_external_local_origin_errors: *split_external_local_origin_errors,
    })
}

fn carry_retry_budget(budget: &RetryBudget) -> Result<RetryBudget, FieldRefusal> {
    let RetryBudget { budget_interval, min_retry_concurrency, percent } = budget;
    if let Some(percent) = percent {
        check_percentage(*percent).at("percent")?;
    }
    Ok(RetryBudget {
        budget_interval: carry_duration(budget_interval.as_ref()).at("budgetInterval")?,
        min_retry_concurrency: carry_number(*min_retry_concurrency, POSITIVE).at("minRetryConcurrency")?,
        percent: *percent,
    })
}

/// TLS from the gateway to the owner's pods: none, the mesh's, or one whose server the gateway checks without files or
/// Secrets of its own namespace.
fn carry_tls(tls: &ClientTls) -> Result<ClientTls, FieldRefusal> {
    let ClientTls {
        ca_certificates,
        ca_crl,
        client_certificate,
        credential_name,
        insecure_skip_verify,
        mode,
        private_key,
        sni,
        subject_alt_names,
    } = tls;
    let given = |text: &Option<String>| text.as_ref().is_some_and(|t| !t.is_empty());
    refuse_outside(given(ca_certificates), "caCertificates")?;
    refuse_outside(given(ca_crl), "caCrl")?;
    refuse_outside(given(client_certificate), "clientCertificate")?;
    refuse_outside(given(credential_name), "credentialName")?;
    refuse_outside(given(private_key), "privateKey")?;
    if *mode == Some(ClientTlsMode::Mutual) {
        return Err(FieldRefusal::new("MUTUAL shows a certificate of the gateway's, which others share")
            .cure("use ISTIO_MUTUAL, SIMPLE or DISABLE")
            .below("mode"));
    }
    if *insecure_skip_verify == Some(true) && subject_alt_names.is_some() {
        let refusal = FieldRefusal::new("it does not go with subjectAltNames, which would not be looked at");
        return Err(refusal.below("insecureSkipVerify"));
    }
    let sni = sni.as_ref().filter(|s| !s.is_empty());
    if let Some(sni) = sni.filter(|s| !is_host(s)) {
        return Err(FieldRefusal::new(format!("{} is not a host name", quote_shortened(sni))).below("sni"));
    }
    let names = subject_alt_names.as_deref().unwrap_or_default();
    if names.len() > MAX_NAMES || !names.iter().all(|n| !n.is_empty() && n.len() <= MAX_TEXT && is_printable(n)) {
        let message = format!("it has at most {MAX_NAMES} names of at most {MAX_TEXT} printable ASCII characters");
        return Err(FieldRefusal::new(message).below("subjectAltNames"));
    }
    Ok(ClientTls {
        insecure_skip_verify: *insecure_skip_verify,
        mode: mode.clone(),
        sni: sni.cloned(),
        subject_alt_names: subject_alt_names.clone(),
        ca_certificates: None,
        ca_crl: None,
        client_certificate: None,
        credential_name: None,
        private_key: None,
    })
}
