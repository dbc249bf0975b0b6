//! A donor's messages as they came: read field by field, so that no more of them is decoded at a time than is
//! processed.
//!
//! Decoded as a whole, an empty exposition of two bytes becomes some two hundred, and a message of some hundred KiB
//! becomes many times as much for as long as it is worked on. Here an entry is decoded when its turn comes, and then
//! dropped.

use bytes::Bytes;
use prost::Message as _;

use crate::peering::fields::{MalformedMessage, MessageFields, Value};
use crate::peering::pb;

/// A response, decoded as far as its kind.
#[derive(Debug)]
pub(super) enum DonorMessage {
    Welcome(pb::Welcome),
    Changes(RawChanges),
    Heartbeat,
    /// A message of a newer protocol.
    Unknown,
}

impl DonorMessage {
    pub(super) fn parse(bytes: Bytes) -> Result<DonorMessage, MalformedMessage> {
        let mut message = DonorMessage::Unknown;
        for field in MessageFields(bytes) {
            message = match field? {
                (1, Value::Bytes(welcome)) => {
                    DonorMessage::Welcome(pb::Welcome::decode(welcome).map_err(|_| MalformedMessage)?)
                }
                (2, Value::Bytes(changes)) => DonorMessage::Changes(RawChanges::parse(changes)?),
                (3, Value::Bytes(_)) => DonorMessage::Heartbeat,
                _ => message,
            };
        }
        Ok(message)
    }
}

/// A `Changes` message. Its entries are not decoded yet.
#[derive(Debug)]
pub(super) struct RawChanges {
    fields: Bytes,
    /// Number of its entries.
    pub(super) entries: usize,
    pub(super) revision: u64,
    pub(super) synced: bool,
}

impl RawChanges {
    fn parse(fields: Bytes) -> Result<RawChanges, MalformedMessage> {
        let mut changes = RawChanges { fields: fields.clone(), entries: 0, revision: 0, synced: false };
        for field in MessageFields(fields) {
            match field? {
                (1 | 2, Value::Bytes(_)) => changes.entries += 1,
                (3, Value::Number(revision)) => changes.revision = revision,
                (4, Value::Number(synced)) => changes.synced = synced != 0,
                _ => {}
            }
        }
        Ok(changes)
    }

    /// Returns the expositions that changed, as they came.
    pub(super) fn changed_entries(&self) -> impl Iterator<Item = Bytes> + use<> {
        self.entries_of(1)
    }

    /// Returns the names that are withdrawn, as they came.
    pub(super) fn withdrawn_entries(&self) -> impl Iterator<Item = Bytes> + use<> {
        self.entries_of(2)
    }

    /// Returns its length in bytes.
    pub(super) fn len(&self) -> usize {
        self.fields.len()
    }

    fn entries_of(&self, wanted: u32) -> impl Iterator<Item = Bytes> + use<> {
        // Its fields were read once to their end: none is malformed.
        MessageFields(self.fields.clone()).filter_map(move |field| match field {
            Ok((number, Value::Bytes(bytes))) if number == wanted => Some(bytes),
            _ => None,
        })
    }
}

/// Returns the first two texts of an entry that is too large to be decoded: its namespace and its name.
pub(super) fn names_of(entry: Bytes) -> (String, String) {
    let (mut namespace, mut name) = (String::new(), String::new());
    for field in MessageFields(entry).map_while(Result::ok) {
        match field {
            (1, Value::Bytes(text)) => namespace = bounded_text(&text),
            (2, Value::Bytes(text)) => name = bounded_text(&text),
            _ => {}
        }
    }
    (namespace, name)
}

/// Returns a text of at most 64 bytes: a DNS label has 63 characters, and a longer text is none.
fn bounded_text(text: &[u8]) -> String {
    String::from_utf8_lossy(text.get(..64).unwrap_or(text)).into_owned()
}

#[cfg(test)]
mod tests {
    use pb::subscribe_response::Message;
    use proptest::prelude::*;

    use super::*;

    fn encoded(message: Message) -> Bytes {
        pb::SubscribeResponse { message: Some(message) }.encode_to_vec().into()
    }

    fn named(name: &str) -> pb::Exposition {
        pb::Exposition { namespace: "shop".into(), name: name.into(), ..pb::Exposition::default() }
    }

    #[test]
    fn changes_are_read_entry_by_entry_as_a_decoder_reads_them_at_once() {
        let withdrawn = pb::ExpositionName { namespace: "shop".into(), name: "old".into() };
        let changes = pb::Changes {
            changed: vec![named("cart"), named("till")],
            withdrawn: vec![withdrawn.clone()],
            revision: 300,
            synced: true,
        };
        let Ok(DonorMessage::Changes(raw)) = DonorMessage::parse(encoded(Message::Changes(changes.clone()))) else {
            panic!("no changes");
        };
        assert_eq!((raw.entries, raw.revision, raw.synced), (3, 300, true));
        let changed: Vec<_> = raw.changed_entries().map(|e| pb::Exposition::decode(e).unwrap()).collect();
        let gone: Vec<_> = raw.withdrawn_entries().map(|e| pb::ExpositionName::decode(e).unwrap()).collect();
        assert_eq!((changed, gone), (changes.changed, vec![withdrawn]));
    }

    #[test]
    fn other_messages_are_told_by_their_kind() {
        let welcome = pb::Welcome { protocol_version: 1, instance: "x".into(), heartbeat_seconds: 15 };
        let parsed = DonorMessage::parse(encoded(Message::Welcome(welcome.clone())));
        assert!(matches!(parsed, Ok(DonorMessage::Welcome(w)) if w == welcome));
        let heartbeat = encoded(Message::Heartbeat(pb::Heartbeat { revision: 7 }));
        assert!(matches!(DonorMessage::parse(heartbeat), Ok(DonorMessage::Heartbeat)));
        assert!(matches!(DonorMessage::parse(Bytes::new()), Ok(DonorMessage::Unknown)));
    }

    #[test]
    fn a_large_entry_is_named_without_being_decoded() {
        let large = pb::Exposition { host: "h".repeat(1 << 20), ..named("cart") };
        assert_eq!(names_of(large.encode_to_vec().into()), ("shop".to_owned(), "cart".to_owned()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(DonorMessage::Changes(raw)) = DonorMessage::parse(bytes.clone().into()) {
                prop_assert_eq!(raw.changed_entries().count() + raw.withdrawn_entries().count(), raw.entries);
            }
            names_of(bytes.into());
        }
    }
}
