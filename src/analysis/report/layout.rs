//! Parts that several sections use: links, anchors, tables and empty states.

use super::model::Section;
use maud::{Markup, html};
use std::fmt::Write;

/// The id of an element, for any text: letters, digits, `.` and `-` stay, and other bytes are written in hexadecimal. Different
/// texts have different ids.
pub(super) fn anchor(prefix: &str, text: &str) -> String {
    let mut id = format!("{prefix}-");
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-' {
            id.push(char::from(byte));
        } else {
            let _ = write!(id, "_{byte:02x}");
        }
    }
    id
}

/// The id of the part of a policy.
pub(super) fn policy_anchor(id: &str) -> String {
    anchor("policy", id)
}

/// A link to a policy.
pub(super) fn policy_link(id: &str) -> Markup {
    html! { a.id href={ "#" (policy_anchor(id)) } { (id) } }
}

/// Links to policies, separated by commas.
pub(super) fn policy_links<'a>(ids: impl IntoIterator<Item = &'a String>) -> Markup {
    html! {
        @for (index, id) in ids.into_iter().enumerate() {
            @if index > 0 { ", " }
            (policy_link(id))
        }
    }
}

/// A part of the page with a heading of level 2.
pub(super) fn section(id: &str, title: &str, content: &Markup) -> Markup {
    html! {
        section id=(id) aria-labelledby={ (id) "-title" } {
            h2 id={ (id) "-title" } { (title) }
            (content)
        }
    }
}

/// Why a part is empty.
pub(super) fn empty(reason: &str) -> Markup {
    html! { p.empty { (reason) } }
}

/// The content of a part, or why it is empty.
pub(super) fn or_empty<T>(content: &Section<T>, show: impl FnOnce(&T) -> Markup) -> Markup {
    match content {
        Ok(content) => show(content),
        Err(reason) => empty(reason),
    }
}

/// A wide element, which scrolls within the page. It can have the focus, so that the keyboard scrolls it, too.
pub(super) fn scrolling(label: &str, content: &Markup) -> Markup {
    html! { div.scroll role="region" aria-label=(label) tabindex="0" { (content) } }
}

/// A number with its noun, such as `1 policy` and `2 policies`.
pub(super) fn count(number: usize, singular: &str, plural: &str) -> String {
    format!("{number} {}", if number == 1 { singular } else { plural })
}

/// The first 12 digits of a version.
pub(super) fn short(version: &str) -> &str {
    version.get(..12).unwrap_or(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_plain_and_differ() {
        assert_eq!(anchor("policy", "key.login"), "policy-key.login");
        assert_eq!(anchor("policy", "\"><script>"), "policy-_22_3e_3cscript_3e");
        assert_ne!(anchor("policy", "a_5f"), anchor("policy", "a_"));
    }
}
