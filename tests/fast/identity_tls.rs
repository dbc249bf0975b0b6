//! Real handshakes between the two ends, in memory: who gets in, who does not, and what both are told.

use std::sync::Arc;

use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose, date_time_ymd};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use wharf::identity::tls::{MinTls, client_config, explain_tls_error, server_config};
use wharf::identity::{CertificateProblem, Identity, PeerCertificate, peer_certificate};
use wharf::model::SpiffeId;

use crate::support::pki::{Ca, Leaf};

const SERVER: &str = "spiffe://wharf/cluster/server";
const CLIENT: &str = "spiffe://wharf/cluster/client";

/// What each end made of it: the certificates that the server was shown, or the reason.
pub struct Outcome {
    pub server: Result<Vec<CertificateDer<'static>>, String>,
    pub client: Result<(), String>,
}

impl Outcome {
    #[track_caller]
    pub fn client_seen(self) -> Result<PeerCertificate, CertificateProblem> {
        self.client.unwrap();
        peer_certificate(&self.server.unwrap())
    }

    /// Refused by the server, for which the client gets an alert.
    #[track_caller]
    pub fn refused_by_server(self, why: &str) {
        let server = self.server.unwrap_err();
        assert!(server.contains(why), "{server}");
        self.client.unwrap_err();
    }

    #[track_caller]
    pub fn refused_by_client(self, why: &str) {
        let client = self.client.unwrap_err();
        assert!(client.contains(why), "{client}");
        self.server.unwrap_err();
    }
}

/// In TLS 1.3 a client is done before the server has looked at its certificate, so a byte each way tells.
pub async fn handshake(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Outcome {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let told = |e: std::io::Error| explain_tls_error(&e).unwrap_or_else(|| e.to_string());
    let serve = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await.map_err(told)?;
        stream.write_all(b"!").await.map_err(told)?;
        stream.read_u8().await.map_err(told)?;
        Ok(stream.get_ref().1.peer_certificates().unwrap().iter().map(|c| c.clone().into_owned()).collect())
    };
    let dial = async {
        let name = ServerName::try_from("whatever.example").unwrap();
        let mut stream = TlsConnector::from(client).connect(name, near).await.map_err(told)?;
        stream.read_u8().await.map_err(told)?;
        stream.write_all(b"!").await.map_err(told)?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Ok(())
    };
    let (server, client) = tokio::join!(serve, dial);
    Outcome { server, client }
}

pub fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

fn serve(identity: &Identity) -> Arc<ServerConfig> {
    server_config(identity, MinTls::Tls13).unwrap()
}

fn dial(identity: &Identity) -> Arc<ClientConfig> {
    client_config(identity, &id(SERVER), MinTls::Tls13).unwrap()
}

/// A good server meets a client that shows `leaf`.
async fn good_server_meets(root: &Ca, leaf: &Leaf) -> Outcome {
    handshake(serve(&root.leaf(&[SERVER]).unchecked(&[root])), dial(&leaf.unchecked(&[root]))).await
}

/// A good client dials a server that shows `leaf`.
async fn good_client_dials(root: &Ca, leaf: &Leaf) -> Outcome {
    handshake(serve(&leaf.unchecked(&[root])), dial(&root.leaf(&[CLIENT]).unchecked(&[root]))).await
}

#[tokio::test]
async fn two_good_peers_meet_and_the_server_knows_who_came() {
    let root = Ca::root("root");
    let seen = good_server_meets(&root, &root.leaf(&[CLIENT])).await.client_seen().unwrap();
    assert_eq!((seen.spiffe_id, seen.not_after), (id(CLIENT), date_time_ymd(4096, 1, 1)));
}

#[tokio::test]
async fn chains_with_intermediates_are_followed_by_both() {
    let root = Ca::root("root");
    let middle = root.intermediate("middle");
    good_server_meets(&root, &middle.leaf(&[CLIENT])).await.client_seen().unwrap();
    good_client_dials(&root, &middle.leaf(&[SERVER])).await.client_seen().unwrap();
}

#[tokio::test]
async fn the_right_root_and_another_name_is_somebody_else() {
    let root = Ca::root("root");
    let outcome = good_client_dials(&root, &root.leaf(&["spiffe://wharf/cluster/impostor"])).await;
    outcome.refused_by_client(
        "the peer is spiffe://wharf/cluster/impostor, not spiffe://wharf/cluster/server as expected",
    );
}

