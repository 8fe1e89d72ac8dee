//! Keys of signed tokens, in every form of PEM that openssl writes.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, RsaKeyPair,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

/// Object identifiers in DER: an elliptic curve's key, and the two curves.
const EC_KEY: &[u8] = &[0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x06, 5, 0x2b, 0x81, 0x04, 0x00, 0x22];
/// Tags of DER.
const SEQUENCE: u8 = 0x30;
const OCTETS: u8 = 0x04;

/// A private key and its public half.
pub(super) struct Pair {
    pub(super) sign: EncodingKey,
    pub(super) check: DecodingKey,
}

/// Reads a private key.
pub(super) fn pair(algorithm: Algorithm, pem: &[u8]) -> Result<Pair, String> {
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| error.to_string())?;
    match algorithm {
        Algorithm::ES256 | Algorithm::ES384 => elliptic(algorithm, &key),
        Algorithm::EdDSA => edwards(&key),
        _ => rsa(&key, pem),
    }
}

/// Reads a public key.
pub(super) fn checking(algorithm: Algorithm, pem: &[u8]) -> Result<DecodingKey, String> {
    let key = match algorithm {
        Algorithm::ES256 | Algorithm::ES384 => DecodingKey::from_ec_pem(pem),
        Algorithm::EdDSA => DecodingKey::from_ed_pem(pem),
        _ => DecodingKey::from_rsa_pem(pem),
    };
    key.map_err(|error| error.to_string())
}

fn rsa(key: &PrivateKeyDer<'_>, pem: &[u8]) -> Result<Pair, String> {
    let pair = match key {
        PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
        PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
        _ => return Err("it is no RSA key".to_owned()),
    };
    let pair = pair.map_err(|error| error.to_string())?;
    Ok(Pair {
        sign: EncodingKey::from_rsa_pem(pem).map_err(|error| error.to_string())?,
        check: DecodingKey::from_rsa_der(pair.public().as_ref()),
    })
}

fn elliptic(algorithm: Algorithm, key: &PrivateKeyDer<'_>) -> Result<Pair, String> {
    let (curve, signing) = match algorithm {
        Algorithm::ES384 => (P384, &ECDSA_P384_SHA384_FIXED_SIGNING),
        _ => (P256, &ECDSA_P256_SHA256_FIXED_SIGNING),
    };
    let pkcs8 = match key {
        PrivateKeyDer::Pkcs8(key) => key.secret_pkcs8_der().to_vec(),
        PrivateKeyDer::Sec1(key) => wrapped(curve, key.secret_sec1_der()),
        _ => return Err("it is no key of an elliptic curve".to_owned()),
    };
    let pair = EcdsaKeyPair::from_pkcs8(signing, &pkcs8, &SystemRandom::new());
    let pair = pair.map_err(|error| error.to_string())?;
    Ok(Pair {
        sign: EncodingKey::from_ec_der(&pkcs8),
        check: DecodingKey::from_ec_der(pair.public_key().as_ref()),
    })
}

fn edwards(key: &PrivateKeyDer<'_>) -> Result<Pair, String> {
    let PrivateKeyDer::Pkcs8(key) = key else {
        return Err("it is no Ed25519 key".to_owned());
    };
    let pkcs8 = key.secret_pkcs8_der();
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8);
    let pair = pair.map_err(|error| error.to_string())?;
    Ok(Pair {
        sign: EncodingKey::from_ed_der(pkcs8),
        check: DecodingKey::from_ed_der(pair.public_key().as_ref()),
    })
}

/// The form of RFC 5958 around that of RFC 5915, `EC PRIVATE KEY`:
///
/// ```text
/// SEQUENCE { INTEGER 0, SEQUENCE { EC_KEY, curve }, OCTET STRING key }
/// ```
fn wrapped(curve: &[u8], key: &[u8]) -> Vec<u8> {
    let kind = der(SEQUENCE, &[EC_KEY, curve].concat());
    let version = [0x02, 1, 0];
    der(SEQUENCE, &[&version, &kind[..], &der(OCTETS, key)].concat())
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let first = length.iter().position(|byte| *byte != 0);
    let length = &length[first.unwrap_or(length.len() - 1)..];
    let mut all = vec![tag];
    if content.len() >= 0x80 {
        all.push(0x80 | u8::try_from(length.len()).expect("eight at most"));
    }
    all.extend_from_slice(length);
    all.extend_from_slice(content);
    all
}
