//! The answer of `/status`, which `wharf status|offers|peers` show.

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::api::{BindingStatus, PeeringStatus, PolicyStatus};
use crate::model::Exposition;

/// The whole state of an agent, as one document.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentView {
    pub cluster: String,
    pub identity: String,
    pub instance: String,
    pub version: String,
    /// RFC 3339.
    pub certificate_expires: String,
    /// All inputs of the store have been read.
    pub synced: bool,
    /// Faults in reading or writing, each with its place. Empty when all is well.
    pub problems: Vec<ProblemView>,
    /// Absent if istiod is not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub istiod: Option<IstiodView>,
    pub policies: Vec<PolicyView>,
    pub bindings: Vec<BindingView>,
    pub peers: Vec<PeerView>,
    pub offers: Vec<OfferView>,
    /// Present if the lists are longer than one answer holds.
    #[serde(default, skip_serializing_if = "LeftOut::is_nothing")]
    pub left_out: LeftOut,
}

/// The number of items that found no room in a view.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeftOut {
    pub problems: usize,
    pub policies: usize,
    pub bindings: usize,
    pub peers: usize,
    pub offers: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProblemView {
    pub place: String,
    pub message: String,
}

/// The state of asking istiod which gateways refuse their configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct IstiodView {
    /// The URL.
    pub metrics: String,
    /// The reason why the last question had no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unanswered: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyView {
    pub namespace: String,
    pub name: String,
    /// The status describes an older generation of the object: no agent has looked at the newest one yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub outdated: bool,
    pub status: PolicyStatus,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BindingView {
    pub namespace: String,
    pub name: String,
    /// `live` or `potential`.
    pub connection: String,
    /// The status describes an older generation of the object: no agent has looked at the newest one yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub outdated: bool,
    pub status: BindingStatus,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerView {
    pub name: String,
    /// The address at which it is dialled, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The peer may consume the services that are exposed here.
    pub consume: bool,
    /// The SPIFFE ID that its certificate must show.
    pub identity: String,
    pub status: PeeringStatus,
}

/// An exposition of a peer, as it is offered to this cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OfferView {
    pub cluster: String,
    pub namespace: String,
    pub name: String,
    /// Version of the last exposition that was fit to be used, as in the fields below. Empty if none ever was.
    pub version: String,
    /// `Cluster`, `Workload` or `Passthrough`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tls: String,
    /// `<number>/<protocol>` of the first ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    #[serde(default, alias = "more_ports", skip_serializing_if = "std::ops::Not::not")]
    pub more_ports: bool,
    /// The whole exposition. Absent if its content is not held, or if the answer would be too large.
    #[serde(default, serialize_with = "write_exposition", skip_serializing_if = "Option::is_none")]
    pub exposition: Option<Exposition>,
    /// The bindings that use it, `<namespace>/<name>`. Version 0.1 wrote `bound_by`.
    #[serde(alias = "bound_by")]
    pub bound_by: Vec<String>,
    /// The reason why the newest version cannot be used, if there is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rejected: String,
}

/// Writes the fields in camelCase, as in the rest of the document.
fn write_exposition<S: Serializer>(exposition: &Option<Exposition>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut value = serde_json::to_value(exposition).map_err(serde::ser::Error::custom)?;
    for client in value.get_mut("clients").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(client) = client.as_object_mut()
            && let Some(account) = client.remove("service_account")
        {
            client.insert("serviceAccount".to_owned(), account);
        }
    }
    value.serialize(serializer)
}
