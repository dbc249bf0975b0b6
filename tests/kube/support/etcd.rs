//! An etcd, and what of it the tests use, by its JSON gateway.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use k8s_openapi::ByteString;
use serde::Deserialize;
use serde_json::{Value, json};

use super::process::Daemon;
use super::tools::built;
use super::wait;

/// Where an API server keeps its objects.
pub const PREFIX: &str = "/wharf";

/// Operations in a transaction: etcd's own limit (`--max-txn-ops`).
const BATCH: usize = 128;

pub struct Etcd {
    pub daemon: Daemon,
    pub address: SocketAddr,
}

/// All that is stored at one moment: by key, the revision of its last change and the value.
pub type Snapshot = BTreeMap<Vec<u8>, (String, Vec<u8>)>;

#[derive(Deserialize)]
struct Entry {
    key: ByteString,
    #[serde(default)]
    value: ByteString,
    mod_revision: String,
}

impl Etcd {
    pub fn start(folder: &Path, client: SocketAddr, peer: SocketAddr) -> Etcd {
        let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
        let mut args = vec![built("bin/etcd").display().to_string()];
        for (flag, value) in [
            ("data-dir", folder.join("etcd").display().to_string()),
            ("listen-client-urls", client_url.clone()),
            ("advertise-client-urls", client_url),
            ("listen-peer-urls", peer_url.clone()),
            ("initial-advertise-peer-urls", peer_url.clone()),
            ("initial-cluster", format!("default={peer_url}")),
            ("log-level", "error".to_owned()),
            // Nothing has to outlive a power cut.
            ("unsafe-no-fsync", "true".to_owned()),
        ] {
            args.push(format!("--{flag}={value}"));
        }
        let daemon = Daemon::start("etcd", folder.join("etcd.log"), args, vec![]);
        let etcd = Etcd { daemon, address: client };
        etcd.ready();
        etcd
    }

    pub fn ready(&self) {
        wait::blocking("etcd", || self.try_post("/v3/maintenance/status", &json!({})).ok().map(drop));
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.try_post(path, body).unwrap_or_else(|e| panic!("etcd {path}: {e}\n{}", self.daemon.tail()))
    }

    fn try_post(&self, path: &str, body: &Value) -> Result<Value, String> {
        let answer = self.exchange(path, &body.to_string()).map_err(|e| e.to_string())?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
        let good = head.split_whitespace().nth(1) == Some("200");
        if good { serde_json::from_str(body).map_err(|e| e.to_string()) } else { Err(answer) }
    }

    fn exchange(&self, path: &str, body: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        // Of 1.0, so that the answer ends with the connection, and is not cut into chunks.
        write!(stream, "POST {path} HTTP/1.0\r\nHost: etcd\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    pub fn revision(&self) -> i64 {
        let status = self.post("/v3/maintenance/status", &json!({}));
        status["header"]["revision"].as_str().and_then(|text| text.parse().ok()).expect("a revision")
    }

    /// Forgets all that was before the present revision. A watch that has not come so far is told so.
    pub fn compact(&self) -> i64 {
        let revision = self.revision();
        self.post("/v3/kv/compaction", &json!({"revision": revision.to_string(), "physical": true}));
        revision
    }

    /// Stores a value that no API server can read among the objects of a resource (`<group>/<plural>`): it cannot be listed.
    pub fn spoil(&self, resource: &str) {
        self.post("/v3/kv/put", &json!({"key": spoiled(resource), "value": text("neither JSON nor protobuf")}));
    }

    /// Takes that value away.
    pub fn mend(&self, resource: &str) {
        self.post("/v3/kv/deleterange", &json!({"key": spoiled(resource)}));
    }

    /// Stores a value under a name that no API server looks at: the revision goes on.
    pub fn touch(&self) {
        self.post("/v3/kv/put", &json!({"key": text("/elsewhere"), "value": text("")}));
    }

    fn range(&self, keys_only: bool) -> Vec<Entry> {
        let end = format!("{PREFIX}0"); // the character after the slash
        let body = json!({"key": text(&format!("{PREFIX}/")), "range_end": text(&end), "keys_only": keys_only});
        let mut answer = self.post("/v3/kv/range", &body);
        let entries = answer.get_mut("kvs").map(Value::take).unwrap_or_else(|| json!([]));
        serde_json::from_value(entries).expect("keys and values")
    }

    pub fn snapshot(&self) -> Snapshot {
        self.range(false).into_iter().map(|e| (e.key.0, (e.mod_revision, e.value.0))).collect()
    }

    /// Makes everything as it was. The API server follows, as it follows what another API server writes. Returns whether
    /// definitions were among what was changed: it follows these only after a while.
    pub fn restore(&self, snapshot: &mut Snapshot) -> bool {
        let now: BTreeMap<_, _> = self.range(true).into_iter().map(|e| (e.key.0, e.mod_revision)).collect();
        let ours = |key: &[u8]| !String::from_utf8_lossy(key).contains("leases/kube-system/apiserver-");
        let is_definition = |key: &[u8]| String::from_utf8_lossy(key).contains("/customresourcedefinitions/");
        let mut operations = Vec::new();
        let mut definitions = false;
        for key in now.keys().filter(|key| !snapshot.contains_key(*key) && ours(key)) {
            definitions |= is_definition(key);
            operations.push(json!({"requestDeleteRange": {"key": ByteString(key.clone())}}));
        }
        for (key, (revision, value)) in &*snapshot {
            if now.get(key) != Some(revision) && ours(key) {
                definitions |= is_definition(key);
                let put = json!({"key": ByteString(key.clone()), "value": ByteString(value.clone())});
                operations.push(json!({"requestPut": put}));
            }
        }
        for batch in operations.chunks(BATCH) {
            self.post("/v3/kv/txn", &json!({"success": batch}));
        }
        for entry in self.range(true) {
            if let Some((revision, _)) = snapshot.get_mut(&entry.key.0) {
                *revision = entry.mod_revision;
            }
        }
        definitions
    }
}

fn spoiled(resource: &str) -> ByteString {
    text(&format!("{PREFIX}/{resource}/default/spoiled"))
}

fn text(text: &str) -> ByteString {
    ByteString(text.as_bytes().to_vec())
}
