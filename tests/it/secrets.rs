//! Searching for secrets, in whatever form they may have got somewhere.

use crate::families::access;
use crate::refresh::refresh_token;
use crate::support::to_base64;
use serde_json::{Value, json};
use std::collections::HashMap;

/// A piece of a secret is found if it is this long.
const PIECE: usize = 16;
/// Digits and letters stand as they are in JSON, in query strings and where Rust escapes a text.
const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A new secret.
fn canary() -> String {
    let mut random = [0; 28];
    aws_lc_rs::rand::fill(&mut random).unwrap();
    random.iter().map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])).collect()
}

/// What a text may look like where somebody writes it down, each with its name.
fn forms(secret: &str) -> Vec<(&'static str, String)> {
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
    pieces: HashMap<[u8; PIECE], (String, &'static str)>,
    /// All of them, by name.
    pub(crate) known: Vec<(String, String)>,
}

impl Secrets {
    /// A new secret with this name.
    pub(crate) fn make(&mut self, name: &str) -> String {
        let secret = canary();
        self.add(name, &secret);
        secret
    }

    pub(crate) fn add(&mut self, name: &str, secret: &str) {
        for (form, text) in forms(secret) {
            for piece in text.as_bytes().windows(PIECE) {
                self.pieces.insert(piece.try_into().unwrap(), (name.to_owned(), form));
            }
        }
        self.known.push((name.to_owned(), secret.to_owned()));
    }

    /// A pair of tokens: the signature of the one, and what follows the user's id in the other.
    pub(crate) fn add_tokens(&mut self, name: &str, tokens: &Value) {
        self.add(&format!("{name}: access token"), access(tokens).rsplit_once('.').unwrap().1);
        self.add(&format!("{name}: refresh token"), refresh_token(tokens).split_once('.').unwrap().1);
    }

    /// The first secret in these bytes: which one, in which form, and what stands around it.
    fn find(&self, bytes: &[u8]) -> Option<String> {
        bytes.windows(PIECE).enumerate().find_map(|(at, piece)| {
            let (name, form) = self.pieces.get(piece)?;
            let around = &bytes[at.saturating_sub(200)..bytes.len().min(at + 100)];
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
fn the_search_finds_a_piece_of_a_secret_in_every_form() {
    let mut secrets = Secrets::default();
    let secret = secrets.make("password");
    for before in ["", "x", "xy", "a long text of which it is a part, with a quote \" in it: "] {
        let whole = format!("{before}{secret} and on");
        let url: String = url::form_urlencoded::byte_serialize(whole.as_bytes()).collect();
        let base64 = to_base64(whole.as_bytes());
        let hex: String = whole.bytes().map(|byte| format!("{byte:02x}")).collect();
        for text in [
            format!("{whole:?}"),
            json!({ "password": whole }).to_string(),
            format!("{:?}", json!(json!(whole).to_string())),
            url,
            base64.replace('-', "+").replace('_', "/"),
            base64,
            hex.to_uppercase(),
            hex,
            format!("{:?}", whole.as_bytes()),
            format!("b{:?}", whole.as_bytes().escape_ascii().to_string()),
            format!("{}…", &whole[..before.len() + PIECE]),
        ] {
            let found = secrets.find(format!("…{text}…").as_bytes());
            assert!(found.is_some_and(|found| found.starts_with("password, ")), "{text}");
        }
    }
    assert_eq!(secrets.find(canary().as_bytes()), None);
}
