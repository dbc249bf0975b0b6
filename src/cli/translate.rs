//! `wharf translate`: prints the Istio objects of policies and bindings, as an agent would write them, without an
//! agent.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;

use crate::agent::blind::{BlindSpots, unread_objects};
use crate::api::{Object, ObjectKey, RemoteServiceBinding, ServiceExpositionPolicy};
use crate::cli::output;
use crate::config::{Config, ConfigError};
use crate::model::text::printable;
use crate::model::{Address, ClusterFacts, GatewayAddress, SpiffeId, Style, TlsMode};
use crate::store::manifest::ManifestError;
use crate::store::{Input, InputKey, manifest};
use crate::translate::{self, Inventory, LocalName, NameClaims, PassthroughHosts, Problem, ProblemReason, Source};

mod binding;
mod offers;

use offers::FileOffers;

/// Translate policies and bindings to Istio objects, as the agent would
///
/// Reads policies, bindings, and the Services, DestinationRules and VirtualServices that they refer to; prints Istio
/// objects as YAML. What cannot be done is told on stderr, by name, and the rest is printed all the same.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  wharf translate --config cluster1.yaml -f policy.yaml services.yaml\n  \
                        wharf translate --config cluster2.yaml -f binding.yaml \\\n    --style DIRECT_INGRESS | istioctl validate -f -\n  \
                        wharf translate --config cluster1.yaml -f policy.yaml services.yaml \\\n    --gen-binding")]
pub struct TranslateArgs {
    /// YAML or JSON files with the objects; - is stdin
    #[arg(short, long = "filename", value_name = "FILE", required = true, num_args = 1..)]
    files: Vec<PathBuf>,
    /// The agent's configuration (also the original's, also in its ConfigMap): who this cluster and its peers are.
    /// Without it, every cluster that a policy names is trusted
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// EGRESS_INGRESS or DIRECT_INGRESS, instead of what the configuration says
    #[arg(long)]
    style: Option<Style>,
    /// Cluster, Workload or Passthrough, for expositions that name none
    #[arg(long)]
    tls: Option<TlsMode>,
    /// What the peers offer. Without it, each bound service is taken to be exposed as its binding names it, as HTTP, at the
    /// gateway address that the configuration gives
    #[arg(long, value_name = "FILE")]
    expositions: Option<PathBuf>,
    /// Print the RemoteServiceBinding that would consume what the policies expose, and nothing else
    #[arg(long)]
    gen_binding: bool,
}

