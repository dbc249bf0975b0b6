//! Asks the API server about the rights of an account (`SelfSubjectAccessReview`, `SubjectAccessReview`).

use std::collections::BTreeSet;

use futures::{StreamExt as _, stream};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use kube::api::PostParams;
use kube::{Api, Client};

use super::objects::unseen_reason;
use crate::check::rights::{AccessRight, AnsweredRight, RightAnswer};

/// Questions that are open at the same time.
const AT_ONCE: usize = 8;

/// The account whose rights are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RightsSubject {
    /// The account that asks.
    Own(String),
    ServiceAccount {
        namespace: String,
        name: String,
    },
}

impl RightsSubject {
    pub fn user_name(&self) -> String {
        match self {
            RightsSubject::Own(user) => user.clone(),
            RightsSubject::ServiceAccount { namespace, name } => format!("system:serviceaccount:{namespace}:{name}"),
        }
    }
}

pub async fn ask_rights(client: &Client, subject: &RightsSubject, rights: BTreeSet<AccessRight>) -> Vec<AnsweredRight> {
    let questions = rights.into_iter().map(|right| async move {
        let mut answers = Vec::new();
        for verb in right.verbs {
            answers.push(ask_verb(client, subject, build_attributes(&right, verb)).await);
        }
        (right, answers)
    });
    stream::iter(questions).buffered(AT_ONCE).collect().await
}

fn build_attributes(right: &AccessRight, verb: &str) -> ResourceAttributes {
    let (resource, subresource) = match right.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (right.resource, None),
    };
    ResourceAttributes {
        group: Some(right.group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource,
        verb: Some(verb.to_owned()),
        name: right.name.clone(),
        namespace: right.namespace.clone(),
        ..ResourceAttributes::default()
    }
}

async fn ask_verb(client: &Client, subject: &RightsSubject, attributes: ResourceAttributes) -> RightAnswer {
    let resource_attributes = Some(attributes);
    let status = match subject {
        RightsSubject::Own(_) => {
            let spec = SelfSubjectAccessReviewSpec { resource_attributes, ..Default::default() };
            let review = SelfSubjectAccessReview { spec, ..Default::default() };
            let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
            api.create(&PostParams::default(), &review).await.map(|review| review.status)
        }
        RightsSubject::ServiceAccount { namespace, .. } => {
            let groups = [
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".into(),
            ];
            let (user, groups) = (Some(subject.user_name()), Some(groups.into()));
            let spec = SubjectAccessReviewSpec { user, groups, resource_attributes, ..Default::default() };
            let review = SubjectAccessReview { spec, ..Default::default() };
            let api: Api<SubjectAccessReview> = Api::all(client.clone());
            api.create(&PostParams::default(), &review).await.map(|review| review.status)
        }
    };
    match status {
        Err(error) => RightAnswer::Unknown(unseen_reason(&error).to_string()),
        Ok(Some(SubjectAccessReviewStatus { allowed: true, .. })) => RightAnswer::Allowed,
        Ok(Some(SubjectAccessReviewStatus { evaluation_error: Some(why), .. })) => RightAnswer::Unknown(why),
        Ok(_) => RightAnswer::Denied,
    }
}
