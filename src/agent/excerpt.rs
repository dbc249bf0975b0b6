//! Selects the part of an agent's state that is asked for, within the size of one answer.

use serde::Serialize;

use super::view::LeftOut;

/// Most bytes of JSON in one answer of `/status`: about 10,000 services. Four such answers fit into the memory of a
/// pod.
pub const MAX_STATUS_BYTES: usize = 8 << 20;

/// The lists of a view that can be requested alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViewKind {
    Policies,
    Bindings,
    Peers,
    Offers,
}

impl ViewKind {
    const ALL: [(&'static str, ViewKind); 4] = [
        ("policies", ViewKind::Policies),
        ("bindings", ViewKind::Bindings),
        ("peers", ViewKind::Peers),
        ("offers", ViewKind::Offers),
    ];
}

/// The query of `/status`. Problems are always in the answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ViewFilter {
    kind: Option<ViewKind>,
    /// Namespace of policies and bindings; the donor's namespace of offers.
    namespace: Option<String>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("kind: expected one of policies, bindings, peers, offers")]
    UnknownKind,
    #[error("namespace: expected the name of a namespace: lower-case letters, digits and '-'")]
    NoNamespace,
    #[error("the query has a key besides kind and namespace, or one of them twice")]
    UnknownKey,
}

impl ViewFilter {
    pub fn new(kind: Option<ViewKind>, namespace: Option<&str>) -> ViewFilter {
        ViewFilter { kind, namespace: namespace.map(str::to_owned) }
    }

    /// Parses `kind=offers&namespace=shop`. No value needs an escape.
    pub fn parse(query: &str) -> Result<ViewFilter, FilterError> {
        let mut filter = ViewFilter::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("kind", name)) if filter.kind.is_none() => {
                    let known = ViewKind::ALL.iter().find(|(known, _)| *known == name);
                    filter.kind = Some(known.ok_or(FilterError::UnknownKind)?.1);
                }
                Some(("namespace", name)) if filter.namespace.is_none() => {
                    let label: crate::model::Label = name.parse().map_err(|_| FilterError::NoNamespace)?;
                    filter.namespace = Some(label.to_string());
                }
                _ => return Err(FilterError::UnknownKey),
            }
        }
        Ok(filter)
    }

    /// Returns the path of a request with this filter.
    pub fn request_path(&self) -> String {
        let name = ViewKind::ALL.iter().find(|(_, kind)| Some(*kind) == self.kind).map(|(name, _)| name);
        let kind = name.map(|name| format!("kind={name}"));
        let namespace = self.namespace.as_ref().map(|name| format!("namespace={name}"));
        let query: Vec<_> = kind.into_iter().chain(namespace).collect();
        if query.is_empty() { "/status".to_owned() } else { format!("/status?{}", query.join("&")) }
    }

    pub fn wants_kind(&self, kind: ViewKind) -> bool {
        self.kind.is_none_or(|wanted| wanted == kind)
    }

    /// Returns whether only this kind is requested.
    pub fn asks_for(&self, kind: ViewKind) -> bool {
        self.kind == Some(kind)
    }

    pub fn wants_namespace(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
    }
}

/// The bytes that may still be added to an answer.
pub struct ViewBudget {
    left: usize,
}

impl ViewBudget {
    pub fn new(bytes: usize) -> ViewBudget {
        ViewBudget { left: bytes }
    }

    /// Returns the first items, as far as there is room, and the number of the others.
    pub fn collect_fitting<T: Serialize>(&mut self, items: impl Iterator<Item = T>) -> (Vec<T>, usize) {
        let mut kept = Vec::new();
        let mut left_out = 0;
        for item in items {
            let size = json_size(&item);
            // After the first item that does not fit, no other is tried, so that lists have no gaps.
            if left_out > 0 || size > self.left {
                left_out += 1;
                continue;
            }
            self.left -= size;
            kept.push(item);
        }
        (kept, left_out)
    }
}

/// Returns the length of an item's JSON, with the comma after it.
fn json_size(item: &impl Serialize) -> usize {
    let mut length = ByteCount(1);
    match serde_json::to_writer(&mut length, item) {
        Ok(()) => length.0,
        Err(_) => usize::MAX, // the item cannot be sent at all
    }
}

struct ByteCount(usize);

impl std::io::Write for ByteCount {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl LeftOut {
    pub fn is_nothing(&self) -> bool {
        *self == LeftOut::default()
    }
}

impl std::fmt::Display for LeftOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let LeftOut { problems, policies, bindings, peers, offers } = *self;
        let counts = [
            (problems, "problems"),
            (policies, "policies"),
            (bindings, "bindings"),
            (peers, "peers"),
            (offers, "offers"),
        ];
        let some: Vec<_> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        write!(f, "{}", some.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_the_budget_ends_and_counts_the_rest() {
        let mut budget = ViewBudget::new(20);
        assert_eq!(budget.collect_fitting(["12345", "1234567", "1", "1"].into_iter()), (vec!["12345", "1234567"], 2));
        assert_eq!(budget.collect_fitting([1].into_iter()), (vec![1], 0), "a later list uses what is left");
        assert_eq!(budget.collect_fitting([1].into_iter()), (vec![], 1));
    }

    #[test]
    fn the_query_of_status_names_a_list_and_a_namespace_and_nothing_else() {
        let offers = ViewFilter::parse("kind=offers&namespace=shop").unwrap();
        assert!(offers.wants_kind(ViewKind::Offers) && !offers.wants_kind(ViewKind::Policies));
        assert!(offers.wants_namespace("shop") && !offers.wants_namespace("default"));
        assert_eq!(offers.request_path(), "/status?kind=offers&namespace=shop");
        assert_eq!(ViewFilter::parse(""), Ok(ViewFilter::default()));
        assert_eq!(ViewFilter::default().request_path(), "/status");
        assert_eq!(ViewFilter::parse("kind=secrets"), Err(FilterError::UnknownKind));
        assert_eq!(ViewFilter::parse("namespace=%2e"), Err(FilterError::NoNamespace));
        assert_eq!(ViewFilter::parse("kind=offers&kind=peers"), Err(FilterError::UnknownKey));
        assert_eq!(ViewFilter::parse("watch"), Err(FilterError::UnknownKey));
    }

    #[test]
    fn what_was_left_out_is_told_by_number() {
        let left = LeftOut { policies: 2, offers: 3, ..LeftOut::default() };
        assert_eq!(left.to_string(), "2 policies, 3 offers");
        assert!(!left.is_nothing() && LeftOut::default().is_nothing());
    }
}
