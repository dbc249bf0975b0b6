//! Tracks the time of the last change of each service in a binding's status.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::api::ServiceStatus;

/// The state of each service, as a hash, and the time at which it was first reported. The place of the service in the
/// binding does not matter.
#[derive(Default)]
pub struct LastChanges(HashMap<u64, Arc<str>>);

impl LastChanges {
    /// Reads the times from a former process's status.
    pub fn from_services(services: &[ServiceStatus]) -> LastChanges {
        let dated = services.iter().filter_map(|s| Some((hash_state(s), s.last_changed.as_deref()?.into())));
        LastChanges(dated.collect())
    }

    /// Writes the time of the last change into each status.
    pub fn set_dates(&mut self, services: &mut [ServiceStatus], now: &str) {
        let before = std::mem::take(&mut self.0);
        let now: Arc<str> = now.into();
        for service in services {
            let state = hash_state(service);
            let since = before.get(&state).unwrap_or(&now);
            service.last_changed = Some(since.to_string());
            self.0.insert(state, Arc::clone(since));
        }
    }
}

fn hash_state(s: &ServiceStatus) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&s.cluster, &s.exposition, &s.local_host, &s.version, s.bound, &s.reason).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, version: &str) -> ServiceStatus {
        ServiceStatus { exposition: name.into(), version: version.into(), bound: true, ..ServiceStatus::default() }
    }

    fn dates(services: &[ServiceStatus]) -> Vec<&str> {
        services.iter().filter_map(|s| s.last_changed.as_deref()).collect()
    }

    #[test]
    fn only_what_changed_has_a_new_time() {
        let mut since = LastChanges::default();
        let mut first = [service("default/reviews", "1"), service("default/ratings", "1")];
        since.set_dates(&mut first, "noon");
        let mut then = [service("default/ratings", "1"), service("default/reviews", "2")];
        since.set_dates(&mut then, "one");
        assert_eq!(dates(&then), ["noon", "one"]);
        let mut later = then.clone();
        LastChanges::from_services(&then).set_dates(&mut later, "two");
        assert_eq!(dates(&later), ["noon", "one"], "a restart changes nothing");
    }
}
