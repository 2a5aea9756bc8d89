//! The errors of a request about several resources: each names the element that it is about.

use super::error::MAX_FIELD_ERRORS;
use super::fields::join_path;
use super::{Error, ErrorKind, FieldError};
use crate::types::FieldErrorCode;

/// Collects the errors of elements.
#[derive(Debug)]
pub(super) struct ElementErrors {
    /// Whether fields get the name of their element.
    is_labelled: bool,
    /// The first denial, with the elements of all denials as fields.
    denial: Option<Error>,
    /// The first other error about fields, with the fields of all of them.
    invalid: Option<Error>,
}

impl ElementErrors {
    /// Creates a collection whose errors name their elements. For a single resource they do not.
    pub(super) fn new(is_labelled: bool) -> Self {
        Self { is_labelled, denial: None, invalid: None }
    }

    /// Returns the name of an element, if errors have one.
    pub(super) fn label(&self, label: String) -> String {
        if self.is_labelled { label } else { String::new() }
    }

    /// Adds the error of an element.
    ///
    /// # Errors
    /// The error, with the name of the element, if it is neither a denial nor about fields of the request.
    pub(super) fn add(&mut self, label: String, error: Error) -> Result<(), Error> {
        match self.is_labelled {
            true => self.add_labelled(error.in_element(&label)),
            false => self.add_labelled(error),
        }
    }

    /// Adds an error whose fields name their elements already.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub(super) fn add_labelled(&mut self, error: Error) -> Result<(), Error> {
        let collected = match error.kind {
            ErrorKind::Forbidden => &mut self.denial,
            ErrorKind::InvalidInput => &mut self.invalid,
            _ => return Err(error),
        };
        match collected {
            None => *collected = Some(error),
            // Without names, the fields would be repeated.
            Some(_) if error.kind == ErrorKind::InvalidInput && !self.is_labelled => {}
            Some(first) => {
                first.fields.extend(error.fields);
                first.fields.truncate(MAX_FIELD_ERRORS);
            }
        }
        Ok(())
    }

    /// Returns whether an element is denied.
    pub(super) fn has_denials(&self) -> bool {
        self.denial.is_some()
    }

    /// Checks that there are no errors.
    ///
    /// # Errors
    /// The denials, else the invalid fields.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        match self.denial.take().or_else(|| self.invalid.take()) {
            None => Ok(()),
            Some(error) if self.is_labelled && error.kind == ErrorKind::InvalidInput => {
                Err(Error { message: Error::list_fields(&error.fields), ..error })
            }
            Some(error) => Err(error),
        }
    }
}

impl Error {
    /// Returns the error with the name of the element that it is about, in its fields and in its message.
    #[must_use]
    pub(super) fn in_element(mut self, label: &str) -> Self {
        for error in &mut self.fields {
            error.field = join_path(label, &error.field);
        }
        if self.fields.is_empty() {
            let code = match self.kind {
                ErrorKind::Forbidden => FieldErrorCode::NotAllowed,
                ErrorKind::NotFound => FieldErrorCode::NotFound,
                ErrorKind::Conflict => FieldErrorCode::Conflict,
                ErrorKind::TooLarge => FieldErrorCode::TooLarge,
                ErrorKind::InvalidInput => FieldErrorCode::InvalidFormat,
                // Not about the element.
                _ => return self,
            };
            self.fields.push(FieldError::new(label, code, &self.message));
        }
        self.message = match self.kind {
            ErrorKind::InvalidInput => Self::list_fields(&self.fields),
            _ => format!("{label}: {}", self.message),
        };
        self
    }
}
