//! What comes from outside, in every odd form: changed a little, cut, doubled, mixed. Nothing panics, nothing takes long or
//! grows, and an error says where it is.
//!
//! The beginnings are the files of `tests/fuzz/corpus/<target>/`. A run changes them in the same way each time;
//! `WHARF_FUZZ_SECONDS=600` goes on with other changes for that long, for each target. What was found belongs into the
//! corpus: each of its files is tried as it is, every time.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use prost::Message as _;
use time::OffsetDateTime;
use wharf::agent::istiod::metrics_text::{GatewayPods, MetricsReader};
use wharf::config::Config;
use wharf::identity::{Identity, IdentityBundle, PemText, check_lists, describe_certificate, describe_list};
use wharf::model::SpiffeId;
use wharf::peering::convert::{ExpositionChecks, from_wire, outcome_from_wire, to_wire};
use wharf::peering::pb;
use wharf::store::{Input, manifest};
use wharf::translate::{Inventory, NameClaims, expose_policy};

use crate::support::pki::Ca;

/// Cases of a target in each run: seconds in all.
const CASES: u32 = 200;
/// Nobody sends more in one piece.
const MAX_INPUT: usize = 64 * 1024;
/// For one case. The build is unoptimized, and machines that test are busy.
const PATIENCE: Duration = Duration::from_secs(10);
/// An error is for people to read.
const MAX_ERROR: usize = 16 * 1024;

/// One change of an input. Positions are taken modulo its length.
#[derive(Debug, Clone)]
enum Edit {
    Set(usize, u8),
    Insert(usize, Vec<u8>),
    /// A word that means something to the target.
    Word(usize, usize),
    Remove(usize, usize),
    /// A part, again and again.
    Repeat(usize, usize, usize),
    /// A part of another input of the corpus.
    Splice(usize, usize, usize, usize),
    Cut(usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<usize>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(p, b)| Edit::Set(p, b)),
        (at(), proptest::collection::vec(any::<u8>(), 1..9)).prop_map(|(p, b)| Edit::Insert(p, b)),
        (at(), at()).prop_map(|(p, w)| Edit::Word(p, w)),
        (at(), 1..40usize).prop_map(|(p, n)| Edit::Remove(p, n)),
        (at(), 1..200usize, 1..300usize).prop_map(|(p, n, times)| Edit::Repeat(p, n, times)),
        (at(), at(), at(), 1..400usize).prop_map(|(p, other, from, n)| Edit::Splice(p, other, from, n)),
        at().prop_map(Edit::Cut),
    ]
}

/// What comes in at one place.
struct Target {
    name: &'static str,
    words: &'static [&'static str],
    corpus: Vec<(PathBuf, Vec<u8>)>,
}

