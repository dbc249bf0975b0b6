//! What every test here stands on.
//!
//! A test takes a real API server for itself, with the CRDs of Wharf and Istio in it, does as its users do, and looks at
//! what comes of it. It may leave everything as it likes: stopped, frozen, full of objects.
//!
//! ```ignore
//! let mut cluster = Cluster::new().await;                 // one; waits if all are taken
//! let [donor, acceptor] = Cluster::several().await;       // or several, at once
//!
//! cluster.apply(&json!({..})).await;                      // as an administrator, by server-side apply
//! cluster.get(&json!({..})).await;                        // by apiVersion, kind, name, namespace; also merge, list, delete
//! cluster.kubectl(&["get", "sep"]).ok();                  // what kubectl prints; `failed` is what it complains of
//! cluster.client(); cluster.all::<Service>();             // of the crate kube
//! cluster.make_namespace("shop").await;                   // and delete_namespace, as the namespace controller does
//!
//! let account = cluster.account("wharf-system", "wharf").await;   // a service account, its token in a file
//! cluster.allow(&account, &json!([{..}])).await;          // the rules of a ClusterRole; [] takes them away
//! cluster.expire_token(&account).await;                   // 401 from now on, until cluster.renew(&account)
//! cluster.audit();                                        // all that service accounts asked the API server for
//!
//! let pki = Pki::new();
//! let mut agent = Agent::new(&cluster, &pki, "cluster1", "wharf-0").with_account(&account);
//! agent.configure("style: EGRESS_INGRESS\n", &[other.as_donor()]);
//! agent.started().await;                                  // a process; also stop, kill, freeze, resume
//! agent.status(); agent.metric("..");                     // what it says of itself
//!
//! let mut pair = Pair::new(&["reviews"]).await;           // two clusters and their agents; reviews is exposed and bound
//! pair.in_step().await; pair.recovers().await;
//!
//! cluster.stop(); cluster.start();                        // the API server; also kill, freeze, resume
//! cluster.freeze_etcd(); cluster.compact(); cluster.expire_watches();
//!
//! wait::until("it is there", || async { cluster.get(&object).await }).await;
//! ```
//!
//! API servers are started as tests need them, a few at most, and stay for the tests that come after, clean again. No
//! controller runs: no service account, endpoint or event is made or removed by itself, and nothing is collected that
//! belonged to what is gone. All processes end with this one, however it ends, and its folder goes with it.

#![allow(dead_code)] // a tool may wait here for its next user

pub mod account;
pub mod agent;
pub mod cluster;
pub mod etcd;
#[path = "../../agents/support/http.rs"]
pub mod http;
pub mod objects;
pub mod pair;
pub mod pool;
pub mod process;
pub mod server;
pub mod tools;
pub mod wait;

pub use account::Account;
pub use agent::{Agent, Pki};
pub use cluster::Cluster;
pub use pair::Pair;
pub use tools::Said;
