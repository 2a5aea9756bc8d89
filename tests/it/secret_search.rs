//! Searching for secrets, in whatever form they may have got somewhere.

use crate::refresh::refresh_token;
use crate::support::to_base64;
use crate::token_families::access_token;
use serde_json::{Value, json};
use std::collections::HashMap;

/// A piece of a secret is found if it is this long.
const MIN_MATCH: usize = 16;
/// Digits and letters stand as they are in JSON, in query strings and where Rust escapes a text.
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A new secret.
fn random_secret() -> String {
    let mut random = [0; 28];
    aws_lc_rs::rand::fill(&mut random).unwrap();
    random.iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

/// What a text may look like where somebody writes it down, each with its name.
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
    // Base64 depends on how much stands before it, and its ends on what stands beside it.
    for before in 0..3 {
        let digits = to_base64(&[&vec![0; before], bytes].concat());
        let inner = digits[before + 1..digits.len() - 2].to_owned();
        forms.push(("in base64", inner.replace('-', "+").replace('_', "/")));
        forms.push(("in base64url", inner));
    }
    forms
}

/// The secrets, and where to find them.
#[derive(Default)]
pub(crate) struct Secrets {
    /// Every piece of every form of them, with the name and the form.
    pieces: HashMap<[u8; MIN_MATCH], (String, &'static str)>,
    /// All of them, by name.
    pub(crate) by_name: Vec<(String, String)>,
}

impl Secrets {
    /// A new secret with this name.
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

    /// A pair of tokens: the signature of the one, and what follows the user's id in the other.
    pub(crate) fn add_tokens(&mut self, name: &str, tokens: &Value) {
        self.add(&format!("{name}: access token"), access_token(tokens).rsplit_once('.').unwrap().1);
        self.add(&format!("{name}: refresh token"), refresh_token(tokens).split_once('.').unwrap().1);
    }

    /// The first secret in these bytes: which one, in which form, and what stands around it.
    fn find(&self, bytes: &[u8]) -> Option<String> {
        bytes.windows(MIN_MATCH).enumerate().find_map(|(index, piece)| {
            let (name, form) = self.pieces.get(piece)?;
            let around = &bytes[index.saturating_sub(200)..bytes.len().min(index + 100)];
            Some(format!("{name}, {form}: {}", String::from_utf8_lossy(around)))
        })
    }

    #[track_caller]
    pub(crate) fn expect_none(&self, place: &str, bytes: &[u8]) {
        assert!(!bytes.is_empty(), "there is nothing in {place}");
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
