//! The places that a peer's gateways may have.
//!
//! A donor names the addresses of its gateways, and the acceptor's callers connect to them. Only public unicast
//! addresses are open by default: every other one means something inside of the acceptor's own network. The operator
//! may open the rest, by network or by suffix of names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::special::{
    SpecialName, SpecialOpening, embedded_addresses, has_service_label, is_below, special_name, special_network,
};
use super::{Address, ClusterFacts, ClusterName, Host, Peer};

/// The only public addresses that embed others.
const ISATAP: (&str, &str) = ("an ISATAP address", "RFC 5214");

/// Networks and names that an operator allows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedGateways {
    /// The only networks; none: all that is public.
    pub networks: Vec<IpNet>,
    /// The only names and what is below them; none: all that is public. Listed names are not resolved.
    pub names: Vec<Host>,
}

impl AllowedGateways {
    /// Reads both lists. The error begins with the field, as in `allowedGateways[0]: …`.
    pub fn parse(networks: &[String], names: &[String]) -> Result<AllowedGateways, String> {
        let network = |(i, text): (usize, &String)| {
            let network: Result<IpNet, _> = text.parse();
            network.map(|n| n.trunc()).map_err(|_| {
                format!("allowedGateways[{i}]: {text:?} is not a network like 192.0.2.0/24 or 2001:db8::/32")
            })
        };
        let name = |(i, text): (usize, &String)| {
            let suffix = text.strip_prefix("*.").or_else(|| text.strip_prefix('.')).unwrap_or(text);
            let suffix: Result<Host, _> = suffix.to_ascii_lowercase().parse();
            suffix.map_err(|e| format!("allowedGatewayNames[{i}]: {e}"))
        };
        Ok(AllowedGateways {
            networks: networks.iter().enumerate().map(network).collect::<Result<_, String>>()?,
            names: names.iter().enumerate().map(name).collect::<Result<_, String>>()?,
        })
    }

    /// Returns whether a list names an address: a network that it is in, or the name itself or one above it.
    pub fn lists_address(&self, address: &Address) -> bool {
        match address {
            Address::Ip(ip) => self.lists_ip(*ip),
            Address::Name(name) => self.suffixes_of(name).next().is_some(),
        }
    }

    fn lists_ip(&self, ip: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&ip))
    }

    fn suffixes_of(&self, name: &Host) -> impl Iterator<Item = &Host> {
        self.names.iter().filter(move |suffix| is_below(name.as_str(), suffix.as_str()))
    }
}

/// The addresses that a name was found to have, or the reason why none was found.
pub type NameAnswer = Result<Vec<IpAddr>, String>;

/// The known answers for the names of gateways.
#[derive(Debug, Clone, Copy)]
pub enum NameAnswers<'a> {
    /// No names are looked up here: a public name is accepted.
    NotAsked,
    /// A name without an answer has not been looked up yet.
    Known(&'a BTreeMap<Host, NameAnswer>),
}

/// The verdict of a rule about an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayVerdict {
    Allowed,
    /// It depends on the addresses that this name has.
    DependsOn(Host),
}

/// The reason why a gateway may not be at an address. Reads after "is".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GatewayRefusal {
    #[error("{what}{}{}", DefinitionNote(.network.as_ref(), .defined_in), NetworkCure(.network.as_ref(), .peer))]
    Network {
        what: &'static str,
        defined_in: &'static str,
        /// The network to list in order to open it, if it can be opened.
        network: Option<IpNet>,
        peer: ClusterName,
    },
    #[error("{what} ({defined_in}) around {inside}, {of}")]
    Inside { what: &'static str, defined_in: &'static str, inside: IpAddr, of: Box<GatewayRefusal> },
    #[error("outside allowedGateways{}", NetworkCure(Some(.network), .peer))]
    OutsideNetworks { network: IpNet, peer: ClusterName },
    #[error("{what} ({defined_in}){}", NameCure(.suffix.as_ref(), .peer))]
    Name { what: &'static str, defined_in: &'static str, suffix: Option<Host>, peer: ClusterName },
    #[error("outside allowedGatewayNames{}", NameCure(Some(.name), .peer))]
    OutsideNames { name: Host, peer: ClusterName },
    #[error("a name that leads to {address}, {of}")]
    LeadsTo { address: IpAddr, of: Box<GatewayRefusal> },
    #[error("a name that cannot be looked up here ({why}){}", NameCure(Some(.name), .peer))]
    Unresolved { name: Host, why: String, peer: ClusterName },
}

