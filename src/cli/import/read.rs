//! Reads the objects that `wharf import` looks at, from files or from an API server.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use anyhow::bail;
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DynamicObject, ListParams};
use kube::{Client, ResourceExt as _};

use crate::api::{ClusterPeering, Kind};
use crate::cli::access::ClusterAccess;
use crate::cli::pages::list_pages;
use crate::import::{ClusterObjects, PeerBook};
use crate::store::kube::client::describe_error;
use crate::store::kube::kinds::WatchedKind;
use crate::store::{Input, InputKey, manifest};

/// Most bytes of one file, and objects of one kind: more is a mistake.
const MAX_BYTES: u64 = 64 << 20;
const MAX_OBJECTS: usize = 50_000;
/// Most remote secrets that are looked at.
const MAX_SECRETS: u32 = 500;
/// Longest time for one response.
const PATIENCE: Duration = Duration::from_secs(30);
/// Istio's label of the Secrets that lead istiod to other clusters, and its annotation with the cluster's name.
const REMOTE_SECRETS: &str = "istio/multiCluster=true";
const REMOTE_CLUSTER: &str = "networking.istio.io/cluster";

/// The kinds that are looked at. Peerings come first: without them no address has an owner.
const KINDS: [WatchedKind; 7] = [
    WatchedKind::Peering,
    WatchedKind::Object(Kind::AuthorizationPolicy),
    WatchedKind::Object(Kind::DestinationRule),
    WatchedKind::Object(Kind::ServiceEntry),
    WatchedKind::Object(Kind::Gateway),
    WatchedKind::Object(Kind::VirtualService),
    WatchedKind::Object(Kind::Service),
];

/// Something that could not be read, and the reason.
#[derive(Debug)]
pub struct UnreadObject {
    pub place: String,
    pub message: String,
}

/// The objects of one cluster, as far as they could be read.
#[derive(Debug, Default)]
pub struct ReadObjects {
    pub objects: ClusterObjects,
    pub peers: PeerBook,
    /// The clusters that remote secrets name; none: they were not read.
    pub remote_secrets: Option<Vec<String>>,
    pub problems: Vec<UnreadObject>,
    /// The namespace that is looked at; none: all.
    pub namespace: Option<String>,
}

pub struct ObjectReader {
    read: ReadObjects,
    all_namespaces: bool,
    seen: BTreeMap<InputKey, String>,
}

impl ObjectReader {
    pub fn new(namespace: Option<String>, all_namespaces: bool) -> ObjectReader {
        let read = ReadObjects { namespace, ..ReadObjects::default() };
        ObjectReader { read, all_namespaces, seen: BTreeMap::new() }
    }

    pub fn finish(self) -> ReadObjects {
        self.read
    }

    /// Reads files. One that cannot be read costs none of the others; none at all is a failure.
    pub fn read_files(&mut self, files: &[PathBuf]) -> anyhow::Result<()> {
        for path in files {
            let name = path.display().to_string();
            match read_bytes(path) {
                Ok(bytes) => self.read_documents(&name, &bytes),
                Err(e) => self.add_problem(name, e.to_string()),
            }
        }
        if self.seen.is_empty() && self.read.problems.len() >= files.len() {
            let first = self.read.problems.first().map(|p| format!("{}: {}", p.place, p.message));
            bail!("{}", first.unwrap_or_default());
        }
        Ok(())
    }

    fn read_documents(&mut self, name: &str, bytes: &[u8]) {
        for document in manifest::read_manifest(name, bytes) {
            match document {
                Ok(document) => self.add_input(format!("{name}:{}", document.line), document.input),
                Err(e) if e.foreign => {}
                Err(e) => self.add_problem(e.place(), e.message()),
            }
        }
    }

    fn add_input(&mut self, place: String, input: Input) {
        let key = input.key();
        if let Some(first) = self.seen.get(&key) {
            let message = format!("{key}: it is at {first} already, and only the first one counts");
            self.add_problem(place, message);
            return;
        }
        self.seen.insert(key, place.clone());
        match input {
            Input::Object(object) => self.read.objects.add_object(object),
            Input::Peering(peering) => self.add_peering(place, &peering),
            Input::Policy(_) | Input::Binding(_) => {}
        }
    }

    fn add_peering(&mut self, place: String, peering: &ClusterPeering) {
        let name = peering.metadata.name.clone().unwrap_or_default();
        let peer = name.parse().map_err(|e| format!("metadata.name: {e}")).and_then(|n| peering.spec.to_peer(n));
        match peer {
            Ok(peer) => self.read.peers.add_peer(peer),
            Err(message) => self.add_problem(place, format!("ClusterPeering {name}: spec.{message}")),
        }
    }

