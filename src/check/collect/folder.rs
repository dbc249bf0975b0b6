//! Looks at a cluster that is a folder. Checks of Kubernetes are left out.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use time::OffsetDateTime;

use super::CheckProgress;
use super::peers::{self, PeerConnections};
use super::ready::of_folder;
use crate::agent::view::AgentView;
use crate::api::ConditionStatus;
use crate::check::{CheckArea, Finding, certificates, peers as judge, ready, running};
use crate::config::{Config, IdentityConfig, with_usable_roots};
use crate::identity::{Identity, IdentityFiles, read_certificates};
use crate::model::{SpiffeId, TlsMode};
use crate::store::dir::MAX_FILES;
use crate::store::{HiddenInputs, Input, manifest};

/// Deepest nesting of folders, as the agent has it.
const MAX_DEPTH: usize = 32;

/// Checks a folder. `view`: the answer of the agent on this machine, or the reason why there is none.
pub async fn check_folder(
    config: &Config,
    root: &Path,
    view: &Result<AgentView, String>,
    progress: &CheckProgress,
) -> Vec<Finding> {
    let now = OffsetDateTime::now_utc();
    progress.set_step("the folder");
    let mut findings = Vec::new();
    let mut found =
        FolderContent { peers: config.peers.clone(), modes: vec![config.tls], inputs: Vec::new(), unread: Vec::new() };
    findings.extend(found.read_files(root));
    findings.extend(check_address(config));
    findings.extend(running::judge_local(&config.admin.to_string(), view));
    let identity = match &config.identity {
        Some(IdentityConfig::Files(files)) => {
            let (identity, told) = of_files(config, files, now);
            findings.extend(told);
            identity
        }
        Some(IdentityConfig::Secret(secret)) => {
            let why = format!("identity.secret: {secret} is in a cluster's API server, and the store is a folder");
            findings.push(
                Finding::error(CheckArea::Identity, "configuration", why)
                    .with_cure("name the files: certificate, key, root"),
            );
            Err("there is no identity".into())
        }
        None => {
            let finding = Finding::error(CheckArea::Identity, "configuration", "identity: missing; an agent needs it");
            findings.push(finding.with_cure("make a certificate (`wharf ca`), and name its files"));
            Err("there is no identity".into())
        }
    };
    progress.set_step("the peers");
    let connected = view.as_ref().map(peer_connections).unwrap_or_default();
    let mut offline = config.cluster_facts(SpiffeId::of_cluster(&config.cluster));
    offline.peers.clone_from(&found.peers);
    let facts = peers::dial_peers(found.peers, &connected, identity.clone(), config.allow_tls12).await;
    let own = judge::OwnCluster {
        cluster: Some(&config.cluster),
        identity: identity.as_ref().ok().map(|i| &i.spiffe_id),
        trust_domain: &config.trust_domain,
        modes: &found.modes,
    };
    findings.extend(judge::judge_peers(&own, &facts, now));
    match view {
        Ok(view) => {
            findings.extend(ready::judge_policies(&view.policies));
            findings.extend(ready::judge_bindings(&view.bindings));
        }
        Err(_) => findings.extend(of_folder(found.inputs, &found.unread, offline)),
    }
    findings
}

/// Loads an identity from files, and checks it.
pub(super) fn of_files(
    config: &Config,
    files: &IdentityFiles,
    now: OffsetDateTime,
) -> (Result<Arc<Identity>, String>, Vec<Finding>) {
    let loaded = Identity::load_at(files, now).map_err(|e| e.to_string());
    let place = files.certificate.display().to_string();
    let mut findings = certificates::judge_identity(&place, Some(&config.cluster), &loaded, now);
    if let Ok(roots) = read_certificates(&files.root) {
        findings.extend(certificates::judge_roots(&files.root.display().to_string(), &roots, now));
    }
    (loaded.map(Arc::new).map_err(|_| "the identity cannot be used".into()), findings)
}

fn check_address(config: &Config) -> Option<Finding> {
    let missing = config.ingress.addresses.is_empty();
    missing.then(|| {
        Finding::warning(CheckArea::Gateways, "configuration", "ingress.address: missing; nothing can be offered")
            .with_cure("say where others reach the ingress gateway: no Service tells it in a folder")
    })
}

fn peer_connections(view: &AgentView) -> PeerConnections {
    let of = |p: &crate::agent::view::PeerView| {
        let condition = p.status.conditions.iter().find(|c| c.type_ == "Connected")?;
        let holds = condition.status == ConditionStatus::True;
        Some((p.name.clone(), if holds { Ok(()) } else { Err(condition.message.clone()) }))
    };
    view.peers.iter().filter_map(of).collect()
}

