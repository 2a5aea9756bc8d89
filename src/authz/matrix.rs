//! Who may do what, in one table: every action, asked for every scope.

use super::circumstances::Circumstances;
use super::facts::{Principal, Resourced, USER, UserFacts};
use super::{Ask, Engine, Scope, ScopeSet};
use crate::values::{Id, OrgPath};
use std::fmt::Write;

/// What a scope may do with an action: to any thing of its own organization, to its own user only, or not at all.
fn cell(engine: &Engine, action: &str, kind: &str, scope: Scope) -> &'static str {
    let path = OrgPath::root(Id::NONE);
    let own = Id::EXAMPLE;
    let facts = UserFacts { organization: path.own(), role: scope, status: "active", email: None };
    let scopes = engine.effective(&ScopeSet::from(scope), scope);
    let principal = Principal::new(own, &path, facts, scopes.as_ref());
    let circumstances = Circumstances::default();
    let ask = Ask { principal: &principal, action, circumstances: &circumstances, trail: None };
    if engine.could(&ask, kind) {
        "+"
    } else if kind == USER && engine.allows(&ask, &Resourced::new(USER, own, facts.attributes(), &path)) {
        "self"
    } else {
        "-"
    }
}

/// A row: what each scope may do with an action.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MatrixRow {
    /// The type that it is asked of; `*` where all its types have the same cells.
    pub kind: String,
    /// The action.
    pub action: String,
    /// `+`, `-` or `self`, by scope in ascending order.
    pub cells: [&'static str; 4],
}

/// The rows of the matrix: every action that users take, by type and name.
pub fn matrix_rows(engine: &Engine) -> Vec<MatrixRow> {
    let mut rows = Vec::new();
    for action in engine.bundle().actions() {
        let kinds = engine.kinds(&action);
        // Actions of other domains are no matter of scopes.
        if !kinds.iter().any(|kind| engine.actions_between(USER, kind).contains(&action.as_str())) {
            continue;
        }
        let cells = |kind: &String| Scope::ALL.map(|scope| cell(engine, &action, kind, scope));
        let row =
            |kind: &String| MatrixRow { kind: kind.clone(), action: action.clone(), cells: cells(kind) };
        let mut of_kinds: Vec<MatrixRow> = kinds.iter().map(row).collect();
        if of_kinds.len() > 1
            && of_kinds.windows(2).all(|pair| matches!(pair, [one, two] if one.cells == two.cells))
        {
            of_kinds.truncate(1);
            of_kinds.iter_mut().for_each(|row| "*".clone_into(&mut row.kind));
        }
        rows.extend(of_kinds);
    }
    rows.sort();
    rows
}

/// The matrix as a Markdown page.
pub fn matrix(engine: &Engine) -> String {
    let mut page = String::from(
        "# Who may do what\n\n\
         Made by `cedargate policy matrix` from the policies, and checked by a test. Each cell is Cedar's own answer for a\n\
         caller with that scope, asked of a thing in the caller's organization: `+` permitted, `-` denied, `self` permitted\n\
         on the caller's own user only. Creating and listing are asked of the organization that holds the things.\n\n\
         | asked of | action | guest | agent | bot | admin |\n\
         | --- | --- | :-: | :-: | :-: | :-: |\n",
    );
    for MatrixRow { kind, action, cells } in matrix_rows(engine) {
        let _ = writeln!(page, "| {kind} | {action} | {} |", cells.join(" | "));
    }
    page.push_str(
        "\n## Conditions\n\nWhat a forbid takes away whoever permits it, and why. The table above asks without its condition.\n\n\
         | policy | file | why |\n| --- | --- | --- |\n",
    );
    for policy in engine.bundle().policies().filter(|policy| !policy.permits) {
        let file = policy.file.rsplit('/').next().unwrap_or_default();
        let _ = writeln!(page, "| {} | {file} | {} |", policy.id, policy.doc.as_deref().unwrap_or_default());
    }
    page
}
