//! Addresses and names that are not public unicast, as data: a row for each entry of IANA's special-purpose registries
//! (RFC 6890 and its updates), for the metadata services of clouds, and for the names that mean something else in each
//! network.
//!
//! Networks for documentation (RFC 5737, RFC 3849, RFC 9637) have no row: they count as public, so that examples run.
//! The anycast services that the registries call globally reachable (AS112, AMT) have none either.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The way in which an operator opens a closed entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialOpening {
    /// By listing any network or suffix that it lies in.
    Listed,
    /// By listing the entry itself or a part of it: a wider network or suffix is not meant to include it.
    Named,
    /// Not at all.
    Never,
}

/// A network whose addresses are not public unicast.
#[derive(Debug, Clone, Copy)]
pub struct SpecialNetwork {
    pub network: IpNet,
    /// Reads after "is".
    pub what: &'static str,
    pub defined_in: &'static str,
    pub opening: SpecialOpening,
}

/// A suffix of names that are not public.
#[derive(Debug, Clone, Copy)]
pub struct SpecialName {
    pub suffix: &'static str,
    /// Reads after "is".
    pub what: &'static str,
    pub defined_in: &'static str,
    pub opening: SpecialOpening,
}

use SpecialOpening::{Listed, Named, Never};

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length))
}

const fn v6(segments: [u16; 8], length: u8) -> IpNet {
    let [a, b, c, d, e, f, g, h] = segments;
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), length))
}

const fn row(network: IpNet, what: &'static str, defined_in: &'static str, opening: SpecialOpening) -> SpecialNetwork {
    SpecialNetwork { network, what, defined_in, opening }
}

const METADATA: &str = "an address of a cloud's own services";
const PRIVATE: &str = "a private address";
const RESERVED: &str = "a reserved address";

/// The most specific row counts.
pub static SPECIAL_NETWORKS: &[SpecialNetwork] = &[
    row(v4(0, 0, 0, 0, 8), "an unspecified address", "RFC 791", Never),
    row(v4(10, 0, 0, 0, 8), PRIVATE, "RFC 1918", Listed),
    row(v4(100, 64, 0, 0, 10), "a shared address", "RFC 6598", Listed),
    row(v4(100, 100, 100, 200, 32), METADATA, "Alibaba Cloud", Named),
    row(v4(127, 0, 0, 0, 8), "a loopback address", "RFC 1122", Named),
    row(v4(168, 63, 129, 16, 32), METADATA, "Azure", Named),
    row(v4(169, 254, 0, 0, 16), "a link-local address", "RFC 3927", Named),
    row(v4(172, 16, 0, 0, 12), PRIVATE, "RFC 1918", Listed),
    row(v4(192, 0, 0, 0, 24), RESERVED, "RFC 6890", Listed),
    row(v4(192, 0, 0, 192, 32), METADATA, "Oracle Cloud", Named),
    row(v4(192, 88, 99, 0, 24), "a 6to4 relay's address", "RFC 7526", Listed),
    row(v4(192, 168, 0, 0, 16), PRIVATE, "RFC 1918", Listed),
    row(v4(198, 18, 0, 0, 15), "an address for benchmarks", "RFC 2544", Listed),
    row(v4(224, 0, 0, 0, 4), "a multicast address", "RFC 5771", Never),
    row(v4(240, 0, 0, 0, 4), RESERVED, "RFC 1112", Listed),
    row(v4(255, 255, 255, 255, 32), "the broadcast address", "RFC 919", Never),
    // Public unicast is 2000::/3 (RFC 4291, section 2.4, and IANA's registry of the address space).
    row(v6([0; 8], 0), RESERVED, "RFC 4291", Listed),
    row(v6([0, 0, 0, 0, 0, 0, 0, 0], 128), "an unspecified address", "RFC 4291", Never),
    row(v6([0, 0, 0, 0, 0, 0, 0, 1], 128), "a loopback address", "RFC 4291", Named),
    row(v6([0; 8], 96), "an IPv4-compatible address", "RFC 4291", Listed),
    row(v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96), "an IPv4-translated address", "RFC 2765", Listed),
    row(v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), "a NAT64 address", "RFC 6052", Listed),
    row(v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), "a NAT64 address", "RFC 8215", Listed),
    row(v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), "a discarded address", "RFC 6666", Listed),
    row(v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), RESERVED, "RFC 2928", Listed),
    row(v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), "a Teredo address", "RFC 4380", Listed),
    row(v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48), "an address for benchmarks", "RFC 5180", Listed),
    row(v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28), "an ORCHID", "RFC 4843", Listed),
    row(v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28), "an ORCHID", "RFC 7343", Listed),
    row(v6([0x2001, 0x30, 0, 0, 0, 0, 0, 0], 28), "a drone's entity tag", "RFC 9374", Listed),
    row(v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), "a 6to4 address", "RFC 3056", Listed),
    row(v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), "a unique local address", "RFC 4193", Listed),
    row(v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32), METADATA, "AWS", Named),
    row(v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128), METADATA, "Scaleway", Named),
    row(v6([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128), METADATA, "Oracle Cloud", Named),
    row(v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128), METADATA, "Google Cloud", Named),
    row(v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "a link-local address", "RFC 4291", Named),
    row(v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), "a site-local address", "RFC 3879", Listed),
    row(v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "a multicast address", "RFC 4291", Never),
];

const PUBLIC_V6: IpNet = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// Returns the row of an address. None: it is public unicast.
pub fn special_network(ip: IpAddr) -> Option<&'static SpecialNetwork> {
    let rows = SPECIAL_NETWORKS.iter().filter(|row| row.network.contains(&ip));
    rows.max_by_key(|row| row.network.prefix_len())
        .filter(|row| row.network.prefix_len() > 0 || !PUBLIC_V6.contains(&ip))
}