#[tokio::test]
async fn another_root_is_refused_by_both() {
    let (root, other) = (Ca::root("root"), Ca::root("other"));
    good_server_meets(&root, &other.leaf(&[CLIENT])).await.refused_by_server("does not lead to a root");
    good_client_dials(&root, &other.leaf(&[SERVER])).await.refused_by_client("does not lead to a root");
}

#[tokio::test]
async fn a_root_of_the_same_name_is_another_root() {
    let (root, other) = (Ca::root("root"), Ca::root("root"));
    good_server_meets(&root, &other.leaf(&[CLIENT])).await.refused_by_server("root");
    good_client_dials(&root, &other.leaf(&[SERVER])).await.refused_by_client("root");
}

#[tokio::test]
async fn the_refused_client_is_told_what_to_compare() {
    let (root, other) = (Ca::root("root"), Ca::root("other"));
    let stranger = other.leaf(&[CLIENT]).unchecked(&[&root]);
    let outcome = handshake(serve(&root.leaf(&[SERVER]).unchecked(&[&root])), dial(&stranger)).await;
    let told = outcome.client.unwrap_err();
    assert!(told.contains("the peer does not accept this cluster's certificate"), "{told}");
}

#[tokio::test]
async fn expired_is_refused_by_both_with_the_date() {
    let root = Ca::root("root");
    let expired = |uri| root.leaf_with(&[uri], |p| p.not_after = date_time_ymd(2020, 2, 3));
    let why = "expired on 2020-02-03T00:00:00Z";
    good_server_meets(&root, &expired(CLIENT)).await.refused_by_server(why);
    good_client_dials(&root, &expired(SERVER)).await.refused_by_client(why);
}

#[tokio::test]
async fn not_yet_valid_is_refused_by_both_with_the_date() {
    let root = Ca::root("root");
    let early = |uri| root.leaf_with(&[uri], |p| p.not_before = date_time_ymd(2999, 1, 1));
    let why = "not valid before 2999-01-01T00:00:00Z";
    good_server_meets(&root, &early(CLIENT)).await.refused_by_server(why);
    good_client_dials(&root, &early(SERVER)).await.refused_by_client(why);
}

#[tokio::test]
async fn the_usage_of_the_other_end_is_refused() {
    let root = Ca::root("root");
    let only = |uri, usage| root.leaf_with(&[uri], |p| p.extended_key_usages = vec![usage]);
    let server_only = only(CLIENT, ExtendedKeyUsagePurpose::ServerAuth);
    good_server_meets(&root, &server_only).await.refused_by_server("clientAuth");
    let client_only = only(SERVER, ExtendedKeyUsagePurpose::ClientAuth);
    good_client_dials(&root, &client_only).await.refused_by_client("serverAuth");
}

#[tokio::test]
async fn a_leaf_used_as_a_ca_is_refused_by_both() {
    let root = Ca::root("root");
    let why = "issued by a certificate that is no CA";
    let thief = root.leaf(&["spiffe://wharf/cluster/thief"]);
    good_server_meets(&root, &thief.issue(&[CLIENT])).await.refused_by_server(why);
    good_client_dials(&root, &thief.issue(&[SERVER])).await.refused_by_client(why);
}

#[tokio::test]
async fn the_root_itself_is_nobody() {
    let root = Ca::root("root");
    let leaf = Leaf { chain: vec![root.der.clone()], chain_pem: root.pem.clone(), key_pem: root.key_pem.clone() };
    good_server_meets(&root, &leaf).await.refused_by_server("CA certificate");
}

#[tokio::test]
async fn two_spiffe_ids_are_one_too_many() {
    let root = Ca::root("root");
    let problem = good_server_meets(&root, &root.leaf(&[CLIENT, SERVER])).await.client_seen().unwrap_err();
    assert_eq!(problem, CertificateProblem::SeveralUris { count: 2, first: vec![CLIENT.into(), SERVER.into()] });
    let outcome = good_client_dials(&root, &root.leaf(&[SERVER, CLIENT])).await;
    outcome.refused_by_client("2 URIs");
}

