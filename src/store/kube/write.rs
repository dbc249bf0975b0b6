//! Makes an owner's objects exactly those that are wanted.
//!
//! Objects are written by server-side apply, those of a stage at once. A write or removal names the version that it is
//! about: if another writer was quicker, the object is looked at again.

use std::time::Duration;

use futures::future::join_all;
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};

use super::content::{self, MANAGER};
use super::error::{explain_error, status_code, store_error};
use super::kinds::WatchedKind;
use super::lean::SlimObject;
use super::ledger::{NAMES, PlannedRemoval, PlannedWrite, WritePlan, removal_stage};
use super::turns::WriteTurn;
use super::{KubeShared, watch};
use crate::api::{Kind, Object, ObjectKey};
use crate::store::{ApplyResult, Owner, StoreError};

/// Time that the API server may take for one object.
const PATIENCE: Duration = Duration::from_secs(10);
/// Rounds for an object that others change at the same time, and the time that its event may take.
const ROUNDS: usize = 5;
const NEWS: Duration = Duration::from_secs(1);

/// Time that Istio has to bring a permission to the pods that it guards, before the way to them opens, and after it was
/// closed; and to bring a gateway its routes, before a Service that has callers already leads there. istiod sends both
/// to different proxies at the same time, and does not report when a proxy has them: in a loaded mesh the gateway was
/// 0.2 s ahead of the pods.
const HEAD_START: Duration = Duration::from_secs(1);

/// A principal that nobody has: no domain ends in `.invalid` (RFC 2606, section 2).
const NOBODY: &str = "nobody.invalid/wharf";

/// The reason why an object is not as it is wanted.
enum WriteFailure {
    /// It was changed in the meantime.
    Outrun,
    /// It is somebody else's.
    Theirs,
    /// Another replica writes now.
    Deposed,
    Refused(StoreError),
    /// The API server finds it invalid.
    Invalid(StoreError),
}

impl KubeShared {
    pub async fn apply_objects(&self, owner: &Owner, objects: Vec<Object>) -> Result<ApplyResult, StoreError> {
        let mut applied = ApplyResult::default();
        for round in 0..ROUNDS {
            let news = self.changed.notified(); // from here on: nothing is missed between the plan and the wait
            let plan = self.lock_ledger().plan_writes(owner, objects.clone());
            applied.unchanged = plan.unchanged.saturating_sub(applied.written);
            applied.conflicts.clone_from(&plan.conflicts);
            if plan.is_empty() {
                return Ok(applied);
            }
            match self.carry_out(owner, plan, &mut applied).await {
                Ok(()) => return Ok(applied),
                Err(WriteFailure::Deposed) => {
                    applied.waiting = true;
                    return Ok(applied);
                }
                Err(WriteFailure::Refused(error) | WriteFailure::Invalid(error)) => return Err(error),
                Err(WriteFailure::Theirs) => {} // the next plan counts it among the conflicts
                Err(WriteFailure::Outrun) if round == 0 => {
                    let _ = tokio::time::timeout(NEWS / 10, news).await; // the watch may have told already
                }
                Err(WriteFailure::Outrun) => drop(tokio::time::timeout(NEWS, news).await),
            }
        }
        Err(StoreError {
            place: format!("objects of {}", owner.0),
            message: "somebody else changes them at the same time".to_owned(),
            transient: true,
        })
    }

    async fn carry_out(
        &self,
        owner: &Owner,
        mut plan: WritePlan,
        applied: &mut ApplyResult,
    ) -> Result<(), WriteFailure> {
        let mut begun = false;
        let mut opens = false;
        let has_callers = plan.writes.iter().any(|w| w.key.kind == Kind::Service && w.over.is_some());
        for part in plan.writes.chunk_by(|a, b| a.stage == b.stage) {
            let leads_callers = has_callers && begun && part.iter().any(leads_to_new_way);
            if std::mem::take(&mut opens) || leads_callers {
                tokio::time::sleep(HEAD_START).await;
            }
            (begun, opens) = (true, part.iter().any(|w| w.over.is_none() && guards_pods(&w.key)));
            let results = join_all(part.iter().map(|write| self.write_object(owner, write))).await;
            applied.written += results.iter().filter(|r| r.is_ok()).count();
            results.into_iter().collect::<Result<(), WriteFailure>>()?;
        }
        let is_guard = |r: &PlannedRemoval| guards_pods(&r.key);
        if begun || !plan.removals.iter().all(is_guard) {
            let shut =
                plan.removals.iter_mut().filter(|r| is_guard(r)).map(|guard| self.close_permission(owner, guard));
            join_all(shut).await.into_iter().collect::<Result<(), WriteFailure>>()?;
        }
        for part in plan.removals.chunk_by(|a, b| removal_stage(a.key.kind) == removal_stage(b.key.kind)) {
            if std::mem::replace(&mut begun, true) && part.iter().any(|r| guards_pods(&r.key)) {
                tokio::time::sleep(HEAD_START).await;
            }
            let results = join_all(part.iter().map(|removal| self.remove_object(owner, removal))).await;
            applied.removed += results.iter().filter(|r| r.is_ok()).count();
            results.into_iter().collect::<Result<(), WriteFailure>>()?;
        }
        Ok(())
    }

