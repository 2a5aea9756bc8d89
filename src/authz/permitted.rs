//! Undecided -> Permitted. Only the engine turns the one into the other, and only what is permitted can be shown or
//! saved: a handler that forgets to ask does not compile.

use super::facts::Thing;
use super::{Resourced, Scope};
use crate::values::{Id, OrgPath};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// A thing of which Cedar has not been asked yet. It can be neither shown nor saved.
///
/// It does not serialize:
///
/// ```compile_fail,E0277
/// fn show(row: cedargate::authz::Undecided<cedargate::api::forms::Form>) -> String {
///     serde_json::to_string(&row).unwrap_or_default()
/// }
/// ```
///
/// Nor can it be saved:
///
/// ```compile_fail,E0308
/// async fn save(work: cedargate::store::Work, row: cedargate::authz::Undecided<cedargate::api::forms::Form>) {
///     let _ = work.save(row).await;
/// }
/// ```
///
/// What was permitted can:
///
/// ```
/// async fn save(work: cedargate::store::Work, row: cedargate::authz::Permitted<cedargate::api::forms::Form>) {
///     let _ = work.save(row).await;
/// }
/// ```
pub struct Undecided<T> {
    thing: Arc<T>,
    path: OrgPath,
    /// What Cedar must know of it, once that is wanted.
    resourced: OnceLock<Arc<Resourced>>,
}

impl<T> Clone for Undecided<T> {
    fn clone(&self) -> Self {
        let (thing, path) = (Arc::clone(&self.thing), self.path.clone());
        Self { thing, path, resourced: self.resourced.clone() }
    }
}

impl<T> Undecided<T> {
    /// A thing held by the organization that stands at `path`; an organization stands there itself.
    pub fn new(thing: T, path: OrgPath) -> Self {
        Self { thing: Arc::new(thing), path, resourced: OnceLock::new() }
    }

    /// To be called by the engine when it has permitted it.
    pub(super) fn permitted(self) -> Permitted<T> {
        Permitted { thing: self.thing, path: self.path }
    }
}

impl<T: Thing> Undecided<T> {
    /// What Cedar must know of it.
    pub fn resourced(&self) -> Arc<Resourced> {
        let resourced = self.resourced.get_or_init(|| {
            Resourced::new(T::TYPE, self.thing.id(), self.thing.attributes(), &self.path).into()
        });
        Arc::clone(resourced)
    }

    /// What Cedar must know of it as a resource that is being created.
    pub(super) fn created(&self) -> Resourced {
        Resourced::created(T::TYPE, self.thing.id(), self.thing.attributes(), &self.path)
    }

    /// The role that a user has or would have; none for other resources.
    pub fn granted_role(&self) -> Option<Scope> {
        self.thing.granted_role()
    }
}

impl<T: Serialize> Undecided<T> {
    /// The names of those fields of a patch that would get a new value, which policies may read before they decide.
    pub fn differing(&self, patch: &Map<String, Value>) -> Vec<String> {
        let own = serde_json::to_value(&*self.thing).unwrap_or(Value::Null);
        patch
            .iter()
            .filter(|(name, value)| own.get(name) != Some(value))
            .map(|(name, _)| name.clone())
            .collect()
    }
}

impl<T> fmt::Debug for Undecided<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Undecided<{}>", std::any::type_name::<T>())
    }
}

/// A thing that the caller may have, because Cedar said so.
#[derive(Clone)]
pub struct Permitted<T> {
    thing: Arc<T>,
    path: OrgPath,
}

impl<T> Permitted<T> {
    /// Where the organization stands that holds it.
    pub fn path(&self) -> &OrgPath {
        &self.path
    }

    /// A changed form of it, to be asked about, held by the organization that stands at `path`.
    pub fn changed(&self, thing: T, path: OrgPath) -> Undecided<T> {
        Undecided::new(thing, path)
    }
}

impl<T: Thing> Permitted<T> {
    /// What Cedar must know of it, to decide whether another action on it is permitted.
    pub fn resourced(&self) -> Resourced {
        Resourced::new(T::TYPE, self.thing.id(), self.thing.attributes(), &self.path)
    }
}

impl<T> std::ops::Deref for Permitted<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.thing
    }
}

impl<T: Serialize> Serialize for Permitted<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.thing.serialize(serializer)
    }
}

impl<T> fmt::Debug for Permitted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permitted<{}>", std::any::type_name::<T>())
    }
}

/// Organizations of which an action is permitted. Never empty.
#[derive(Debug, Clone)]
pub struct Within {
    organizations: HashSet<Id>,
    denied: Vec<Id>,
    whole: bool,
}

impl Within {
    /// Those of `asked` that `allowed` says yes to; none where it says yes to none.
    pub(super) fn permitted(
        asked: Vec<OrgPath>,
        allowed: impl Fn(&OrgPath) -> bool,
    ) -> Option<Permitted<Self>> {
        let top = asked.first()?.clone();
        let (organizations, denied): (Vec<&OrgPath>, Vec<&OrgPath>) =
            asked.iter().partition(|path| allowed(path));
        let organizations: HashSet<Id> = organizations.into_iter().map(OrgPath::own).collect();
        let denied: Vec<Id> = denied.into_iter().map(OrgPath::own).collect();
        let whole = asked.len() > 1 && denied.is_empty();
        let within = Self { organizations, denied, whole };
        (!within.organizations.is_empty()).then_some(Permitted { thing: within.into(), path: top })
    }

    /// Whether these are all organizations of a subtree.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Those that were asked about, too, and of which it is not permitted.
    pub fn denied(&self) -> &[Id] {
        &self.denied
    }

    /// The organizations.
    pub fn organizations(&self) -> &HashSet<Id> {
        &self.organizations
    }
}

impl Permitted<Within> {
    /// The organization at the top of the subtree that was asked about.
    pub fn top(&self) -> &OrgPath {
        &self.path
    }

    /// A thing of the list, if one of these organizations holds it.
    pub fn admit<T>(&self, thing: Undecided<T>) -> Option<Permitted<T>> {
        self.organizations.contains(&thing.path.own()).then(|| thing.permitted())
    }
}

/// That an action is not permitted.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{action} is not permitted")]
pub struct Denied {
    action: String,
}

impl Denied {
    pub(super) fn new(action: &str) -> Self {
        Self { action: action.to_owned() }
    }

    /// What is not permitted.
    pub fn action(&self) -> &str {
        &self.action
    }
}
