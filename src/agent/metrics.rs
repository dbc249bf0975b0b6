//! The metrics of `/metrics`. Names follow Prometheus' conventions; docs/reference/metrics.md lists them.

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PeerLabel {
    pub peer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct GatewayLabel {
    pub gateway: String,
}

pub struct AgentMetrics {
    registry: Registry,
    pub policies: Gauge,
    pub bindings: Gauge,
    pub problems: Gauge,
    pub leading: Gauge,
    pub objects_written: Counter,
    pub objects_removed: Counter,
    pub object_conflicts: Counter,
    pub write_errors: Counter,
    pub reconciles: Counter,
    pub reconcile_seconds: Histogram,
    pub certificate_expiry: Gauge,
    pub peer_connected: Family<PeerLabel, Gauge>,
    pub peer_last_sync: Family<PeerLabel, Gauge>,
    pub peer_offered: Family<PeerLabel, Gauge>,
    pub peer_left_out: Family<PeerLabel, Gauge>,
    pub peer_held_bytes: Family<PeerLabel, Gauge>,
    pub peer_misbehaviours: Family<PeerLabel, Counter>,
    pub peer_exposed: Family<PeerLabel, Gauge>,
    pub peer_subscriptions: Family<PeerLabel, Gauge>,
    pub expositions_rejected: Family<PeerLabel, Counter>,
    pub connections: Gauge,
    pub handshakes_failed: Counter,
    pub connections_refused: Counter,
    pub calls_refused: Counter,
    pub gateway_rejects: Family<GatewayLabel, Gauge>,
    pub istiod_answers: Gauge,
}

impl AgentMetrics {
    pub fn new(cluster: &str) -> AgentMetrics {
        let mut registry = Registry::with_prefix("wharf");
        let info = [("version", env!("CARGO_PKG_VERSION")), ("cluster", cluster)];
        let info: Vec<_> = info.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        registry.register("build", "The build and the cluster of this agent", Info::new(info));
        let buckets = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0];
        let mut metrics = AgentMetrics {
            registry,
            policies: Gauge::default(),
            bindings: Gauge::default(),
            problems: Gauge::default(),
            leading: Gauge::default(),
            objects_written: Counter::default(),
            objects_removed: Counter::default(),
            object_conflicts: Counter::default(),
            write_errors: Counter::default(),
            reconciles: Counter::default(),
            reconcile_seconds: Histogram::new(buckets),
            certificate_expiry: Gauge::default(),
            peer_connected: Family::default(),
            peer_last_sync: Family::default(),
            peer_offered: Family::default(),
            peer_left_out: Family::default(),
            peer_held_bytes: Family::default(),
            peer_misbehaviours: Family::default(),
            peer_exposed: Family::default(),
            peer_subscriptions: Family::default(),
            expositions_rejected: Family::default(),
            connections: Gauge::default(),
            handshakes_failed: Counter::default(),
            connections_refused: Counter::default(),
            calls_refused: Counter::default(),
            gateway_rejects: Family::default(),
            istiod_answers: Gauge::default(),
        };
        metrics.register_all();
        metrics
    }

    fn register_all(&mut self) {
        let r = &mut self.registry;
        r.register("policies", "ServiceExpositionPolicies in the store", self.policies.clone());
        r.register("bindings", "RemoteServiceBindings in the store", self.bindings.clone());
        r.register("problems", "Things that cannot be read or written now; /status tells which", self.problems.clone());
        r.register("leading", "1 if this replica is the one that writes", self.leading.clone());
        r.register("objects_written", "Objects written to the store", self.objects_written.clone());
        r.register("objects_removed", "Objects removed from the store", self.objects_removed.clone());
        r.register(
            "object_conflicts",
            "Writes held back for an object of somebody else",
            self.object_conflicts.clone(),
        );
        r.register("write_errors", "Writes that failed and are tried again", self.write_errors.clone());
        r.register("reconciles", "Policies and local names evaluated", self.reconciles.clone());
        let text = "Time from the start of a round of evaluations to its end";
        r.register_with_unit("reconcile", text, Unit::Seconds, self.reconcile_seconds.clone());
        let text = "When the certificate in use expires, Unix time";
        r.register_with_unit("certificate_expiry_timestamp", text, Unit::Seconds, self.certificate_expiry.clone());
        r.register("peer_connected", "1 if this cluster is subscribed to the peer", self.peer_connected.clone());
        let text = "When this cluster was last in step with the peer, Unix time";
        r.register_with_unit("peer_last_sync_timestamp", text, Unit::Seconds, self.peer_last_sync.clone());
        r.register("peer_offered_expositions", "Expositions that the peer offers here", self.peer_offered.clone());
        let text = "Expositions that the peer offers beyond what is held of it, as heard on this stream";
        r.register("peer_left_out_expositions", text, self.peer_left_out.clone());
        let text = "Memory that is taken by what is held of the peer, of the budget that it has";
        r.register_with_unit("peer_held", text, Unit::Bytes, self.peer_held_bytes.clone());
        let text = "Streams that were ended because the peer asked for more than any may";
        r.register("peer_misbehaviours", text, self.peer_misbehaviours.clone());
        r.register("peer_exposed_expositions", "Expositions that are offered to the peer", self.peer_exposed.clone());
        r.register("peer_subscriptions", "Open subscriptions of the peer", self.peer_subscriptions.clone());
        let text = "Expositions of the peer that were not fit to be used";
        r.register("expositions_rejected", text, self.expositions_rejected.clone());
        r.register("connections", "Connections of peers that are open", self.connections.clone());
        let text = "TLS handshakes that failed or were too slow";
        r.register("handshakes_failed", text, self.handshakes_failed.clone());
        let text = "Connections that were closed at once because there were too many";
        r.register("connections_refused", text, self.connections_refused.clone());
        let text = "Calls of somebody who may not call";
        r.register("calls_refused", text, self.calls_refused.clone());
        let text = "1 if this cluster's gateway refuses what istiod sends it, as far as istiod tells";
        r.register("gateway_rejects", text, self.gateway_rejects.clone());
        let text = "1 if istiod's metrics could be read the last time; 0 also if they are not read";
        r.register("istiod_answers", text, self.istiod_answers.clone());
    }

    /// Formats the metrics in the OpenMetrics text format.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let _ = encode(&mut text, &self.registry); // into a String, which cannot fail
        text
    }
}

impl AgentMetrics {
    /// Removes the series of a peer that is gone.
    pub fn remove_peer(&self, peer: &str) {
        let label = PeerLabel { peer: peer.to_owned() };
        self.peer_connected.remove(&label);
        self.peer_last_sync.remove(&label);
        self.peer_offered.remove(&label);
        self.peer_left_out.remove(&label);
        self.peer_held_bytes.remove(&label);
        self.peer_misbehaviours.remove(&label);
        self.peer_exposed.remove(&label);
        self.peer_subscriptions.remove(&label);
        self.expositions_rejected.remove(&label);
    }
}
