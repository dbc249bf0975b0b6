//! A peer under the roots of its own entry.

use std::fs;

use super::share::pair;
use super::support::Site;

/// PEM as a flow of YAML has it.
fn quoted(pem: &str) -> String {
    serde_json::to_string(pem).unwrap()
}

#[test]
fn a_ca_bundle_ends_the_stream_that_it_does_not_vouch_for_and_takes_back_the_one_that_it_does() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site);
    let shared = fs::read_to_string(site.path().join("ca.crt")).unwrap();
    fs::create_dir(site.path().join("other")).unwrap();
    site.run(&["ca", "init", "--dir", "other"]);
    let other = fs::read_to_string(site.path().join("other/ca.crt")).unwrap();
    let before = acceptor.snapshot();
    let entry = |pem: &str| format!("{{name: donor, endpoint: \"{}\", caBundle: {}}}", donor.peering, quoted(pem));
    acceptor.configure("", &[entry(&other)]);
    let refused = site.until("the donor is not believed", || {
        acceptor.peer_condition("donor", "Connected").filter(|(reason, _)| reason == "PeerUnreachable")
    });
    assert!(refused.1.contains("the peer's certificate is refused: it does not lead to a root"), "{refused:?}");
    assert_eq!(acceptor.snapshot(), before, "what was good before stays");
    acceptor.configure("", &[entry(&shared)]);
    site.until("it is believed again", || acceptor.in_step("donor").then_some(()));
    donor.configure("", &[format!("{{name: acceptor, consume: true, caBundle: {}}}", quoted(&other))]);
    let refused = site.until("the acceptor is refused", || {
        acceptor.peer_condition("donor", "Connected").filter(|(_, message)| message.contains("caBundle of its entry"))
    });
    assert!(refused.1.contains("spiffe://wharf/cluster/acceptor"), "{refused:?}");
    assert_eq!(acceptor.snapshot(), before);
}
