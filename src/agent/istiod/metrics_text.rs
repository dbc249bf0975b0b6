//! Parses Prometheus' text format, as far as it shows refused configuration.
//!
//! The text comes over a network and may have any size. It is read in pieces, a line at a time, and only a bounded
//! number of bounded values is kept. Lines that are no metrics are skipped.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::Config;
use crate::model::OwnGateway;

/// Longest line; longer ones are skipped. The name of a node has some 300 bytes.
const MAX_LINE: usize = 8 * 1024;
/// Most gateway pods that are told apart.
const MAX_PODS: usize = 64;

/// A kind of configuration, as in xDS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum XdsResource {
    Clusters,
    Endpoints,
    Listeners,
    Routes,
}

impl XdsResource {
    pub const ALL: [XdsResource; 4] =
        [XdsResource::Clusters, XdsResource::Endpoints, XdsResource::Listeners, XdsResource::Routes];

    /// Returns Istio's own short name (`model.GetMetricType`).
    fn short_name(self) -> &'static str {
        match self {
            XdsResource::Clusters => "cds",
            XdsResource::Endpoints => "eds",
            XdsResource::Listeners => "lds",
            XdsResource::Routes => "rds",
        }
    }

    /// Returns the plural for a sentence.
    pub fn plural_name(self) -> &'static str {
        match self {
            XdsResource::Clusters => "clusters",
            XdsResource::Endpoints => "endpoints",
            XdsResource::Listeners => "listeners",
            XdsResource::Routes => "routes",
        }
    }

    fn parse(short_name: &str) -> Option<XdsResource> {
        XdsResource::ALL.into_iter().find(|r| r.short_name() == short_name)
    }
}

/// One of the two gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GatewayRole {
    Ingress,
    Egress,
}

impl GatewayRole {
    pub const ALL: [GatewayRole; 2] = [GatewayRole::Ingress, GatewayRole::Egress];

    pub fn as_str(self) -> &'static str {
        match self {
            GatewayRole::Ingress => "ingress",
            GatewayRole::Egress => "egress",
        }
    }
}

/// Recognizes the gateways' pods by their names. Istiod names a proxy `<pod>.<namespace>` (the third part of the node's
/// id), without its labels. Pods of a Deployment begin with its name, which in Istio's charts and its Gateway API is
/// the Service's name; the configuration may set another prefix.
#[derive(Debug, Clone)]
pub struct GatewayPods {
    prefixes: [(GatewayRole, String, String); 2],
}

impl GatewayPods {
    pub fn from_config(config: &Config) -> GatewayPods {
        let metrics = config.istiod.as_ref();
        let named = |role, gateway: &OwnGateway, prefix: Option<&String>| {
            let prefix = prefix.cloned().unwrap_or_else(|| format!("{}-", gateway.service));
            (role, prefix, gateway.namespace.to_string())
        };
        let ingress = named(GatewayRole::Ingress, &config.ingress, metrics.and_then(|m| m.ingress_pods.as_ref()));
        let egress = named(GatewayRole::Egress, &config.egress, metrics.and_then(|m| m.egress_pods.as_ref()));
        GatewayPods { prefixes: [ingress, egress] }
    }

    fn role_of(&self, node: &str) -> Option<GatewayRole> {
        let (pod, namespace) = node.rsplit_once('.')?;
        let is = |(_, prefix, of): &&(GatewayRole, String, String)| namespace == of && pod.starts_with(prefix.as_str());
        // If the name of one Service is a prefix of the other's, the longer name counts.
        self.prefixes.iter().filter(is).max_by_key(|(_, prefix, _)| prefix.len()).map(|(role, ..)| *role)
    }
}

/// The counters of one istiod since its start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetricsSample {
    /// Start of its process, in Unix time. Tells replicas behind one address apart.
    pub started: f64,
    /// Responses that any proxy refused.
    pub rejects: BTreeMap<XdsResource, f64>,
    /// Responses that were sent to any proxy.
    pub pushes: BTreeMap<XdsResource, f64>,
    /// Changes of configuration that were pushed. Each goes to all gateways.
    pub config_pushes: f64,
    /// The gateways' pods that ever refused something.
    pub refused: BTreeMap<XdsResource, BTreeSet<(GatewayRole, String)>>,
    /// The answer comes from istiod.
    pub is_istiod: bool,
}

