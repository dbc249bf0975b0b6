//! `wharf ca`: what it issues works, what it writes is safe, and what it shows is there.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use rcgen::{BasicConstraints, CidrSubnet, GeneralSubtree, IsCa, KeyUsagePurpose, NameConstraints, date_time_ymd};
use tempfile::TempDir;
use time::OffsetDateTime;
use wharf::cli::ca;
use wharf::identity::{Identity, IdentityFiles, describe_certificate, read_certificates};

use crate::support::pki::Ca;

#[derive(Parser)]
#[command(name = "ca")]
struct Cli {
    #[command(flatten)]
    args: ca::CaArgs,
}

/// Runs `wharf ca --dir DIR …`.
pub fn wharf_ca(dir: &Path, args: &[&str]) -> Result<String, String> {
    let line = ["ca", "--dir", dir.to_str().unwrap()].into_iter().chain(args.iter().copied());
    let cli = Cli::try_parse_from(line).map_err(|e| format!("usage: {e}"))?;
    let mut out = Vec::new();
    ca::run_to(cli.args, &mut out).map_err(|e| format!("{e:#}"))?;
    Ok(String::from_utf8(out).unwrap())
}

fn data(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fast/data").join(name).to_str().unwrap().to_owned()
}

fn files(dir: &Path, cluster: &str, root: impl Into<PathBuf>) -> IdentityFiles {
    IdentityFiles {
        certificate: dir.join(format!("{cluster}.crt")),
        key: dir.join(format!("{cluster}.key")),
        root: root.into(),
        crl: None,
    }
}

fn ready() -> TempDir {
    let dir = TempDir::new().unwrap();
    wharf_ca(dir.path(), &["init"]).unwrap();
    dir
}

/// A CA of the tests' own making, in the directory as `odd.crt` and `odd.key`.
fn odd_ca(dir: &Path, ca: &Ca) -> [String; 4] {
    let (cert, key) = (dir.join("odd.crt"), dir.join("odd.key"));
    fs::write(&cert, &ca.pem).unwrap();
    fs::write(&key, &ca.key_pem).unwrap();
    ["--ca-cert".into(), cert.to_str().unwrap().into(), "--ca-key".into(), key.to_str().unwrap().into()]
}

fn issue_under(dir: &Path, ca: &Ca, more: &[&str]) -> Result<String, String> {
    let ca = odd_ca(dir, ca);
    let args: Vec<&str> =
        ["issue", "a"].into_iter().chain(ca.iter().map(String::as_str)).chain(more.iter().copied()).collect();
    wharf_ca(dir, &args)
}

#[test]
fn what_it_issues_is_an_identity_under_its_root() {
    let dir = ready();
    let told = wharf_ca(dir.path(), &["issue", "cluster1", "--dns", "cluster1.example", "--ip", "192.0.2.1"]).unwrap();
    let identity = Identity::load(&files(dir.path(), "cluster1", dir.path().join("ca.crt"))).unwrap();
    assert_eq!(identity.spiffe_id.as_str(), "spiffe://wharf/cluster/cluster1");
    let at = dir.path().display();
    let line = format!("identity: {{certificate: {at}/cluster1.crt, key: {at}/cluster1.key, root: {at}/ca.crt}}");
    assert!(told.contains(&line), "{told}");
}

#[test]
fn a_certificate_has_the_usages_lifetime_and_serial_that_it_should() {
    let dir = ready();
    let arguments =
        ["issue", "a", "--dns", "a.example", "--dns", "b.example", "--ip", "192.0.2.1", "--ip", "2001:db8::1"];
    wharf_ca(dir.path(), &arguments).unwrap();
    let now = OffsetDateTime::now_utc() + time::Duration::minutes(1);
    let shown = describe_certificate(&read_certificates(&dir.path().join("a.crt")).unwrap()[0], now).unwrap();
    assert_eq!(shown.usages, ["digitalSignature", "serverAuth", "clientAuth"]);
    let names = ["URI:spiffe://wharf/cluster/a", "DNS:a.example", "DNS:b.example", "IP:192.0.2.1", "IP:2001:db8::1"];
    assert_eq!(shown.names, names);
    assert_eq!((shown.key.as_str(), shown.ca, shown.days_left), ("EC P-256", false, 89));
    assert!(shown.serial.split(':').count() >= 15, "{}", shown.serial);
    assert!(!shown.not_yet_valid);
    let root = describe_certificate(&read_certificates(&dir.path().join("ca.crt")).unwrap()[0], now).unwrap();
    assert_eq!(root.usages, ["keyCertSign", "cRLSign"]);
    assert_eq!((root.ca, root.self_signed, root.days_left), (true, true, 3649));
    let other = TempDir::new().unwrap();
    wharf_ca(other.path(), &["init"]).unwrap();
    let other = describe_certificate(&read_certificates(&other.path().join("ca.crt")).unwrap()[0], now).unwrap();
    assert!(root.subject.starts_with("CN=Wharf root CA "), "{}", root.subject);
    assert_ne!(root.subject, other.subject, "two roots that nobody named are told apart");
}