impl Target {
    fn new(name: &'static str, words: &'static [&'static str]) -> Target {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
        let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let corpus: Vec<_> = files.into_iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect();
        assert!(!corpus.is_empty(), "{}: there is nothing to begin with", folder.display());
        Target { name, words, corpus }
    }

    fn changed(&self, begin: usize, edits: &[Edit]) -> Vec<u8> {
        let mut input = self.corpus[begin % self.corpus.len()].1.clone();
        for edit in edits {
            self.apply(edit, &mut input);
            input.truncate(MAX_INPUT);
        }
        input
    }

    fn apply(&self, edit: &Edit, input: &mut Vec<u8>) {
        let at = |position: &usize| position % (input.len() + 1);
        let part = |position: &usize, length: &usize| at(position)..(at(position) + length).min(input.len());
        match edit {
            Edit::Set(position, byte) => {
                let position = at(position);
                if let Some(old) = input.get_mut(position) {
                    *old = *byte;
                }
            }
            Edit::Insert(position, bytes) => {
                let position = at(position);
                drop(input.splice(position..position, bytes.iter().copied()));
            }
            Edit::Word(position, word) => {
                let position = at(position);
                let word = self.words[word % self.words.len()];
                drop(input.splice(position..position, word.bytes()));
            }
            Edit::Remove(position, length) => drop(input.drain(part(position, length))),
            Edit::Repeat(position, length, times) => {
                let range = part(position, length);
                let times = (*times).min(MAX_INPUT / range.len().max(1));
                let again = input[range.clone()].repeat(times);
                drop(input.splice(range.start..range.start, again));
            }
            Edit::Splice(position, other, from, length) => {
                let other = &self.corpus[other % self.corpus.len()].1;
                let from = from % (other.len() + 1);
                let piece = other[from..(from + length).min(other.len())].to_vec();
                let position = at(position);
                drop(input.splice(position..position, piece));
            }
            Edit::Cut(position) => {
                let position = at(position);
                input.truncate(position);
            }
        }
    }

    /// Tries the corpus as it is, then changed.
    fn run(&self, judge: impl Fn(&[u8]) -> Result<(), TestCaseError>) {
        for (file, input) in &self.corpus {
            judge(input).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        }
        self.try_changes(TestRng::deterministic_rng(RngAlgorithm::ChaCha), &judge);
        let seconds = std::env::var("WHARF_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(seconds) {
            self.try_changes(TestRng::from_seed(RngAlgorithm::ChaCha, &rand::random::<[u8; 32]>()), &judge);
        }
    }

    fn try_changes(&self, rng: TestRng, judge: &impl Fn(&[u8]) -> Result<(), TestCaseError>) {
        let cases = Cases { cases: CASES, failure_persistence: None, max_shrink_iters: 2000, ..Cases::default() };
        let changes = (any::<usize>(), proptest::collection::vec(edit(), 1..8));
        let found = TestRunner::new_with_rng(cases, rng).run(&changes, |(begin, edits)| {
            let input = self.changed(begin, &edits);
            let begun = Instant::now();
            judge(&input)?;
            prop_assert!(begun.elapsed() < PATIENCE, "it took {:?}", begun.elapsed());
            Ok(())
        });
        if let Err(proptest::test_runner::TestError::Fail(why, (begin, edits))) = &found {
            let input = self.changed(*begin, edits).escape_ascii().to_string();
            panic!("{why}\nfor the corpus of {}, once it is mended: b\"{input}\"", self.name);
        }
        found.unwrap();
    }
}

fn at_most(text: &str, what: &str) -> Result<(), TestCaseError> {
    prop_assert!(text.len() <= MAX_ERROR, "{what} of {} bytes", text.len());
    Ok(())
}

#[test]
fn a_message_of_a_peer_is_taken_checked_or_refused_by_name() {
    let words =
        ["\x0a\x07default", "\x12\x07reviews", "\x08\x01", "\u{202e}", "127.0.0.1", "spiffe://", "\x1b[2J", "%00"];
    Target::new("wire", Box::leak(Box::new(words))).run(|input| {
        for checks in [ExpositionChecks::default(), ExpositionChecks { gateways: None }] {
            let Ok(wire) = pb::Exposition::decode(input) else { break };
            match from_wire(&wire, &checks) {
                Ok(heard) => {
                    let again = from_wire(&to_wire(&heard.exposition, &heard.version), &checks);
                    prop_assert_eq!(again.ok(), Some(heard));
                }
                Err(rejection) => {
                    prop_assert!(!rejection.field.is_empty());
                    at_most(&rejection.to_string(), "a rejection")?;
                }
            }
        }
        if let Ok(wire) = pb::Outcome::decode(input)
            && let Some((_, outcome)) = outcome_from_wire(&wire)
        {
            prop_assert!(!outcome.message.contains(char::is_control), "{:?}", outcome);
            at_most(&outcome.message, "a message")?;
        }
        for bytes in [
            pb::SubscribeRequest::decode(input).map(|m| m.encode_to_vec()).ok(),
            pb::SubscribeResponse::decode(input).map(|m| m.encode_to_vec()).ok(),
        ]
        .into_iter()
        .flatten()
        {
            prop_assert!(bytes.len() <= 2 * input.len() + 64, "{} of {}", bytes.len(), input.len());
        }
        Ok(())
    });
}

const YAML: &[&str] = &[
    "\n---\n",
    "\n- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    "&a ",
    "*a",
    "<<: *a",
    "!!binary ",
    "null",
    "~",
    "\"",
    "'",
    "|\n",
    "%YAML 1.2\n",
    "\t",
    "spec:",
    "exposed:",
    "kind: List\nitems:\n",
    "-1",
    "1e999",
    "18446744073709551616",
    "0x10",
    "\u{feff}",
    "\u{202e}",
    "? ",
    "# ",
];

#[test]
fn a_file_of_objects_is_read_or_every_error_names_its_place() {
    Target::new("manifest", YAML).run(|input| {
        for document in manifest::read_manifest("some/file.yaml", input) {
            match document {
                Ok(document) => {
                    prop_assert!(document.line >= 1);
                    at_most(&document.input.key().to_string(), "a key")?;
                }
                Err(e) => {
                    prop_assert!(e.to_string().starts_with("some/file.yaml"), "{}", e);
                    at_most(&e.to_string(), "an error")?;
                }
            }
        }
        Ok(())
    });
}

#[test]
fn a_configuration_is_taken_or_its_error_names_the_file() {
    Target::new("config", YAML).run(|input| {
        let text = String::from_utf8_lossy(input);
        match Config::parse(&text, "agent.yaml", Path::new(".")) {
            Ok(config) => drop(config.cluster_facts(SpiffeId::of_cluster(&config.cluster))),
            Err(e) => {
                prop_assert!(e.to_string().starts_with("agent.yaml: "), "{}", e);
                at_most(&e.to_string(), "an error")?;
            }
        }
        Ok(())
    });
}

/// A key that the certificates of the corpus are not of: keys are not for repositories.
fn key() -> &'static str {
    static KEY: OnceLock<String> = OnceLock::new();
    KEY.get_or_init(|| Ca::root("root").cluster("cluster1").key_pem)
}

