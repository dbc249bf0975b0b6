//! The first message of a subscription, read entry by entry: it may list all that an acceptor holds, and decoded as a
//! whole that is ten times as much as came.

use std::str;

use bytes::Bytes;

use super::{is_version, key_from_wire};
use crate::model::ExpositionKey;
use crate::peering::clean_prose;
use crate::peering::fields::{MalformedMessage, MessageFields, Value};

/// A request of a subscriber, decoded as far as its kind.
#[derive(Debug)]
pub(in crate::peering) enum SubscriberMessage {
    Hello(HelloMessage),
    /// Bytes that are not decoded yet.
    Acknowledgement(Bytes),
    /// A message of a newer protocol.
    Unknown,
}

impl SubscriberMessage {
    pub(in crate::peering) fn parse(bytes: Bytes) -> Result<SubscriberMessage, MalformedMessage> {
        let mut message = SubscriberMessage::Unknown;
        for field in MessageFields(bytes) {
            message = match field? {
                (1, Value::Bytes(hello)) => SubscriberMessage::Hello(HelloMessage::parse(hello)?),
                (2, Value::Bytes(acknowledgement)) => SubscriberMessage::Acknowledgement(acknowledgement),
                _ => message,
            };
        }
        Ok(message)
    }
}

/// A hello; its list is as it came.
#[derive(Debug)]
pub(in crate::peering) struct HelloMessage {
    pub(in crate::peering) instance: String,
    pub(in crate::peering) protocol_version: u64,
    pub(in crate::peering) held: HeldList,
}

impl HelloMessage {
    fn parse(bytes: Bytes) -> Result<HelloMessage, MalformedMessage> {
        let held = HeldList(bytes.clone());
        let mut hello = HelloMessage { instance: String::new(), protocol_version: 0, held };
        for field in MessageFields(bytes) {
            match field? {
                (1, Value::Bytes(text)) => {
                    // A text that is too long is no instance, and need not be copied.
                    let text = text.get(..super::MAX_INSTANCE + 1).unwrap_or(&text);
                    hello.instance = str::from_utf8(text).map_err(|_| MalformedMessage)?.to_owned();
                }
                (2, Value::Number(version)) => hello.protocol_version = version,
                _ => {}
            }
        }
        Ok(hello)
    }
}

/// The holdings that an acceptor lists: names with versions, in the bytes that it sent.
#[derive(Debug, Clone, Default)]
pub struct HeldList(Bytes);

/// Entries that are looked at before others have a turn.
const ENTRIES_A_TURN: usize = 512;

impl HeldList {
    /// Checks every entry. Returns their number, or the fault of the first bad one.
    pub(in crate::peering) async fn check_entries(&self) -> Result<usize, String> {
        let mut count = 0;
        for (i, entry) in self.raw_entries().enumerate() {
            let [namespace, name, version] = first_texts(entry);
            let known = key_of(&namespace, &name).filter(|_| str::from_utf8(&version).is_ok_and(is_version));
            if known.is_none() {
                let shown = |text: &Bytes| clean_prose(&String::from_utf8_lossy(text.get(..256).unwrap_or(text)), 63);
                let name = format!("{}/{}", shown(&namespace), shown(&name));
                return Err(format!("hello.held[{i}]: {name:?} with its version names no exposition"));
            }
            count += 1;
            if count % ENTRIES_A_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
        Ok(count)
    }

    /// Returns the entries, one after the other.
    pub(in crate::peering) fn entries(&self) -> HeldEntries {
        HeldEntries(MessageFields(self.0.clone()))
    }

    fn raw_entries(&self) -> impl Iterator<Item = Bytes> + use<> {
        MessageFields(self.0.clone()).map_while(Result::ok).filter_map(|field| match field {
            (3, Value::Bytes(entry)) => Some(entry),
            _ => None,
        })
    }
}

/// Reads a [`HeldList`] to its end. Invalid entries are left out.
#[derive(Debug)]
pub(in crate::peering) struct HeldEntries(MessageFields);

impl Iterator for HeldEntries {
    type Item = (ExpositionKey, Bytes);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (3, Value::Bytes(entry)) = self.0.next()?.ok()? else { continue };
            let [namespace, name, version] = first_texts(entry);
            if let Some(key) = key_of(&namespace, &name) {
                return Some((key, version));
            }
        }
    }
}

fn key_of(namespace: &Bytes, name: &Bytes) -> Option<ExpositionKey> {
    key_from_wire(str::from_utf8(namespace).ok()?, str::from_utf8(name).ok()?)
}

/// Returns the first three texts of a message.
fn first_texts(message: Bytes) -> [Bytes; 3] {
    let mut texts = [Bytes::new(), Bytes::new(), Bytes::new()];
    for field in MessageFields(message).map_while(Result::ok) {
        if let (number @ 1..=3, Value::Bytes(text)) = field
            && let Some(place) = texts.get_mut(number as usize - 1)
        {
            *place = text;
        }
    }
    texts
}

#[cfg(test)]
impl<V: ToString> FromIterator<(ExpositionKey, V)> for HeldList {
    fn from_iter<T: IntoIterator<Item = (ExpositionKey, V)>>(entries: T) -> HeldList {
        use prost::Message as _;
        let held = entries.into_iter().map(|(key, version)| crate::peering::pb::Held {
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            version: version.to_string(),
        });
        let hello = crate::peering::pb::Hello { held: held.collect(), ..Default::default() };
        HeldList(hello.encode_to_vec().into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::peering::pb;

    fn held(namespace: &str, name: &str, version: &str) -> pb::Held {
        pb::Held { namespace: namespace.into(), name: name.into(), version: version.into() }
    }

    fn parse(hello: pb::Hello) -> HelloMessage {
        let request = pb::SubscribeRequest { message: Some(pb::subscribe_request::Message::Hello(hello)) };
        match SubscriberMessage::parse(request.encode_to_vec().into()) {
            Ok(SubscriberMessage::Hello(hello)) => hello,
            other => panic!("{other:?}"),
        }
    }

    /// Few entries are checked in one turn.
    fn checked(hello: &HelloMessage) -> Result<usize, String> {
        futures::FutureExt::now_or_never(hello.held.check_entries()).expect("one turn")
    }

    #[test]
    fn a_hello_is_read_as_it_was_written() {
        let hello = parse(pb::Hello {
            instance: "one".into(),
            protocol_version: 1,
            held: vec![held("shop", "cart", "v1"), held("shop", "till", "v2")],
        });
        assert_eq!((hello.instance.as_str(), hello.protocol_version, checked(&hello)), ("one", 1, Ok(2)));
        let entries: Vec<_> = hello.held.entries().map(|(key, version)| (key.name.to_string(), version)).collect();
        assert_eq!(entries, [("cart".to_owned(), "v1".into()), ("till".to_owned(), "v2".into())]);
    }

    #[test]
    fn an_entry_that_names_nothing_is_refused_by_its_place() {
        let hello =
            parse(pb::Hello { held: vec![held("shop", "cart", "v1"), held("..", "x", "v1")], ..pb::Hello::default() });
        let why = checked(&hello).unwrap_err();
        assert_eq!(why, r#"hello.held[1]: "../x" with its version names no exposition"#);
        let hello = parse(pb::Hello { held: vec![held("shop", "cart", "")], ..pb::Hello::default() });
        assert!(checked(&hello).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(SubscriberMessage::Hello(hello)) = SubscriberMessage::parse(bytes.into())
                && let Ok(count) = checked(&hello)
            {
                prop_assert_eq!(hello.held.entries().count(), count);
            }
        }
    }
}
