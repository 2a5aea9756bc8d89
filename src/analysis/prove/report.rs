//! The result of a proof as text, JSON, JUnit and SARIF.

use super::verdict::{CheckedClaim, ClaimKind, Proof, Verdict, Violation};
use crate::analysis::{Finding, Level, Region, TestOutcome, TestSuite, junit, sarif};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// The rules of the SARIF report.
const RULES: [(&str, &str); 2] = [
    ("claim-broken", "A claim about the policies does not hold."),
    ("claim-unknown", "It is not known whether a claim about the policies holds."),
];

/// The maximum number of environments in which a claim cannot apply that the text lists.
const MAX_LISTED_ENVIRONMENTS: usize = 5;

impl Proof {
    /// One line a claim, what contradicts the broken ones, and the assumptions.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for claim in &self.claims {
            let _ = writeln!(text, "{}", claim.line());
            claim.write_details(&mut text);
        }
        if self.assumptions.is_empty() {
            text.push_str("\nassumed: nothing\n");
        } else {
            text.push_str("\nassumed, as the data files say:\n");
            for sentence in &self.assumptions {
                let _ = writeln!(text, "  {sentence}");
            }
        }
        let _ = write!(text, "\n{}", self.summary());
        text
    }

    /// The numbers of claims by verdict, the time and the solver, in one line.
    pub fn summary(&self) -> String {
        let [proven, broken, unknown] = self.counts();
        format!(
            "{} claims: {proven} proven, {broken} broken, {unknown} unknown; {:.1} s, {}",
            self.claims.len(),
            self.duration.as_secs_f64(),
            self.solver
        )
    }

    /// Everything as JSON.
    pub fn to_json(&self) -> Value {
        let [proven, broken, unknown] = self.counts();
        json!({
            "version": self.version,
            "solver": self.solver,
            "seconds": seconds(self.duration),
            "proven": proven,
            "broken": broken,
            "unknown": unknown,
            "assumptions": self.assumptions,
            "claims": self.claims.iter().map(CheckedClaim::to_json).collect::<Vec<_>>(),
        })
    }

    /// A JUnit document with a test for each claim, in a suite for each file.
    pub fn to_junit(&self) -> String {
        let mut suites: Vec<TestSuite> = Vec::new();
        for claim in &self.claims {
            let name = claim.place.as_ref().map_or("built-in claims", |(file, _)| file.as_str());
            let test = (claim.id.clone(), claim.test_outcome(), claim.duration);
            match suites.iter_mut().find(|suite| suite.name == name) {
                Some(suite) => suite.tests.push(test),
                None => suites.push(TestSuite { name: name.to_owned(), tests: vec![test] }),
            }
        }
        junit(&suites)
    }

    /// A SARIF log with the claims that are not proven.
    pub fn to_sarif(&self) -> String {
        let findings: Vec<Finding> = self.claims.iter().flat_map(CheckedClaim::findings).collect();
        sarif("prove", &RULES, &findings)
    }
}

impl CheckedClaim {
    /// The verdict, the id, the number of environments and the time in one line.
    fn line(&self) -> String {
        let environments = match self.environments {
            1 => "1 environment".to_owned(),
            number => format!("{number} environments"),
        };
        let time = format!("{:.2} s", self.duration.as_secs_f64());
        let place = self.place.as_ref().map(|(file, line)| format!("  {file}:{line}")).unwrap_or_default();
        format!("{:<8} {:<40} {environments:>16} {time:>8}{place}", self.verdict.word(), self.id)
    }

    fn write_details(&self, text: &mut String) {
        self.write_inapplicable(text);
        if !matches!(self.verdict, Verdict::Proven) {
            let _ = writeln!(text, "  {}", self.doc);
        }
        match &self.verdict {
            Verdict::Proven => {}
            Verdict::Unknown(reason) => {
                let _ = writeln!(text, "  not proven: {reason}");
            }
            Verdict::Broken(violations) => violations.iter().for_each(|violation| violation.write(text)),
        }
    }

