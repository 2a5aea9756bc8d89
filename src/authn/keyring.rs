//! The key ring: one key signs access tokens, the others still verify the tokens that they signed.
//!
//! Each key has exactly one algorithm; the `alg` header of a token is not trusted (RFC 8725, section 3.1). The module
//! neither stores keys nor decides when to rotate them.

use super::secret::{SecretError, random_hex};
use super::tokens::{self, Claims, IssuedToken, TokenError, VerifiedToken};
use crate::config::TokenAlgorithm;
use crate::types::Timestamp;
use aws_lc_rs::signature::Ed25519KeyPair;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use std::fmt;
use utoipa::ToSchema;

/// A key that signs access tokens.
#[derive(Debug, Clone)]
pub struct SigningKey {
    /// The key id, as in the header of the tokens that it signs.
    pub kid: String,
    /// The position in the key ring. Of the keys whose `signs_from` has passed, the one with the highest number signs.
    pub number: i64,
    /// The only algorithm that the key is used with.
    pub algorithm: TokenAlgorithm,
    /// The key material: for HS256 the text itself, for EdDSA a PKCS#8 document in hex (RFC 8410).
    pub secret: SecretString,
    /// The time from which the key signs.
    pub signs_from: Timestamp,
}

impl SigningKey {
    /// Generates a random key.
    ///
    /// # Errors
    ///
    /// If the system provides no random bytes.
    pub fn new(algorithm: TokenAlgorithm, number: i64, signs_from: Timestamp) -> Result<Self, SecretError> {
        let secret = match algorithm {
            TokenAlgorithm::Hs256 => random_hex::<32>()?,
            TokenAlgorithm::EdDsa => {
                let pair = Ed25519KeyPair::generate().map_err(|_| SecretError)?;
                hex::encode(pair.to_pkcs8v1().map_err(|_| SecretError)?.as_ref())
            }
        };
        Ok(Self { kid: random_hex::<8>()?, number, algorithm, secret: secret.into(), signs_from })
    }

    /// Returns the key with the secret from the configuration.
    pub fn from_configured_secret(secret: SecretString) -> Self {
        let algorithm = TokenAlgorithm::Hs256;
        Self { kid: "configured".into(), number: 1, algorithm, secret, signs_from: Timestamp::from_millis(0) }
    }
}

/// Why a key ring cannot be built.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KeyringError {
    /// The key material does not fit the algorithm.
    #[error("the signing key {0} is not valid for its algorithm")]
    Malformed(String),
    /// There are no keys.
    #[error("there is no signing key")]
    Empty,
}

/// A public key as a JSON Web Key (RFC 7517; RFC 8037, section 2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(example = json!({
    "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    "kid": "9f8e7d6c5b4a3921", "use": "sig", "alg": "EdDSA"
}))]
pub struct PublicKey {
    /// `OKP`, an octet key pair.
    kty: &'static str,
    /// `Ed25519`.
    crv: &'static str,
    /// The public key, base64url-encoded.
    x: String,
    /// The key id, as in the header of the tokens that it verifies.
    kid: String,
    /// `sig`: the key is for signatures.
    #[serde(rename = "use")]
    usage: &'static str,
    /// `EdDSA`.
    alg: &'static str,
}

/// A signing key with its prepared forms.
struct KeyEntry {
    key: SigningKey,
    /// The time from which the tokens of the key are rejected; none while it has no successor.
    verifies_until: Option<Timestamp>,
    header: Header,
    encoding_key: EncodingKey,
    decoding_key: DecodingKey,
    public_key: Option<PublicKey>,
}

impl KeyEntry {
    fn new(key: SigningKey, verifies_until: Option<Timestamp>) -> Result<Self, KeyringError> {
        let mut header = Header::new(algorithm(key.algorithm));
        header.kid = Some(key.kid.clone());
        let secret = key.secret.expose_secret();
        let (encoding_key, decoding_key, public_key) = match key.algorithm {
            TokenAlgorithm::Hs256 => {
                let secret = secret.as_bytes();
                (EncodingKey::from_secret(secret), DecodingKey::from_secret(secret), None)
            }
            TokenAlgorithm::EdDsa => {
                let malformed = || KeyringError::Malformed(key.kid.clone());
                let encoding_key = EncodingKey::from_ed_der(&hex::decode(secret).map_err(|_| malformed())?);
                let jwk = Jwk::from_encoding_key(&encoding_key, Algorithm::EdDSA).map_err(|_| malformed())?;
                let AlgorithmParameters::OctetKeyPair(pair) = jwk.algorithm else {
                    return Err(malformed());
                };
                let decoding_key = DecodingKey::from_ed_components(&pair.x).map_err(|_| malformed())?;
                let (kid, x) = (key.kid.clone(), pair.x);
                let public_key = PublicKey { kty: "OKP", crv: "Ed25519", x, kid, usage: "sig", alg: "EdDSA" };
                (encoding_key, decoding_key, Some(public_key))
            }
        };
        Ok(Self { key, verifies_until, header, encoding_key, decoding_key, public_key })
    }

