//! The fields of an encoded message, one after the other, decoded only as far as needed.

use bytes::{Buf as _, Bytes};

/// Bytes that are no message of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message cannot be read")]
pub struct MalformedMessage;

/// The content of one field.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    Number(u64),
    /// Text, bytes, or a message.
    Bytes(Bytes),
    /// A field of a fixed width: the protocol has none.
    Fixed,
}

/// Walks over the fields of a message (protobuf's encoding guide, "Message Structure").
#[derive(Debug, Clone)]
pub(super) struct MessageFields(pub(super) Bytes);

impl MessageFields {
    fn read_field(&mut self) -> Result<(u32, Value), MalformedMessage> {
        let key = self.read_varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| MalformedMessage)?;
        let value = match key & 7 {
            0 => Value::Number(self.read_varint()?),
            1 => self.take_bytes(8).map(|_| Value::Fixed)?,
            2 => {
                let length = self.read_varint()?;
                Value::Bytes(self.take_bytes(length)?)
            }
            5 => self.take_bytes(4).map(|_| Value::Fixed)?,
            _ => return Err(MalformedMessage), // groups, which proto3 does not have
        };
        Ok((number, value))
    }

    fn read_varint(&mut self) -> Result<u64, MalformedMessage> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.0.try_get_u8().map_err(|_| MalformedMessage)?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(MalformedMessage)
    }

    fn take_bytes(&mut self, length: u64) -> Result<Bytes, MalformedMessage> {
        let length = usize::try_from(length).map_err(|_| MalformedMessage)?;
        if length > self.0.len() { Err(MalformedMessage) } else { Ok(self.0.split_to(length)) }
    }
}

impl Iterator for MessageFields {
    type Item = Result<(u32, Value), MalformedMessage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.read_field();
        if field.is_err() {
            self.0.clear(); // nothing after it can be found
        }
        Some(field)
    }
}