#[tokio::test]
async fn a_certificate_that_names_nobody_is_told_so() {
    let root = Ca::root("root");
    let problem = good_server_meets(&root, &root.leaf(&[])).await.client_seen().unwrap_err();
    assert_eq!(problem, CertificateProblem::NoSpiffeId);
    let problem = good_server_meets(&root, &root.leaf(&["https://a.example"])).await.client_seen().unwrap_err();
    assert!(matches!(problem, CertificateProblem::NotSpiffe(_)), "{problem}");
    good_client_dials(&root, &root.leaf(&[])).await.refused_by_client("names no cluster");
}

#[tokio::test]
async fn a_key_that_may_not_sign_is_told_so() {
    let root = Ca::root("root");
    let odd = |uri| root.leaf_with(&[uri], |p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment]);
    let problem = good_server_meets(&root, &odd(CLIENT)).await.client_seen().unwrap_err();
    assert_eq!(problem, CertificateProblem::NoDigitalSignature(id(CLIENT)));
    good_client_dials(&root, &odd(SERVER)).await.refused_by_client("digital signatures");
}

#[tokio::test]
async fn without_a_certificate_nobody_gets_in() {
    let root = Ca::root("root");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.der.clone()).unwrap();
    let with_name = root.leaf_with(&[SERVER], |p| {
        p.subject_alt_names.push(rcgen::SanType::DnsName("whatever.example".try_into().unwrap()));
    });
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut anonymous = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    anonymous.alpn_protocols = vec![b"h2".to_vec()];
    let outcome = handshake(serve(&with_name.unchecked(&[&root])), Arc::new(anonymous)).await;
    assert!(outcome.client.as_ref().unwrap_err().contains("the peer demands a certificate"));
    outcome.refused_by_server("showed no certificate");
}

#[tokio::test]
async fn tls_1_2_is_refused_unless_a_setting_allows_it() {
    let root = Ca::root("root");
    let (server, client) = (root.leaf(&[SERVER]).unchecked(&[&root]), root.leaf(&[CLIENT]).unchecked(&[&root]));
    let old_client = || old(&client);
    handshake(serve(&server), old_client()).await.refused_by_server("TLS 1.3 unless its configuration allows 1.2");
    let lenient = server_config(&server, MinTls::Tls12).unwrap();
    assert_eq!(handshake(lenient.clone(), old_client()).await.client_seen().unwrap().spiffe_id, id(CLIENT));
    handshake(lenient, dial(&client)).await.client_seen().unwrap();
}

/// A client that knows nothing newer than TLS 1.2.
fn old(identity: &Identity) -> Arc<ClientConfig> {
    let ours = client_config(identity, &id(SERVER), MinTls::Tls12).unwrap();
    let verifier = AnyServer(ours.crypto_provider().clone());
    let mut config = ClientConfig::builder_with_provider(ours.crypto_provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

#[derive(Debug)]
struct AnyServer(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        unreachable!("it speaks TLS 1.2 only")
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn http_1_is_refused_in_the_handshake() {
    let root = Ca::root("root");
    let mut client = (*dial(&root.leaf(&[CLIENT]).unchecked(&[&root]))).clone();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    let outcome = handshake(serve(&root.leaf(&[SERVER]).unchecked(&[&root])), Arc::new(client)).await;
    assert!(outcome.client.unwrap_err().contains("HTTP/2"));
    outcome.server.unwrap_err();
}

#[tokio::test]
async fn plaintext_is_told_as_such() {
    let root = Ca::root("root");
    let (mut near, far) = tokio::io::duplex(1024);
    let acceptor = TlsAcceptor::from(serve(&root.leaf(&[SERVER]).unchecked(&[&root])));
    near.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let refused = acceptor.accept(far).await.unwrap_err();
    assert_eq!(explain_tls_error(&refused).unwrap(), "the peer does not speak TLS on this port");
}

#[tokio::test]
async fn every_connection_shows_its_certificate_again() {
    let root = Ca::root("root");
    let server = serve(&root.leaf(&[SERVER]).unchecked(&[&root]));
    let mut client = (*dial(&root.leaf(&[CLIENT]).unchecked(&[&root]))).clone();
    client.resumption = rustls::client::Resumption::in_memory_sessions(8); // a client that would like to resume
    let client = Arc::new(client);
    for _ in 0..2 {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let name = ServerName::try_from("whatever.example").unwrap();
        let (server, client) = tokio::join!(
            TlsAcceptor::from(server.clone()).accept(far),
            TlsConnector::from(client.clone()).connect(name, near)
        );
        let (server, client) = (server.unwrap(), client.unwrap());
        assert_eq!(client.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(server.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}
