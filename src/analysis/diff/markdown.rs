//! The difference of two versions as Markdown for a pull request: the summary first, details collapsed.

use super::files::{ChangedCell, ChangedFile, ChangedPolicy};
use super::text::outcome_sentence;
use super::{Direction, EnvironmentDiff, PolicyDiff, Witness};
use crate::analysis::replay::{Flips, ReplayReport};
use std::fmt::Write;

/// How many rows a table has. The rest is counted.
const MAX_ROWS: usize = 200;

/// The difference as Markdown. Ids and names are arbitrary text: none of them is read as markup.
pub fn markdown(diff: &PolicyDiff) -> String {
    let mut page = String::new();
    let verdict = match (diff.is_wider(), diff.has_changes(), diff.undecided().is_some()) {
        (true, ..) => "**Some requests are newly allowed.**",
        (false, true, false) => "Some requests are newly denied. No request is newly allowed (proven).",
        (false, true, true) => "Some requests are newly denied. **Not every request could be compared.**",
        (false, false, false) => "No decision changes (proven).",
        (false, false, true) => "**Not every request could be compared.**",
    };
    let _ = writeln!(page, "## Policy changes\n\n{verdict}\n");
    let name = |name: &super::VersionName| format!("{} ({})", code(&name.source), code(&name.version));
    let _ = writeln!(page, "From {} to {}.\n", name(&diff.old), name(&diff.new));
    let _ = writeln!(page, "{}.\n", escape(&diff.headline()));
    if let Some(reason) = diff.undecided() {
        let _ = writeln!(page, "{}.\n", escape(&reason));
    }
    write_environments(&mut page, &diff.environments);
    for (title, names) in [
        ("Added actions", &diff.added_actions),
        ("Removed actions", &diff.removed_actions),
        ("Added types", &diff.added_types),
        ("Removed types", &diff.removed_types),
    ] {
        if !names.is_empty() {
            let names: Vec<String> = names.iter().map(|name| code(name)).collect();
            let _ = writeln!(page, "{title}: {}.\n", names.join(", "));
        }
    }
    write_matrix(&mut page, &diff.matrix);
    write_policies(&mut page, &diff.policies);
    write_files(&mut page, &diff.files);
    if let Some(replay) = &diff.replay {
        write_replay(&mut page, replay);
    }
    page
}

fn write_environments(page: &mut String, environments: &[EnvironmentDiff]) {
    if environments.is_empty() {
        return;
    }
    let _ = writeln!(
        page,
        "| action | resource | principal | change | old | new |\n| --- | --- | --- | --- | --- | --- |"
    );
    for environment in environments.iter().take(MAX_ROWS) {
        let EnvironmentDiff { principal, action, resource, change, witnesses, undecided, .. } = environment;
        let start = format!("| {} | {} | {} |", code(action), code(resource), code(principal));
        for Witness { direction, old, new, .. } in witnesses {
            let change = if *direction == Direction::Wider { "newly allowed" } else { "newly denied" };
            let [old, new] = [old, new].map(|outcome| escape(&outcome_sentence(outcome)));
            let _ = writeln!(page, "{start} {change} | {old} | {new} |");
        }
        if let Some(reason) = undecided {
            let _ = writeln!(page, "{start} {} | {} | |", change.as_str(), escape(reason));
        }
    }
    write_omitted(page, environments.len());
    page.push('\n');
    for environment in environments.iter().take(MAX_ROWS) {
        for witness in &environment.witnesses {
            let test = serde_json::to_string_pretty(&witness.test).unwrap_or_default();
            let summary = format!("{} on {}", environment.action, environment.resource);
            write_details(page, &format!("A request: {summary}"), "json", &test);
        }
    }
}

fn write_matrix(page: &mut String, cells: &[ChangedCell]) {
    if cells.is_empty() {
        return;
    }
    let _ = writeln!(
        page,
        "### Permission matrix\n\n| action | resource | organization | scope | old | new |\n| --- | --- | --- | --- | --- | --- |"
    );
    for ChangedCell { resource, action, location, scope, old, new } in cells.iter().take(MAX_ROWS) {
        let [old, new] = [old, new].map(|cell| code(cell.unwrap_or("none")));
        let (action, resource) = (code(action), code(resource));
        let _ = writeln!(page, "| {action} | {resource} | {location} | {scope} | {old} | {new} |");
    }
    write_omitted(page, cells.len());
    page.push('\n');
}