#[test]
fn a_peer_whose_clock_is_minutes_behind_accepts_a_new_certificate() {
    let dir = ready();
    wharf_ca(dir.path(), &["issue", "a"]).unwrap();
    let behind = OffsetDateTime::now_utc() - time::Duration::minutes(4);
    Identity::load_at(&files(dir.path(), "a", dir.path().join("ca.crt")), behind).unwrap();
}

#[test]
fn serial_numbers_differ() {
    let dir = ready();
    let serial = |name: &str| {
        wharf_ca(dir.path(), &["issue", name]).unwrap();
        Identity::load(&files(dir.path(), name, dir.path().join("ca.crt"))).unwrap().serial
    };
    assert_ne!(serial("a"), serial("b"));
}

#[test]
fn keys_are_for_their_owner_only() {
    let dir = ready();
    wharf_ca(dir.path(), &["issue", "a"]).unwrap();
    for key in ["ca.key", "a.key"] {
        assert_eq!(fs::metadata(dir.path().join(key)).unwrap().permissions().mode() & 0o777, 0o600, "{key}");
    }
}

#[test]
fn nothing_is_ever_overwritten_and_nothing_half_made() {
    for existing in ["ca.crt", "ca.key"] {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join(existing), "precious").unwrap();
        let refused = wharf_ca(dir.path(), &["init"]).unwrap_err();
        assert!(refused.contains(existing) && refused.contains("nothing is overwritten"), "{refused}");
        assert_eq!(fs::read_to_string(dir.path().join(existing)).unwrap(), "precious");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
    for existing in ["a.crt", "a.key"] {
        let dir = ready();
        symlink("nowhere", dir.path().join(existing)).unwrap(); // a dangling link is something too
        wharf_ca(dir.path(), &["issue", "a"]).unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }
}

#[test]
fn a_missing_directory_is_made() {
    let dir = TempDir::new().unwrap();
    let deep = dir.path().join("some/certs");
    assert!(wharf_ca(&deep, &["init"]).unwrap().contains("next: wharf ca issue cluster1 --dir"));
    assert!(deep.join("ca.key").exists());
}

#[test]
fn without_a_ca_it_says_how_to_get_one() {
    let dir = TempDir::new().unwrap();
    let refused = wharf_ca(dir.path(), &["issue", "a"]).unwrap_err();
    assert!(refused.contains("ca.crt") && refused.contains("wharf ca init"), "{refused}");
}

#[test]
fn another_spiffe_id_is_issued_and_the_peers_setting_named() {
    let dir = ready();
    let told = wharf_ca(dir.path(), &["issue", "a", "--spiffe-id", "spiffe://example.org/mesh/a"]).unwrap();
    assert!(told.contains("identity: spiffe://example.org/mesh/a"), "{told}");
    let identity = Identity::load(&files(dir.path(), "a", dir.path().join("ca.crt"))).unwrap();
    assert_eq!(identity.spiffe_id.as_str(), "spiffe://example.org/mesh/a");
}

#[test]
fn roots_made_elsewhere_issue_whatever_the_format_of_their_key() {
    let pairs = [
        ("rsa.crt", "rsa.pkcs1.key"),
        ("rsa.crt", "rsa.pkcs8.key"),
        ("p256.crt", "p256.sec1.key"),
        ("p256.crt", "p256.pkcs8.key"),
    ];
    for (cert, key) in pairs {
        let (dir, cert) = (TempDir::new().unwrap(), data(cert));
        let told = wharf_ca(dir.path(), &["issue", "a", "--ca-cert", &cert, "--ca-key", &data(key)]).unwrap();
        let loaded = Identity::load(&files(dir.path(), "a", &cert)).unwrap_or_else(|e| panic!("{key}: {e}\n{told}"));
        assert_eq!(loaded.chain.len(), 1, "{key}: the root is not part of the chain");
        assert!(told.contains(&format!("root: {cert}")), "{told}");
    }
}

