use super::*;
use crate::authz::{
    AuthzRequest, Bundle, DecisionContext, Engine, Principal, Scope, ScopeSet, Sources, UserAttributes,
};
use crate::types::{OrgPath, UserStatus};
use std::path::Path;
use std::time::Duration;

fn engine(verifier: Option<Arc<Verifier>>) -> Engine {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources =
        Sources { schema: vec![root.join("schema")], policies: vec![root.join("policies")], stored: vec![] };
    Engine::new(Bundle::read(&sources).unwrap()).unwrap().with_verifier(verifier)
}

fn principal(engine: &Engine, scope: Scope) -> Principal {
    let path = OrgPath::root(Id::EXAMPLE);
    let scopes = engine.effective_scopes(&ScopeSet::from(scope), scope);
    let attributes =
        UserAttributes { organization: Id::EXAMPLE, role: scope, status: UserStatus::Active, email: None };
    Principal::new(Id::EXAMPLE, &path, attributes, scopes.as_ref())
}

/// Waits until this many decisions were verified.
fn wait_for(verifier: &Verifier, verified: u64) -> VerificationCounts {
    let start = Instant::now();
    loop {
        let counts = verifier.counts();
        if counts.verified >= verified {
            return counts;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{counts:?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_wrong_decision_in_the_cache_is_reported_with_both_answers() {
    let verifier = Verifier::start(1).unwrap();
    let engine = engine(Some(Arc::clone(&verifier)));
    let (principal, context) = (principal(&engine, Scope::Agent), DecisionContext::default());
    let request =
        AuthzRequest { principal: &principal, action: "listForms", context: &context, recorder: None };
    let resource = ResourceEntity::organization(&OrgPath::root(Id::EXAMPLE));
    let right = engine.decide(&request, &resource);
    assert!(!right.allowed);
    engine.decide(&request, &resource);
    assert_eq!(wait_for(&verifier, 2), VerificationCounts { verified: 2, ..VerificationCounts::default() });

    engine.cache_allow(&request, &resource);
    assert!(engine.decide(&request, &resource).allowed);
    assert_eq!(wait_for(&verifier, 3).differences, 1);
    let difference = verifier.take_differences().unwrap().blocking_recv().unwrap();
    assert_eq!(difference.action.as_deref(), Some("listForms"));
    assert_eq!(difference.principal, ("User".to_owned(), Some(Id::EXAMPLE)));
    assert_eq!(difference.resource, ("Organization".to_owned(), Some(Id::EXAMPLE)));
    assert_eq!(difference.engine.to_string(), "allow (no policy)");
    assert_eq!(difference.cedar, Answer::from(&*right));
    assert_eq!(difference.version, engine.bundle().version());
}

#[test]
fn denials_and_failures_of_missing_resources_and_unknown_actions_are_verified_too() {
    let verifier = Verifier::start(1).unwrap();
    let engine = engine(Some(Arc::clone(&verifier)));
    let context = DecisionContext::default();
    for scope in Scope::ALL {
        let principal = principal(&engine, scope);
        for action in ["fetchForm", "createForm", "updateUser", "unknown", "Docs::Action::\"read\""] {
            let request = AuthzRequest { principal: &principal, action, context: &context, recorder: None };
            for kind in ["Form", "User", "Organization", "Unknown", "no type"] {
                assert!(!engine.deny_missing(&request, kind, "599e1fce9da1c72645c9588f").allowed);
                engine.could_in_home_org(&request, kind);
                engine.decide(&request, &engine.missing_resource(kind, "x"));
            }
        }
    }
    // For each of the 100 questions: the denial, the one or two decisions that it consists of, and two more.
    let counts = wait_for(&verifier, 400);
    assert_eq!((counts.differences, counts.dropped), (0, 0));
}

#[test]
fn a_full_queue_drops_decisions_and_counts_them() {
    let (verifier, queue, _differences) = Verifier::new(1);
    let verifier = Arc::new(verifier);
    let engine = engine(Some(Arc::clone(&verifier)));
    let (principal, context) = (principal(&engine, Scope::Bot), DecisionContext::default());
    let request =
        AuthzRequest { principal: &principal, action: "listForms", context: &context, recorder: None };
    let resource = ResourceEntity::organization(&OrgPath::root(Id::EXAMPLE));
    for _ in 0..QUEUE_LENGTH + 7 {
        engine.decide(&request, &resource);
    }
    assert_eq!(verifier.counts(), VerificationCounts { dropped: 7, ..VerificationCounts::default() });
    assert_eq!(queue.try_iter().count(), QUEUE_LENGTH);
    drop(queue);
    engine.decide(&request, &resource);
    assert_eq!(verifier.counts().dropped, 8, "a verifier without a thread must not block decisions");
}

#[test]
fn one_decision_in_the_configured_number_is_verified_at_random() {
    assert!(Verifier::start(0).is_none());
    for every in [1, 2, 10, 1_000] {
        let (verifier, ..) = Verifier::new(every);
        let total = 300 * every;
        let due: Vec<u64> = (0..total).filter(|_| verifier.is_due()).collect();
        let gaps: std::collections::BTreeSet<u64> = due.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!((200..=400).contains(&due.len()), "{every}: {}", due.len());
        assert_eq!(gaps.len() == 1, every == 1, "{every}: {gaps:?}");
        assert!(gaps.iter().all(|gap| *gap < 2 * every), "{every}: {gaps:?}");
    }
}
