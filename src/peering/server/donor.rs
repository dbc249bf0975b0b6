//! `PeeringService`: what a peer may ask of a donor.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use prost::Message as _;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::Parts;
use super::feed::{self, Feed};
use super::gate::Passed;
use crate::model::ExpositionKey;
use crate::peering::convert::{is_instance, is_version, key_from_wire, to_wire};
use crate::peering::pb::peering_service_server::PeeringService;
use crate::peering::subscribers::EnterError;
use crate::peering::{Board, Limits, PROTOCOL_VERSION, PeerTable, Subscribers, pb, prose};

pub(super) struct Donor {
    instance: String,
    board: Board,
    subscribers: Subscribers,
    peers: watch::Receiver<Arc<PeerTable>>,
    limits: Arc<Limits>,
}

impl Donor {
    pub(super) fn new(parts: &Parts) -> Donor {
        Donor {
            instance: parts.instance.clone(),
            board: parts.board.clone(),
            subscribers: parts.subscribers.clone(),
            peers: parts.peers.clone(),
            limits: parts.limits.clone(),
        }
    }

    /// The caller as the gate let it pass, if it may consume.
    fn consumer(&self, passed: &Passed) -> Result<(), Status> {
        let consumer = self.peers.borrow().consumer(&passed.certificate.spiffe_id);
        consumer.map(drop).map_err(|refusal| {
            tracing::info!(reason = %refusal, "a call was refused");
            Status::permission_denied(refusal.to_string())
        })
    }

    async fn hello(&self, requests: &mut Streaming<pb::SubscribeRequest>) -> Result<pb::Hello, Status> {
        let first = tokio::time::timeout(self.limits.handshake_timeout, requests.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no hello came in time"))??;
        match first.and_then(|request| request.message) {
            Some(pb::subscribe_request::Message::Hello(hello)) => Ok(hello),
            _ => Err(Status::invalid_argument("the first message of a subscription must be a hello")),
        }
    }

    fn held(&self, hello: &pb::Hello) -> Result<BTreeMap<ExpositionKey, Arc<str>>, Status> {
        if hello.protocol_version == 0 {
            return Err(Status::invalid_argument("hello.protocol_version: it is not given"));
        }
        if !is_instance(&hello.instance) {
            return Err(Status::invalid_argument("hello.instance: it must be 1 to 128 printable ASCII characters"));
        }
        if hello.instance == self.instance {
            return Err(Status::failed_precondition(
                "hello.instance: it is the donor's own; either an agent dialled itself, or two clusters share a store",
            ));
        }
        let max = self.limits.max_expositions;
        if hello.held.len() > max {
            return Err(Status::invalid_argument(format!("hello.held: there are more than {max}")));
        }
        let entry = |(i, held): (usize, &pb::Held)| {
            let key = key_from_wire(&held.namespace, &held.name).filter(|_| is_version(&held.version));
            key.map(|key| (key, Arc::from(held.version.as_str()))).ok_or_else(|| {
                let name = format!("{}/{}", prose(&held.namespace, 63), prose(&held.name, 63));
                Status::invalid_argument(format!("hello.held[{i}]: {name:?} with its version names no exposition"))
            })
        };
        hello.held.iter().enumerate().map(entry).collect()
    }
}

fn passed<T>(request: &Request<T>) -> Result<Passed, Status> {
    // The gate is in front of every service: there is none without.
    request.extensions().get::<Passed>().cloned().ok_or_else(|| Status::internal("the caller is not known"))
}

impl From<EnterError> for Status {
    fn from(error: EnterError) -> Status {
        match error {
            EnterError::NameTaken { .. } => Status::already_exists(error.to_string()),
            _ => Status::resource_exhausted(error.to_string()),
        }
    }
}

#[tonic::async_trait]
impl PeeringService for Donor {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<pb::SubscribeResponse, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<pb::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let passed = passed(&request)?;
        self.consumer(&passed)?;
        let mut requests = request.into_inner();
        let hello = self.hello(&mut requests).await?;
        let held = self.held(&hello)?;
        let cluster = &passed.caller.cluster;
        let presence =
            self.subscribers.enter(cluster, &hello.instance, passed.certificate.not_after).inspect_err(|refusal| {
                tracing::warn!(%cluster, instance = %prose(&hello.instance, 128), reason = %refusal, "a subscription was refused");
            })?;
        presence.shows(&passed.connection.shown);
        tracing::info!(%cluster, held = held.len(), "a peer subscribed");
        let welcome = pb::Welcome {
            protocol_version: hello.protocol_version.min(PROTOCOL_VERSION),
            instance: self.instance.clone(),
            heartbeat_seconds: self.limits.heartbeat_seconds(),
        };
        let subscription = self.board.subscribe(cluster, held);
        let end = passed.connection.end.subscribe();
        let feed = Feed::new(welcome, subscription, presence, requests, end, self.limits.heartbeat);
        Ok(Response::new(Box::pin(feed::stream(feed))))
    }

    async fn list_expositions(
        &self,
        request: Request<pb::ListExpositionsRequest>,
    ) -> Result<Response<pb::ListExpositionsResponse>, Status> {
        let passed = passed(&request)?;
        if !passed.caller.own {
            self.consumer(&passed)?;
        }
        let (offers, revision) = self.board.list(&passed.caller.cluster);
        let expositions = offers.iter().map(|o| to_wire(&o.exposition, &o.version)).collect();
        let response = pb::ListExpositionsResponse { expositions, revision };
        if response.encoded_len() > self.limits.max_message {
            let why = format!("{} expositions do not fit one message; use Subscribe", offers.len());
            return Err(Status::resource_exhausted(why));
        }
        Ok(Response::new(response))
    }

    async fn get_peer(&self, request: Request<pb::GetPeerRequest>) -> Result<Response<pb::GetPeerResponse>, Status> {
        let Passed { caller, certificate, .. } = passed(&request)?;
        let expires = certificate.not_after;
        let subscriptions = self.subscribers.get(&caller.cluster).map_or(0, |s| s.subscriptions);
        Ok(Response::new(pb::GetPeerResponse {
            cluster: self.peers.borrow().cluster.to_string(),
            peer: caller.cluster.to_string(),
            spiffe_id: certificate.spiffe_id.to_string(),
            certificate_expires: Some(prost_types::Timestamp { seconds: expires.unix_timestamp(), nanos: 0 }),
            may_consume: caller.consume,
            offered: u32::try_from(self.board.offered(&caller.cluster)).unwrap_or(u32::MAX),
            subscriptions: u32::try_from(subscriptions).unwrap_or(u32::MAX),
            protocol_version: PROTOCOL_VERSION,
        }))
    }
}
