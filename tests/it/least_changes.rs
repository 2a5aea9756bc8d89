//! The least changes that explanations state give an allow, for generated requests on the shipped policies.

use crate::support::project_file;
use cedargate::authz::{
    AuthzRequest, Bundle, CredentialKind, DecisionContext, Engine, ExplainOptions, LeastChange, Principal,
    ResourceEntity, Scope, ScopeSet, Sources, StoredType, UserAttributes, Visibility,
};
use cedargate::types::{Id, OrgPath, UserStatus};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::Value;
use std::cell::Cell;

/// A request, as numbers that proptest can shrink.
#[derive(Debug, Clone)]
struct GeneratedRequest {
    role: usize,
    scope: usize,
    action: usize,
    is_own: bool,
    is_elsewhere: bool,
    credential: usize,
    provisioning: Option<bool>,
    changes: Option<Vec<usize>>,
    granted: Option<usize>,
}

const ACTIONS: [(&str, &str); 10] = [
    ("fetchUser", "User"),
    ("updateUser", "User"),
    ("deleteUser", "User"),
    ("createApiKey", "User"),
    ("deleteApiKey", "User"),
    ("evaluateAccess", "User"),
    ("createUser", "Organization"),
    ("updateOrganization", "Organization"),
    ("listForms", "Organization"),
    ("reloadPolicies", "Organization"),
];
const FIELDS: [&str; 5] = ["role", "status", "password", "name", "meta"];

fn requests() -> impl Strategy<Value = GeneratedRequest> {
    (
        (0..4_usize, 0..4_usize, 0..ACTIONS.len(), any::<bool>(), any::<bool>()),
        (0..2_usize, proptest::option::of(any::<bool>())),
        proptest::option::of(proptest::collection::vec(0..FIELDS.len(), 0..3)),
        proptest::option::of(0..4_usize),
    )
        .prop_map(
            |((role, scope, action, is_own, is_elsewhere), (credential, provisioning), changes, granted)| {
                GeneratedRequest {
                    role,
                    scope,
                    action,
                    is_own,
                    is_elsewhere,
                    credential,
                    provisioning,
                    changes,
                    granted,
                }
            },
        )
}

fn id(number: u32) -> Id {
    format!("599e1fcd9da1c72645c9{number:04}").parse().unwrap()
}

fn attributes(role: Scope, organization: &OrgPath) -> UserAttributes<'static> {
    UserAttributes { organization: organization.org_id(), role, status: UserStatus::Active, email: None }
}

/// The request, changed as an explanation says.
struct Question {
    principal: Principal,
    action: &'static str,
    resource: ResourceEntity,
    context: DecisionContext,
}

impl Question {
    fn new(engine: &Engine, generated: &GeneratedRequest) -> Self {
        let (home, elsewhere) = (OrgPath::root(id(1)), OrgPath::root(id(2)));
        let (role, scope) = (Scope::ALL[generated.role], Scope::ALL[generated.scope]);
        let scopes = engine.effective_scopes(&ScopeSet::from(scope), role);
        let principal = Principal::new(id(10), &home, attributes(role, &home), scopes.as_ref());
        let (action, kind) = ACTIONS[generated.action];
        let path = if generated.is_elsewhere { &elsewhere } else { &home };
        let resource = match kind {
            "Organization" => ResourceEntity::organization(path),
            _ if generated.is_own => ResourceEntity::user(id(10), &home, attributes(role, &home)),
            _ => ResourceEntity::user(id(11), path, attributes(Scope::Guest, path)),
        };
        let changes = generated.changes.as_ref();
        let granted = generated.granted.map(|scope| Scope::ALL[scope]);
        let context = DecisionContext {
            credential: Some([CredentialKind::Session, CredentialKind::ApiKey][generated.credential]),
            provisioning: generated.provisioning,
            changes: changes.map(|changes| changes.iter().map(|field| FIELDS[*field].to_owned()).collect()),
            role: granted.filter(|_| ["createUser", "updateUser"].contains(&action)),
            scope: granted.filter(|_| action == "createApiKey"),
            ..DecisionContext::default()
        };
        Self { principal, action, resource, context }
    }

    fn request(&self) -> AuthzRequest<'_> {
        AuthzRequest {
            principal: &self.principal,
            action: self.action,
            context: &self.context,
            recorder: None,
        }
    }

    fn is_allowed(&self, engine: &Engine) -> bool {
        engine.decide(&self.request(), &self.resource).allowed
    }

    fn with_scope(mut self, engine: &Engine, scope: Scope) -> Self {
        let scopes = engine.effective_scopes(&ScopeSet::from(scope), scope);
        self.principal = self.principal.with_scopes(scopes.as_ref()).unwrap();
        self
    }

    /// The request with this value of one field of the context.
    fn with_field(mut self, field: &str, value: Option<&Value>) -> Self {
        let text = || value.unwrap().as_str().unwrap();
        match field {
            "context.credential" => {
                let kinds = [CredentialKind::Session, CredentialKind::ApiKey];
                self.context.credential = kinds.into_iter().find(|kind| kind.as_str() == text());
            }
            // Sessions have no such field of their own.
            "context.provisioning" if self.context.provisioning.is_none() => {
                self.context.client_context.insert("provisioning".to_owned(), value.unwrap().clone());
            }
            "context.provisioning" => self.context.provisioning = value.unwrap().as_bool(),
            "context.role" => self.context.role = Some(text().parse().unwrap()),
            "context.scope" => self.context.scope = Some(text().parse().unwrap()),
            "context.changes" => {
                self.context.changes = Some(serde_json::from_value(value.unwrap().clone()).unwrap());
            }
            other => panic!("{other} is no field of the shipped schema that can change"),
        }
        self
    }
}

#[test]
fn every_stated_change_gives_an_allow() {
    let bundle = Bundle::read(&Sources {
        schema: vec![project_file("schema")],
        policies: vec![project_file("policies")],
        stored: cedargate::api::resource_types().iter().map(StoredType::from).collect(),
    });
    let engine = Engine::new(bundle.unwrap()).unwrap();
    let (scopes, fields) = (Cell::new(0), Cell::new(0));
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 1500,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&requests(), |generated| {
            let question = || Question::new(&engine, &generated);
            let asked = question();
            let decision = engine.decide(&asked.request(), &asked.resource);
            let options = ExplainOptions { visibility: Visibility::ALL, is_missing: false };
            let explanation = engine.explain(&asked.request(), &asked.resource, &decision, options);
            let Some(explanation) = explanation else {
                return Err(TestCaseError::fail(format!("not explained: {:?}", decision.errors)));
            };
            if decision.allowed {
                prop_assert!(explanation.changes.is_empty());
                return Ok(());
            }
            for change in &explanation.changes {
                match change {
                    LeastChange::Scope { scope, .. } => {
                        scopes.set(scopes.get() + 1);
                        prop_assert!(question().with_scope(&engine, *scope).is_allowed(&engine));
                        for lower in Scope::ALL.into_iter().filter(|lower| lower < scope) {
                            let is_allowed = question().with_scope(&engine, lower).is_allowed(&engine);
                            prop_assert!(!is_allowed, "{} is lower than {}", lower, scope);
                        }
                    }
                    LeastChange::Context { field, value, text } => {
                        fields.set(fields.get() + 1);
                        let is_allowed = question().with_field(field, value.as_ref()).is_allowed(&engine);
                        prop_assert!(is_allowed, "{}", text);
                    }
                }
            }
            Ok(())
        })
        .unwrap();
    assert!(scopes.get() > 100 && fields.get() > 50, "too few changes: {} {}", scopes.get(), fields.get());
}