    /// The environments in which the claim cannot apply.
    fn write_inapplicable(&self, text: &mut String) {
        let number = match self.inapplicable.len() {
            0 => return,
            1 => "1 more environment".to_owned(),
            number => format!("{number} more environments"),
        };
        let listed: Vec<&str> =
            self.inapplicable.iter().take(MAX_LISTED_ENVIRONMENTS).map(String::as_str).collect();
        let others = match self.inapplicable.len().saturating_sub(MAX_LISTED_ENVIRONMENTS) {
            0 => String::new(),
            others => format!(" and {others} others"),
        };
        let _ = writeln!(
            text,
            "  in {number} the claim cannot apply: its conditions are false by the schema: {}{others}",
            listed.join(", ")
        );
    }

    fn to_json(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("id".to_owned(), json!(self.id));
        fields.insert("doc".to_owned(), json!(self.doc));
        fields.insert("kind".to_owned(), json!(self.kind));
        if let Some((file, line)) = &self.place {
            fields.insert("file".to_owned(), json!(file));
            fields.insert("line".to_owned(), json!(line));
        }
        fields.insert("result".to_owned(), json!(self.verdict.word()));
        fields.insert("environments".to_owned(), json!(self.environments));
        fields.insert("inapplicable".to_owned(), json!(self.inapplicable));
        fields.insert("seconds".to_owned(), json!(seconds(self.duration)));
        match &self.verdict {
            Verdict::Proven => {}
            Verdict::Broken(violations) => {
                fields.insert("violations".to_owned(), json!(violations));
            }
            Verdict::Unknown(reason) => {
                fields.insert("reason".to_owned(), json!(reason));
            }
        }
        Value::Object(fields)
    }

    /// Why the claim is not proven, with all examples; none if it is proven.
    fn problem(&self) -> Option<String> {
        let mut text = String::new();
        match &self.verdict {
            Verdict::Proven => return None,
            Verdict::Unknown(reason) => text.push_str(reason),
            Verdict::Broken(violations) => violations.iter().for_each(|violation| violation.write(&mut text)),
        }
        Some(text.trim().to_owned())
    }

    fn test_outcome(&self) -> TestOutcome {
        match (&self.verdict, self.problem()) {
            (Verdict::Proven, _) | (_, None) => TestOutcome::Passed,
            (Verdict::Broken(_), Some(problem)) => TestOutcome::Failed(problem),
            (Verdict::Unknown(_), Some(problem)) => TestOutcome::Errored(problem),
        }
    }

    /// What is to be done about the claim, at its place. A built-in claim has none: each violation has the place of the policy,
    /// or of the scopes.
    fn findings(&self) -> Vec<Finding> {
        match &self.verdict {
            Verdict::Broken(violations) if self.kind == ClaimKind::BuiltIn => violations
                .iter()
                .map(|violation| {
                    let mut problem = String::new();
                    violation.write(&mut problem);
                    let policy = violation.policies.first().cloned();
                    Finding { policy, ..self.finding(violation.place.as_ref(), problem.trim()) }
                })
                .collect(),
            _ => {
                let place = self.place.as_ref().or(self.unknown_place.as_ref());
                self.problem().map(|problem| self.finding(place, &problem)).into_iter().collect()
            }
        }
    }

    fn finding(&self, place: Option<&(String, usize)>, problem: &str) -> Finding {
        let (rule, level) = match self.verdict {
            Verdict::Unknown(_) => ("claim-unknown", Level::Warning),
            Verdict::Proven | Verdict::Broken(_) => ("claim-broken", Level::Error),
        };
        let kind = if self.kind == ClaimKind::BuiltIn { "the built-in claim" } else { "the claim" };
        Finding {
            rule,
            level,
            file: place.map(|(file, _)| file.clone()),
            region: place.map(|(_, line)| Region::line(*line)),
            policy: None,
            message: format!("{kind} {} is {}: {problem}", self.id, self.verdict.word()),
        }
    }
}

impl Violation {
    fn write(&self, text: &mut String) {
        let _ = writeln!(text, "  {}", self.message);
        if let [first, others @ ..] = self.environments.as_slice() {
            let others = match others.len() {
                0 => String::new(),
                1 => " and in 1 other environment".to_owned(),
                number => format!(" and in {number} other environments"),
            };
            let _ = writeln!(text, "  in {first}{others}");
        }
        for test in &self.tests {
            let _ = writeln!(text, "  {}", serde_json::to_string(test).unwrap_or_default());
        }
    }
}

/// Seconds with three decimals.
fn seconds(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}
