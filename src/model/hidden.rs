//! Peers that are not known because something cannot be read.

use std::collections::BTreeMap;

use super::ClusterName;

/// Peers that may be there although they are not known, with the place that cannot be read and the reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HiddenPeers {
    pub named: BTreeMap<String, String>,
    /// Any peer may be there.
    pub any: Option<String>,
}

impl HiddenPeers {
    /// Returns the reason why it is not known if a cluster is a peer. None: it is known.
    pub fn explain_doubt(&self, cluster: &ClusterName) -> Option<String> {
        let why = self.named.get(cluster.as_str()).or(self.any.as_ref())?;
        Some(format!("it is not known whether {cluster} is a peer, since something cannot be read: {why}"))
    }
}
