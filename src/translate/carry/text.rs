//! Names, hosts and paths.

use super::limits::{MAX_FIELD_NAME, MAX_HOST, MAX_NAME, MAX_TEXT};
use super::refusal::{FieldRefusal, quote_shortened};

/// A token of HTTP (RFC 9110, section 5.6.2).
pub(super) fn is_token(text: &str) -> bool {
    let is_sign = |b: u8| b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || is_sign(b))
}

/// Text that can stand in a header: visible ASCII, blanks between.
pub(super) fn is_printable(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b' '..=b'~'))
}

/// The name of a header, whatever it is for.
pub(super) fn check_header_name(name: &str) -> Result<(), FieldRefusal> {
    if !is_token(name) || name.len() > MAX_FIELD_NAME {
        let message =
            format!("{} is not the name of a header of at most {MAX_FIELD_NAME} characters", quote_shortened(name));
        return Err(FieldRefusal::new(message));
    }
    Ok(())
}

/// The name of a method, of a cookie.
pub(super) fn check_token(text: &str, what: &str) -> Result<(), FieldRefusal> {
    if is_token(text) && text.len() <= MAX_FIELD_NAME {
        return Ok(());
    }
    Err(FieldRefusal::new(format!("{} is not the name of {what}", quote_shortened(text))))
}

/// A name that istiod puts into names and statistics of the gateway.
pub(super) fn carry_name(name: Option<&String>) -> Result<Option<String>, FieldRefusal> {
    let Some(name) = name else { return Ok(None) };
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.len() <= MAX_NAME && name.bytes().all(fits) {
        return Ok(Some(name.clone()));
    }
    let message =
        format!("{} is not a name of at most {MAX_NAME} letters, digits, '-', '_' and '.'", quote_shortened(name));
    Err(FieldRefusal::new(message))
}

/// A text that a request is compared with.
pub(super) fn check_text(text: &str) -> Result<(), FieldRefusal> {
    if text.len() <= MAX_TEXT && is_printable(text) {
        return Ok(());
    }
    let message = format!("{} is not a text of at most {MAX_TEXT} printable ASCII characters", quote_shortened(text));
    Err(FieldRefusal::new(message))
}

/// A path that a request's path is compared with.
pub(super) fn check_matched_path(path: &str) -> Result<(), FieldRefusal> {
    check_text(path)?;
    if path.starts_with('/') && !path.contains(' ') {
        return Ok(());
    }
    Err(FieldRefusal::new(format!("{} does not begin with / or has a blank in it", quote_shortened(path))))
}

/// A path that the gateway writes (RFC 3986, section 3.3), percent-encoded. `more` may stand in it too.
pub(super) fn check_written_path(path: &str, more: &str) -> Result<(), FieldRefusal> {
    let refused = || {
        let message = format!("{} is not a path of a URI, of at most {MAX_TEXT} characters", quote_shortened(path));
        Err(FieldRefusal::new(message).cure("begin it with /, and encode other characters as %20 encodes a blank"))
    };
    if !path.starts_with('/') || path.len() > MAX_TEXT {
        return refused();
    }
    let bytes = path.as_bytes();
    for (i, b) in bytes.iter().enumerate() {
        let encoded = |n: usize| bytes.get(i + n).is_some_and(u8::is_ascii_hexdigit);
        let fits = match b {
            b'%' => encoded(1) && encoded(2),
            b if b.is_ascii_alphanumeric() => true,
            b => b"/-._~!$&'()*+,;=:@".contains(b) || more.as_bytes().contains(b),
        };
        if !fits {
            return refused();
        }
    }
    Ok(())
}

/// A host name, and a port after it where one is written.
pub(super) fn check_authority(authority: &str) -> Result<(), FieldRefusal> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let port_fits = port.is_none_or(|p| p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok_and(|n| n > 0));
    if is_host(host) && port_fits {
        return Ok(());
    }
    let message = format!("{} is not a host name, or a host name and a port", quote_shortened(authority));
    Err(FieldRefusal::new(message))
}

pub(super) fn is_host(host: &str) -> bool {
    host.len() <= MAX_HOST && host.split('.').all(is_host_label)
}

fn is_host_label(label: &str) -> bool {
    let inside = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let (first, last) = (label.bytes().next(), label.bytes().last());
    label.len() <= 63
        && first.is_some_and(|b| b != b'-')
        && last.is_some_and(|b| b != b'-')
        && label.bytes().all(inside)
}

/// Returns whether a text is the name of a subset, as Istio takes it, in upper case too (istiod, `validateSubsetName`).
pub(super) fn is_subset_name(name: &str) -> bool {
    is_host_label(name) && !name.contains('_')
}

/// Returns whether a text is a value of a label of Kubernetes.
pub(super) fn is_label_value(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    let inside = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let (first, last) = (text.bytes().next(), text.bytes().last());
    text.is_empty() || (text.len() <= 63 && edge(first) && edge(last) && text.bytes().all(inside))
}

/// Returns whether a text is the key of a label of Kubernetes: a name, perhaps after a host and a slash.
pub(super) fn is_label_key(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    !name.is_empty() && is_label_value(name) && prefix.is_none_or(is_host)
}