    fn is_valid_at(&self, now: Timestamp) -> bool {
        self.verifies_until.is_none_or(|end| now < end)
    }
}

/// The key ring: all signing keys that may still be needed, prepared for use.
pub struct Keyring {
    number: u64,
    /// In ascending order of their numbers; never empty.
    keys: Vec<KeyEntry>,
    /// The validation rules for HS256 and for EdDSA.
    validations: (Validation, Validation),
    /// The `iss` and `aud` of all tokens; none if they are those of the request that a token is issued to.
    issuer: Option<String>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kids: Vec<&str> = self.keys().map(|(key, _)| key.kid.as_str()).collect();
        f.debug_struct("Keyring").field("number", &self.number).field("kids", &kids).finish_non_exhaustive()
    }
}

impl Keyring {
    /// How many seconds a rotated key verifies beyond the last token that it should have signed. Other processes learn
    /// of the successor with a delay, and their clocks differ.
    const CLOCK_SKEW_ALLOWANCE: u64 = 60;

    /// Builds a key ring from keys in ascending order of their numbers.
    ///
    /// `number` distinguishes key rings. An access token is valid for `access_ttl` seconds; `issuer` is both its `iss` and
    /// its `aud`. Without one, both are the URL that the client uses, and a token is valid with any.
    ///
    /// # Errors
    ///
    /// If there is no key, or the material of one does not fit its algorithm.
    pub fn new(
        number: u64,
        keys: Vec<SigningKey>,
        access_ttl: u64,
        issuer: Option<&str>,
    ) -> Result<Self, KeyringError> {
        let mut entries = Vec::with_capacity(keys.len());
        // The earliest `signs_from` of the keys with higher numbers.
        let mut next_signs_from: Option<Timestamp> = None;
        for key in keys.into_iter().rev() {
            let from = key.signs_from;
            entries.push(KeyEntry::new(
                key,
                next_signs_from.map(|next_signs_from| {
                    next_signs_from.plus_seconds(access_ttl + Self::CLOCK_SKEW_ALLOWANCE)
                }),
            )?);
            next_signs_from = Some(next_signs_from.map_or(from, |next_signs_from| next_signs_from.min(from)));
        }
        entries.reverse();
        if entries.is_empty() {
            return Err(KeyringError::Empty);
        }
        let validation = |algorithm| {
            let mut validation = Validation::new(algorithm);
            validation.leeway = 0;
            // `tokens::verify` checks the expiry: with the clock of the service, and after everything else.
            validation.validate_exp = false;
            match issuer {
                Some(issuer) => {
                    validation.set_issuer(&[issuer]);
                    validation.set_audience(&[issuer]);
                }
                None => validation.validate_aud = false,
            }
            validation.set_required_spec_claims(&["exp", "iss", "aud"]);
            validation
        };
        let validations = (validation(Algorithm::HS256), validation(Algorithm::EdDSA));
        Ok(Self { number, keys: entries, validations, issuer: issuer.map(str::to_owned) })
    }

