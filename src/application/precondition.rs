//! Versions of resources, and changes on condition that a resource has a certain version.

use super::{Error, ErrorKind};
use crate::authz::Permitted;
use crate::resource::Resource;
use crate::resource::column::to_json_text;
use aws_lc_rs::digest::{SHA256, digest};

/// The number of hex digits of a version.
const VERSION_LENGTH: usize = 32;

/// Returns the version of a resource: equal versions stand for equal contents.
pub fn version<R: Resource>(resource: &Permitted<R>) -> String {
    // With sorted keys: a resource that was just created has those of free objects in the order of the request.
    let text = to_json_text(resource);
    hex::encode(digest(&SHA256, text.as_bytes())).chars().take(VERSION_LENGTH).collect()
}

/// The versions on which a change is made (RFC 9110, section 13.1.1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Precondition {
    /// Any.
    #[default]
    None,
    /// One of these.
    OneOf(Vec<String>),
}

impl Precondition {
    /// Checks that a resource has one of the versions, after it has been authorized: the error discloses that it exists.
    ///
    /// # Errors
    /// `precondition_failed`.
    pub fn check<R: Resource>(&self, resource: &Permitted<R>) -> Result<(), Error> {
        match self {
            Self::OneOf(versions) if !versions.contains(&version(resource)) => Err(Error::new(
                ErrorKind::PreconditionFailed,
                "precondition_failed",
                "The resource has changed: `If-Match` does not have its current ETag. Fetch it again.",
            )),
            Self::None | Self::OneOf(_) => Ok(()),
        }
    }
}