    fn object_api(&self, key: &ObjectKey) -> Api<SlimObject> {
        Api::namespaced_with(self.client.clone(), &key.namespace, &WatchedKind::Object(key.kind).resource())
    }

    /// Waits for the tenant's turn. Refused if another replica writes by then.
    async fn turn_to_write(&self, owner: &Owner) -> Result<WriteTurn, WriteFailure> {
        let turn = self.turns.wait_for_turn(owner.tenant()).await.ok_or(WriteFailure::Deposed)?;
        if self.lead.may_write() { Ok(turn) } else { Err(WriteFailure::Deposed) }
    }

    async fn write_object(&self, owner: &Owner, write: &PlannedWrite) -> Result<(), WriteFailure> {
        let _turn = self.turn_to_write(owner).await?;
        self.lock_ledger().begin_write(&write.key, write.wanted);
        let result = self.put_object(owner, write).await;
        let came = result.as_ref().ok().map(|object| watch::observe_object(write.key.kind, object));
        self.lock_ledger().finish_write(&write.key, write.wanted, came);
        result.map(drop)
    }

    async fn put_object(&self, owner: &Owner, write: &PlannedWrite) -> Result<DynamicObject, WriteFailure> {
        let mut body = write.value.clone();
        let mut params = PatchParams::apply(MANAGER);
        if let Some(version) = write.over {
            body["metadata"]["resourceVersion"] = version.to_string().into();
            params = params.force();
        }
        let came = match self.patch_object(write, &params, &Patch::Apply(&body)).await {
            Err(WriteFailure::Invalid(error)) if write.over.is_some() => {
                // A setting that has lost its values: merging makes a null of it, which definitions do not take. So it
                // goes first, and comes again without values.
                let Some(filled) = content::without_blanks(&body) else { return Err(WriteFailure::Invalid(error)) };
                let came = self.patch_object(write, &params, &Patch::Apply(&filled)).await?;
                body["metadata"]["resourceVersion"] = came.metadata.resource_version.into();
                self.patch_object(write, &params, &Patch::Apply(&body)).await?
            }
            other => other?,
        };
        if write.over.is_none() && !made_by_us(&came) {
            self.withdraw_fields(&write.key).await;
            self.lock_ledger().record_foreign(&write.key, owner);
            return Err(WriteFailure::Theirs);
        }
        let spec = |v: &Value| v.get("spec").cloned().unwrap_or_default();
        if watch::observe_object(write.key.kind, &came).content == write.wanted {
            return Ok(came);
        }
        let Some(surplus) = content::surplus_patch(&spec(&came.data), &spec(&write.value)) else { return Ok(came) };
        if write.key.kind == crate::api::Kind::Service {
            return Ok(came); // what the API server fills in cannot be told from what somebody added
        }
        let body = json!({"metadata": {"resourceVersion": came.metadata.resource_version}, "spec": surplus});
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        self.patch_object(write, &params, &Patch::Merge(&body)).await
    }

    async fn patch_object<P: serde::Serialize + std::fmt::Debug>(
        &self,
        write: &PlannedWrite,
        params: &PatchParams,
        patch: &Patch<P>,
    ) -> Result<DynamicObject, WriteFailure> {
        let name = &write.key.name;
        let result = tokio::time::timeout(PATIENCE, self.object_api(&write.key).patch(name, params, patch)).await;
        match result {
            Err(_) => Err(silent_failure(&write.key)),
            Ok(Ok(SlimObject(object))) => Ok(object),
            // Without force: another writer has made an object of this name since, with other content.
            Ok(Err(e)) if status_code(&e) == Some(409) && write.over.is_none() => {
                tracing::debug!(object = %write.key, why = %explain_error(&e), "another writer made it at the same time");
                Err(WriteFailure::Outrun)
            }
            Ok(Err(e)) if status_code(&e) == Some(409) => Err(WriteFailure::Outrun),
            Ok(Err(e)) => {
                self.refused.notify_one(); // definitions may be others than they were
                let error = store_error(write.key.to_string(), &e);
                Err(if status_code(&e) == Some(422) {
                    WriteFailure::Invalid(error)
                } else {
                    WriteFailure::Refused(error)
                })
            }
        }
    }

    /// Takes the added fields back from an object that another writer made in the moment before.
    async fn withdraw_fields(&self, key: &ObjectKey) {
        let resource = WatchedKind::Object(key.kind).resource();
        let body = json!({
            "apiVersion": resource.api_version, "kind": resource.kind,
            "metadata": {"name": key.name, "namespace": key.namespace},
        });
        let patch = Patch::Apply(&body);
        if let Err(error) = self.object_api(key).patch(&key.name, &PatchParams::apply(MANAGER), &patch).await {
            tracing::warn!(object = %key, why = %explain_error(&error), "Wharf's labels stay on another owner's object");
        }
    }

