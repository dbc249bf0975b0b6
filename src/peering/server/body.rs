//! The body of a request to a service that is not the peering's own: bounded in bytes and in time, whatever the service
//! does.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use hyper::body::{Body, Frame, Incoming};
use tokio::time::Sleep;
use tonic::Status;

pub(super) struct BoundedBody {
    body: Incoming,
    left: usize,
    max: usize,
    end: Pin<Box<Sleep>>,
}

impl BoundedBody {
    pub(super) fn new(body: Incoming, max: usize, within: Duration) -> BoundedBody {
        BoundedBody { body, left: max, max, end: Box::pin(tokio::time::sleep(within)) }
    }
}

impl Body for BoundedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.end.poll_unpin(context).is_ready() {
            return Poll::Ready(Some(Err(Status::deadline_exceeded("the requests of this call did not end in time"))));
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        let frame = frame.map(|frame| {
            let frame = frame.map_err(|e| Status::cancelled(e.to_string()))?;
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            match self.left.checked_sub(bytes) {
                Some(left) => self.left = left,
                None => {
                    let max = self.max;
                    return Err(Status::resource_exhausted(format!("the requests of this call exceed {max} bytes")));
                }
            }
            Ok(frame)
        });
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