    /// The number that distinguishes this key ring from earlier and later ones.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The keys in ascending order of their numbers, each with the time from which its tokens are rejected.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = (&SigningKey, Option<Timestamp>)> {
        self.keys.iter().map(|key| (&key.key, key.verifies_until))
    }

    /// The key that signs at `now`: the last one whose `signs_from` has passed.
    pub fn signing_key(&self, now: Timestamp) -> Option<&SigningKey> {
        self.signing_entry(now).map(|key| &key.key)
    }

    fn signing_entry(&self, now: Timestamp) -> Option<&KeyEntry> {
        // If the clock has been set back to before the first key, that key signs.
        self.keys.iter().rev().find(|key| key.key.signs_from <= now).or(self.keys.first())
    }

    /// The public keys that verify tokens at `now`. HS256 keys are secret and never among them.
    pub fn public_keys(&self, now: Timestamp) -> Vec<PublicKey> {
        self.keys.iter().filter(|key| key.is_valid_at(now)).filter_map(|key| key.public_key.clone()).collect()
    }

    /// Issues a token with these claims. `url` is the URL of the service that the client uses: the issuer, unless the key ring
    /// has one. Its times are whole seconds; it is valid for `ttl` seconds from that of `now`.
    ///
    /// # Errors
    ///
    /// If the token cannot be signed, or the system provides no random bytes.
    pub fn issue(
        &self,
        claims: &Claims,
        url: &str,
        now: Timestamp,
        ttl: u64,
    ) -> Result<IssuedToken, SecretError> {
        let key = self.signing_entry(now).ok_or(SecretError)?;
        tokens::issue(
            (&key.header, &key.encoding_key),
            self.issuer.as_deref().unwrap_or(url),
            claims,
            now,
            ttl,
        )
    }

    /// Verifies a token and returns its claims.
    ///
    /// # Errors
    ///
    /// If no valid key of the ring signed it, it is malformed, or it has expired at `now`.
    pub fn verify(&self, token: &SecretString, now: Timestamp) -> Result<VerifiedToken, TokenError> {
        let verified = self.verify_ignoring_expiry(token, now)?;
        if verified.expires_at <= now { Err(TokenError::Expired) } else { Ok(verified) }
    }

    /// As [`Self::verify`]; also accepts a token that has expired.
    ///
    /// # Errors
    ///
    /// If no valid key of the ring signed it, or it is malformed.
    pub fn verify_ignoring_expiry(
        &self,
        token: &SecretString,
        now: Timestamp,
    ) -> Result<VerifiedToken, TokenError> {
        let token = token.expose_secret();
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Invalid)?;
        // The header `crit` lists extensions that must be understood (RFC 7515, section 4.1.11); none is supported.
        if header.crit.is_some() {
            return Err(TokenError::Invalid);
        }
        let kid = header.kid.ok_or(TokenError::InvalidSignature)?;
        let key = self.keys.iter().find(|key| key.key.kid == kid).ok_or(TokenError::UnknownKey)?;
        if !key.is_valid_at(now) {
            return Err(TokenError::InvalidSignature);
        }
        let validation = match key.key.algorithm {
            TokenAlgorithm::Hs256 => &self.validations.0,
            TokenAlgorithm::EdDsa => &self.validations.1,
        };
        let mut verified = tokens::verify(token, &key.decoding_key, validation, now)?;
        verified.keyring_number = self.number;
        // Caches of the verified token must not outlive the key.
        verified.expires_at =
            key.verifies_until.map_or(verified.expires_at, |end| verified.expires_at.min(end));
        Ok(verified)
    }
}