/// Returns the IPv4 addresses that an IPv6 address carries, if it is of a kind that does: a translator or a tunnel
/// leads there.
pub fn embedded_addresses(ip: IpAddr) -> Vec<Ipv4Addr> {
    let IpAddr::V6(v6) = ip else { return Vec::new() };
    if v6.is_loopback() || v6.is_unspecified() {
        return Vec::new(); // of the same form as IPv4-compatible addresses
    }
    let bits = v6.to_bits();
    let at = |end: u32| Ipv4Addr::from_bits((bits >> (128 - end)) as u32);
    match v6.segments() {
        // IPv4-mapped, IPv4-compatible, IPv4-translated, NAT64 with a prefix of 96 bits: the last 32 bits.
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] | [0x64, 0xff9b, 0 | 1, ..] => vec![at(128)],
        // RFC 3056, section 2.
        [0x2002, ..] => vec![at(48)],
        // The server, and the client with all bits inverted (RFC 4380, section 4).
        [0x2001, 0, ..] => vec![at(64), Ipv4Addr::from_bits(!at(128).to_bits())],
        // ISATAP: an interface identifier that says so, under any prefix (RFC 5214, section 6.1).
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => vec![at(128)],
        _ => Vec::new(),
    }
}

const fn name(
    suffix: &'static str,
    what: &'static str,
    defined_in: &'static str,
    opening: SpecialOpening,
) -> SpecialName {
    SpecialName { suffix, what, defined_in, opening }
}

const OF_CLUSTER: &str = "a name of the cluster";
const OF_NETWORK: &str = "a name of the local network";

/// The longest suffix counts.
pub static SPECIAL_NAMES: &[SpecialName] = &[
    name("localhost", "a loopback name", "RFC 6761", Named),
    name("localdomain", "a loopback name", "hosts(5)", Named),
    // A resolver in a pod completes these by its search list: `ledger.payments.svc` is the cluster's own.
    name("svc", OF_CLUSTER, "Kubernetes DNS", Named),
    name("pod", OF_CLUSTER, "Kubernetes DNS", Named),
    name("default", OF_CLUSTER, "Kubernetes DNS", Named),
    name("kube-system", OF_CLUSTER, "Kubernetes DNS", Named),
    name("istio-system", OF_CLUSTER, "Kubernetes DNS", Named),
    name("cluster.local", OF_CLUSTER, "Kubernetes DNS", Named),
    name("clusterset.local", OF_CLUSTER, "Kubernetes MCS API", Named),
    name("metadata.google.internal", "a name of a cloud's own services", "Google Cloud", Named),
    name("local", OF_NETWORK, "RFC 6762", Listed),
    name("internal", OF_NETWORK, "ICANN", Listed),
    name("home.arpa", OF_NETWORK, "RFC 8375", Listed),
    name("arpa", OF_NETWORK, "RFC 3172", Listed),
    // ICANN does not delegate these, since networks use them for themselves (RFC 8244, section 4.2.5).
    name("corp", OF_NETWORK, "ICANN", Listed),
    name("home", OF_NETWORK, "ICANN", Listed),
    name("mail", OF_NETWORK, "ICANN", Listed),
    // Networks use these names, although nobody reserved them (RFC 6762, appendix G).
    name("lan", OF_NETWORK, "RFC 6762", Listed),
    name("intranet", OF_NETWORK, "RFC 6762", Listed),
    name("private", OF_NETWORK, "RFC 6762", Listed),
    name("intra", OF_NETWORK, "custom", Listed),
    name("priv", OF_NETWORK, "custom", Listed),
    name("localnet", OF_NETWORK, "custom", Listed),
    name("workgroup", OF_NETWORK, "custom", Listed),
    name("domain", OF_NETWORK, "custom", Listed),
    name("consul", OF_NETWORK, "Consul DNS", Listed),
    name("test", OF_NETWORK, "RFC 6761", Listed),
    name("invalid", "a name that is never valid", "RFC 6761", Listed),
    name("onion", "a name outside of DNS", "RFC 7686", Listed),
    name("alt", "a name outside of DNS", "RFC 9476", Listed),
];

/// The search list of a resolver completes a name without a dot.
static ONE_LABEL: SpecialName = name("", OF_NETWORK, "RFC 1034", Listed);
/// No top-level domain is a number (RFC 3696, section 2), and resolvers read such names as inet_aton(3) does.
static NUMERIC: SpecialName = name("", "an address in disguise", "RFC 3696", Never);
/// Names of Services under a domain of the cluster's own choice.
static SERVICE: SpecialName = name("", OF_CLUSTER, "Kubernetes DNS", Named);

/// Returns the row of a host name. None: it is a public name, as far as the name tells.
pub fn special_name(host: &str) -> Option<&'static SpecialName> {
    let last = host.rsplit('.').next().unwrap_or_default();
    if is_number(last) {
        return Some(&NUMERIC);
    }
    let rows = SPECIAL_NAMES.iter().filter(|row| is_below(host, row.suffix));
    let row = rows.max_by_key(|row| row.suffix.len());
    row.or_else(|| (!host.contains('.')).then_some(&ONE_LABEL)).or_else(|| has_service_label(host).then_some(&SERVICE))
}

/// Returns whether a name is `suffix` or ends in it, label by label.
pub fn is_below(host: &str, suffix: &str) -> bool {
    host.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Returns whether a name has the form `<service>.<namespace>.svc.<cluster domain>`.
pub fn has_service_label(host: &str) -> bool {
    host.split('.').skip(2).any(|label| label == "svc")
}

fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    hexadecimal || label.bytes().all(|b| b.is_ascii_digit())
}