impl GatewayRefusal {
    /// Returns whether it reveals what this cluster's resolver answers about a name: the donor must not read that,
    /// since it could otherwise ask for any name of this network.
    pub fn tells_of_resolver(&self) -> bool {
        matches!(self, GatewayRefusal::LeadsTo { .. } | GatewayRefusal::Unresolved { .. })
    }
}

/// Names the source of the definition that this is no public address, where that may be a surprise.
struct DefinitionNote<'a>(Option<&'a IpNet>, &'static str);

impl std::fmt::Display for DefinitionNote<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_some() { write!(f, " ({})", self.1) } else { Ok(()) }
    }
}

struct NetworkCure<'a>(Option<&'a IpNet>, &'a ClusterName);

impl std::fmt::Display for NetworkCure<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let NetworkCure(Some(network), peer) = self else { return Ok(()) };
        write!(
            f,
            "; if its gateway is there, add `allowedGateways: [{}]` to ClusterPeering {peer} or its entry in `peers`",
            YamlNetwork(network)
        )
    }
}

/// A network as YAML has it in a list: an IPv6 address in front of a colon needs quotes.
struct YamlNetwork<'a>(&'a IpNet);

impl std::fmt::Display for YamlNetwork<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            IpNet::V4(network) => network.fmt(f),
            IpNet::V6(network) => write!(f, "\"{network}\""),
        }
    }
}

struct NameCure<'a>(Option<&'a Host>, &'a ClusterName);

impl std::fmt::Display for NameCure<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let NameCure(Some(suffix), peer) = self else { return Ok(()) };
        write!(
            f,
            "; if its gateway has this name, add `allowedGatewayNames: [{suffix}]` to ClusterPeering {peer} or its entry in `peers`"
        )
    }
}

/// Judges the addresses that one peer names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayRules {
    peer: ClusterName,
    allowed: AllowedGateways,
    /// The addresses in the peer's own entry: its operator knows where the peer is.
    own: BTreeSet<Address>,
}

impl Default for GatewayRules {
    /// Makes the rules of a peer whose entry allows nothing besides public addresses.
    fn default() -> GatewayRules {
        let (allowed, own) = (AllowedGateways::default(), BTreeSet::new());
        GatewayRules { peer: ClusterName("peer".into()), allowed, own }
    }
}

impl GatewayRules {
    /// Makes the rules from what is allowed for all peers, and for this one besides.
    pub fn new(peer: &Peer, of_all: &AllowedGateways) -> GatewayRules {
        let mut allowed = of_all.clone();
        allowed.networks.extend(&peer.allowed_gateways.networks);
        allowed.names.extend(peer.allowed_gateways.names.iter().cloned());
        let endpoint = peer.endpoint.iter().map(|e| e.host.clone());
        let own = endpoint.chain(peer.gateway.iter().map(|g| g.address.clone())).collect();
        GatewayRules { peer: peer.name.clone(), allowed, own }
    }

    /// Judges an address as it was named.
    pub fn judge_address(&self, address: &Address) -> Result<GatewayVerdict, GatewayRefusal> {
        match address {
            Address::Ip(ip) => self.judge_ip(*ip).map(|()| GatewayVerdict::Allowed),
            Address::Name(name) => self.judge_name(name),
        }
    }

    /// Judges a name by the addresses that it was found to have: every address counts, since callers may connect to any
    /// of them.
    pub fn judge_answer(&self, name: &Host, answer: &NameAnswer) -> Result<(), GatewayRefusal> {
        let unresolved =
            |why: &str| GatewayRefusal::Unresolved { name: name.clone(), why: why.to_owned(), peer: self.peer.clone() };
        let addresses = answer.as_ref().map_err(|why| unresolved(why))?;
        if addresses.is_empty() {
            return Err(unresolved("it has no address"));
        }
        for address in addresses {
            self.judge_ip(undo_dns64(*address))
                .map_err(|of| GatewayRefusal::LeadsTo { address: *address, of: Box::new(of) })?;
        }
        Ok(())
    }