fn algorithm(algorithm: TokenAlgorithm) -> Algorithm {
    match algorithm {
        TokenAlgorithm::Hs256 => Algorithm::HS256,
        TokenAlgorithm::EdDsa => Algorithm::EdDSA,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::Scope;
    use crate::types::Id;
    use TokenAlgorithm::{EdDsa, Hs256};
    use proptest::prelude::*;

    const TTL: u64 = 60;

    fn at_second(second: i64) -> Timestamp {
        Timestamp::from_millis(second * 1_000)
    }

    fn key(algorithm: TokenAlgorithm, number: i64, second: i64) -> SigningKey {
        SigningKey::new(algorithm, number, at_second(second)).unwrap()
    }

    fn keyring(keys: &[&SigningKey]) -> Keyring {
        Keyring::new(1, keys.iter().map(|key| (*key).clone()).collect(), TTL, Some("us")).unwrap()
    }

    fn issue_token(keys: &Keyring, now: Timestamp) -> SecretString {
        let claims = Claims { id: Id::EXAMPLE, scope: Scope::Admin.into(), sid: Id::EXAMPLE };
        keys.issue(&claims, "http://localhost", now, TTL).unwrap().token.into()
    }

    #[test]
    fn a_token_is_valid_until_the_second_of_its_expiry() {
        for algorithm in [Hs256, EdDsa] {
            let keys = keyring(&[&key(algorithm, 1, 0)]);
            let token = issue_token(&keys, Timestamp::from_millis(1_500));
            let verified = keys.verify(&token, at_second(2)).unwrap();
            assert_eq!(
                (verified.claims.scope.to_string(), verified.issued_at),
                ("admin".into(), at_second(1))
            );
            assert!(keys.verify(&token, Timestamp::from_millis(60_999)).is_ok());
            assert_eq!(keys.verify(&token, at_second(61)).unwrap_err(), TokenError::Expired);
        }
    }

    #[test]
    fn a_token_of_another_key_issuer_or_kid_is_rejected_even_when_expired() {
        for algorithm in [Hs256, EdDsa] {
            let ours = key(algorithm, 1, 0);
            let keys = keyring(&[&ours]);
            let late = at_second(9_000);
            let other_secret = SigningKey { kid: ours.kid.clone(), ..key(algorithm, 1, 0) };
            let wrong = issue_token(&keyring(&[&other_secret]), at_second(0));
            assert_eq!(keys.verify(&wrong, late), Err(TokenError::InvalidSignature));
            let other = SigningKey { kid: "other".into(), ..ours.clone() };
            let wrong = issue_token(&keyring(&[&other]), at_second(0));
            assert_eq!(keys.verify(&wrong, at_second(0)), Err(TokenError::UnknownKey));
            let them = Keyring::new(1, vec![ours], TTL, Some("them")).unwrap();
            assert_eq!(
                keys.verify(&issue_token(&them, at_second(0)), at_second(0)),
                Err(TokenError::Invalid)
            );
        }
    }

    #[test]
    fn malformed_tokens_are_rejected() {
        let keys = keyring(&[&key(Hs256, 1, 0)]);
        for text in ["a.b.c", "eyJhbGciOiJub25lIn0.e30.", "", "…"] {
            assert_eq!(keys.verify(&text.into(), at_second(0)), Err(TokenError::Invalid), "{text}");
        }
    }

    #[test]
    fn a_rotated_key_verifies_until_its_last_token_expires() {
        let (first, second) = (key(Hs256, 1, 0), key(EdDsa, 2, 100));
        let keys = keyring(&[&first, &second]);
        assert_eq!(keys.signing_key(at_second(99)).unwrap().kid, first.kid);
        assert_eq!(keys.signing_key(at_second(100)).unwrap().kid, second.kid);
        let ends: Vec<_> = keys.keys().map(|(_, end)| end).collect();
        assert_eq!(ends, [Some(at_second(100 + 60 + 60)), None]);
        // Signed by a process that learned late of the successor.
        let late = issue_token(&keyring(&[&first]), at_second(165));
        assert!(keys.verify(&late, at_second(219)).is_ok());
        assert_eq!(
            keys.verify(&late, at_second(219)).unwrap().expires_at,
            at_second(220),
            "no longer than its key"
        );
        assert_eq!(keys.verify(&late, at_second(220)), Err(TokenError::InvalidSignature));
    }

    #[test]
    fn a_key_superseded_before_its_start_never_signs() {
        let (first, skipped, now) = (key(Hs256, 1, 0), key(Hs256, 2, 600), key(EdDsa, 3, 10));
        let keys = keyring(&[&first, &skipped, &now]);
        for second in [10, 599, 600, 10_000] {
            assert_eq!(keys.signing_key(at_second(second)).unwrap().kid, now.kid, "{second}");
        }
    }

    #[test]
    fn errors_and_debug_output_do_not_contain_key_secrets() {
        for secret in ["", "zz", "0123456789abcdef", "abc"] {
            let wrong = SigningKey { secret: secret.into(), ..key(EdDsa, 1, 0) };
            let error = Keyring::new(1, vec![wrong.clone()], TTL, Some("us")).unwrap_err().to_string();
            // A very short secret may occur in the kid by chance.
            let rest = error.replacen(&wrong.kid, "", 1);
            assert!(rest != error && (secret.is_empty() || !rest.contains(secret)), "{error}");
        }
        assert!(Keyring::new(1, vec![], TTL, Some("us")).is_err());
        let one = key(EdDsa, 1, 0);
        let debug = format!("{:?} {:?}", one, keyring(&[&one]));
        assert!(!debug.contains(one.secret.expose_secret()), "{debug}");
    }

    proptest! {
        // For all sequences of rotations: some key signs at any time, its tokens are valid for their whole lifetime, and the
        // public keys reveal nothing of a secret.
        #[test]
        fn tokens_stay_valid_across_rotations(
            steps in proptest::collection::vec((0..300i64, proptest::bool::ANY), 1..6), now in 0..2_000i64, age in 0..60i64
        ) {
            let mut from = 0;
            let keys: Vec<SigningKey> = steps.iter().zip(1..).map(|((step, is_public), number)| {
                from += step;
                key(if *is_public { EdDsa } else { Hs256 }, number, from)
            }).collect();
            let all = keyring(&keys.iter().collect::<Vec<_>>());
            let token = issue_token(&all, at_second(now));
            prop_assert!(all.verify(&token, at_second(now + age)).is_ok());
            prop_assert_eq!(all.verify(&token, at_second(now + 60)).is_ok(), false);
            let public = serde_json::to_string(&all.public_keys(at_second(now))).unwrap();
            for key in &keys {
                prop_assert!(!public.contains(key.secret.expose_secret()));
                prop_assert!(key.algorithm == EdDsa || !public.contains(&key.kid));
            }
            prop_assert!(!public.contains("\"k\"") && !public.contains("\"d\"") && !public.contains("\"oct\""));
            if let Some(key) = all.signing_key(at_second(now)).filter(|key| key.algorithm == EdDsa) {
                prop_assert!(public.contains(&key.kid));
            }
        }
    }
}