pub fn run(args: TranslateArgs) -> anyhow::Result<ExitCode> {
    let facts = match build_facts(&args)? {
        Ok(facts) => facts,
        Err(message) => {
            output::print_to_stderr(&message);
            return Ok(ExitCode::from(super::USAGE));
        }
    };
    let mut work = TranslateRun::new(facts);
    for file in &args.files {
        work.read_file(file)?;
    }
    let docs: Vec<String> = if args.gen_binding {
        work.generate_bindings().iter().map(output::to_yaml).collect()
    } else {
        let offers =
            args.expositions.as_deref().map(|path| FileOffers::read_file(path, &mut work.report)).transpose()?;
        work.translate_all(offers.as_ref()).iter().map(output::to_yaml).collect()
    };
    if docs.is_empty() && work.report.text.is_empty() {
        work.report.add_note("nothing", "no policy and no binding is in what was given, so there is nothing to print");
    }
    output::print(&docs.join("---\n"))?;
    output::print_to_stderr(&work.report.text);
    Ok(if work.report.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Builds the facts from the configuration and the command line. The inner error is one of usage, as lines for stderr.
fn build_facts(args: &TranslateArgs) -> anyhow::Result<Result<ClusterFacts, String>> {
    let config = match &args.config {
        Some(path) => Config::load(path)?,
        None => without_config()?,
    };
    let mut facts = config.cluster_facts(SpiffeId::of_cluster(&config.cluster));
    // A mode that is only the default of the configured style gives way to the default of another style.
    let inherited = if config.tls == config.style.default_tls() { None } else { Some(config.tls) };
    facts.exposure = facts.exposure.or_later();
    facts.style = args.style.unwrap_or(config.style);
    facts.tls = args.tls.or(inherited).unwrap_or_else(|| facts.style.default_tls());
    if !facts.style.carries_tls(facts.tls) {
        return Ok(Err(format!(
            "error: --style {} cannot carry --tls {}: a sidecar does not hold the cluster's certificate\n  \
             use --style EGRESS_INGRESS, or --tls Workload or Passthrough\n",
            facts.style, facts.tls
        )));
    }
    Ok(Ok(facts))
}

fn without_config() -> Result<Config, ConfigError> {
    let config = Config::parse("cluster: this-cluster\n", "the defaults", Path::new("."))?;
    Ok(Config { trust_any: true, ..config })
}

/// Errors and notes for stderr.
#[derive(Default)]
struct TranslateReport {
    text: String,
    failed: bool,
}

impl TranslateReport {
    fn add_error(&mut self, message: &str, cure: &str) {
        self.failed = true;
        let _ = writeln!(self.text, "error: {}", printable(message)); // writing to a String does not fail
        if !cure.is_empty() {
            let _ = writeln!(self.text, "  {}", printable(cure));
        }
    }

    fn add_problem(&mut self, at: &str, problem: &Problem) {
        self.add_error(&format!("{at}: {problem}"), &problem.cure);
    }

    fn add_note(&mut self, at: &str, note: &str) {
        let _ = writeln!(self.text, "note: {}: {}", printable(at), printable(note));
    }
}

/// All objects that were read.
struct TranslateRun {
    facts: ClusterFacts,
    policies: BTreeMap<InputKey, (String, Arc<ServiceExpositionPolicy>)>,
    bindings: BTreeMap<InputKey, (String, Arc<RemoteServiceBinding>)>,
    inventory: Inventory,
    blind: BlindSpots,
    /// The user's objects, which Wharf does not overwrite.
    theirs: BTreeSet<ObjectKey>,
    seen: BTreeMap<InputKey, String>,
    report: TranslateReport,
}

impl TranslateRun {
    fn new(facts: ClusterFacts) -> TranslateRun {
        TranslateRun {
            facts,
            policies: BTreeMap::new(),
            bindings: BTreeMap::new(),
            inventory: Inventory::default(),
            blind: BlindSpots::default(),
            theirs: BTreeSet::new(),
            seen: BTreeMap::new(),
            report: TranslateReport::default(),
        }
    }

    fn read_file(&mut self, path: &Path) -> anyhow::Result<()> {
        let name = path.display().to_string();
        let bytes = if name == "-" {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes).context("stdin")?;
            bytes
        } else {
            std::fs::read(path).with_context(|| name.clone())?
        };
        for document in manifest::read_manifest(&name, &bytes) {
            match document {
                Ok(document) => self.add_input(format!("{name}:{}", document.line), document.input),
                Err(e) if e.foreign => {}
                Err(e) => {
                    self.note_unread(&e);
                    self.report.add_error(&e.to_string(), "");
                }
            }
        }
        Ok(())
    }

    /// Notes the objects that an unreadable document may hold, so that they are not reported as missing.
    fn note_unread(&mut self, e: &ManifestError) {
        let (place, message, hidden) = (e.place(), e.message(), e.hidden_inputs());
        self.inventory.record_unread(&place, Some(unread_objects(&message, &hidden)));
        self.blind.note_hidden(&place, &message, hidden);
        self.facts.hidden_peers = self.blind.hidden_peers();
    }

    fn add_input(&mut self, place: String, input: Input) {
        let key = input.key();
        if let Some(first) = self.seen.get(&key) {
            let message = format!("{place}: {key}: it is defined at {first} already");
            self.report.add_error(&message, "only the first one counts");
            return;
        }
        self.seen.insert(key.clone(), place.clone());
        match input {
            Input::Policy(policy) => drop(self.policies.insert(key, (place, policy))),
            Input::Binding(binding) => drop(self.bindings.insert(key, (place, binding))),
            Input::Peering(peering) => {
                let name = peering.metadata.name.clone().unwrap_or_default();
                let peer =
                    name.parse().map_err(|e| format!("metadata.name: {e}")).and_then(|n| peering.spec.to_peer(n));
                match peer {
                    Ok(peer) => drop(self.facts.peers.insert(peer.name.clone(), peer)),
                    Err(message) => self.report.add_error(&format!("{place}: {key}: spec.{message}"), ""),
                }
            }
            Input::Object(object) => {
                if object.owner().is_none() {
                    self.theirs.insert(object.key());
                }
                self.inventory.set_object(object);
            }
        }
    }

    /// Translates all policies and bindings. Returns their objects, sorted.
    fn translate_all(&mut self, offers: Option<&FileOffers>) -> Vec<Object> {
        let mut objects = self.expose_policies().0;
        objects.extend(self.bind_names(offers));
        objects.sort_by_cached_key(Object::key);
        let theirs = &self.theirs;
        let report = &mut self.report;
        objects.retain(|object| {
            let clash = theirs.contains(&object.key());
            if clash {
                report
                    .add_error(&format!("{}: it is not Wharf's, and in the way", object.key()), "rename or remove it");
            }
            !clash
        });
        objects
    }

    /// Translates the policies. Returns their objects, and the expositions with the clusters that they are offered to.
    fn expose_policies(&mut self) -> (Vec<Object>, Vec<translate::PolicyOffer>) {
        let mut claims = NameClaims::default();
        for (_, policy) in self.policies.values() {
            claims.insert_policy(policy);
        }
        let (mut objects, mut offers) = (Vec::new(), Vec::new());
        for (key, (place, policy)) in &self.policies {
            let at = format!("{place}: {key}");
            let exposed = translate::expose_policy(policy, &self.inventory, &claims, &self.facts);
            for problem in &exposed.problems {
                self.report.add_problem(&at, problem);
            }
            for entry in &exposed.entries {
                match &entry.problem {
                    // The agent waits for an address; here a note is enough.
                    Some(problem) if problem.reason == ProblemReason::NoGatewayAddress => {
                        self.report.add_note(&at, &problem.line())
                    }
                    Some(problem) => self.report.add_problem(&at, problem),
                    None => {}
                }
                for note in &entry.notes {
                    self.report.add_note(&format!("{at}: {}", entry.status.name), note);
                }
            }
            objects.extend(exposed.objects);
            offers.extend(exposed.offers);
        }
        (objects, offers)
    }

    fn bind_names(&mut self, offers: Option<&FileOffers>) -> Vec<Object> {
        let mut locals: BTreeMap<LocalName, Vec<Source>> = BTreeMap::new();
        for (key, (place, binding)) in &self.bindings {
            let split = translate::split_binding(binding);
            let at = format!("{place}: {key}");
            if split.potential {
                self.report.add_note(&at, "it is an offer on the table (connection: potential): nothing is configured");
            }
            for problem in &split.problems {
                self.report.add_problem(&at, problem);
            }
            for entry in &split.entries {
                match &entry.wanted {
                    Ok(wanted) => locals
                        .entry(wanted.local.clone())
                        .or_default()
                        .push(Source::new(wanted.clone(), offers::find_offer(wanted, offers, &self.facts))),
                    // The problem of the cluster is reported for the binding.
                    Err(problem) if split.problems.iter().any(|p| p.field == problem.field) => {}
                    Err(problem) => self.report.add_problem(&at, problem),
                }
            }
        }
        let mut passthroughs = PassthroughHosts::default();
        for (local, sources) in &locals {
            passthroughs.update_sources(local, sources);
        }
        let (mut objects, mut shared) = (Vec::new(), false);
        for (local, sources) in &locals {
            let bound = translate::bind_local_name(local, sources, &self.inventory, &passthroughs, &self.facts, false);
            for outcome in &bound.outcomes {
                let b = &outcome.wanted.binding;
                let place = self.bindings.iter().find(|(_, (_, o))| {
                    o.metadata.name.as_deref() == Some(&b.name)
                        && o.metadata.namespace.as_deref().unwrap_or(manifest::DEFAULT_NAMESPACE) == b.namespace
                });
                let at = place.map_or_else(|| b.to_string(), |(key, (place, _))| format!("{place}: {key}"));
                if let Some(problem) = &outcome.problem {
                    self.report.add_problem(&at, problem);
                }
                if let Some(lacking) = &outcome.lacking {
                    self.report.add_problem(&at, lacking);
                }
                for note in &outcome.notes {
                    self.report.add_note(&format!("{at}: {}", outcome.wanted.path()), note);
                }
            }
            objects.extend(bound.objects);
            shared |= bound.shared;
        }
        if shared {
            objects.extend(translate::shared_egress(&self.inventory, &self.facts));
            self.note_rules_in_front();
        }
        objects
    }

    /// Reports DestinationRules that take the place of Wharf's. Statuses do not name what blocks callers of other
    /// namespaces; a person who has all the files may know it.
    fn note_rules_in_front(&mut self) {
        let egress = &self.facts.egress;
        for rule in self.inventory.rules_over(&egress.host()) {
            if rule.is_in_front(&egress.namespace, &self.facts.root_namespace) {
                let message = format!(
                    "it covers the egress gateway (host {}), and takes the place of Wharf's rule in its namespace: calls of bound services from there fail; move it to {}",
                    rule.host, egress.namespace
                );
                self.report.add_note(&rule.to_string(), &message);
            }
        }
    }

    /// Generates the bindings that would consume what the policies expose.
    fn generate_bindings(&mut self) -> Vec<RemoteServiceBinding> {
        if self.facts.ingress.addresses.is_empty() {
            // A binding names no address: an offer without one will do here.
            let address = Address::Name(self.facts.ingress.host());
            self.facts.ingress.addresses =
                vec![GatewayAddress { address, port: self.facts.ingress.port, locality: None }];
        }
        let offers = self.expose_policies().1;
        let expositions = offers.iter().filter_map(|o| o.to.values().next()).map(|e| &**e);
        binding::build_binding(&self.facts.cluster, expositions).into_iter().collect()
    }
}
