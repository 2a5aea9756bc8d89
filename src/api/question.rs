//! What the decision endpoints share: who is asked about and whether the caller may ask, which thing is meant, and how an
//! answer looks.

use crate::authz::{About, Answer, Ask, Circumstances, Engine, ExternalError, Missing};
use crate::authz::{Principal, Resourced, UnfitAttribute};
pub use crate::http::forward::POLICY_VERSION;
use crate::http::{ByRole, Caller, Gate, Problem};
use crate::values::Id;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::ToSchema;

/// What stood in the way of a decision.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Obstacle {
    /// A word for programs to go by: `undecidable`, `invalid_attribute`, `missing_attribute`, `unknown_subject`,
    /// `invalid`, `blocked`, `forbidden`, `token_expired`, `invalid_token`.
    pub code: &'static str,
    /// A sentence for people.
    pub message: String,
    /// The attribute that does not fit its declaration, as in `resource.properties.amount`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub attribute: Option<String>,
}

impl Obstacle {
    /// Says what stands in the way.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), attribute: None }
    }

    /// An attribute does not fit its declaration.
    fn unfit(unfit: &UnfitAttribute) -> Self {
        Self { attribute: Some(unfit.path.clone()), ..Self::new(unfit.code, unfit.to_string()) }
    }

    /// A question about the external entity `part` (`subject` or `resource`) cannot be evaluated.
    fn external(error: ExternalError, part: &str, unknown: &'static str) -> Self {
        match error {
            ExternalError::Attribute(unfit) => {
                Self::unfit(&UnfitAttribute { path: format!("{part}.properties.{}", unfit.path), ..unfit })
            }
            ExternalError::UnknownType(_) => Self::new(unknown, error.to_string()),
            ExternalError::Failed(message) => Self::new("undecidable", message),
        }
    }
}

/// Somebody or something that a question names.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    /// The entity type.
    pub kind: &'a str,
    /// The id.
    pub id: &'a str,
    /// What whoever asks says of it.
    pub properties: &'a Map<String, Value>,
}

/// For which scopes of a user a question is answered (decision 31).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// For those of the credential in hand: the default of a question about the caller itself, and never of another user.
    Credential,
    /// For those of the user's whole role: the default, and the only choice, of a question about another user.
    Role,
}

/// Who is asked about: a principal and what is known of its call, or what stands in the way.
pub enum Asked {
    /// Somebody.
    Known(Arc<Principal>, Circumstances),
    /// Nobody to ask about.
    Unknown(Obstacle),
    /// The caller may not ask about it.
    Refused,
}

/// Who a question names, if the caller may ask about it: `evaluateAccess` on a user, and `evaluateForeignAccess` for every
/// external subject. The caller itself is answered for with the credential in hand, unless `basis` is its role; other users
/// with their whole role.
pub async fn subject(gate: &Gate, named: Named<'_>, basis: Option<Basis>) -> Result<Asked, Problem> {
    if named.kind != "User" {
        return Ok(external_subject(gate, named, basis));
    }
    let door = gate.step("evaluateAccess");
    let id = door.id(named.id);
    let known = match id {
        Some(id) => Caller::by_role(gate.parts(), gate.engine(), id).await?,
        None => None,
    };
    let is_own = id == Some(gate.caller().id);
    Ok(match known {
        Some(user) if door.permits(&user.thing) => match basis {
            Some(Basis::Credential) if !is_own => Asked::Unknown(Obstacle::new("invalid", OWN_ONLY)),
            None | Some(Basis::Credential) if is_own => in_hand(gate),
            _ => asked(gate, Some(&user)),
        },
        // As with a path (decision 16).
        _ if door.could("User") => {
            Asked::Unknown(Obstacle::new("unknown_subject", "there is no such User within your reach"))
        }
        _ => Asked::Refused,
    })
}

/// What is wrong with a question that asks for the credential of another subject than the caller.
const OWN_ONLY: &str = "basis: \"credential\" is for questions about the caller itself; leave it out";

fn external_subject(gate: &Gate, named: Named<'_>, basis: Option<Basis>) -> Asked {
    if gate.parts().kinds.has(named.kind) {
        let message = format!(
            "{:?} is not a type of subject; of this service's own types that is \"User\"",
            named.kind
        );
        return Asked::Unknown(Obstacle::new("unknown_subject", message));
    }
    if !gate.step("evaluateForeignAccess").allows(&gate.caller().organization) {
        return Asked::Refused;
    }
    if basis == Some(Basis::Credential) {
        return Asked::Unknown(Obstacle::new("invalid", OWN_ONLY));
    }
    match gate.engine().domain().find(named.kind, named.id, named.properties) {
        Ok(foreign) => Asked::Known(Arc::new(Principal::foreign(foreign)), gate.moment()),
        Err(error) => Asked::Unknown(Obstacle::external(error, "subject", "unknown_subject")),
    }
}

