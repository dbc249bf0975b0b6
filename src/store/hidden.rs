//! Inputs that may be there although they cannot be read: users of a store must not take them for gone.

use std::collections::BTreeSet;
use std::str::FromStr;

use super::{InputKey, NamedKey};
use crate::api::{Kind, ObjectKey};

/// The kinds of [`Input`](super::Input).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InputKind {
    Policy,
    Binding,
    Peering,
    Object,
}

impl InputKind {
    pub const ALL: [InputKind; 4] = [InputKind::Policy, InputKind::Binding, InputKind::Peering, InputKind::Object];
}

/// Parses the text that [`Display`](std::fmt::Display) made. A kind that is not known is an error.
impl FromStr for InputKey {
    type Err = ();

    fn from_str(text: &str) -> Result<InputKey, ()> {
        let (kind, rest) = text.split_once(' ').ok_or(())?;
        if kind == "ClusterPeering" {
            return Ok(InputKey::Peering(rest.to_owned()));
        }
        let (namespace, name) = rest.split_once('/').ok_or(())?;
        let key = NamedKey { namespace: namespace.to_owned(), name: name.to_owned() };
        match kind {
            "ServiceExpositionPolicy" => Ok(InputKey::Policy(key)),
            "RemoteServiceBinding" => Ok(InputKey::Binding(key)),
            _ => {
                let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind).ok_or(())?;
                Ok(InputKey::Object(ObjectKey { kind, namespace: key.namespace, name: key.name }))
            }
        }
    }
}

impl InputKey {
    pub fn kind(&self) -> InputKind {
        match self {
            InputKey::Policy(_) => InputKind::Policy,
            InputKey::Binding(_) => InputKind::Binding,
            InputKey::Peering(_) => InputKind::Peering,
            InputKey::Object(_) => InputKind::Object,
        }
    }
}

/// The inputs that one problem may hide.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HiddenInputs {
    /// Those that are known by name.
    pub keys: BTreeSet<InputKey>,
    /// Kinds whose objects may all be there.
    pub kinds: BTreeSet<InputKind>,
    /// The kinds that [`InputKind::Object`] stands for, each in one namespace or (None) in all; empty: all.
    pub objects: BTreeSet<(Kind, Option<String>)>,
}

impl HiddenInputs {
    /// Hides any object of any kind.
    pub fn anything() -> HiddenInputs {
        HiddenInputs { kinds: BTreeSet::from(InputKind::ALL), ..HiddenInputs::default() }
    }

    pub fn of_key(key: InputKey) -> HiddenInputs {
        HiddenInputs { keys: BTreeSet::from([key]), ..HiddenInputs::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.kinds.is_empty()
    }

    pub fn extend(&mut self, other: HiddenInputs) {
        let objects: BTreeSet<_> = self.object_kinds().into_iter().chain(other.object_kinds()).collect();
        self.keys.extend(other.keys);
        self.kinds.extend(other.kinds);
        self.objects = objects;
    }

    /// Returns the kinds of objects that may all be there, each in one namespace or (None) in all.
    pub fn object_kinds(&self) -> BTreeSet<(Kind, Option<String>)> {
        match (self.kinds.contains(&InputKind::Object), self.objects.is_empty()) {
            (false, _) => BTreeSet::new(),
            (true, true) => Kind::ALL.into_iter().map(|kind| (kind, None)).collect(),
            (true, false) => self.objects.clone(),
        }
    }

    /// Returns whether this object may be among them.
    pub fn may_hold(&self, key: &InputKey) -> bool {
        self.kinds.contains(&key.kind()) || self.keys.contains(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_from_its_text() {
        let named = NamedKey { namespace: "shop".into(), name: "a.b".into() };
        let object = ObjectKey { kind: Kind::VirtualService, namespace: "shop".into(), name: "a".into() };
        for key in [
            InputKey::Policy(named.clone()),
            InputKey::Binding(named),
            InputKey::Peering("north".into()),
            InputKey::Object(object),
        ] {
            assert_eq!(key.to_string().parse(), Ok(key));
        }
        for other in ["", "Pod a/b", "ServiceExpositionPolicy a"] {
            assert_eq!(other.parse::<InputKey>(), Err(()), "{other}");
        }
    }
}
