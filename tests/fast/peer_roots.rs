//! Each peer under the roots of its own entry (`caBundle`), and under no others.

use std::collections::BTreeMap;
use std::sync::Arc;

use rcgen::{CertificateParams, CustomExtension, GeneralSubtree, NameConstraints};
use wharf::identity::tls::{MinTls, client_config_under};
use wharf::identity::{Identity, check_ca_bundle};
use wharf::model::{CaBundle, ClusterFacts, Peer, SpiffeId};
use wharf::peering::PeerTable;
use wharf::peering::client::{AcceptorContext, probe_under};
use wharf::peering::pb;
use wharf::peering::pb::peering_service_client::PeeringServiceClient;

use crate::peering_support::*;
use crate::support::pki::{Ca, Leaf};

fn bundle(ca: &Ca) -> CaBundle {
    ca.pem.parse().unwrap()
}

/// Peers that may consume, each with the roots of its entry, if it has any.
fn peers(of: &[(&str, Option<&Ca>)]) -> Arc<PeerTable> {
    let peer = |(name, ca): &(&str, Option<&Ca>)| {
        let name = cluster(name);
        (name.clone(), Peer { consume: true, ca_bundle: ca.map(bundle), ..Peer::with_name(name) })
    };
    let peers: BTreeMap<_, _> = of.iter().map(peer).collect();
    Arc::new(PeerTable::from(&ClusterFacts { peers, ..facts("donor", &[]) }))
}