/// Reads the text piece by piece.
#[derive(Debug)]
pub struct MetricsReader<'a> {
    pods: &'a GatewayPods,
    line: Vec<u8>,
    /// The line is longer than allowed: its rest is skipped.
    too_long: bool,
    sample: MetricsSample,
}

impl<'a> MetricsReader<'a> {
    pub fn new(pods: &'a GatewayPods) -> MetricsReader<'a> {
        MetricsReader { pods, line: Vec::new(), too_long: false, sample: MetricsSample::default() }
    }

    pub fn read_piece(&mut self, mut piece: &[u8]) {
        while let Some(end) = piece.iter().position(|b| *b == b'\n') {
            self.extend_line(&piece[..end]);
            self.end_line();
            piece = &piece[end + 1..];
        }
        self.extend_line(piece);
    }

    pub fn finish(mut self) -> MetricsSample {
        self.end_line();
        self.sample
    }

    fn extend_line(&mut self, piece: &[u8]) {
        if self.line.len() + piece.len() > MAX_LINE {
            self.too_long = true;
        } else if !self.too_long {
            self.line.extend_from_slice(piece);
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if !std::mem::take(&mut self.too_long)
            && let Ok(text) = std::str::from_utf8(&line)
            && let Some(series) = MetricSeries::parse(text)
        {
            self.count_series(&series);
        }
        self.line = line;
        self.line.clear();
    }

    fn count_series(&mut self, series: &MetricSeries<'_>) {
        let sample = &mut self.sample;
        let name = series.name.strip_suffix("_total").unwrap_or(series.name);
        match name {
            "process_start_time_seconds" => sample.started = series.value,
            "pilot_total_xds_rejects" => {
                if let Some(resource) = series.label_value("type").and_then(|t| XdsResource::parse(&t)) {
                    *sample.rejects.entry(resource).or_default() += series.value;
                }
            }
            "pilot_xds_pushes" => {
                if let Some(resource) = series.label_value("type").and_then(|t| XdsResource::parse(&t)) {
                    *sample.pushes.entry(resource).or_default() += series.value;
                }
            }
            "pilot_push_triggers" if series.label_value("type").as_deref() == Some("config") => {
                sample.config_pushes += series.value;
            }
            "pilot_info" | "pilot_xds" => sample.is_istiod = true,
            name => {
                let short = name.strip_prefix("pilot_xds_").and_then(|rest| rest.strip_suffix("_reject"));
                let Some(resource) = short.and_then(XdsResource::parse) else { return };
                let Some(node) = series.label_value("node") else { return };
                let Some(role) = self.pods.role_of(&node) else { return };
                let pods = sample.refused.entry(resource).or_default();
                if series.value > 0.0 && pods.len() < MAX_PODS {
                    pods.insert((role, node));
                }
            }
        }
    }
}

/// One line: `name{label="value",…} number [time]`.
struct MetricSeries<'a> {
    name: &'a str,
    labels: &'a str,
    value: f64,
}

impl<'a> MetricSeries<'a> {
    fn parse(line: &'a str) -> Option<MetricSeries<'a>> {
        let line = line.trim();
        let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))?;
        let (name, rest) = line.split_at(end);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => rest.split_at(end_of_labels(rest)?),
            None => ("", rest),
        };
        let value: f64 = rest.trim_start_matches('}').split_ascii_whitespace().next()?.parse().ok()?;
        (!name.is_empty() && value.is_finite() && value >= 0.0).then_some(MetricSeries { name, labels, value })
    }

    /// Returns the value of a label, without its escapes.
    fn label_value(&self, name: &str) -> Option<String> {
        let mut rest = self.labels;
        loop {
            let (key, after) = rest.split_once("=\"")?;
            let mut value = String::new();
            let mut chars = after.char_indices();
            let end = loop {
                match chars.next()? {
                    (i, '"') => break i,
                    (_, '\\') => match chars.next()?.1 {
                        'n' => value.push('\n'),
                        c => value.push(c),
                    },
                    (_, c) => value.push(c),
                }
            };
            if key.trim_matches([' ', ',']) == name {
                return Some(value);
            }
            rest = &after[end + 1..];
        }
    }
}