/// The content of a folder, as far as the checks need it.
struct FolderContent {
    peers: std::collections::BTreeMap<crate::model::ClusterName, crate::model::Peer>,
    modes: Vec<TlsMode>,
    /// All objects, each with its place.
    inputs: Vec<(String, Input)>,
    /// Places that could not be read, each with the reason and the inputs that it may hold.
    unread: Vec<(String, String, HiddenInputs)>,
}

impl FolderContent {
    fn read_files(&mut self, root: &Path) -> Vec<Finding> {
        let object = root.display().to_string();
        let FoundManifests { files, blind } = match find_manifests(root) {
            Ok(found) => found,
            Err(e) => {
                let finding = Finding::error(CheckArea::Cluster, object, format!("it cannot be read: {e}"));
                return vec![finding.with_cure("make the store's folder, or correct store.dir")];
            }
        };
        let mut findings = Vec::new();
        let count = files.len();
        for (place, why) in blind {
            findings.push(Finding::error(CheckArea::Cluster, &place, format!("it cannot be read: {why}")));
            self.unread.push((place, why, HiddenInputs::anything()));
        }
        for file in files {
            let name = file.display().to_string();
            match std::fs::read(&file) {
                Ok(bytes) => {
                    for document in manifest::read_manifest(&name, &bytes) {
                        match document {
                            Ok(document) => {
                                let place = format!("{name}:{}", document.line);
                                findings.extend(self.add_input(&place, &document.input));
                                self.inputs.push((place, document.input));
                            }
                            Err(e) if e.foreign => {}
                            Err(e) => {
                                findings.push(Finding::error(CheckArea::Cluster, e.place(), e.message()));
                                self.unread.push((e.place(), e.message(), e.hidden_inputs()));
                            }
                        }
                    }
                }
                Err(e) => {
                    findings.push(Finding::error(CheckArea::Cluster, &name, format!("it cannot be read: {e}")));
                    self.unread.push((name, e.to_string(), HiddenInputs::anything()));
                }
            }
        }
        if findings.is_empty() {
            findings.push(Finding::ok(CheckArea::Cluster, object, format!("{count} files, and all can be read")));
        }
        findings
    }

    fn add_input(&mut self, place: &str, input: &Input) -> Option<Finding> {
        match input {
            Input::Policy(policy) => self.modes.extend(policy.spec.exposed.iter().filter_map(|e| e.tls)),
            Input::Peering(peering) => {
                let name = peering.metadata.name.clone().unwrap_or_default();
                let peer = name
                    .parse()
                    .map_err(|e| format!("{e}"))
                    .and_then(|n| peering.spec.to_peer(n))
                    .and_then(with_usable_roots);
                match peer {
                    Ok(peer) => drop(self.peers.insert(peer.name.clone(), peer)),
                    Err(why) => return Some(Finding::error(CheckArea::Peers, place, format!("spec.{why}"))),
                }
            }
            Input::Binding(_) | Input::Object(_) => {}
        }
        self.modes.sort();
        self.modes.dedup();
        None
    }
}

/// The files that people wrote: neither hidden ones nor those in the folder of Wharf's objects.
#[derive(Default)]
struct FoundManifests {
    files: Vec<PathBuf>,
    /// Places that could not be searched, each with the reason.
    blind: Vec<(String, String)>,
}

fn find_manifests(root: &Path) -> std::io::Result<FoundManifests> {
    let mut found = FoundManifests::default();
    let mut folders = vec![(root.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Err(e) if depth == 0 => return Err(e),
            Err(e) => {
                found.blind.push((folder.display().to_string(), e.to_string()));
                continue;
            }
            Ok(entries) => entries,
        };
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let ours = depth == 0 && name == "istio";
            if name.starts_with('.') || ours {
                continue;
            }
            if path.is_dir() {
                if depth < MAX_DEPTH {
                    folders.push((path, depth + 1));
                }
            } else if !matches!(path.extension().and_then(|e| e.to_str()), Some("yaml" | "yml" | "json")) {
                continue;
            } else if found.files.len() < MAX_FILES {
                found.files.push(path);
            } else {
                let why = format!("there are more than {MAX_FILES} files, and the others were not looked at");
                found.blind.push((root.display().to_string(), why));
                folders.clear();
                break;
            }
        }
    }
    found.files.sort();
    Ok(found)
}