/// The caller itself, with the credential in hand.
pub fn in_hand(gate: &Gate) -> Asked {
    Asked::Known(Arc::clone(&gate.caller().principal), gate.circumstances())
}

/// A user that the caller may ask about, as it would be with a credential that carries its whole role.
pub async fn user_by_role(gate: &Gate, user: Id) -> Result<Asked, Problem> {
    Ok(asked(gate, Caller::by_role(gate.parts(), gate.engine(), user).await?.as_deref()))
}

fn asked(gate: &Gate, user: Option<&ByRole>) -> Asked {
    match user.and_then(|user| user.principal.as_ref()) {
        Some(principal) => Asked::Known(Arc::clone(principal), gate.moment()),
        None => {
            Asked::Unknown(Obstacle::new("blocked", "the user is blocked, or its organization is inactive"))
        }
    }
}

/// A thing that a question names.
pub enum Target {
    /// It is there.
    There(Arc<Resourced>),
    /// It is not, or the caller could not name it.
    Missing,
    /// It cannot be understood.
    Wrong(Obstacle),
}

/// The thing that a question names: one of the service's own from the store, any other from the data.
pub async fn target(gate: &Gate, named: Named<'_>) -> Result<Target, Problem> {
    if gate.parts().kinds.has(named.kind) {
        let found = match named.id.parse() {
            Ok(id) => gate.known(named.kind, id).await?,
            Err(_) => None,
        };
        return Ok(found.map_or(Target::Missing, Target::There));
    }
    Ok(match gate.engine().domain().find(named.kind, named.id, named.properties) {
        Ok(foreign) => Target::There(Arc::new(Resourced::foreign(foreign))),
        Err(error) => Target::Wrong(Obstacle::external(error, "resource", "undecidable")),
    })
}

/// An answer with what is missing, where that was wanted.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// What Cedar says.
    pub answer: Arc<Answer>,
    /// What stood in the way.
    pub obstacle: Option<Obstacle>,
    /// What is missing for a yes.
    pub missing: Option<Missing>,
}

impl Verdict {
    /// No, because of this.
    pub fn not(obstacle: Obstacle) -> Self {
        Self { obstacle: Some(obstacle), ..Self::default() }
    }

    /// The caller may not ask.
    pub fn refused() -> Self {
        Self::not(Obstacle::new("forbidden", "the policies do not permit you to ask about this subject"))
    }
}

/// What is said of the call: the properties of the action, and before them the context.
pub fn with_said(
    circumstances: Circumstances,
    properties: &Map<String, Value>,
    context: &Map<String, Value>,
) -> Circumstances {
    let mut said = properties.clone();
    if !context.is_empty() {
        said.extend(context.clone());
    }
    Circumstances { said, ..circumstances }
}

/// No, because nobody can decide it. Subject and thing are named by type and id.
pub fn undecided(
    gate: &Gate,
    subject: (&str, &str),
    action: &str,
    thing: (&str, &str),
    obstacle: Obstacle,
) -> Verdict {
    let version = gate.engine().shown_version();
    let (subject, thing) = (written(gate, subject), written(gate, thing));
    gate.trail().record_undecided(subject, action, thing, obstacle.code, version);
    Verdict::not(obstacle)
}

/// A type and an id, which is not written where it can be the id of nothing: it may be a secret in the wrong place.
fn written<'a>(gate: &Gate, (kind, id): (&'a str, &'a str)) -> (&'a str, &'a str) {
    let is_id = match gate.parts().kinds.has(kind) {
        true => id.parse::<Id>().is_ok(),
        false => gate.engine().domain().knows(kind),
    };
    (kind, if is_id { id } else { "" })
}

/// Decides, and where it is wanted finds out what is missing.
pub fn decide(engine: &Engine, ask: &Ask<'_>, target: &Target, named: Named<'_>, explain: bool) -> Verdict {
    match target {
        Target::There(resource) => decide_there(engine, ask, resource, explain),
        Target::Missing => {
            // Only a thing of this service is missing, and what is no id may be a secret in the wrong place.
            let id = if named.id.parse::<Id>().is_ok() { named.id } else { "" };
            let answer = engine.decide_missing(ask, named.kind, id);
            verdict(engine, ask, &Resourced::nowhere(named.kind, id), answer, explain)
        }
        Target::Wrong(obstacle) => {
            if let Some(trail) = &ask.trail {
                let (subject, version) = (ask.principal.name(), engine.shown_version());
                let id = if engine.domain().knows(named.kind) { named.id } else { "" };
                trail.record_undecided(subject, ask.action, (named.kind, id), obstacle.code, version);
            }
            Verdict::not(obstacle.clone())
        }
    }
}