fn write_policies(page: &mut String, policies: &[ChangedPolicy]) {
    if policies.is_empty() {
        return;
    }
    let _ = writeln!(page, "### Policies\n\n| policy | change | file |\n| --- | --- | --- |");
    for ChangedPolicy { id, change, file, line, .. } in policies.iter().take(MAX_ROWS) {
        let place = code(&format!("{file}:{line}"));
        let _ = writeln!(page, "| {} | {} | {place} |", code(id), escape(&change.sentence()));
    }
    write_omitted(page, policies.len());
    page.push('\n');
    for ChangedPolicy { id, diff, .. } in policies.iter().take(MAX_ROWS) {
        write_details(page, id, "diff", diff);
    }
}

fn write_files(page: &mut String, files: &[ChangedFile]) {
    if files.is_empty() {
        return;
    }
    let _ = writeln!(page, "### Other files\n");
    for ChangedFile { kind, name, change, diff } in files.iter().take(MAX_ROWS) {
        write_details(page, &format!("{kind}: {name} ({change})"), "diff", diff);
    }
}

fn write_replay(page: &mut String, replay: &ReplayReport) {
    let _ = writeln!(page, "### Logged decisions\n");
    let _ = writeln!(page, "{} of {} lines were decided again.\n", replay.replayed, replay.lines);
    if let Some(invalid) = replay.invalid_summary() {
        let _ = writeln!(page, "**{}**\n", escape(&invalid));
    }
    let Some(Flips { count, groups, not_grouped, .. }) = &replay.flips else { return };
    if *count == 0 {
        let _ = writeln!(page, "No logged decision changes.\n");
        return;
    }
    let _ = writeln!(
        page,
        "**{count} logged decisions change.**\n\n| action | change | policies | decisions | example |\n| --- | --- | --- | --- | --- |"
    );
    for group in groups.iter().take(MAX_ROWS) {
        let direction = if group.allowed { "deny → allow" } else { "allow → deny" };
        let example = group.examples.first();
        let example = example.map(|example| code(&format!("{}:{}", example.file, example.line)));
        let policies: Vec<String> = group.policies.iter().map(|policy| code(policy)).collect();
        let _ = writeln!(
            page,
            "| {} | {direction} | {} | {} | {} |",
            code(&group.action),
            policies.join(", "),
            group.count,
            example.unwrap_or_default()
        );
    }
    write_omitted(page, groups.len());
    if *not_grouped > 0 {
        let _ = writeln!(page, "\n{not_grouped} further decisions change.");
    }
    page.push('\n');
}

fn write_omitted(page: &mut String, rows: usize) {
    let omitted = rows.saturating_sub(MAX_ROWS);
    if omitted > 0 {
        let _ = writeln!(page, "\n{omitted} more rows are left out.");
    }
}

/// A collapsed block of code.
fn write_details(page: &mut String, summary: &str, language: &str, text: &str) {
    // The fence is longer than every run of backticks in the text.
    let mut fence = "```".to_owned();
    while text.contains(&fence) {
        fence.push('`');
    }
    let end = if text.ends_with('\n') { "" } else { "\n" };
    let _ = writeln!(
        page,
        "<details><summary>{}</summary>\n\n{fence}{language}\n{text}{end}{fence}\n\n</details>\n",
        escape(summary)
    );
}

/// A name as code: its characters are shown as they are.
fn code(name: &str) -> String {
    format!("<code>{}</code>", escape(name))
}

/// A text without markup: characters that Markdown, HTML or the host of the pull request would read are written as references.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '\n' | '\r' => escaped.push(' '),
            'a'..='z' | 'A'..='Z' | '0'..='9' | ' ' | ',' | '.' | ';' | '(' | ')' | '→' => {
                escaped.push(character);
            }
            character if character.is_alphanumeric() => escaped.push(character),
            other => {
                let _ = write!(escaped, "&#{};", u32::from(other));
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_ids_stay_text() {
        let hostile = "</code><img src=x onerror=alert(1)> | **b** [x](javascript:y) @everyone\n# `h`";
        let cell = code(hostile);
        for markup in ["<img", "|", "**", "[", "](", "@", "#\u{20}", "`", "\n"] {
            assert!(!cell.contains(markup), "{markup}: {cell}");
        }
        assert!(cell.starts_with("<code>&#60;&#47;code&#62;"), "{cell}");
        let mut page = String::new();
        write_details(&mut page, "<b>", "diff", "a\n```\n</details>\n");
        assert!(page.contains("\n````diff\n") && page.contains("<summary>&#60;b&#62;</summary>"), "{page}");
    }
}