    fn add_problem(&mut self, place: String, message: String) {
        self.read.problems.push(UnreadObject { place, message });
    }

    /// Reads a cluster. All namespaces are read where that is allowed, since rules of others count, too.
    pub async fn read_cluster(&mut self, access: &ClusterAccess, with_secrets: bool) -> anyhow::Result<()> {
        let client = access.connect().await?;
        if self.read.namespace.is_none() && !self.all_namespaces {
            self.read.namespace = Some(client.default_namespace().to_owned());
        }
        for kind in KINDS {
            self.read_kind(&client, kind).await?;
        }
        if with_secrets {
            self.read_remote_secrets(&client).await;
        }
        Ok(())
    }

    async fn read_kind(&mut self, client: &Client, kind: WatchedKind) -> anyhow::Result<()> {
        let all: Api<DynamicObject> = Api::all_with(client.clone(), &kind.resource());
        let mut listed = list_all(&all).await;
        let confined = self.read.namespace.clone().filter(|_| kind != WatchedKind::Peering);
        if let (Err(ListFailure::Forbidden(_)), Some(namespace)) = (&listed, &confined) {
            listed = list_all(&Api::namespaced_with(client.clone(), namespace, &kind.resource())).await;
        }
        match listed {
            Ok(objects) => objects.into_iter().for_each(|object| self.add_listed(kind, object)),
            // A cluster without Istio, or without Wharf's definitions yet, has none of them.
            Err(ListFailure::NotServed) => {}
            Err(ListFailure::Forbidden(message)) => self.add_problem(kind.plural().to_owned(), message),
            Err(ListFailure::Failed(message)) => bail!("{}: {message}", kind.plural()),
        }
        Ok(())
    }

    fn add_listed(&mut self, kind: WatchedKind, object: DynamicObject) {
        let place = match object.namespace() {
            Some(namespace) => format!("{} {namespace}/{}", kind.kind(), object.name_any()),
            None => format!("{} {}", kind.kind(), object.name_any()),
        };
        let mut value = match serde_json::to_value(object) {
            Ok(value) => value,
            Err(e) => return self.add_problem(place, e.to_string()),
        };
        let resource = kind.resource();
        value["apiVersion"] = resource.api_version.into(); // items of a list do not say it
        value["kind"] = resource.kind.into();
        match manifest::read_value(&place, value) {
            Some(Ok(document)) => self.add_input(place, document.input),
            Some(Err(e)) => self.add_problem(place, e.reason.to_string()),
            None => {}
        }
    }

    /// Reads the names of the clusters that remote secrets are for: their metadata, and never what is in them.
    async fn read_remote_secrets(&mut self, client: &Client) {
        let secrets: Api<Secret> = Api::all(client.clone());
        let params = ListParams::default().labels(REMOTE_SECRETS).limit(MAX_SECRETS);
        let Ok(Ok(listed)) = tokio::time::timeout(PATIENCE, secrets.list_metadata(&params)).await else { return };
        let names = listed.items.iter().filter_map(|s| s.annotations().get(REMOTE_CLUSTER).cloned());
        self.read.remote_secrets = Some(names.collect());
    }
}

fn read_bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = match path == Path::new("-") {
        true => std::io::stdin().take(MAX_BYTES + 1).read_to_end(&mut bytes)?,
        false => std::fs::File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?,
    };
    if read as u64 > MAX_BYTES {
        return Err(std::io::Error::other(format!("it has more than {} MiB: name fewer objects", MAX_BYTES >> 20)));
    }
    Ok(bytes)
}

enum ListFailure {
    NotServed,
    Forbidden(String),
    Failed(String),
}

/// Lists all objects, each page within [`PATIENCE`].
async fn list_all(api: &Api<DynamicObject>) -> Result<Vec<DynamicObject>, ListFailure> {
    let mut pages = pin!(list_pages(api, ListParams::default()));
    let mut all = Vec::new();
    loop {
        match tokio::time::timeout(PATIENCE, pages.try_next()).await {
            Ok(Ok(Some(page))) => all.extend(page),
            Ok(Ok(None)) => return Ok(all),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Err(ListFailure::NotServed),
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                return Err(ListFailure::Forbidden(status.message));
            }
            Ok(Err(e)) => return Err(ListFailure::Failed(describe_error(&e))),
            Err(_) => return Err(ListFailure::Failed(format!("no answer in {} s", PATIENCE.as_secs()))),
        }
        if all.len() > MAX_OBJECTS {
            return Err(ListFailure::Failed(format!("there are more than {MAX_OBJECTS}: name a namespace")));
        }
    }
}
