//! What a binding's service came to before, as its status keeps it.
//!
//! A donor's ports come and go. A local port must not lead to another port of the donor because of that, so the binding's
//! status remembers where each local port leads, and the agent reads it again when it starts.

use crate::api::{PortStatus, ServiceStatus};
use crate::model::{ExposedPort, Protocol};

/// What is remembered of one service of a binding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortMemory {
    /// The version of the exposition that feeds the local name; none if none does. Who feeds it keeps it.
    pub version: Option<String>,
    pub ports: Vec<BoundPort>,
}

/// A local port, and the donor's port that it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundPort {
    pub local: u16,
    pub exposed: u16,
    pub protocol: Protocol,
    pub name: String,
}

impl BoundPort {
    pub(super) fn of(local: u16, port: &ExposedPort) -> BoundPort {
        BoundPort { local, exposed: port.number, protocol: port.protocol, name: port.name.clone() }
    }
}

impl PortMemory {
    /// What a status tells. Ports that it does not tell rightly are not remembered.
    pub fn read(status: &ServiceStatus) -> PortMemory {
        let port = |p: &PortStatus| {
            let protocol = p.protocol.parse().ok()?;
            let known = p.local_port != 0 && p.port != 0;
            known.then(|| BoundPort { local: p.local_port, exposed: p.port, protocol, name: p.name.clone() })
        };
        PortMemory {
            version: Some(status.version.clone()).filter(|version| !version.is_empty()),
            ports: status.ports.iter().filter_map(port).collect(),
        }
    }

    pub fn write(&self) -> Vec<PortStatus> {
        let port = |p: &BoundPort| PortStatus {
            local_port: p.local,
            port: p.exposed,
            protocol: p.protocol.as_str().to_owned(),
            name: p.name.clone(),
        };
        self.ports.iter().map(port).collect()
    }

    /// The donor's port that a local port leads to.
    pub(super) fn exposed(&self, local: u16) -> Option<u16> {
        self.ports.iter().find(|p| p.local == local).map(|p| p.exposed)
    }
}