/// The same of a thing that is there.
pub fn decide_there(engine: &Engine, ask: &Ask<'_>, resource: &Resourced, explain: bool) -> Verdict {
    verdict(engine, ask, resource, engine.decide(ask, resource), explain)
}

fn verdict(
    engine: &Engine,
    ask: &Ask<'_>,
    resource: &Resourced,
    answer: Arc<Answer>,
    explain: bool,
) -> Verdict {
    let obstacle = match &answer.unfit {
        Some(unfit) => Some(Obstacle::unfit(unfit)),
        None if answer.errors.is_empty() => None,
        None => Some(Obstacle::new("undecidable", answer.errors.join("; "))),
    };
    let missing = if explain && obstacle.is_none() { engine.missing(ask, resource, &answer) } else { None };
    Verdict { answer, obstacle, missing }
}

/// A decision.
#[derive(Debug, Serialize, ToSchema)]
pub struct Decision {
    /// Whether it is permitted. Where it cannot be decided, it is not.
    pub decision: bool,
    /// Why, where that was wanted, or what stood in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub context: Option<Reasons>,
}

/// Why it was decided so.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Reasons {
    /// The policies that permitted, or those that forbade; none where none permitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub policies: Option<Vec<PolicyView>>,
    /// The version of the policies.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub version: Option<String>,
    /// What went wrong in the evaluation of policies.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub errors: Option<Vec<String>>,
    /// What is missing for a yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub missing: Option<MissingView>,
    /// What stood in the way of a decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub error: Option<Obstacle>,
}

/// A policy.
#[derive(Debug, Serialize, ToSchema)]
pub struct PolicyView {
    /// Its id.
    pub id: String,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub doc: Option<String>,
    /// `permit` or `forbid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub effect: Option<&'static str>,
    /// The file that it stands in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub file: Option<String>,
    /// The line of its id, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub line: Option<usize>,
    /// Its other annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(nullable = false)]
    pub annotations: BTreeMap<String, String>,
}

impl PolicyView {
    /// By its id and what it is for.
    pub fn short(about: &About) -> Self {
        Self {
            id: about.id.clone(),
            doc: about.doc.clone(),
            effect: None,
            file: None,
            line: None,
            annotations: BTreeMap::new(),
        }
    }

    /// With where it stands, too.
    pub fn whole(about: &About) -> Self {
        Self {
            effect: Some(if about.permits { "permit" } else { "forbid" }),
            file: Some(about.file.rsplit('/').next().unwrap_or_default().to_owned()),
            line: Some(about.line),
            annotations: about
                .annotations
                .iter()
                .filter(|(name, _)| !["id", "doc"].contains(&name.as_str()))
                .map(|(name, text)| (name.clone(), text.clone()))
                .collect(),
            ..Self::short(about)
        }
    }
}

/// What is missing for a yes.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum MissingView {
    /// A credential with this scope.
    Scope {
        /// The lowest one that would do.
        scope: crate::authz::Scope,
    },
    /// These forbid it.
    Forbidden {
        /// The policies.
        policies: Vec<PolicyView>,
    },
    /// These would permit it, but for their conditions, or permit it to others or of others.
    Conditions {
        /// The policies.
        policies: Vec<PolicyView>,
    },
    /// No policy permits it to anybody.
    Nothing,
}

impl From<&Missing> for MissingView {
    fn from(missing: &Missing) -> Self {
        let views = |all: &[Arc<About>]| all.iter().map(|about| PolicyView::whole(about)).collect();
        match missing {
            Missing::Scope(scope) => Self::Scope { scope: *scope },
            Missing::Forbidden(policies) => Self::Forbidden { policies: views(policies) },
            Missing::Conditions(policies) => Self::Conditions { policies: views(policies) },
            Missing::Nothing => Self::Nothing,
        }
    }
}

impl Decision {
    /// The bare decision, with what stood in its way if anything did; with reasons where they are wanted.
    pub fn new(verdict: &Verdict, engine: &Engine, explain: bool) -> Self {
        let context = (explain || verdict.obstacle.is_some()).then(|| Reasons {
            policies: explain
                .then(|| verdict.answer.policies.iter().map(|about| PolicyView::whole(about)).collect()),
            version: explain.then(|| engine.bundle().version().to_owned()),
            errors: explain.then(|| verdict.answer.errors.clone()),
            missing: verdict.missing.as_ref().map(MissingView::from),
            error: verdict.obstacle.clone(),
        });
        Self { decision: verdict.answer.allowed, context }
    }
}