    fn judge_ip(&self, ip: IpAddr) -> Result<(), GatewayRefusal> {
        let ip = ip.to_canonical(); // ::ffff:127.0.0.1 is 127.0.0.1
        let own = self.own.contains(&Address::Ip(ip));
        let listed = self.allowed.lists_ip(ip);
        let Some(special) = special_network(ip) else {
            if !listed && !own && !self.allowed.networks.is_empty() {
                return Err(GatewayRefusal::OutsideNetworks { network: host_network(ip), peer: self.peer.clone() });
            }
            return self.judge_inside(ip, ISATAP);
        };
        let open = match special.opening {
            SpecialOpening::Never => false,
            SpecialOpening::Listed => listed || own,
            SpecialOpening::Named => {
                let mut networks = self.allowed.networks.iter();
                networks.any(|network| network.contains(&ip) && special.network.contains(network))
            }
        };
        if !open {
            let network = (special.opening == SpecialOpening::Listed).then_some(special.network);
            // A gateway that is somewhere in it does not mean the whole rest of the network.
            let network = network.map(|n| if n.prefix_len() == 0 { host_network(ip) } else { n });
            let (what, defined_in, peer) = (special.what, special.defined_in, self.peer.clone());
            return Err(GatewayRefusal::Network { what, defined_in, network, peer });
        }
        self.judge_inside(ip, (special.what, special.defined_in))
    }

    /// Judges the IPv4 addresses that an address of the kind `around` embeds.
    fn judge_inside(&self, ip: IpAddr, around: (&'static str, &'static str)) -> Result<(), GatewayRefusal> {
        let (what, defined_in) = around;
        for inside in embedded_addresses(ip).into_iter().map(IpAddr::V4) {
            if special_network(inside).is_some() {
                self.judge_ip(inside).map_err(|of| GatewayRefusal::Inside {
                    what,
                    defined_in,
                    inside,
                    of: Box::new(of),
                })?;
            }
        }
        Ok(())
    }

    fn judge_name(&self, name: &Host) -> Result<GatewayVerdict, GatewayRefusal> {
        let own = self.own.contains(&Address::Name(name.clone()));
        let mut listed = self.allowed.suffixes_of(name);
        let Some(special) = special_name(name.as_str()) else {
            return if own || listed.next().is_some() {
                Ok(GatewayVerdict::Allowed)
            } else if self.allowed.names.is_empty() {
                Ok(GatewayVerdict::DependsOn(name.clone()))
            } else {
                Err(GatewayRefusal::OutsideNames { name: name.clone(), peer: self.peer.clone() })
            };
        };
        let open = match special.opening {
            SpecialOpening::Never => false,
            SpecialOpening::Listed => own || listed.next().is_some(),
            SpecialOpening::Named => listed.any(|suffix| names_special(special, suffix.as_str())),
        };
        if open {
            return Ok(GatewayVerdict::Allowed);
        }
        let suffix = (special.opening == SpecialOpening::Listed).then(|| name.clone());
        let (what, defined_in, peer) = (special.what, special.defined_in, self.peer.clone());
        Err(GatewayRefusal::Name { what, defined_in, suffix, peer })
    }
}

/// Returns whether a suffix that an operator listed names this entry, or a part of it, and not only a name around it.
fn names_special(special: &SpecialName, suffix: &str) -> bool {
    if special.suffix.is_empty() {
        has_service_label(&format!("name.namespace.{suffix}"))
    } else {
        is_below(suffix, special.suffix)
    }
}

fn host_network(ip: IpAddr) -> IpNet {
    match ip {
        IpAddr::V4(v4) => Ipv4Net::from(v4).into(),
        IpAddr::V6(v6) => Ipv6Net::from(v6).into(),
    }
}

/// Undoes DNS64: a resolver in a network without IPv4 gives NAT64 addresses for names that have IPv4 addresses only
/// (RFC 6147).
fn undo_dns64(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) if v6.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0] => {
            embedded_addresses(ip).first().map_or(ip, |v4| IpAddr::V4(*v4))
        }
        _ => ip,
    }
}

impl ClusterFacts {
    /// Returns the rules for the gateways of a peer.
    pub fn gateway_rules(&self, peer: &Peer) -> GatewayRules {
        GatewayRules::new(peer, &self.allowed_gateways)
    }
}

/// Returns whether every peer accepts this address as a gateway's, unless its operator says otherwise.
pub fn is_public(address: &Address) -> bool {
    match address {
        Address::Ip(ip) => special_network(ip.to_canonical()).is_none(),
        Address::Name(name) => special_name(name.as_str()).is_none(),
    }
}

#[cfg(test)]
mod tests;
