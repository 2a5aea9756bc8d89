//! What the report says of policies, policy tests and decision logs.

use super::model::{
    Case, CaseSubject, ClaimEntry, ClaimsPart, Environments, LastUse, LogUse, PolicyEntry, ProofSummary,
};
use crate::analysis::access::Place;
use crate::analysis::analyze::LoggedDecision;
use crate::analysis::{CheckedClaim, ClaimKind, ClaimResult, Proof, ProofRecord, RecordedClaim, Verdict};
use crate::authz::cases::{ParsedEntities, PolicyTest};
use crate::authz::{Bundle, Claim, action_name};
use cedar_policy::{ActionConstraint, Authorizer, Decision, Policy, PolicyId, PolicySet, Request};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The policies of a bundle, in ascending order of their ids. `texts` are the texts of the policy files.
pub fn policy_entries<'a>(bundle: &Bundle, texts: impl Iterator<Item = &'a str>) -> Vec<PolicyEntry> {
    let sources: BTreeMap<String, String> = texts.flat_map(policy_sources).collect();
    let entry = |metadata: &std::sync::Arc<crate::authz::PolicyMetadata>| {
        let policy = bundle.policy_set().policy(&PolicyId::new(&metadata.id))?;
        let source = sources.get(&metadata.id).cloned();
        Some(PolicyEntry {
            id: metadata.id.clone(),
            doc: metadata.doc.clone(),
            permits: metadata.permits,
            file: metadata.file.clone(),
            line: metadata.line,
            source: source.unwrap_or_else(|| policy.to_string()),
            reads: reads(policy),
            environments: environments(bundle, policy),
        })
    };
    bundle.policies().filter_map(entry).collect()
}

/// The source text of each policy of a file, by its `@id`.
fn policy_sources(text: &str) -> Vec<(String, String)> {
    let Ok(policies) = text.parse::<PolicySet>() else { return Vec::new() };
    let source = |policy: &Policy| {
        let span = policy.as_ref().loc()?.span;
        let source = text.get(span.offset()..span.offset() + span.len())?;
        Some((policy.annotation("id")?.to_owned(), source.to_owned()))
    };
    policies.policies().filter_map(source).collect()
}

/// The attributes that a policy reads, such as `context.changes`, and the entities that it names besides actions.
fn reads(policy: &Policy) -> Vec<String> {
    let mut reads = BTreeSet::new();
    if let Ok(json) = policy.to_json() {
        collect_reads(json.get("conditions").unwrap_or(&Value::Null), &mut reads);
    }
    let literals = policy.entity_literals();
    let is_action = |name: &str| name == "Action" || name.ends_with("::Action");
    reads.extend(
        literals.iter().filter(|uid| !is_action(&uid.type_name().to_string())).map(ToString::to_string),
    );
    // `context` alone stands for what `context.changes` says more exactly.
    let is_covered = |read: &String| reads.iter().any(|other| other.starts_with(&format!("{read}.")));
    reads.iter().filter(|read| !is_covered(read)).cloned().collect()
}

fn collect_reads(expression: &Value, reads: &mut BTreeSet<String>) {
    if let Some(path) = attribute_path(expression) {
        reads.insert(path);
        return;
    }
    match expression {
        Value::Object(fields) => fields.values().for_each(|value| collect_reads(value, reads)),
        Value::Array(items) => items.iter().for_each(|item| collect_reads(item, reads)),
        _ => {}
    }
}

/// The path of an attribute of a variable, such as `resource.owner`.
fn attribute_path(expression: &Value) -> Option<String> {
    let fields = expression.as_object().filter(|fields| fields.len() == 1)?;
    let (operator, operands) = fields.iter().next()?;
    match operator.as_str() {
        "Var" => operands.as_str().filter(|name| *name != "action").map(str::to_owned),
        "." | "has" => {
            let left = attribute_path(operands.get("left")?)?;
            Some(format!("{left}.{}", operands.get("attr")?.as_str()?))
        }
        _ => None,
    }
}