#[test]
fn an_intermediate_issues_with_itself_in_the_chain() {
    let dir = TempDir::new().unwrap();
    let args = ["issue", "a", "--ca-cert", &data("p384.crt"), "--ca-key", &data("p384.sec1.key")];
    assert!(wharf_ca(dir.path(), &args).unwrap().contains("intermediate"));
    assert_eq!(Identity::load(&files(dir.path(), "a", data("rsa.crt"))).unwrap().chain.len(), 2);
}

#[test]
fn of_several_certificates_the_keys_issues_and_the_root_is_left_out() {
    for order in [["rsa.crt", "p384.crt"], ["p384.crt", "rsa.crt"]] {
        let dir = TempDir::new().unwrap();
        let bundle = dir.path().join("bundle.crt");
        fs::write(&bundle, order.map(|name| fs::read_to_string(data(name)).unwrap()).concat()).unwrap();
        let args = ["issue", "a", "--ca-cert", bundle.to_str().unwrap(), "--ca-key", &data("p384.sec1.key")];
        wharf_ca(dir.path(), &args).unwrap();
        assert_eq!(Identity::load(&files(dir.path(), "a", data("rsa.crt"))).unwrap().chain.len(), 2);
    }
}

#[test]
fn intermediates_of_intermediates_come_along() {
    let (dir, root) = (TempDir::new().unwrap(), Ca::root("root"));
    let first = root.intermediate("first");
    let mut second = first.intermediate("second");
    second.pem = format!("{}{}", second.pem, first.pem);
    issue_under(dir.path(), &second, &[]).unwrap();
    fs::write(dir.path().join("root.crt"), &root.pem).unwrap();
    assert_eq!(Identity::load(&files(dir.path(), "a", dir.path().join("root.crt"))).unwrap().chain.len(), 3);
}

#[test]
fn another_cas_key_is_refused() {
    let dir = TempDir::new().unwrap();
    let args = ["issue", "a", "--ca-cert", &data("rsa.crt"), "--ca-key", &data("p256.sec1.key")];
    let refused = wharf_ca(dir.path(), &args).unwrap_err();
    assert!(refused.contains("p256.sec1.key: it is not the key of the certificate in"), "{refused}");
}

#[test]
fn an_encrypted_key_is_refused_with_the_way_to_decrypt_it() {
    let dir = TempDir::new().unwrap();
    let args = ["issue", "a", "--ca-cert", &data("p256.crt"), "--ca-key", &data("encrypted.key")];
    assert!(wharf_ca(dir.path(), &args).unwrap_err().contains("openssl pkey"));
}

#[test]
fn what_may_not_issue_does_not() {
    let root = Ca::root("root");
    let cases = [
        (root.intermediate_with("no ca", |p| p.is_ca = IsCa::ExplicitNoCa), "not a CA certificate"),
        (root.intermediate_with("no sign", |p| p.key_usages = vec![KeyUsagePurpose::CrlSign]), "keyCertSign"),
        (root.intermediate_with("old", |p| p.not_after = date_time_ymd(2020, 2, 3)), "expired on 2020-02-03"),
    ];
    for (ca, why) in cases {
        let dir = TempDir::new().unwrap();
        let refused = issue_under(dir.path(), &ca, &[]).unwrap_err();
        assert!(refused.contains("odd.crt") && refused.contains(why), "{refused}");
        assert!(!dir.path().join("a.key").exists());
    }
}

