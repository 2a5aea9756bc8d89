//! Who may do what, in one table: every action, asked for every scope.

use super::facts::{Circumstances, Principal, Resourced, USER, UserFacts};
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
    let ask = Ask { principal: &principal, action, circumstances: &circumstances };
    if engine.could(&ask, kind) {
        "+"
    } else if kind == USER && engine.allows(&ask, &Resourced::new(USER, own, facts.attributes(), &path)) {
        "self"
    } else {
        "-"
    }
}

/// The rows: an action, the type that it is asked of (`*` where all its types have the same cells), and a cell a scope.
fn rows(engine: &Engine) -> Vec<(String, String, Vec<&'static str>)> {
    let mut rows = Vec::new();
    for action in engine.bundle().actions() {
        let kinds = engine.kinds(&action);
        let cells = |kind: &str| Scope::ALL.map(|scope| cell(engine, &action, kind, scope)).to_vec();
        let mut of_kinds: Vec<(String, Vec<&'static str>)> =
            kinds.iter().map(|kind| (kind.clone(), cells(kind))).collect();
        let alike = of_kinds.windows(2).all(|pair| matches!(pair, [(_, one), (_, two)] if one == two));
        if of_kinds.len() > 1 && alike {
            of_kinds.truncate(1);
            of_kinds.iter_mut().for_each(|(kind, _)| "*".clone_into(kind));
        }
        rows.extend(of_kinds.into_iter().map(|(kind, cells)| (action.clone(), kind, cells)));
    }
    rows
}

/// The matrix as a Markdown page.
pub fn matrix(engine: &Engine) -> String {
    let mut rows = rows(engine);
    rows.sort_by(|one, two| (&one.1, &one.0).cmp(&(&two.1, &two.0)));
    let mut page = String::from(
        "# Who may do what\n\n\
         Made by `cedargate policy matrix` from the policies, and checked by a test. Each cell is Cedar's own answer for a\n\
         caller with that scope, asked of a thing in the caller's organization: `+` permitted, `-` denied, `self` permitted\n\
         on the caller's own user only. Creating and listing are asked of the organization that holds the things.\n\n\
         | asked of | action | guest | agent | bot | admin |\n\
         | --- | --- | :-: | :-: | :-: | :-: |\n",
    );
    for (action, kind, cells) in &rows {
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
