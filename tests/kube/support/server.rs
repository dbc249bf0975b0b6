//! A kube-apiserver with an etcd of its own, on a loopback address of its own.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use super::etcd::{Etcd, PREFIX, Snapshot};
use super::process::{self, Daemon};
use super::tools::{built, run};
use super::wait;

const ADMIN: &str = "admin";
pub const ISSUER: &str = "https://kubernetes.default.svc";

/// What service accounts ask of it is written down, for those who want to know what an agent does and needs.
const AUDIT: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, userGroups: [\"system:serviceaccounts\"]}
- {level: None}
";

pub struct Server {
    pub ip: IpAddr,
    pub folder: PathBuf,
    pub etcd: Etcd,
    pub daemon: Daemon,
    /// The CA of its certificate.
    pub ca: String,
    /// What is stored when a test begins.
    base: Snapshot,
}

impl Server {
    /// Starts both, and installs the CRDs of Wharf and of Istio.
    pub fn start() -> Server {
        let [a, b, c]: [u8; 3] = rand::random();
        let ip = IpAddr::V4(Ipv4Addr::new(127, a.clamp(1, 254), b, c.clamp(1, 254)));
        let folder = process::folder().join(ip.to_string());
        fs::create_dir(&folder).expect("a folder");
        let ca = keys(&folder, ip);
        let etcd = Etcd::start(&folder, SocketAddr::new(ip, 2379), SocketAddr::new(ip, 2380));
        let daemon = Daemon::start("kube-apiserver", folder.join("apiserver.log"), arguments(&folder, ip), vec![]);
        let mut server = Server { ip, folder, etcd, daemon, ca, base: Snapshot::new() };
        fs::write(server.admin_kubeconfig(), server.kubeconfig(&json!({"token": ADMIN})).to_string()).expect("a file");
        server.ready();
        server.install_crds();
        server.base = server.etcd.snapshot();
        server
    }

    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// A kubeconfig for somebody who shows this (`{"token": ..}`, `{"tokenFile": ..}`).
    pub fn kubeconfig(&self, user: &Value) -> Value {
        let server = format!("https://{}:6443", self.ip);
        let ca = k8s_openapi::ByteString(self.ca.clone().into_bytes());
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority-data": ca}}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        })
    }

    /// Runs kubectl as the administrator.
    pub fn kubectl(&self, args: &[&str], input: &str) -> super::Said {
        let kubeconfig = self.admin_kubeconfig();
        let home = self.folder.as_os_str(); // its cache of what the API server knows
        run(&built("bin/kubectl"), args, &[("KUBECONFIG", kubeconfig.as_os_str()), ("HOME", home)], input)
    }

    /// Waits until it answers.
    pub fn ready(&self) {
        let seen = || (self.kubectl(&["get", "--raw", "/readyz"], "").stdout == "ok").then_some(());
        // It does most of its work here, and several may start at once.
        if wait::blocking_within(Duration::from_secs(180), seen).is_none() {
            panic!("the API server does not get ready\n{}", self.daemon.tail());
        }
    }

    fn install_crds(&self) {
        let wharf = run(Path::new(super::tools::WHARF), &["crds"], &[], "").ok();
        self.kubectl(&["apply", "--server-side", "-f", "-"], &wharf).ok();
        let istio = built("crd-all.gen.yaml").display().to_string();
        self.kubectl(&["apply", "--server-side", "-f", &istio], "").ok();
        self.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=120s"], "").ok();
    }

    /// Makes everything as it was before the first test: also when the one before left one of them stopped or frozen.
    pub fn clean(&mut self) {
        for daemon in [&mut self.etcd.daemon, &mut self.daemon] {
            if daemon.runs() {
                daemon.resume();
            } else {
                daemon.kill(); // it may have ended by itself
                daemon.again();
            }
        }
        self.etcd.ready();
        if self.etcd.restore(&mut self.base) {
            self.forget_definitions();
        }
        self.ready();
    }

    /// Makes sure that nobody goes by the definitions of the test before: neither the API server, which replaces handlers,
    /// storage and discovery one after the other in the background, nor kubectl, which keeps what it discovered for hours.
    fn forget_definitions(&mut self) {
        self.daemon.kill();
        self.daemon.again();
        let cache = self.folder.join(".kube");
        if cache.exists() {
            fs::remove_dir_all(cache).expect("a folder");
        }
    }
}

fn arguments(folder: &Path, ip: IpAddr) -> Vec<String> {
    let file = |name: &str| folder.join(name).display().to_string();
    let mut args = vec![built("bin/kube-apiserver").display().to_string()];
    for (flag, value) in [
        ("etcd-servers", format!("http://{ip}:2379")),
        ("etcd-prefix", PREFIX.to_owned()),
        ("bind-address", ip.to_string()),
        ("advertise-address", ip.to_string()),
        ("secure-port", "6443".to_owned()),
        ("tls-cert-file", file("apiserver.crt")),
        ("tls-private-key-file", file("apiserver.key")),
        ("authorization-mode", "RBAC".to_owned()),
        ("token-auth-file", file("tokens.csv")),
        ("service-account-issuer", ISSUER.to_owned()),
        ("service-account-key-file", file("sa.pub")),
        ("service-account-signing-key-file", file("sa.key")),
        ("service-cluster-ip-range", "10.96.0.0/16".to_owned()),
        // There is no controller that makes service accounts and their tokens.
        ("disable-admission-plugins", "ServiceAccount".to_owned()),
        ("endpoint-reconciler-type", "none".to_owned()),
        ("audit-policy-file", file("audit.yaml")),
        ("audit-log-path", file("audit.log")),
        // It would ask itself how large what it has is, again and again.
        ("feature-gates", "SizeBasedListCostEstimate=false".to_owned()),
        ("profiling", "false".to_owned()),
    ] {
        args.push(format!("--{flag}={value}"));
    }
    args
}

/// The files that it reads; gives the CA of its certificate.
fn keys(folder: &Path, ip: IpAddr) -> String {
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).expect("a file");
    let signing = KeyPair::generate().expect("a key");
    write("sa.key", &signing.serialize_pem());
    write("sa.pub", &signing.public_key_pem());
    write("tokens.csv", &format!("{ADMIN},admin,admin,\"system:masters\"\n"));
    write("audit.yaml", AUDIT);

    let ca_key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).expect("a certificate").pem();
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().expect("a key");
    let names = vec![ip.to_string(), "kubernetes.default.svc".to_owned()];
    let serving = CertificateParams::new(names).and_then(|p| p.signed_by(&key, &issuer)).expect("a certificate");
    write("apiserver.crt", &serving.pem());
    write("apiserver.key", &key.serialize_pem());
    ca
}
