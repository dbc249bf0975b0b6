//! Strangers that try to call the donor's agent, and must be refused.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::bail;
use tokio::sync::watch;

use super::stage::DemoStage;
use crate::identity::tls::MinTls;
use crate::identity::{Identity, IdentityFiles};
use crate::model::{Address, Endpoint, SpiffeId};
use crate::peering::Limits;
use crate::peering::client::{AcceptorContext, probe_agent};

/// Lets each stranger call the donor's agent. Returns who called, and the reason of the refusal.
pub fn call_as_strangers(stage: &DemoStage, donor: SocketAddr) -> anyhow::Result<Vec<(String, String)>> {
    stage.run_wharf(&["ca", "issue", "stranger"])?;
    stage.run_wharf(&["ca", "init", "--dir", "elsewhere", "--name", "Somebody else's root"])?;
    stage.run_wharf(&["ca", "issue", "cluster2", "--dir", "elsewhere"])?;
    let files = |certificate: &str, key: &str| IdentityFiles {
        certificate: stage.folder.join(certificate),
        key: stage.folder.join(key),
        root: stage.folder.join("ca.crt"),
        crl: None,
    };
    let unknown = Identity::load(&files("stranger.crt", "stranger.key"))?;
    // A caller that claims to be cluster2 shows a certificate of its own root; only the donor's root tells the two
    // apart.
    let elsewhere = stage.folder.join("elsewhere");
    let mut forged = Identity::load(&IdentityFiles {
        certificate: elsewhere.join("cluster2.crt"),
        key: elsewhere.join("cluster2.key"),
        root: elsewhere.join("ca.crt"),
        crl: None,
    })?;
    forged.roots.clone_from(&unknown.roots);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut seen = Vec::new();
        for (who, identity) in [
            ("a cluster with a certificate of the right root, but of an unknown name,", unknown),
            ("a \"cluster2\" with a certificate of another root", forged),
        ] {
            seen.push((who.to_owned(), call_donor(identity, donor).await?));
        }
        Ok(seen)
    })
}

/// Calls the donor. Returns the reason of the refusal; an accepted call is an error.
async fn call_donor(identity: Identity, donor: SocketAddr) -> anyhow::Result<String> {
    let expected: SpiffeId = "spiffe://wharf/cluster/cluster1".parse()?;
    let endpoint = Endpoint { host: Address::Ip(donor.ip()), port: donor.port() };
    let (_sender, identity) = watch::channel(Arc::new(identity));
    let own = AcceptorContext {
        instance: format!("{:032x}", rand::random::<u128>()),
        identity,
        min_tls: MinTls::Tls13,
        limits: Arc::new(Limits::default()),
    };
    match probe_agent(&endpoint, &expected, &own).await {
        Ok(probe) => bail!("{} got in: {:?}", probe.answer.peer, probe.answer),
        Err(e) => Ok(e.to_string()),
    }
}
