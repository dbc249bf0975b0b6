//! Finds the configuration and the service account of an installed agent by its Deployment.

use std::path::Path;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, PodSpec};
use kube::{Api, Client};

use super::objects;
use crate::check::{CheckArea, Finding, LookResult};
use crate::config::Config;

/// Labels that the chart gives an agent's Deployment.
const LABELS: &str = "app.kubernetes.io/part-of=wharf,app.kubernetes.io/component=agent";
/// Name of an agent's configuration file if its arguments name none.
const FILE: &str = "config.yaml";

pub async fn find_deployment(client: &Client, namespace: &str) -> LookResult<Deployment> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    Ok(objects::list_objects(&api, LABELS).await?.into_iter().flatten().next())
}

fn pod_spec(deployment: &Deployment) -> Option<&PodSpec> {
    deployment.spec.template.spec.as_ref()
}

pub fn service_account(deployment: &Deployment) -> Option<String> {
    let account = pod_spec(deployment)?.service_account_name.clone();
    Some(account.unwrap_or_else(|| "default".into()))
}

/// Returns the mounted ConfigMap and the key in it, by the name of the file that the agent's arguments give.
fn mounted_config(deployment: &Deployment) -> Option<(String, String)> {
    let pod = pod_spec(deployment)?;
    let words = pod.containers.iter().flat_map(|c| c.command.iter().flatten().chain(c.args.iter().flatten()));
    let words: Vec<&str> = words.map(String::as_str).collect();
    let path = words.iter().enumerate().find_map(|(i, word)| match word.strip_prefix("--config=") {
        Some(path) => Some(path),
        None => words.get(i + 1).copied().filter(|_| *word == "--config"),
    })?;
    let path = Path::new(path);
    let mounts = || pod.containers.iter().flat_map(|c| c.volume_mounts.iter().flatten());
    let mount = mounts().find(|m| path.parent() == Some(Path::new(&m.mount_path)))?;
    let volume = pod.volumes.iter().flatten().find(|v| v.name == mount.name)?;
    let key = path.file_name().and_then(|n| n.to_str()).unwrap_or(FILE);
    Some((volume.config_map.as_ref()?.name.clone(), key.to_owned()))
}

/// Reads the configuration that the agent runs with. None: it is not available, and the finding says why.
pub async fn read_configuration(
    client: &Client,
    namespace: &str,
    deployment: &LookResult<Deployment>,
) -> (Option<Config>, Finding) {
    let cure = "name it: --config FILE";
    let area = CheckArea::Configuration;
    let Ok(Some(deployment)) = deployment else {
        let why = "no agent is found that would say where it is, so defaults are taken";
        return (None, Finding::unchecked(area, "configuration", why).with_cure(cure));
    };
    let Some((name, key)) = mounted_config(deployment) else {
        let why = "the agent's Deployment mounts it from no ConfigMap, so defaults are taken";
        return (None, Finding::unchecked(area, "configuration", why).with_cure(cure));
    };
    let object = format!("ConfigMap {namespace}/{name}");
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = match objects::get_object(&api, &name).await {
        Err(why) => return (None, Finding::unseen(area, object, &why).with_cure(cure)),
        Ok(None) => return (None, Finding::error(area, object, "it is not there, and the agent's pods cannot start")),
        Ok(Some(map)) => map,
    };
    let Some(text) = map.data.as_ref().and_then(|d| d.get(&key)) else {
        return (None, Finding::error(area, object, format!("it has no key {key}, and the agent's pods cannot start")));
    };
    match Config::parse(text, &key, Path::new("/")) {
        Ok(config) => {
            let message = format!("the configuration of cluster {} can be read", config.cluster);
            (Some(config), Finding::ok(area, object, message))
        }
        Err(e) => (None, Finding::error(area, object, e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_configuration_is_found_where_the_agents_arguments_say() {
        let deployment = |args: serde_json::Value| -> Deployment {
            let pod = json!({
                "serviceAccountName": "east-wharf",
                "containers": [{"name": "agent", "args": args, "volumeMounts": [{"name": "c", "mountPath": "/etc/wharf"}]}],
                "volumes": [{"name": "c", "configMap": {"name": "east"}}],
            });
            let template = json!({"spec": pod});
            serde_json::from_value(json!({"spec": {"selector": {}, "template": template}})).unwrap()
        };
        let found = Some(("east".to_owned(), "wharf.yaml".to_owned()));
        assert_eq!(mounted_config(&deployment(json!(["agent", "--config", "/etc/wharf/wharf.yaml"]))), found);
        assert_eq!(mounted_config(&deployment(json!(["agent", "--config=/etc/wharf/wharf.yaml"]))), found);
        assert_eq!(mounted_config(&deployment(json!(["agent", "--config", "/elsewhere/wharf.yaml"]))), None);
        assert_eq!(mounted_config(&deployment(json!(["agent"]))), None);
        assert_eq!(service_account(&deployment(json!([]))).as_deref(), Some("east-wharf"));
    }
}