/// The request environments in which a policy can apply.
fn environments(bundle: &Bundle, policy: &Policy) -> Vec<Environments> {
    let mut by_action: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for environment in policy.get_valid_request_envs(bundle.schema()) {
        let types = format!("{} on {}", environment.principal(), environment.resource());
        by_action.entry(action_name(environment.action())).or_default().push(types);
    }
    let environments = by_action.into_iter().map(|(action, mut types)| {
        types.sort();
        Environments { action, types }
    });
    environments.collect()
}

/// The claims of a bundle, without results.
pub fn claim_entries(bundle: &Bundle) -> Vec<ClaimEntry> {
    let entry = |claim: &Claim| {
        let metadata = claim.metadata();
        let actions = match claim.policy().action_constraint() {
            ActionConstraint::Any => None,
            ActionConstraint::Eq(action) => Some(vec![action_name(&action)]),
            ActionConstraint::In(actions) => Some(actions.iter().map(action_name).collect()),
        };
        ClaimEntry {
            id: metadata.id.clone(),
            doc: metadata.doc.clone().unwrap_or_default(),
            kind: if metadata.permits { "always" } else { "never" }.to_owned(),
            place: Some(format!("{}, line {}", metadata.file, metadata.line)),
            actions,
            result: "not proven".to_owned(),
            detail: None,
        }
    };
    bundle.claims().iter().map(entry).collect()
}

/// The claims of a proof, with their results. The actions are those of the claims of the bundle.
pub fn proof_part(bundle: &Bundle, proof: &Proof) -> ClaimsPart {
    let known = claim_entries(bundle);
    let entry = |claim: &CheckedClaim| {
        let detail = match &claim.verdict {
            Verdict::Proven => None,
            Verdict::Broken(violations) => {
                let messages: Vec<&str> =
                    violations.iter().map(|violation| violation.message.as_str()).collect();
                Some(messages.join(" "))
            }
            Verdict::Unknown(reason) => Some(reason.clone()),
        };
        let result = (claim.verdict.word(), claim.environments, claim.inapplicable.len());
        checked_entry(&known, (&claim.id, &claim.doc, claim.kind), result, detail)
    };
    ClaimsPart {
        claims: proof.claims.iter().map(entry).collect(),
        proof: Ok(ProofSummary {
            summary: summary(proof.counts()),
            origin: format!("Proven by {} when this report was made.", proof.solver),
            assumptions: proof.assumptions.clone(),
        }),
    }
}

/// As [`proof_part`], of a recorded proof.
pub fn recorded_proof_part(bundle: &Bundle, record: &ProofRecord) -> ClaimsPart {
    let known = claim_entries(bundle);
    let word = |result: ClaimResult| match result {
        ClaimResult::Proven => "proven",
        ClaimResult::Broken => "broken",
        ClaimResult::Unknown => "unknown",
    };
    let number = |result| record.claims.iter().filter(|claim| claim.result == result).count();
    let counts = [ClaimResult::Proven, ClaimResult::Broken, ClaimResult::Unknown].map(number);
    let entry = |claim: &RecordedClaim| {
        let result = (word(claim.result), claim.environments, claim.inapplicable);
        checked_entry(&known, (&claim.id, &claim.doc, claim.kind), result, None)
    };
    let missing = record.missing(bundle);
    let mut claims: Vec<ClaimEntry> = record.claims.iter().map(entry).collect();
    claims.extend(known.iter().filter(|claim| missing.contains(&claim.id.as_str())).cloned());
    let not_recorded = match missing.len() {
        0 => String::new(),
        number => format!(" The claims of this version are not proven: the record lacks {number} of them."),
    };
    ClaimsPart {
        claims,
        proof: Ok(ProofSummary {
            summary: summary(counts) + &not_recorded,
            origin: format!(
                "Proven by {} at {}, as PROOF.json records for this version; not proven again for this report.",
                record.solver, record.recorded_at
            ),
            assumptions: record.assumptions.clone(),
        }),
    }
}

