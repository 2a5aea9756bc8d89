//! Deserialization of lists, which are arrays in the file and separated by commas in the environment, and of enumerations.

use super::CacheName;
use crate::types::{Id, InvalidValue};
use ipnet::IpNet;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Reads at least one directory.
///
/// # Errors
/// The list is empty, or one of its names is.
pub(super) fn paths<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    let paths = list(deserializer)?;
    if paths.is_empty() || paths.iter().any(String::is_empty) {
        return Err(Error::custom("expected at least one directory, and no empty names"));
    }
    Ok(paths.into_iter().map(PathBuf::from).collect())
}

/// Reads names; an empty text is an empty list.
///
/// # Errors
/// One of several names is empty.
pub(super) fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let names = list(deserializer)?;
    match names.as_slice() {
        [one] if one.is_empty() => Ok(Vec::new()),
        several if several.iter().any(String::is_empty) => {
            Err(Error::custom("expected names separated by commas, got an empty name"))
        }
        _ => Ok(names),
    }
}

/// Reads IP addresses, and ranges in CIDR notation (RFC 4632, section 3.1).
///
/// # Errors
/// One of the texts is neither an address nor a range.
pub(super) fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let network = |text: String| {
        let address = text.parse().map(|address: IpAddr| address.to_canonical().into());
        address.or_else(|_| text.parse()).map_err(|_| {
            Error::custom(format!(
                "expected an address or a range such as 10.0.0.0/8 or 2001:db8::/32, got {text:?}"
            ))
        })
    };
    names(deserializer)?.into_iter().map(network).collect()
}

/// Reads ids.
///
/// # Errors
/// One of the texts is not an id.
pub(super) fn ids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Id>, D::Error> {
    names(deserializer)?.iter().map(|text| text.parse().map_err(Error::custom)).collect()
}

/// Reads names of caches.
///
/// # Errors
/// One of the names is not the name of a cache.
pub(super) fn caches<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<CacheName>, D::Error> {
    names(deserializer)?.iter().map(|text| text.parse().map_err(Error::custom)).collect()
}

/// Reads an enumeration. Unlike that of the derived implementation, the error lists the accepted values.
///
/// # Errors
/// The text is none of the accepted values.
pub(super) fn from_text<'de, D: Deserializer<'de>, T: FromStr<Err = InvalidValue>>(
    deserializer: D,
) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(Error::custom)
}

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