/// Returns the position of the brace that closes the labels, not of one inside a value.
fn end_of_labels(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (i, b) in text.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some(i),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::agent::istiod::refusals::tests::pods;

    fn read(text: &str) -> MetricsSample {
        let pods = pods();
        let mut reader = MetricsReader::new(&pods);
        reader.read_piece(text.as_bytes());
        reader.finish()
    }

    const TEXT: &str = r#"# HELP pilot_total_xds_rejects Total number of XDS responses from pilot rejected by proxy.
# TYPE pilot_total_xds_rejects counter
pilot_total_xds_rejects{type="rds"} 3
pilot_total_xds_rejects{type="ecds"} 9
pilot_xds_rds_reject{err="Internal",node="istio-ingressgateway-7d9-x2.istio-system"} 1
pilot_xds_rds_reject{err="Internal",node="shop-1.default"} 1
pilot_xds_lds_reject{node="istio-egressgateway-1.istio-system",err="a } \" \\ {"} 1 1700000000000
pilot_xds_pushes{type="rds"} 1.2e+02
pilot_xds_pushes{type="rds_senderr"} 7
pilot_push_triggers{type="config"} 40
pilot_push_triggers{type="endpoint"} 1000
pilot_xds{version="1.31.0"} 4
process_start_time_seconds 1.78e+09
go_goroutines 200
"#;

    fn expected() -> MetricsSample {
        let refused = |role, pod: &str| BTreeSet::from([(role, pod.to_owned())]);
        MetricsSample {
            started: 1.78e9,
            rejects: BTreeMap::from([(XdsResource::Routes, 3.0)]),
            pushes: BTreeMap::from([(XdsResource::Routes, 120.0)]),
            config_pushes: 40.0,
            refused: BTreeMap::from([
                (XdsResource::Routes, refused(GatewayRole::Ingress, "istio-ingressgateway-7d9-x2.istio-system")),
                (XdsResource::Listeners, refused(GatewayRole::Egress, "istio-egressgateway-1.istio-system")),
            ]),
            is_istiod: true,
        }
    }

    #[test]
    fn the_numbers_that_tell_of_refused_configuration_are_read() {
        assert_eq!(read(TEXT), expected());
        assert_eq!(read(TEXT.trim_end()), expected(), "without the last newline");
    }

    #[test]
    fn what_is_odd_or_huge_is_passed_over_and_the_rest_is_read() {
        let mut odd = String::from(
            "{} 1\n\n}\npilot_total_xds_rejects{type=\"rds\" 4\npilot_total_xds_rejects{type=\"rds\"} NaN\n",
        );
        odd += "pilot_total_xds_rejects{type=\"rds\"} -5\npilot_total_xds_rejects{type=\"rds\"} +Inf\npilot_xds_rds_reject 1\n";
        odd +=
            &format!("pilot_xds_rds_reject{{node=\"istio-ingressgateway-{}.istio-system\"}} 1\n", "a".repeat(1 << 20));
        assert_eq!(read(&(odd + TEXT)), expected());
        let many = |i: usize| format!("pilot_xds_cds_reject{{node=\"istio-ingressgateway-{i}.istio-system\"}} 1\n");
        let sample = read(&(0..10_000).map(many).collect::<String>());
        assert_eq!(sample.refused[&XdsResource::Clusters].len(), MAX_PODS);
        assert!(!sample.is_istiod);
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_are_the_same_text(cuts in proptest::collection::vec(0..TEXT.len(), 0..20)) {
            let mut cuts = cuts;
            cuts.sort_unstable();
            let (pods, mut from) = (pods(), 0);
            let mut reader = MetricsReader::new(&pods);
            for cut in cuts {
                reader.read_piece(&TEXT.as_bytes()[from..cut]);
                from = cut;
            }
            reader.read_piece(&TEXT.as_bytes()[from..]);
            prop_assert_eq!(reader.finish(), expected());
        }
    }
}
