//! Public keys in PEM files (`configuration.md` §5): one or several, `PUBLIC KEY` as of openssl, or
//! `RSA PUBLIC KEY`. All of them must be usable: one that was left out would be missed later.

use spki::der::asn1::UintRef;
use spki::der::{Decode, Reader, SliceReader};
use spki::{ObjectIdentifier, SubjectPublicKeyInfoRef};

use super::key::Key;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

const BEGIN: &[u8] = b"-----BEGIN ";

/// The keys of a file; none unless there are some and all of them are usable.
pub fn keys(file: &[u8]) -> Option<Vec<Key>> {
    let blocks = pem::parse_many(file).ok()?;
    let keys: Option<Vec<Key>> = blocks.iter().map(key).collect();
    let begun = file.windows(BEGIN.len()).filter(|at| *at == BEGIN).count();
    keys.filter(|keys| !keys.is_empty() && keys.len() == begun)
}

fn key(block: &pem::Pem) -> Option<Key> {
    match block.tag() {
        "PUBLIC KEY" => of_any_kind(block.contents()),
        "RSA PUBLIC KEY" => rsa(block.contents()),
        _ => None,
    }
}

fn of_any_kind(der: &[u8]) -> Option<Key> {
    let info = SubjectPublicKeyInfoRef::from_der(der).ok()?;
    let bytes = info.subject_public_key.as_bytes()?;
    match info.algorithm.oid {
        RSA => rsa(bytes),
        ED25519 => Key::ed25519(bytes.to_vec()),
        EC => match info.algorithm.parameters_oid().ok()? {
            P256 => Key::p256(bytes.to_vec()),
            P384 => Key::p384(bytes.to_vec()),
            _ => None,
        },
        _ => None,
    }
}

/// `RSAPublicKey ::= SEQUENCE { modulus INTEGER, publicExponent INTEGER }`
fn rsa(der: &[u8]) -> Option<Key> {
    let mut reader = SliceReader::new(der).ok()?;
    let numbers = reader.sequence(|reader| {
        let (n, e): (UintRef<'_>, UintRef<'_>) = (reader.decode()?, reader.decode()?);
        Ok::<_, spki::der::Error>((n.as_bytes(), e.as_bytes()))
    });
    let (n, e) = numbers.ok()?;
    reader.finish().ok()?;
    Key::rsa(n, e)
}