/// What a call of somebody who shows this comes to.
async fn call(donor: &Donor, leaf: &Leaf, shared: &Ca) -> Result<String, String> {
    let identity: Identity = leaf.unchecked(&[shared]);
    let channel = channel(donor.address, config_of(&identity)).await.map_err(|e| format!("{e:?}"))?;
    let answer = soon(PeeringServiceClient::new(channel).get_peer(pb::GetPeerRequest {})).await;
    answer.map(|answer| answer.into_inner().peer).map_err(|status| format!("{status:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_clusters_ca_under_the_shared_root_cannot_be_a_peer_with_a_bundle() {
    let shared = Ca::root("shared");
    let (of_b, of_c) = (shared.intermediate("b's mesh"), shared.intermediate("c's mesh"));
    let donor = Donor::start(&shared, &[], limits()).await;
    donor.peers.send_replace(peers(&[("b", Some(&of_b)), ("c", None)]));
    assert_eq!(call(&donor, &of_b.cluster("b"), &shared).await.unwrap(), "b", "an intermediate may be in a bundle");
    assert_eq!(call(&donor, &of_c.cluster("c"), &shared).await.unwrap(), "c", "others stay under the shared root");
    let refused = call(&donor, &of_c.cluster("b"), &shared).await.unwrap_err();
    assert!(refused.contains("caBundle of its entry"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peers_own_root_vouches_for_that_peer_and_for_no_other() {
    let (shared, own) = (Ca::root("shared"), Ca::root("b's own"));
    let donor = Donor::start(&shared, &[], limits()).await;
    donor.peers.send_replace(peers(&[("b", Some(&own)), ("c", None)]));
    assert_eq!(call(&donor, &own.cluster("b"), &shared).await.unwrap(), "b");
    assert_eq!(call(&donor, &shared.cluster("c"), &shared).await.unwrap(), "c");
    let as_c = call(&donor, &own.cluster("c"), &shared).await.unwrap_err();
    assert!(as_c.contains("the shared roots"), "{as_c}");
    assert!(call(&donor, &own.cluster("donor"), &shared).await.is_err(), "nor for this cluster itself");
    assert!(call(&donor, &own.cluster("stranger"), &shared).await.is_err());
    assert!(call(&donor, &shared.cluster("b"), &shared).await.is_err(), "the shared root does not vouch for b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_that_changes_ends_the_connections_that_it_does_not_vouch_for() {
    let (shared, other) = (Ca::root("shared"), Ca::root("other"));
    let donor = Donor::start(&shared, &[("b", true), ("c", true)], limits()).await;
    let mut b = Acceptor::start(identity(&shared, "b"), donor.address, limits());
    let mut c = Acceptor::start(identity(&shared, "c"), donor.address, limits());
    b.until(|a| a.synced).await;
    c.until(|a| a.synced).await;
    donor.peers.send_replace(peers(&[("b", Some(&other)), ("c", Some(&shared))]));
    let reason = b.reason().await;
    assert!(reason.contains("caBundle of its entry"), "{reason}");
    donor.offer("reviews", 9080, &["c"]);
    c.until(|a| !a.held.is_empty()).await;
    assert_eq!(c.connections, 1, "what the new bundle vouches for goes on");
    donor.peers.send_replace(peers(&[("b", Some(&shared)), ("c", Some(&shared))]));
    b.until(|a| a.synced).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_donor_is_believed_under_the_roots_of_its_entry_only() {
    let shared = Ca::root("shared");
    let (of_donor, of_c) = (shared.intermediate("donor's mesh"), shared.intermediate("c's mesh"));
    let donor = Donor::start(&of_donor, &[("b", true)], limits()).await;
    donor.identity.send_replace(Arc::new(donor_leaf(&of_donor).unchecked(&[&shared])));
    let own = AcceptorContext {
        instance: "b".into(),
        identity: watch(identity(&shared, "b")),
        min_tls: MinTls::default(),
        limits: Arc::new(limits()),
    };
    let (endpoint, expected) = (donor.address.to_string().parse().unwrap(), SpiffeId::of_cluster(&cluster("donor")));
    let dial = async |ca: &Ca| {
        let bundle = bundle(ca);
        probe_under(Some(&bundle), &endpoint, &expected, &own).await.map_err(|e| e.to_string())
    };
    dial(&of_donor).await.unwrap();
    dial(&shared).await.unwrap();
    let refused = dial(&of_c).await.unwrap_err();
    assert!(refused.contains("does not lead to a root"), "{refused}");
}

/// Of the URIs of the host `b` only: permittedSubtrees with one uniformResourceIdentifier (RFC 5280, section 4.2.1.10).
fn constrained_to_uris(p: &mut CertificateParams) {
    let extension = vec![0x30, 0x07, 0xa0, 0x05, 0x30, 0x03, 0x86, 0x01, b'b'];
    p.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 30], extension));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ca_that_is_constrained_to_uris_is_refused_with_what_to_do() {
    let shared = Ca::root("shared");
    let narrow = shared.intermediate_with("narrow", constrained_to_uris);
    let donor = Donor::start(&shared, &[("b", true)], limits()).await;
    let mut b = Acceptor::start(Arc::new(trusted(&shared.cluster("b"), &shared)), donor.address, limits());
    b.until(|a| a.synced).await;
    donor.identity.send_replace(Arc::new(donor_leaf(&narrow).unchecked(&[&shared])));
    let mut late = Acceptor::start(Arc::new(trusted(&shared.cluster("b"), &shared)), donor.address, limits());
    let reason = late.reason().await;
    assert!(reason.contains("nameConstraints") && reason.contains("caBundle"), "{reason}");
}

#[test]
fn a_bundle_that_vouches_for_nobody_is_refused_with_a_sentence() {
    let ca = Ca::root("root");
    let names = |p: &mut CertificateParams| {
        let permitted_subtrees = vec![GeneralSubtree::DnsName("b.example".into())];
        p.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
    };
    check_ca_bundle(&bundle(&ca)).unwrap();
    check_ca_bundle(&bundle(&ca.intermediate_with("some names", names))).unwrap();
    let of_uris = ca.intermediate_with("some URIs", constrained_to_uris);
    let refused = check_ca_bundle(&bundle(&of_uris)).unwrap_err();
    assert!(refused.contains("is constrained to URIs (nameConstraints), which cannot be checked"), "{refused}");
    let leaf = ca.cluster("b");
    let refused = check_ca_bundle(&leaf.chain_pem.parse().unwrap()).unwrap_err();
    assert!(refused.contains("certificate 1 of 1") && refused.contains("is not a CA"), "{refused}");
    let broken = ca.pem.replace("MII", "!!!");
    let refused = check_ca_bundle(&broken.parse().unwrap()).unwrap_err();
    assert!(refused.contains("PEM"), "{refused}");
    for text in ["", "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t", "-----BEGIN PRIVATE KEY-----"] {
        assert!(text.parse::<CaBundle>().unwrap_err().to_string().contains("BEGIN CERTIFICATE"), "{text}");
    }
    let identity = ca.cluster("a").unchecked(&[&ca]);
    client_config_under(Some(&bundle(&ca)), &identity, &SpiffeId::of_cluster(&cluster("b")), MinTls::default())
        .unwrap();
}