fn summary([proven, broken, unknown]: [usize; 3]) -> String {
    format!("{proven} claims are proven, {broken} are broken, {unknown} are unknown.")
}

/// A claim with its result. Its place and actions are those of the claim of the bundle.
fn checked_entry(
    known: &[ClaimEntry],
    (id, doc, kind): (&str, &str, ClaimKind),
    (word, environments, inapplicable): (&str, usize, usize),
    detail: Option<String>,
) -> ClaimEntry {
    let of_bundle = known.iter().find(|known| known.id == id);
    let not_applicable = match inapplicable {
        0 => String::new(),
        number => format!("; in {number} more the claim cannot apply"),
    };
    ClaimEntry {
        id: id.to_owned(),
        doc: doc.to_owned(),
        kind: match kind {
            ClaimKind::Never => "never",
            ClaimKind::Always => "always",
            ClaimKind::BuiltIn => "built in",
        }
        .to_owned(),
        place: of_bundle.and_then(|known| known.place.clone()),
        actions: of_bundle.and_then(|known| known.actions.clone()),
        result: format!("{word}, {environments} request environments{not_applicable}"),
        detail,
    }
}

/// Evaluates policy tests. Tests that cannot be evaluated are listed as failing.
pub fn cases(bundle: &Bundle, files: &[(String, Vec<PolicyTest>)]) -> Vec<Case> {
    let mut parsed = ParsedEntities::default();
    let mut cases = Vec::new();
    for (file, tests) in files {
        for test in tests {
            cases.push(case(bundle, file, test, &mut parsed));
        }
    }
    cases
}

fn case(bundle: &Bundle, file: &str, test: &PolicyTest, parsed: &mut ParsedEntities) -> Case {
    let mut case = Case {
        name: test.name.clone(),
        file: file.to_owned(),
        action: String::new(),
        subject: None,
        is_allowed: false,
        failure: None,
        policies: Vec::new(),
        place: None,
    };
    match test.prepare(bundle.schema(), parsed) {
        Ok(prepared) => {
            let policies = bundle.policy_set();
            let response = Authorizer::new().is_authorized(&prepared.request, policies, &prepared.entities);
            case.action = prepared.request.action().map(action_name).unwrap_or_default();
            case.subject = case_subject(&prepared.request);
            case.is_allowed = response.decision() == Decision::Allow;
            let reasons = response.diagnostics().reason();
            case.policies = reasons.map(|id| AsRef::<str>::as_ref(id).to_owned()).collect();
            case.policies.sort();
            case.place = Place::of(&prepared.request, &prepared.entities);
            case.failure = prepared.check(policies).err();
        }
        Err(error) => case.failure = Some(error),
    }
    case
}

fn case_subject(request: &Request) -> Option<CaseSubject> {
    let entities = [request.principal()?, request.resource()?];
    Some(CaseSubject {
        types: entities.map(|uid| uid.type_name().to_string()),
        entities: entities.map(ToString::to_string),
    })
}

impl LogUse {
    /// Without a decision.
    pub fn new() -> Self {
        Self { decisions: 0, period: None, invalid_lines: 0, by_policy: BTreeMap::new() }
    }

    /// Adds a logged decision. Policies that the bundle does not have are not counted.
    pub fn add(&mut self, bundle: &Bundle, decision: &LoggedDecision<'_>) {
        let Some(time) = decision.time() else { return };
        self.decisions += 1;
        let (first, last) = self.period.unwrap_or((time, time));
        self.period = Some((first.min(time), last.max(time)));
        for policy in decision.policies.iter().filter(|policy| bundle.policy(policy).is_some()) {
            match self.by_policy.get_mut(&**policy) {
                Some(known) => {
                    known.decisions += 1;
                    known.time = known.time.max(time);
                }
                None => {
                    self.by_policy.insert(policy.to_string(), LastUse { time, decisions: 1 });
                }
            }
        }
    }
}

impl Default for LogUse {
    fn default() -> Self {
        Self::new()
    }
}
