//! Search for secrets in any encoding.

use crate::refresh::refresh_token;
use crate::support::to_base64;
use crate::token_families::access_token;
use serde_json::{Value, json};
use std::collections::HashMap;

/// The minimum length of a part of a secret that is found.
const MIN_MATCH: usize = 16;
/// Digits and letters are the same in JSON, in query strings and in Rust's escaped strings.
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A new random secret.
fn random_secret() -> String {
    let mut random = [0; 28];
    aws_lc_rs::rand::fill(&mut random).unwrap();
    random.iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

/// The encodings of a text, with their names.
fn encodings(secret: &str) -> Vec<(&'static str, String)> {
    let bytes = secret.as_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let list: Vec<String> = bytes.iter().map(u8::to_string).collect();
    let mut forms = vec![
        ("as it is", secret.to_owned()),
        ("in hex", hex.to_uppercase()),
        ("in hex", hex),
        ("as a list of bytes", list.join(", ")),
    ];
    // Base64 depends on the number of bytes before the text, and its ends on the bytes around it.
    for before in 0..3 {
        let digits = to_base64(&[&vec![0; before], bytes].concat());
        let inner = digits[before + 1..digits.len() - 2].to_owned();
        forms.push(("in base64", inner.replace('-', "+").replace('_', "/")));
        forms.push(("in base64url", inner));
    }
    forms
}

/// Secrets, and an index of their encodings.
#[derive(Default)]
pub(crate) struct Secrets {
    /// Every part of every encoding of the secrets, with the name and the encoding.
    pieces: HashMap<[u8; MIN_MATCH], (String, &'static str)>,
    /// All secrets, by name.
    pub(crate) by_name: Vec<(String, String)>,
}

impl Secrets {
    /// Generates a secret with this name.
    pub(crate) fn generate(&mut self, name: &str) -> String {
        let secret = random_secret();
        self.add(name, &secret);
        secret
    }

    pub(crate) fn add(&mut self, name: &str, secret: &str) {
        for (form, text) in encodings(secret) {
            for piece in text.as_bytes().windows(MIN_MATCH) {
                self.pieces.insert(piece.try_into().unwrap(), (name.to_owned(), form));
            }
        }
        self.by_name.push((name.to_owned(), secret.to_owned()));
    }

    /// Adds a pair of tokens: the signature of the access token, and the refresh token without the user id.
    pub(crate) fn add_tokens(&mut self, name: &str, tokens: &Value) {
        self.add(&format!("{name}: access token"), access_token(tokens).rsplit_once('.').unwrap().1);
        self.add(&format!("{name}: refresh token"), refresh_token(tokens).split_once('.').unwrap().1);
    }

    /// The first secret in these bytes: its name, its encoding and the text around it.
    fn find(&self, bytes: &[u8]) -> Option<String> {
        bytes.windows(MIN_MATCH).enumerate().find_map(|(index, piece)| {
            let (name, form) = self.pieces.get(piece)?;
            let around = &bytes[index.saturating_sub(200)..bytes.len().min(index + 100)];
            Some(format!("{name}, {form}: {}", String::from_utf8_lossy(around)))
        })
    }

    #[track_caller]
    pub(crate) fn expect_none(&self, place: &str, bytes: &[u8]) {
        assert!(!bytes.is_empty(), "{place} is empty");
        if let Some(found) = self.find(bytes) {
            panic!("in {place}: {found}");
        }
    }
}

#[test]
fn a_fragment_of_a_secret_is_found_in_every_encoding() {
    let mut secrets = Secrets::default();
    let secret = secrets.generate("password");
    for before in ["", "x", "xy", "a long text of which it is a part, with a quote \" in it: "] {
        let text_with_secret = format!("{before}{secret} and on");
        let url: String = url::form_urlencoded::byte_serialize(text_with_secret.as_bytes()).collect();
        let base64 = to_base64(text_with_secret.as_bytes());
        let hex: String = text_with_secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        for text in [
            format!("{text_with_secret:?}"),
            json!({ "password": text_with_secret }).to_string(),
            format!("{:?}", json!(json!(text_with_secret).to_string())),
            url,
            base64.replace('-', "+").replace('_', "/"),
            base64,
            hex.to_uppercase(),
            hex,
            format!("{:?}", text_with_secret.as_bytes()),
            format!("b{:?}", text_with_secret.as_bytes().escape_ascii().to_string()),
            format!("{}…", &text_with_secret[..before.len() + MIN_MATCH]),
        ] {
            let found = secrets.find(format!("…{text}…").as_bytes());
            assert!(found.is_some_and(|found| found.starts_with("password, ")), "{text}");
        }
    }
    assert_eq!(secrets.find(random_secret().as_bytes()), None);
}
