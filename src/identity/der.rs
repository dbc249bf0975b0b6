//! The part of DER (X.690) that gives a certificate or a revocation list another issuer's name.

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// The number of fields before the issuer in the signed part.
#[derive(Debug, Clone, Copy)]
pub(super) enum DraftKind {
    /// `TBSCertificate ::= SEQUENCE { version, serialNumber, signature, issuer, validity, … }`    (RFC 5280, section
    /// 4.1)
    Certificate = 3,
    /// `TBSCertList ::= SEQUENCE { version, signature, issuer, thisUpdate, … }`                   (section 5.1)
    List = 2,
}

/// Returns the draft with `issuer` (the DER of a name) as its issuer, signed by `sign`. The draft must name the
/// algorithm that `sign` uses.
pub(super) fn with_issuer(
    kind: DraftKind,
    draft: &[u8],
    issuer: &[u8],
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, rcgen::Error>,
) -> Result<Vec<u8>, rcgen::Error> {
    // Both are SEQUENCE { signed part, signatureAlgorithm, signatureValue }.
    let parts = || {
        let (tbs, rest) = split_element(element_content(draft)?)?;
        let (algorithm, _) = split_element(rest)?;
        let fields = element_content(tbs)?;
        let mut rest = fields;
        for _ in 0..kind as usize {
            rest = split_element(rest)?.1;
        }
        let before = fields.get(..fields.len() - rest.len())?;
        let (_issuer, after) = split_element(rest)?;
        Some((before, after, algorithm))
    };
    let (before, after, algorithm) = parts().ok_or(rcgen::Error::CouldNotParseCertificate)?;
    let tbs = build_element(SEQUENCE, &[before, issuer, after]);
    let signature = sign(&tbs)?;
    let signature = build_element(BIT_STRING, &[&[0], &signature]); // no unused bits
    Ok(build_element(SEQUENCE, &[&tbs, algorithm, &signature]))
}

/// Splits off the first element, whole, from the rest.
fn split_element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (header, length) = element_header(der)?;
    der.split_at_checked(header.checked_add(length)?)
}

/// Returns the content of the element that `der` is.
fn element_content(der: &[u8]) -> Option<&[u8]> {
    let (header, length) = element_header(der)?;
    der.get(header..header.checked_add(length)?)
}

/// Returns the lengths of an element's header and of its content.
fn element_header(der: &[u8]) -> Option<(usize, usize)> {
    let first = usize::from(*der.get(1)?);
    if first < 0x80 {
        return Some((2, first));
    }
    let count = first & 0x7f;
    let bytes = der.get(2..2 + count).filter(|bytes| (1..=4).contains(&bytes.len()))?;
    Some((2 + count, bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))))
}

fn build_element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut der = vec![tag];
    if let Ok(short @ 0..0x80) = u8::try_from(length) {
        der.push(short);
    } else {
        let bytes = length.to_be_bytes();
        let skipped = bytes.iter().take_while(|byte| **byte == 0).count();
        der.push(0x80 | (bytes.len() - skipped) as u8); // at most 8
        der.extend(bytes.iter().skip(skipped));
    }
    for part in parts {
        der.extend_from_slice(part);
    }
    der
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_that_was_written_is_read_back_at_every_length() {
        for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let inside = vec![7; length];
            let mut der = build_element(SEQUENCE, &[&inside]);
            assert_eq!(element_content(&der), Some(&*inside), "{length}");
            der.extend([1, 2, 3]);
            assert_eq!(split_element(&der).map(|(_, rest)| rest), Some(&[1, 2, 3][..]), "{length}");
        }
    }

    #[test]
    fn a_length_beyond_the_end_is_refused() {
        for der in [&[0x30][..], &[0x30, 5, 1], &[0x30, 0x80], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0x30, 0x82, 1]]
        {
            assert_eq!(split_element(der), None, "{der:x?}");
        }
    }
}
