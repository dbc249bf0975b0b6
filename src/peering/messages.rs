//! Reads the messages of a request, or of an answer, one at a time, and holds no more of them than its peer may make
//! the agent hold.
//!
//! gRPC frames each message with its length (gRPC over HTTP/2, "Length-Prefixed-Message"). A decoder that believes the
//! length reserves that much and waits, for as long as the peer likes. Here memory grows with the bytes that came, is
//! charged to the peer, and is free again as soon as the message was looked at; and a message that was begun has to be
//! complete in time.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::HeaderMap;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::fair::{FairPool, PoolShare, ShareError};
use crate::model::ClusterName;

/// The compressed flag, and the length.
const HEADER: usize = 5;
/// Memory for a message grows from here, and doubles.
const FIRST_CAPACITY: usize = 4 << 10;

/// The reason why the requests of a call are not read any further.
#[derive(Debug, thiserror::Error)]
pub(in crate::peering) enum ReadError {
    #[error("a message is too large: {size} bytes, and the limit of this one is {limit}")]
    TooLarge { size: usize, limit: usize },
    #[error("a message was not complete {0:?} after it began")]
    TooSlow(Duration),
    #[error("the messages of this peer that are not complete yet take more memory than one peer may use")]
    OverBudget,
    #[error("the messages of all peers take too much memory, and this peer's take most of it; call again later")]
    GivenUp,
    #[error("a message is compressed, and this service takes none that is")]
    Compressed,
    #[error("the stream ends within a message")]
    Incomplete,
    #[error("the stream cannot be read: {0}")]
    Broken(hyper::Error),
}

impl ReadError {
    /// Returns whether a caller that keeps to the protocol does not cause it.
    pub(in crate::peering) fn is_misconduct(&self) -> bool {
        matches!(self, ReadError::TooLarge { .. } | ReadError::TooSlow(_) | ReadError::OverBudget)
    }
}

impl From<&ReadError> for Status {
    fn from(error: &ReadError) -> Status {
        let why = error.to_string();
        match error {
            ReadError::TooSlow(_) => Status::deadline_exceeded(why),
            ReadError::Compressed => Status::unimplemented(why),
            ReadError::Incomplete => Status::internal(why),
            ReadError::Broken(_) => Status::cancelled(why),
            _ => Status::resource_exhausted(why),
        }
    }
}

/// The messages of one request or answer.
pub(in crate::peering) struct MessageReader {
    body: Incoming,
    /// The rest of the last DATA frame.
    rest: Bytes,
    partial: PartialMessage,
    trailers: Option<HeaderMap>,
    pool: Arc<FairPool<ClusterName>>,
    peer: ClusterName,
    share: PoolShare<ClusterName>,
    given_up: CancellationToken,
}

impl MessageReader {
    pub(in crate::peering) fn new(
        body: Incoming,
        pool: Arc<FairPool<ClusterName>>,
        peer: ClusterName,
    ) -> MessageReader {
        let given_up = CancellationToken::new();
        let share = pool.begin_share(peer.clone(), given_up.clone());
        MessageReader {
            body,
            rest: Bytes::new(),
            partial: PartialMessage::default(),
            trailers: None,
            pool,
            peer,
            share,
            given_up,
        }
    }

    /// Returns the next message, of at most `limit` bytes; None at the end. It has to be complete `within` the time
    /// from its first byte on. May be dropped and called again: nothing is lost.
    pub(in crate::peering) async fn next_message(
        &mut self,
        limit: usize,
        within: Duration,
    ) -> Result<Option<Bytes>, ReadError> {
        if self.partial.begun.is_none() {
            self.share.shrink_to(0); // the one before was looked at
        }
        loop {
            if let Some(message) = self.partial.take_bytes(&mut self.rest, limit, &self.share)? {
                return Ok(Some(message));
            }
            let deadline = self.partial.begun.map(|begun| begun + within);
            let frame = tokio::select! {
                frame = self.body.frame() => frame,
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    return Err(ReadError::TooSlow(within));
                }
                () = self.given_up.cancelled() => return Err(ReadError::GivenUp),
            };
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
                Some(Err(error)) => return Err(ReadError::Broken(error)),
                None if self.partial.begun.is_some() => return Err(ReadError::Incomplete),
                None => return Ok(None),
            }
        }
    }

    /// Returns the trailers behind the last message, once all are read.
    pub(in crate::peering) fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }

    /// Returns the charge of the last message, for as long as the caller keeps its bytes.
    pub(in crate::peering) fn detach_charge(&mut self) -> PoolShare<ClusterName> {
        self.given_up = CancellationToken::new();
        let fresh = self.pool.begin_share(self.peer.clone(), self.given_up.clone());
        std::mem::replace(&mut self.share, fresh)
    }
}

/// The part of a message that has come.
#[derive(Default)]
struct PartialMessage {
    /// Time when its first byte came.
    begun: Option<Instant>,
    header: [u8; HEADER],
    header_bytes: usize,
    message: Vec<u8>,
}

impl PartialMessage {
    /// Takes the bytes that belong to this message; returns it once it is complete.
    fn take_bytes(
        &mut self,
        rest: &mut Bytes,
        limit: usize,
        share: &PoolShare<ClusterName>,
    ) -> Result<Option<Bytes>, ReadError> {
        if rest.is_empty() {
            return Ok(None);
        }
        self.begun.get_or_insert_with(Instant::now);
        let header = (HEADER - self.header_bytes).min(rest.len());
        self.header[self.header_bytes..self.header_bytes + header].copy_from_slice(&rest[..header]);
        self.header_bytes += header;
        rest.advance(header);
        if self.header_bytes < HEADER {
            return Ok(None);
        }
        let [compressed, length @ ..] = self.header;
        let size = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if compressed != 0 {
            return Err(ReadError::Compressed);
        }
        if size > limit {
            return Err(ReadError::TooLarge { size, limit });
        }
        let came = rest.split_to(rest.len().min(size - self.message.len()));
        let wanted = self.message.len() + came.len();
        if wanted > self.message.capacity() {
            let capacity = (self.message.capacity() * 2).max(FIRST_CAPACITY).max(wanted).min(size);
            share.resize(capacity).map_err(|error| match error {
                ShareError::HolderLimit => ReadError::OverBudget,
                ShareError::Full | ShareError::GivenUp => ReadError::GivenUp,
            })?;
            self.message.reserve_exact(capacity - self.message.len());
        }
        self.message.extend_from_slice(&came);
        Ok((self.message.len() == size).then(|| std::mem::take(self).message.into()))
    }
}