#[test]
fn certificates_lists_and_keys_are_read_or_refused_with_their_place() {
    const WORDS: &[&str] = &[
        "-----BEGIN CERTIFICATE-----\n",
        "-----END CERTIFICATE-----\n",
        "-----BEGIN X509 CRL-----\n",
        "-----BEGIN PRIVATE KEY-----\n",
        "\n",
        "\r\n",
        "MIIB",
        "====",
        "////",
        "AAAA",
        "\u{feff}",
    ];
    let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
    Target::new("identity", WORDS).run(|input| {
        let pem = |place: &str| PemText::new(place, input.to_vec());
        let as_key = IdentityBundle {
            certificate: pem("a.crt"),
            key: pem("a.key"),
            root: pem("ca.crt"),
            crl: Some(pem("ca.crl")),
        };
        let with_key = IdentityBundle { key: PemText::new("a.key", key().into()), crl: None, ..as_key.clone() };
        for bundle in [as_key, with_key] {
            if let Err(e) = Identity::of_bundle(&bundle, now) {
                let told = e.to_string();
                prop_assert!(
                    ["a.crt", "a.key", "ca.crt", "ca.crl"].iter().any(|place| told.contains(place)),
                    "{}",
                    told
                );
                at_most(&told, "an error")?;
            }
        }
        // What is inside of the PEM, and what would be if the input were DER.
        for der in
            pem("a.crt").parse_certificates().unwrap_or_default().iter().map(|c| c.to_vec()).chain([input.to_vec()])
        {
            if let Ok(found) = describe_certificate(&der.as_slice().into(), now) {
                at_most(&found.subject, "a subject")?;
            }
            let list = der.as_slice().into();
            if let Ok(found) = describe_list(&list) {
                at_most(&found.issuer, "an issuer")?;
            }
            drop(check_lists(&[list]));
        }
        Ok(())
    });
}

