//! The part of gRPC that the peering service needs: answers as frames. A message is encoded into memory of exactly its
//! size, and that is freed once it is sent.
//!
//! Answers are handed over in small parts. HTTP/2 takes a part as soon as there is room for one byte, and holds it
//! until the peer lets it be sent; what was not handed over yet keeps the call open, and so under its deadline.

use std::convert::Infallible;

use bytes::{BufMut as _, Bytes};
use futures::{Stream, StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::StreamBody;
use hyper::body::Frame;
use prost::Message;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::peering::limits::ANSWER_PART;

/// A message with its length in front (gRPC over HTTP/2, "Length-Prefixed-Message").
pub(in crate::peering) fn frame_message(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut framed = Vec::with_capacity(5 + length);
    put_header(&mut framed, length);
    // A vector has always room.
    let _ = message.encode(&mut framed);
    framed.into()
}

/// The header of a message that is not compressed.
pub(in crate::peering) fn put_header(framed: &mut Vec<u8>, length: usize) {
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

/// Builds the answer of a call that has one message.
pub(in crate::peering) fn answer_once(framed: Bytes) -> Response<Body> {
    let end = Frame::trailers(build_trailers(&Status::new(Code::Ok, "")));
    let frames = split_parts(framed).chain(std::iter::once(end));
    build_response(Body::new(StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)))))
}

/// Builds the answer of a call that has many messages. The last item may be the reason of its end.
pub(in crate::peering) fn answer_stream(
    messages: impl Stream<Item = Result<impl Message + 'static, Status>> + Send + 'static,
) -> Response<Body> {
    let frames = messages.flat_map(|item| {
        let (framed, end) = match item {
            Ok(message) => (frame_message(&message), None),
            Err(status) => (Bytes::new(), Some(Frame::trailers(build_trailers(&status)))),
        };
        stream::iter(split_parts(framed).chain(end).map(Ok::<_, Infallible>))
    });
    build_response(Body::new(StreamBody::new(frames)))
}

/// Returns a message as frames, in parts.
pub(in crate::peering) fn data_frames<M: Message>(
    message: &M,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + use<M> {
    stream::iter(split_parts(frame_message(message)).map(Ok))
}

/// Splits an answer into the parts in which it is handed over.
fn split_parts(mut framed: Bytes) -> impl Iterator<Item = Frame<Bytes>> {
    std::iter::from_fn(move || {
        let part = framed.split_to(framed.len().min(ANSWER_PART));
        (!part.is_empty()).then(|| Frame::data(part))
    })
}

fn build_response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn build_trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("2")); // UNKNOWN; its text fits no header
    }
    trailers
}
