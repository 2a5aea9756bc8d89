//! The nearest name of a list, for messages about a misspelt one.

/// The maximum length of names that are compared, in characters.
const MAX_LENGTH: usize = 64;

/// The name that is nearest to a misspelt one; none if none is near.
///
/// Case, `_` and `-` do not count: `sharedUntil` is the nearest name to `shared_until`. Of equally near names it is the first.
pub(crate) fn nearest_name<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = normalized(name);
    if wanted.is_empty() || wanted.len() > MAX_LENGTH {
        return None;
    }
    // A third of the characters may differ, and at least one.
    let max = (wanted.len() / 3).max(1);
    let mut nearest: Option<(usize, &str)> = None;
    for candidate in names.into_iter().filter(|candidate| *candidate != name) {
        // A character has at most four bytes: what is much longer or shorter is not compared.
        if candidate.len() > 4 * (wanted.len() + max) + name.len() {
            continue;
        }
        let letters = normalized(candidate);
        if letters.len().abs_diff(wanted.len()) > max || letters.len() > MAX_LENGTH {
            continue;
        }
        let distance = distance(&wanted, &letters);
        // A name with nothing in common is not near, however short both are.
        if distance <= max
            && distance < wanted.len()
            && nearest.is_none_or(|(smallest, _)| distance < smallest)
        {
            nearest = Some((distance, candidate));
        }
    }
    nearest.map(|(_, candidate)| candidate)
}

fn normalized(name: &str) -> Vec<char> {
    name.chars().filter(|letter| !"_-".contains(*letter)).flat_map(char::to_lowercase).collect()
}

/// The number of insertions, deletions, replacements and swaps of neighbours that make one text of the other.
fn distance(left: &[char], right: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    let mut above_left: Option<char> = None;
    for (row, letter) in left.iter().enumerate() {
        let mut current = vec![row + 1];
        let mut previous: Option<char> = None;
        for (column, other) in right.iter().enumerate() {
            let cell = |line: &[usize], column: usize| line.get(column).copied().unwrap_or(usize::MAX / 2);
            let mut least = (cell(&last, column + 1) + 1).min(cell(&current, column) + 1);
            least = least.min(cell(&last, column) + usize::from(letter != other));
            if above_left == Some(*other) && previous == Some(*letter) && column > 0 {
                least = least.min(cell(&before_last, column - 1) + 1);
            }
            current.push(least);
            previous = Some(*other);
        }
        above_left = Some(*letter);
        before_last = std::mem::replace(&mut last, current);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found() {
        let names = ["sharedUntil", "owner", "dan", "eve", "read", "edit", "fetchForm", "fetchUser"];
        for (name, expected) in [
            ("shared_until", Some("sharedUntil")),
            ("SHAREDUNTIL", Some("sharedUntil")),
            ("ownr", Some("owner")),
            ("dna", Some("dan")),
            ("raed", Some("read")),
            ("fetchFrom", Some("fetchForm")),
            ("fetchUsers", Some("fetchUser")),
            ("x", None),
            ("", None),
            ("_", None),
            ("deleteEverything", None),
        ] {
            assert_eq!(nearest_name(name, names), expected, "{name}");
        }
        assert_eq!(nearest_name("dan", ["dan", "dam"]), Some("dam"), "the name itself is no suggestion");
        assert_eq!(nearest_name(&"x".repeat(100), ["x"]), None);
    }

    #[test]
    fn distances_count_edits_and_swaps() {
        let letters = |text: &str| text.chars().collect::<Vec<_>>();
        for (left, right, expected) in [
            ("", "", 0),
            ("a", "", 1),
            ("ab", "ba", 1),
            ("kitten", "sitting", 3),
            ("abc", "abc", 0),
            ("raed", "read", 1),
        ] {
            assert_eq!(distance(&letters(left), &letters(right)), expected, "{left} {right}");
            assert_eq!(distance(&letters(right), &letters(left)), expected, "{right} {left}");
        }
    }
}
