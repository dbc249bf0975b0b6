//! Memory of the earlier translation of a binding's service, as its status keeps it.
//!
//! A donor's ports come and go. A local port must not lead to another port of the donor because of that, so the
//! binding's status remembers where each local port leads, and the agent reads it again when it starts. Ports that the
//! donor took away are remembered as well: the local name keeps them.

use std::collections::BTreeSet;

use crate::api::{PortStatus, ServiceStatus};
use crate::model::{ExposedPort, Protocol};

use super::ports::{self, MAX_PORTS};
use super::problem::ProblemReason;

/// Memory of one service of a binding.
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
    /// 0: the binding asks for other ports than when it was bound, and only the local name still has this one.
    pub exposed: u16,
    pub protocol: Protocol,
    pub name: String,
    /// The reason why the donor is not behind it any more.
    pub gone: Option<ProblemReason>,
}

impl BoundPort {
    pub(super) fn of_exposed(local: u16, port: &ExposedPort) -> BoundPort {
        BoundPort { local, exposed: port.number, protocol: port.protocol, name: port.name.clone(), gone: None }
    }
}

impl PortMemory {
    /// Reads the memory from a status. Ports that the status does not state correctly are left out.
    pub fn from_status(status: &ServiceStatus) -> PortMemory {
        let port = |p: &PortStatus| {
            let protocol = p.protocol.parse().ok()?;
            let gone =
                (!p.reason.is_empty()).then(|| ProblemReason::parse(&p.reason).unwrap_or(ProblemReason::NotExposed));
            let known = p.local_port != 0 && (p.port != 0 || gone.is_some());
            known.then(|| BoundPort { local: p.local_port, exposed: p.port, protocol, name: p.name.clone(), gone })
        };
        let version = Some(status.version.clone()).filter(|version| !version.is_empty());
        let mut memory = PortMemory { version, ports: status.ports.iter().filter_map(port).collect() };
        memory.tidy_ports();
        memory
    }

    /// Remembers the ports of a local name's Service: number, name and `appProtocol`. It does not say where they led.
    pub fn of_service<'a>(ports: impl Iterator<Item = (u16, &'a str, Option<&'a str>)>) -> PortMemory {
        let port = |(local, name, app_protocol): (u16, &str, Option<&str>)| BoundPort {
            local,
            exposed: 0,
            protocol: app_protocol
                .and_then(|protocol| protocol.to_ascii_uppercase().parse().ok())
                .or_else(|| ports::by_name(local, name))
                .unwrap_or(Protocol::Tcp),
            name: name.to_owned(),
            gone: Some(ProblemReason::NotExposed),
        };
        let mut memory =
            PortMemory { version: None, ports: ports.filter(|(local, ..)| *local != 0).map(port).collect() };
        memory.tidy_ports();
        memory
    }

    /// Returns the memory for a binding that asks for other ports: the local name has its ports until one of the others
    /// is bound.
    pub fn of_other_ports(self) -> PortMemory {
        self.forget_meaning(|_| false)
    }

    /// Forgets the donor's port of each port that is not meant so.
    pub(super) fn forget_meaning(mut self, is_meant: impl Fn(&BoundPort) -> bool) -> PortMemory {
        for port in self.ports.iter_mut().filter(|port| !is_meant(port)) {
            port.exposed = 0;
            port.gone = port.gone.or(Some(ProblemReason::PortNotExposed));
        }
        self
    }

    /// Returns whether the local name is its binding's: it was bound, and no other has got the name since.
    pub(super) fn has_name(&self) -> bool {
        self.ports.iter().any(|port| port.gone != Some(ProblemReason::NameConflict))
    }

    /// Records that the donor is not behind the name any more, for this reason.
    pub(super) fn lose_donor(&mut self, reason: ProblemReason) {
        self.version = None;
        self.ports.iter_mut().for_each(|port| port.gone = Some(reason));
    }

    /// Keeps each local port once, and no more than a name can have; those that the donor is behind go before others.
    pub(super) fn tidy_ports(&mut self) {
        self.ports.sort_by_key(|port| (port.gone.is_some(), port.local));
        let mut locals = BTreeSet::new();
        self.ports.retain(|port| locals.insert(port.local));
        self.ports.truncate(MAX_PORTS);
        self.ports.sort_by_key(|port| port.local);
    }

    pub fn to_status(&self) -> Vec<PortStatus> {
        let port = |p: &BoundPort| PortStatus {
            local_port: p.local,
            port: p.exposed,
            protocol: p.protocol.as_str().to_owned(),
            name: p.name.clone(),
            reason: p.gone.map(|reason| reason.to_string()).unwrap_or_default(),
        };
        self.ports.iter().map(port).collect()
    }

    /// Returns the donor's port that a local port leads to.
    pub(super) fn exposed_port(&self, local: u16) -> Option<u16> {
        self.ports.iter().find(|p| p.local == local).map(|p| p.exposed).filter(|exposed| *exposed != 0)
    }
}
