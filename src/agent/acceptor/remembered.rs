//! The former ports of bindings' services, from the statuses of the bindings.

use std::collections::HashMap;

use super::{AcceptorSide, BindingRequest, PeerExposition, exposition_of};
use crate::api::ServiceStatus;
use crate::store::{HeldNames, NamedKey, Owner};
use crate::translate::{PortMemory, WantedService};

/// Services of one binding, from a status of another process, by cluster, exposition and local host.
pub(super) struct RememberedServices<'a>(HashMap<(&'a str, &'a str, &'a str), Vec<&'a ServiceStatus>>);

impl<'a> RememberedServices<'a> {
    pub fn from_services(told: &'a [ServiceStatus]) -> RememberedServices<'a> {
        let mut services: HashMap<_, Vec<_>> = HashMap::new();
        for s in told {
            services.entry((&*s.cluster, &*s.exposition, &*s.local_host)).or_default().push(s);
        }
        RememberedServices(services)
    }

    /// Returns the memory of the `nth` of the entries that bind this exposition under this name.
    fn port_memory(&self, wanted: &WantedService, nth: usize) -> Option<PortMemory> {
        let (exposition, host) = (wanted.exposed.to_string(), wanted.local.host());
        let told = self.0.get(&(wanted.cluster.as_str(), exposition.as_str(), host.as_str()))?;
        told.get(nth).map(|status| wanted.ports.recall_memory(PortMemory::from_status(status)))
    }
}

/// Returns the former ports of an entry. If the entry asks for other ports now, the old ones are kept without their
/// targets. The entry is the `nth` of those that bind this exposition under this name.
pub(super) fn memory_of(
    wanted: &WantedService,
    nth: usize,
    before: &[BindingRequest],
    told: &RememberedServices<'_>,
) -> PortMemory {
    let same = |r: &&BindingRequest| (&r.wanted.cluster, &r.wanted.exposed) == (&wanted.cluster, &wanted.exposed);
    if let Some(request) = before.iter().filter(same).nth(nth) {
        let memory = request.memory.clone();
        return if request.wanted.ports == wanted.ports { memory } else { memory.of_other_ports() };
    }
    told.port_memory(wanted, nth).unwrap_or_default()
}

impl AcceptorSide {
    /// Takes over the ports of Services whose bindings have no status that remembers them: the process before this one ended
    /// before it wrote one, or was of version 0.1. Without them the local name would go if no donor is behind it now.
    pub(super) fn recall_ports(&mut self, holdings: &HeldNames) {
        for (name, local) in &mut self.locals {
            if !local.standing || local.all_requests().any(|request| !request.memory.ports.is_empty()) {
                continue;
            }
            let owner = Owner(name.owner_label().into());
            let Some((bindings, ports)) = holdings.bindings.get(&owner).zip(holdings.ports.get(&owner)) else {
                continue;
            };
            let known = ports.iter().map(|port| (port.number, port.name.as_str(), port.app_protocol.as_deref()));
            let memory = PortMemory::of_service(known);
            for (_, requests) in local.requests.iter_mut().filter(|(binding, _)| bindings.contains(*binding)) {
                requests.iter_mut().for_each(|request| request.memory = memory.clone());
            }
        }
    }

    /// Takes over the leading replica's status of a binding: this replica may have to continue with it.
    pub fn adopt_status(&mut self, key: &NamedKey, told: &[ServiceStatus]) {
        let Some(binding) = self.bindings.get(key) else { return };
        let remembered = RememberedServices::from_services(told);
        for name in binding.split.wanted().map(|wanted| &wanted.local) {
            let requests = self.locals.get_mut(name).and_then(|local| local.requests.get_mut(key));
            let mut seen: HashMap<PeerExposition, usize> = HashMap::new();
            for request in requests.into_iter().flatten() {
                let nth = seen.entry(exposition_of(&request.wanted)).or_default();
                if let Some(memory) = remembered.port_memory(&request.wanted, *nth) {
                    request.memory = memory;
                }
                *nth += 1;
            }
        }
    }
}
