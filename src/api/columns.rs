//! The columns of `kubectl get`: does it work, and if not, why.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceColumnDefinition;

/// A column's name, its source, and its description.
type ColumnSpec = (&'static str, ColumnSource, &'static str);

enum ColumnSource {
    /// The status of a condition.
    Holds(&'static str),
    /// A field of the first condition that does not hold.
    Failing(&'static str),
    Text(&'static str),
    Number(&'static str),
    Truth(&'static str),
    /// A time, shown as the time since.
    Since(&'static str),
}

use ColumnSource::{Failing, Holds, Number, Since, Text, Truth};

const READY: ColumnSpec = ("Ready", Holds("Ready"), "Whether it works, as far as this cluster can know.");
const PROBLEM: ColumnSpec =
    ("Problem", Failing("reason"), "The reason of the first condition that does not hold. Empty: it works.");
const MESSAGE: ColumnSpec = ("Message", Failing("message"), "What the first condition that does not hold says.");
const AGE: ColumnSpec = ("Age", Since(".metadata.creationTimestamp"), "How long ago it was made.");

/// The columns of a kind. Those from `wide` on are shown with `-o wide` only.
struct KindColumns {
    shown: &'static [ColumnSpec],
    wide: &'static [ColumnSpec],
}

const POLICY: KindColumns = KindColumns {
    shown: &[
        READY,
        ("Exposed", Holds("Exposed"), "Whether every entry is exposed."),
        ("Programmed", Holds("Programmed"), "Whether something is exposed, and all objects of it are in place."),
        PROBLEM,
        ("Offered-To", Text(".status.summary.offeredTo"), "The clusters that are offered something."),
        ("Bound-By", Text(".status.summary.boundBy"), "The clusters that acknowledged a binding."),
        AGE,
    ],
    wide: &[
        ("Hosts", Text(".status.summary.hosts"), "The hosts that other clusters use."),
        (
            "Rejected-By",
            Text(".status.summary.rejectedBy"),
            "The clusters that rejected something; status.exposed says why.",
        ),
        MESSAGE,
    ],
};

const BINDING: KindColumns = KindColumns {
    shown: &[
        READY,
        ("Bound", Holds("Bound"), "Whether every service is exposed to this cluster, and bound."),
        ("Programmed", Holds("Programmed"), "Whether all objects of the binding are in place."),
        PROBLEM,
        ("Peer", Text(".status.summary.peers"), "The clusters that the services come from."),
        ("Local", Text(".status.summary.local"), "The names that callers use here."),
        AGE,
    ],
    wide: &[("Peer-Connected", Holds("PeerConnected"), "Whether every cluster of the binding is connected."), MESSAGE],
};

const PEERING: KindColumns = KindColumns {
    shown: &[
        READY,
        (
            "Connected",
            Holds("Connected"),
            "Whether this cluster is subscribed to the peer, and in step. Empty: it has no endpoint.",
        ),
        (
            "Subscribed",
            Holds("Subscribed"),
            "Whether the peer is subscribed to this cluster. Empty: it may not consume.",
        ),
        PROBLEM,
        (
            "Last-Sync",
            Since(".status.lastSync"),
            "When this cluster was known to be in step with the peer, as of the last change of the status.",
        ),
        ("Offered", Number(".status.offered"), "How many expositions the peer offers to this cluster."),
        ("Bound", Number(".status.bound"), "How many of them a binding uses."),
        ("Exposed", Number(".status.exposed"), "How many expositions of this cluster are offered to the peer."),
        AGE,
    ],
    wide: &[
        ("Endpoint", Text(".spec.endpoint"), "The peer's agent, which is dialled."),
        ("Consume", Truth(".spec.consume"), "Whether the peer may consume what is exposed here."),
        (
            "Certificate-Expires",
            Text(".status.certificateExpires"),
            "When the certificate that the peer showed expires.",
        ),
        (
            "Own-Expires",
            Text(".status.ownCertificateExpires"),
            "When the certificate that is shown to the peer expires.",
        ),
        MESSAGE,
    ],
};

pub fn columns_of_kind(kind: &str) -> Vec<CustomResourceColumnDefinition> {
    let columns = match kind {
        "ServiceExpositionPolicy" => POLICY,
        "RemoteServiceBinding" => BINDING,
        _ => PEERING,
    };
    let shown = columns.shown.iter().map(|c| build_column(c, None));
    shown.chain(columns.wide.iter().map(|c| build_column(c, Some(1)))).collect()
}

fn build_column((name, at, description): &ColumnSpec, priority: Option<i32>) -> CustomResourceColumnDefinition {
    let (type_, json_path) = match at {
        Holds(condition) => ("string", format!(".status.conditions[?(@.type==\"{condition}\")].status")),
        Failing(field) => ("string", format!(".status.conditions[?(@.status==\"False\")].{field}")),
        Text(path) => ("string", (*path).to_owned()),
        Number(path) => ("integer", (*path).to_owned()),
        Truth(path) => ("boolean", (*path).to_owned()),
        Since(path) => ("date", (*path).to_owned()),
    };
    CustomResourceColumnDefinition {
        description: Some((*description).to_owned()),
        format: None,
        json_path,
        name: (*name).to_owned(),
        priority,
        type_: type_.to_owned(),
    }
}
