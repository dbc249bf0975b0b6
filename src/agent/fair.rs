//! Queues work in its order of arrival, with the namespaces in turn: the work of one tenant, however much it is, delays
//! another's by one piece at a time.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::hash::Hash;
use std::ops::Bound;

use crate::store::{NamedKey, Owner};
use crate::translate::LocalName;

/// A piece of work of one tenant.
pub trait TenantWork {
    fn tenant(&self) -> &str;
}

impl TenantWork for NamedKey {
    fn tenant(&self) -> &str {
        &self.namespace
    }
}

impl TenantWork for LocalName {
    fn tenant(&self) -> &str {
        self.namespace.as_str()
    }
}

impl TenantWork for Owner {
    fn tenant(&self) -> &str {
        Owner::tenant(self)
    }
}

/// A queue for each tenant, from which one piece is taken at a time. Each piece is queued once.
#[derive(Debug)]
pub struct FairQueue<K> {
    queues: BTreeMap<String, VecDeque<K>>,
    members: HashSet<K>,
    /// The tenant who had the last turn.
    last: String,
}

impl<K> Default for FairQueue<K> {
    fn default() -> Self {
        FairQueue { queues: BTreeMap::new(), members: HashSet::new(), last: String::new() }
    }
}

impl<K: TenantWork + Clone + Eq + Hash> FairQueue<K> {
    pub fn push(&mut self, key: K) {
        if self.members.insert(key.clone()) {
            self.queues.entry(key.tenant().to_owned()).or_default().push_back(key);
        }
    }

    pub fn remove(&mut self, key: &K) {
        if !self.members.remove(key) {
            return;
        }
        if let Some(queue) = self.queues.get_mut(key.tenant()) {
            queue.retain(|other| other != key);
            if queue.is_empty() {
                self.queues.remove(key.tenant());
            }
        }
    }

    pub fn contains(&self, key: &K) -> bool {
        self.members.contains(key)
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn has_tenant(&self, tenant: &str) -> bool {
        self.queues.contains_key(tenant)
    }

    /// Returns the next piece of the next tenant who may have a turn now.
    pub fn pop(&mut self, may: impl Fn(&str) -> bool) -> Option<K> {
        let after = (Bound::Excluded(self.last.as_str()), Bound::Unbounded);
        let until = (Bound::Unbounded, Bound::Included(self.last.as_str()));
        let tenants = self.queues.range::<str, _>(after).chain(self.queues.range::<str, _>(until));
        let tenant = tenants.map(|(tenant, _)| tenant).find(|tenant| may(tenant))?.clone();
        let queue = self.queues.get_mut(&tenant)?;
        let key = queue.pop_front()?;
        if queue.is_empty() {
            self.queues.remove(&tenant);
        }
        self.members.remove(&key);
        self.last = tenant;
        Some(key)
    }
}

impl<K: TenantWork + Clone + Eq + Hash> Extend<K> for FairQueue<K> {
    fn extend<T: IntoIterator<Item = K>>(&mut self, keys: T) {
        keys.into_iter().for_each(|key| self.push(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> NamedKey {
        let (namespace, name) = text.split_once('/').unwrap();
        NamedKey { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn queue(keys: &[&str]) -> FairQueue<NamedKey> {
        let mut queue = FairQueue::default();
        queue.extend(keys.iter().map(|k| key(k)));
        queue
    }

    fn all(queue: &mut FairQueue<NamedKey>, may: impl Fn(&str) -> bool + Copy) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(may)).map(|k| k.to_string()).collect()
    }

    #[test]
    fn tenants_take_turns_and_each_ones_work_stays_in_order() {
        let mut queue = queue(&["b/2", "b/1", "b/3", "a/1", "c/1", "c/2"]);
        assert_eq!((queue.len(), queue.has_tenant("c")), (6, true));
        assert_eq!(all(&mut queue, |_| true), ["a/1", "b/2", "c/1", "b/1", "c/2", "b/3"]);
        assert!(queue.is_empty() && !queue.has_tenant("c") && queue.pop(|_| true).is_none());
    }

    #[test]
    fn a_single_piece_overtakes_a_burst() {
        let burst: Vec<String> = (0..1000).map(|i| format!("a/{i}")).collect();
        let mut queue = queue(&burst.iter().map(String::as_str).collect::<Vec<_>>());
        queue.pop(|_| true);
        queue.push(key("z/1"));
        assert_eq!(queue.pop(|_| true), Some(key("z/1")));
    }

    #[test]
    fn a_piece_is_there_once_and_can_be_taken_out() {
        let mut queue = queue(&["a/1", "a/2", "a/1", "b/1"]);
        queue.remove(&key("a/2"));
        queue.remove(&key("b/1"));
        queue.remove(&key("c/1"));
        assert_eq!(queue.len(), 1);
        assert_eq!(all(&mut queue, |_| true), ["a/1"]);
    }

    #[test]
    fn a_tenant_that_may_not_have_a_turn_is_passed_over() {
        let mut queue = queue(&["a/1", "b/1", "b/2"]);
        assert_eq!(all(&mut queue, |tenant| tenant != "a"), ["b/1", "b/2"]);
        assert_eq!(all(&mut queue, |_| true), ["a/1"]);
    }
}
