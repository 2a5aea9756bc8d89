//! Settings that are lists: arrays in the file, separated by commas in the environment.

use crate::types::{Id, InvalidValue};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer};
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// A list of directories, of which there is one at least.
pub(super) fn paths<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    let paths = list(deserializer)?;
    if paths.is_empty() || paths.iter().any(String::is_empty) {
        return Err(serde::de::Error::custom("at least one directory is needed, and none can be empty"));
    }
    Ok(paths.into_iter().map(PathBuf::from).collect())
}

/// A list of names; an empty text is none.
pub(super) fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let names = list(deserializer)?;
    match names.as_slice() {
        [one] if one.is_empty() => Ok(Vec::new()),
        several if several.iter().any(String::is_empty) => {
            Err(serde::de::Error::custom("it has an empty name; it must be names separated by commas"))
        }
        _ => Ok(names),
    }
}

/// A list of networks: addresses, and ranges in CIDR notation (RFC 4632, 3.1).
pub(super) fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let network = |text: String| {
        let address = text.parse().map(|address: IpAddr| address.to_canonical().into());
        address.or_else(|_| text.parse()).map_err(|_| {
            let message =
                format!("{text:?} is neither an address nor a range such as 10.0.0.0/8 or 2001:db8::/32");
            serde::de::Error::custom(message)
        })
    };
    names(deserializer)?.into_iter().map(network).collect()
}

/// A list of ids, such as those of API keys.
pub(super) fn ids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Id>, D::Error> {
    names(deserializer)?.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

/// One of a few words. Unlike the message of the derived implementation, the error lists the words that are accepted.
pub(super) fn from_text<'de, D: Deserializer<'de>, T: FromStr<Err = InvalidValue>>(
    deserializer: D,
) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

/// A list: an array in the file, separated by commas in the environment.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Texts {
        One(String),
        List(Vec<String>),
    }
    Ok(match Texts::deserialize(deserializer)? {
        Texts::One(text) => text.split(',').map(|part| part.trim().to_owned()).collect(),
        Texts::List(texts) => texts,
    })
}
