//! Which query parameters a route accepts: others are rejected, because a misspelled one would have no effect.

use super::operation_doc::{OperationDoc, OperationDocFn};
use super::{FieldError, Problem};
use crate::types::FieldErrorCode;
use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

/// Which query parameters a route accepts.
#[derive(Clone, Debug)]
pub(super) enum QueryCheck {
    /// Those that its OpenAPI operation declares, each once.
    Declared(Arc<DeclaredParameters>),
    /// The handler rejects unknown ones, for example because names are nested.
    ByHandler,
    /// The query string is that of another request.
    Unchecked,
}

impl QueryCheck {
    /// Accepts the parameters that this operation declares.
    pub(super) fn declared(doc: Arc<dyn OperationDocFn>) -> Self {
        Self::Declared(Arc::new(DeclaredParameters { doc, names: OnceLock::new() }))
    }
}

/// The query parameters of an OpenAPI operation, which is built at the first request that has a query string.
pub(super) struct DeclaredParameters {
    doc: Arc<dyn OperationDocFn>,
    names: OnceLock<ParameterNames>,
}

impl std::fmt::Debug for DeclaredParameters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeclaredParameters").finish_non_exhaustive()
    }
}

impl DeclaredParameters {
    pub(super) fn names(&self) -> &ParameterNames {
        self.names.get_or_init(|| ParameterNames::of(&(self.doc)()))
    }
}

/// The names of the query parameters of an operation.
pub(super) struct ParameterNames {
    all: Vec<String>,
    /// Whether its problems may have the form of OAuth errors.
    pub(super) has_oauth_errors: bool,
}

impl ParameterNames {
    fn of(doc: &OperationDoc) -> Self {
        let all = doc.query_parameters().map(str::to_owned).collect();
        Self { all, has_oauth_errors: doc.has_oauth_errors }
    }

    /// Checks the parameters of a request.
    ///
    /// # Errors
    /// 400 with those that are unknown or repeated.
    pub(super) fn check(&self, pairs: &[(String, String)]) -> Result<(), Problem> {
        check_names(&self.all, pairs)
    }
}

/// Checks the parameters of a request against the names that its operation accepts.
///
/// # Errors
/// 400 with those that are unknown or repeated.
pub fn check_names<N: AsRef<str>>(accepted: &[N], pairs: &[(String, String)]) -> Result<(), Problem> {
    let (mut seen, mut errors) = (HashSet::new(), Vec::new());
    for (name, _) in pairs {
        if !accepted.iter().any(|other| other.as_ref() == name) {
            let names: Vec<&str> = accepted.iter().map(AsRef::as_ref).collect();
            let message = match names.as_slice() {
                [] => "unknown parameter; expected none".to_owned(),
                names => format!("unknown parameter; expected one of {}", names.join(", ")),
            };
            errors.push(FieldError::new(name.clone(), FieldErrorCode::UnknownField, message));
        } else if !seen.insert(name) {
            errors.push(FieldError::new(name.clone(), FieldErrorCode::Duplicate, "duplicate parameter"));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Problem::invalid_fields(errors)) }
}
