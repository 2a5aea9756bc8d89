//! The verification of rows that a query selects by policies: those of a search, and those of a list that policies filter.
//!
//! Each row is an allow of one question. It is decided again on an entity from the same query, or from one with the same
//! conditions, so that a concurrent change of the row is no difference.

use super::super::entities::{EntityData, Principal};
use super::super::reference::{Question, Reference};
use super::super::{AuthzRequest, Engine, ResourceEntity};
use super::{Decided, Sample, SampleResource, Verifier};
use crate::types::Id;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// The verification of the rows that one query selects for some questions.
#[derive(Debug, Clone)]
pub struct RowVerification {
    reference: Arc<Reference>,
    verifier: Arc<Verifier>,
    questions: Vec<Arc<Question>>,
    /// Whether the rows are those of a list, which need no permit.
    is_list: bool,
}

impl Engine {
    /// Returns the verification of rows on which all of these requests are allowed; none if it is off.
    pub fn row_verification(&self, requests: &[&AuthzRequest<'_>]) -> Option<RowVerification> {
        self.verification_of(requests, false)
    }

    /// Returns the verification of the rows of a list; none if it is off.
    pub(in crate::authz) fn list_verification(&self, request: &AuthzRequest<'_>) -> Option<RowVerification> {
        self.verification_of(&[request], true)
    }

    fn verification_of(&self, requests: &[&AuthzRequest<'_>], is_list: bool) -> Option<RowVerification> {
        let verifier = Arc::clone(self.verification.verifier.as_ref()?);
        let question = |request: &&AuthzRequest<'_>| {
            Arc::new(Question::new(request.principal, request.action, request.context))
        };
        let questions = requests.iter().map(question).collect();
        Some(RowVerification {
            reference: Arc::clone(&self.verification.reference),
            verifier,
            questions,
            is_list,
        })
    }
}

impl RowVerification {
    /// Returns those of the selected rows that are in the sample.
    pub fn sample(&self, ids: &[Id]) -> Vec<Id> {
        ids.iter().copied().filter(|_| self.verifier.is_due()).collect()
    }

    /// Has a row that was read verified if it is one of the sample.
    pub(in crate::authz) fn verify_sampled(&self, row: impl FnOnce() -> Arc<ResourceEntity>) {
        if self.verifier.is_due() {
            self.verify(&row());
        }
    }

    /// Allows to load `count` rows of the sample. None if other rows are being loaded: these are counted as dropped.
    pub fn begin_load(&self, count: usize) -> Option<OwnedSemaphorePermit> {
        let permit = self.verifier.begin_load();
        if permit.is_none() {
            self.count_dropped(count);
        }
        permit
    }

    /// Counts rows of the sample that could not be loaded.
    pub fn count_dropped(&self, count: usize) {
        self.verifier
            .count_dropped(u64::try_from(count.saturating_mul(self.questions.len())).unwrap_or(u64::MAX));
    }

    /// Queues a row for verification.
    pub fn verify(&self, row: &ResourceEntity) {
        for question in &self.questions {
            // The caller's own row has changed since its credential was verified: policies would read two states of it.
            if is_changed_principal(row, &question.principal) {
                continue;
            }
            self.verifier.submit(Sample {
                reference: Arc::clone(&self.reference),
                question: Arc::clone(question),
                resource: SampleResource::Entity(row.clone()),
                decided: if self.is_list { Decided::ListedRow } else { Decided::SelectedRow },
            });
        }
    }
}

/// Returns whether a row is the principal with other attributes.
fn is_changed_principal(row: &ResourceEntity, principal: &Principal) -> bool {
    match row.data() {
        EntityData::Local(local) => row.is_same(principal) && !principal.has_attributes(&local.attributes),
        EntityData::External(_) => false,
    }
}
