//! Kubectl's options that choose the cluster of a command, and the user.

use std::path::PathBuf;

use crate::store::kube::client;

/// Which cluster, and as whom
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "The cluster")]
pub struct ClusterAccess {
    /// The kubeconfig file; default $KUBECONFIG, then ~/.kube/config, then the pod's own cluster
    #[arg(long, value_name = "FILE", global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig file; default the current one
    #[arg(long, value_name = "NAME", global = true)]
    pub context: Option<String>,
    /// Act as this user, as kubectl does: system:serviceaccount:NAMESPACE:NAME
    #[arg(long = "as", value_name = "USER", global = true)]
    pub user: Option<String>,
    /// Act as a member of this group; repeatable
    #[arg(long = "as-group", value_name = "GROUP", global = true)]
    pub groups: Vec<String>,
}

impl ClusterAccess {
    /// Returns whether any of the options is given.
    pub fn is_given(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some() || self.user.is_some() || !self.groups.is_empty()
    }

    /// Builds the client. Sends no request yet.
    pub async fn connect(&self) -> anyhow::Result<kube::Client> {
        let ClusterAccess { kubeconfig, context, user, groups } = self.clone();
        let connected = client::connect_as(&client::ApiAccess { kubeconfig, context, user, groups }).await;
        // Only the message: the configuration key in the error, and the other kind of store, do not concern a caller
        // outside the agent.
        connected.map_err(|e| anyhow::anyhow!(e.message))
    }
}