#[test]
fn a_virtual_service_is_exposed_or_its_problem_names_the_field() {
    const OTHERS: &str = "
apiVersion: multicluster.istio.io/v1alpha1
kind: ServiceExpositionPolicy
metadata: {name: p, namespace: default}
spec: {exposed: [{name: reviews, clusters: [cluster2], virtualService: reviews}]}
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: default}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
";
    const WORDS: &[&str] = &[
        "%BOGUS%",
        "%REQ(:path)%",
        "%",
        "\u{1b}[31m",
        "regex: ",
        "prefix: ",
        "exact: ",
        "[\\p{L}]{1000}",
        "(a*)*",
        "headers:",
        "match:",
        "\n  - ",
        "\n    ",
        "delegate: {name: a}",
        "weight: -1",
        "weight: 4294967296",
        "host: reviews.other.svc.cluster.local",
        "subset: v2",
        "timeout: 1s",
        "gateways: [mesh]",
        "hosts: [\"*\"]",
        ": ",
        "{",
        "}",
        "[",
        "]",
        "null",
    ];
    let config = "cluster: cluster1\ningress: {address: 192.0.2.1}\npeers: [{name: cluster2, consume: true}]\n";
    let config = Config::parse(config, "agent.yaml", Path::new(".")).unwrap();
    let facts = config.cluster_facts(SpiffeId::of_cluster(&config.cluster));
    Target::new("expose", WORDS).run(|input| {
        let (mut inventory, mut claims, mut policies) = (Inventory::default(), NameClaims::default(), Vec::new());
        for document in manifest::read_manifest("a.yaml", input)
            .into_iter()
            .chain(manifest::read_manifest("b.yaml", OTHERS.as_bytes()))
        {
            match document.map(|d| d.input) {
                Ok(Input::Policy(policy)) => {
                    claims.insert_policy(&policy);
                    policies.push(policy);
                }
                Ok(Input::Object(object)) => inventory.set_object(object),
                _ => {}
            }
        }
        for policy in policies {
            let exposed = expose_policy(&policy, &inventory, &claims, &facts);
            let written: usize = exposed.objects.iter().map(|o| manifest::to_yaml(o).len()).sum();
            prop_assert!(written <= 64 * (input.len() + 4096), "{written} bytes of objects from {}", input.len());
            for problem in exposed.problems.iter().chain(exposed.entries.iter().filter_map(|e| e.problem.as_ref())) {
                prop_assert!(!problem.field.is_empty());
                at_most(&problem.line(), "a problem")?;
            }
        }
        Ok(())
    });
}

#[test]
fn metrics_of_any_form_are_read_as_far_as_they_are_metrics() {
    const WORDS: &[&str] = &[
        "pilot_total_xds_rejects{type=\"rds\"} 1\n",
        "pilot_xds_rds_reject{node=\"istio-ingressgateway-1.istio-system\"} 1\n",
        "{",
        "}",
        "\"",
        "\\",
        "\n",
        " NaN",
        " -1",
        " 1e308",
        "# TYPE ",
        ",,",
    ];
    let config = Config::parse("cluster: cluster1\n", "agent.yaml", Path::new(".")).unwrap();
    let pods = GatewayPods::from_config(&config);
    Target::new("metrics", WORDS).run(|input| {
        let mut whole = MetricsReader::new(&pods);
        whole.read_piece(input);
        let whole = whole.finish();
        let mut pieces = MetricsReader::new(&pods);
        input.chunks(7).for_each(|piece| pieces.read_piece(piece));
        prop_assert_eq!(&pieces.finish(), &whole);
        for pods in whole.refused.values() {
            prop_assert!(pods.len() <= 64 && pods.iter().all(|(_, pod)| pod.len() <= 8192));
        }
        Ok(())
    });
}
