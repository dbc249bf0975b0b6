//! Peers of earlier releases understand what this one sends, and are understood: the protocol grows, and nothing in it
//! changes its meaning.
//!
//! The rules are those of the Protocol Buffers language guide, "Updating a Message Type".

use std::collections::BTreeMap;

use prost::Message as _;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet, ServiceDescriptorProto};

/// The protocol as it is, and as each release had it (`proto/released`), by its version.
const PRESENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/peering.bin"));
const RELEASED: [(&str, &[u8]); 1] = [("0.1", include_bytes!(concat!(env!("OUT_DIR"), "/released-0.1.bin")))];

/// Everything in a protocol that a peer relies on, by a name for people.
#[derive(Debug, Default, Clone, PartialEq)]
struct WireContract(BTreeMap<String, String>);

impl WireContract {
    fn read(descriptors: &[u8]) -> WireContract {
        let files = FileDescriptorSet::decode(descriptors).unwrap().file;
        let mut contract = WireContract::default();
        for file in files.iter().filter(|file| file.package().starts_with("wharf.")) {
            file.message_type.iter().for_each(|message| contract.add_message(file.package(), message));
            file.enum_type.iter().for_each(|values| contract.add_enum(file.package(), values));
            file.service.iter().for_each(|service| contract.add_service(file.package(), service));
        }
        contract
    }

    /// Adds a message: a field's number, type and cardinality are its meaning, its name is not on the wire.
    fn add_message(&mut self, scope: &str, message: &DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        for field in &message.field {
            let group = field.oneof_index.filter(|_| !field.proto3_optional());
            let meaning = format!("{:?} {:?} {} {group:?}", field.label(), field.r#type(), field.type_name());
            self.0.insert(format!("{name}, field {}", field.number()), meaning);
        }
        message.nested_type.iter().for_each(|nested| self.add_message(&name, nested));
        message.enum_type.iter().for_each(|nested| self.add_enum(&name, nested));
    }

    fn add_enum(&mut self, scope: &str, values: &EnumDescriptorProto) {
        for value in &values.value {
            self.0.insert(format!("{scope}.{}, value {}", values.name(), value.number()), value.name().to_owned());
        }
    }

    fn add_service(&mut self, scope: &str, service: &ServiceDescriptorProto) {
        for method in &service.method {
            let (takes, gives) = (method.input_type(), method.output_type());
            let streams = (method.client_streaming(), method.server_streaming());
            self.0.insert(
                format!("{scope}.{}, call {}", service.name(), method.name()),
                format!("{takes} to {gives}, streams {streams:?}"),
            );
        }
    }

    /// Returns what is missing or means something else in a later protocol.
    fn broken_by(&self, later: &WireContract) -> Vec<String> {
        let differs = |(name, meaning): (&String, &String)| match later.0.get(name) {
            Some(now) if now == meaning => None,
            Some(now) => Some(format!("{name}: was {meaning}, is {now}")),
            None => Some(format!("{name}: was {meaning}, is gone")),
        };
        self.0.iter().filter_map(differs).collect()
    }
}

#[test]
fn the_protocol_of_each_release_is_still_spoken() {
    let present = WireContract::read(PRESENT);
    for (version, descriptors) in RELEASED {
        let released = WireContract::read(descriptors);
        assert!(released.0.len() > 50, "{version} has {} parts", released.0.len());
        assert_eq!(released.broken_by(&present), [""; 0], "against {version}");
    }
}

#[test]
fn a_field_or_a_call_that_changes_its_meaning_is_found() {
    let before = WireContract::read(PRESENT);
    for name in before.0.keys() {
        let mut after = before.clone();
        after.0.remove(name);
        assert_eq!(before.broken_by(&after).len(), 1, "{name} removed");
        after.0.insert(name.clone(), "another".into());
        assert_eq!(before.broken_by(&after).len(), 1, "{name} changed");
    }
    let mut grown = before.clone();
    grown.0.insert("wharf.peering.v1.Port, field 99".into(), "Optional String".into());
    assert_eq!(before.broken_by(&grown), [""; 0]);
}