    /// Closes a permission that is about to go: it lets nobody in from now on. Connections that callers have open
    /// outlive the way to the pods, by the time that the gateways give them to drain, and would be served until the
    /// permission has gone.
    async fn close_permission(&self, owner: &Owner, guard: &mut PlannedRemoval) -> Result<(), WriteFailure> {
        let _turn = self.turn_to_write(owner).await?;
        let (api, name) = (self.object_api(&guard.key), &guard.key.name);
        let closing = async {
            // The agent's account may list permissions, not get one.
            let found = api.list(&ListParams::default().fields(&format!("metadata.name={name}"))).await?;
            let found = found.items.into_iter().next().map(|SlimObject(found)| found);
            let rules = found.as_ref().and_then(|found| found.data.pointer("/spec/rules"));
            let mut rules = rules.cloned().unwrap_or_else(|| json!([]));
            for rule in rules.as_array_mut().into_iter().flatten() {
                rule["from"] = json!([{"source": {"notPrincipals": [NOBODY]}}]);
            }
            if let Some(mut shut) = found {
                if let Some(spec) = shut.data.get_mut("spec").and_then(Value::as_object_mut) {
                    spec.insert("rules".to_owned(), rules.clone());
                }
                let wanted = watch::observe_object(guard.key.kind, &shut).content;
                self.lock_ledger().begin_write(&guard.key, wanted); // the watch may be quicker than the answer
            }
            let metadata = json!({"uid": &*guard.uid, "resourceVersion": guard.version.to_string()});
            let body = Patch::Merge(json!({"metadata": metadata, "spec": {"rules": rules}}));
            api.patch(name, &PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }, &body)
                .await
        };
        let answer = tokio::time::timeout(PATIENCE, closing).await;
        if !matches!(answer, Ok(Ok(_))) {
            self.lock_ledger().end_write(&guard.key);
        }
        match answer {
            Err(_) => Err(silent_failure(&guard.key)),
            Ok(Ok(SlimObject(came))) => {
                let seen = watch::observe_object(guard.key.kind, &came);
                guard.version = seen.version;
                self.lock_ledger().finish_write(&guard.key, seen.content, Some(seen));
                Ok(())
            }
            Ok(Err(e)) if status_code(&e) == Some(404) => Ok(()),
            Ok(Err(e)) if status_code(&e) == Some(409) => Err(WriteFailure::Outrun),
            Ok(Err(e)) => {
                // It is removed all the same, and open connections end with it.
                tracing::debug!(object = %guard.key, why = %explain_error(&e), "the permission could not be closed first");
                Ok(())
            }
        }
    }

    async fn remove_object(&self, owner: &Owner, removal: &PlannedRemoval) -> Result<(), WriteFailure> {
        let _turn = self.turn_to_write(owner).await?;
        let preconditions =
            Preconditions { uid: Some(removal.uid.to_string()), resource_version: Some(removal.version.to_string()) };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        let api = self.object_api(&removal.key);
        self.lock_ledger().set_leaving(removal, true);
        let result = match tokio::time::timeout(PATIENCE, api.delete(&removal.key.name, &params)).await {
            Err(_) => Err(silent_failure(&removal.key)),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) if status_code(&e) == Some(404) => Ok(()),
            Ok(Err(e)) if status_code(&e) == Some(409) => Err(WriteFailure::Outrun),
            Ok(Err(e)) => Err(WriteFailure::Refused(store_error(removal.key.to_string(), &e))),
        };
        if result.is_err() {
            self.lock_ledger().set_leaving(removal, false);
        }
        result
    }
}

/// Returns whether it is a permission for other proxies than the one that leads to them.
fn guards_pods(key: &ObjectKey) -> bool {
    key.kind == Kind::AuthorizationPolicy
}

fn silent_failure(key: &ObjectKey) -> WriteFailure {
    WriteFailure::Refused(StoreError {
        place: key.to_string(),
        message: format!("the API server did not answer within {} s", PATIENCE.as_secs()),
        transient: true,
    })
}

/// Returns whether a write gives a name its first route in the mesh: it belongs to the last stage, with the names.
fn leads_to_new_way(write: &PlannedWrite) -> bool {
    write.key.kind == Kind::VirtualService && write.stage == NAMES && write.over.is_none()
}

/// Returns whether no other manager has written any of it.
fn made_by_us(object: &DynamicObject) -> bool {
    object.metadata.managed_fields.iter().flatten().all(|f| f.manager.as_deref() == Some(MANAGER))
}

/// Writes that run at the same time (see [`KubeShared::turns`]).
pub const TURNS: usize = 24;