#[test]
fn what_peers_would_refuse_is_not_issued() {
    let (dir, root) = (TempDir::new().unwrap(), Ca::root("root"));
    let narrow = root.intermediate_with("narrow", |p| {
        let permitted_subtrees = vec![
            GeneralSubtree::DnsName("example".into()),
            GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([192, 0, 2, 0], 24)),
        ];
        p.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
        p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    let refused = issue_under(dir.path(), &narrow, &["--dns", "a.elsewhere"]).unwrap_err();
    assert!(refused.contains("would be refused under this CA"), "{refused}");
    issue_under(dir.path(), &narrow, &["--dns", "a.example", "--ip", "192.0.2.7"]).unwrap();
}

#[test]
fn no_certificate_outlives_its_ca() {
    let dir = TempDir::new().unwrap();
    wharf_ca(dir.path(), &["init", "--ttl", "10d"]).unwrap();
    assert!(wharf_ca(dir.path(), &["issue", "a", "--ttl", "1y"]).unwrap().contains("(when the CA ends)"));
    let end = |name: &str| {
        describe_certificate(&read_certificates(&dir.path().join(name)).unwrap()[0], OffsetDateTime::now_utc())
            .unwrap()
            .not_after
    };
    assert_eq!(end("a.crt"), end("ca.crt"));
    assert!(!wharf_ca(dir.path(), &["issue", "b", "--ttl", "24h"]).unwrap().contains("when the CA ends"));
}

#[test]
fn what_is_no_lifetime_name_or_identity_is_a_usage_error() {
    let dir = ready();
    let wrong: [&[&str]; 9] = [
        &["issue", "a", "--ttl", "0d"],
        &["issue", "a", "--ttl", "90"],
        &["issue", "a", "--ttl", "-1d"],
        &["issue", "a", "--ttl", "101y"],
        &["issue", "a", "--ttl", "99999999999999999999d"],
        &["issue", "A_b"],
        &["issue", "../a"],
        &["issue", "a", "--spiffe-id", "https://a.example"],
        &["issue", "a", "--ca-cert", "only-half.crt"],
    ];
    for args in wrong {
        let refused = wharf_ca(dir.path(), args).unwrap_err();
        assert!(refused.starts_with("usage: error:"), "{args:?}: {refused}");
    }
    let long = "x".repeat(65);
    for name in ["", " ", "a\u{1b}[31m", &long] {
        assert!(wharf_ca(dir.path(), &["init", "--name", name]).unwrap_err().starts_with("usage: error:"), "{name:?}");
    }
}

#[test]
fn a_usage_error_exits_with_2_and_every_command_shows_an_example() {
    let wrong = Cli::try_parse_from(["ca", "issue", "a", "--ttl", "soon"]).map(|_| ()).unwrap_err();
    assert_eq!(wrong.exit_code(), 2);
    assert!(Cli::command().render_help().to_string().contains("wharf ca init"));
    for command in Cli::command().get_subcommands_mut().filter(|c| c.get_name() != "help") {
        let help = command.render_help().to_string();
        assert!(help.contains("wharf ca "), "{help}");
    }
}

#[test]
fn show_tells_everything_in_words() {
    let dir = ready();
    wharf_ca(dir.path(), &["issue", "a", "--dns", "a.example", "--ttl", "36h"]).unwrap();
    let shown = wharf_ca(dir.path(), &["show", "a.crt"]).unwrap();
    for part in [
        "a.crt (1 of 1)",
        "CN=a\n",
        "spiffe://wharf/cluster/a\n",
        "DNS:a.example",
        "(1 day left)",
        "EC P-256",
        "digitalSignature, serverAuth, clientAuth",
        "CN=Wharf root CA",
        "its issuer is not in this file",
    ] {
        assert!(shown.contains(part), "{part:?}: {shown}");
    }
}

#[test]
fn show_tells_each_certificate_of_a_chain_and_what_has_expired() {
    let (dir, root) = (TempDir::new().unwrap(), Ca::root("root"));
    let ten_days_ago = OffsetDateTime::now_utc() - time::Duration::days(10);
    let leaf = root.intermediate("middle").leaf_with(&["spiffe://wharf/cluster/a"], |p| p.not_after = ten_days_ago);
    fs::write(dir.path().join("chain.pem"), leaf.chain_pem + &root.pem).unwrap();
    let shown = wharf_ca(dir.path(), &["show", "chain.pem"]).unwrap();
    for part in ["(1 of 3)", "(2 of 3)", "(3 of 3)", "EXPIRED 10 days ago", "under certificate 2 of", "its own issuer"]
    {
        assert!(shown.contains(part), "{part:?}: {shown}");
    }
}

#[test]
fn show_speaks_json_and_yaml() {
    let dir = ready();
    let json = wharf_ca(dir.path(), &["show", "ca.crt", "-o", "json"]).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["certificates"][0]["subject"].as_str().unwrap().starts_with("CN=Wharf root CA "));
    assert_eq!(json["certificates"][0]["usages"], serde_json::json!(["keyCertSign", "cRLSign"]));
    let yaml = wharf_ca(dir.path(), &["show", "ca.crt", "-o", "yaml"]).unwrap();
    let yaml: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(json, yaml);
}

#[test]
fn show_of_another_file_says_what_it_is_not() {
    let dir = ready();
    let refused = wharf_ca(dir.path(), &["show", "ca.key"]).unwrap_err();
    assert!(refused.contains("ca.key") && refused.contains("no CERTIFICATE"), "{refused}");
}
