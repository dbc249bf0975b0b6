//! Writes objects as YAML.

use serde::Serialize;

/// YAML as kubectl prints it: keys sorted, so that `apiVersion`, `kind`, `metadata`, `spec`, `status` follow each
/// other and the same object is the same text every time. Text that an older parser would take for a number, a date or
/// a truth value is quoted (kubectl and istiod read YAML 1.1).
pub fn to_yaml(object: &impl Serialize) -> String {
    // Objects are plain data with text for keys: there is nothing in them that can fail to be written.
    let value = serde_json::to_value(object).unwrap_or_default();
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    serde_saphyr::to_string_with_options(&value, options).unwrap_or_default()
}
