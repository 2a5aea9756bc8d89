//! Test results in the JUnit XML format, which CI services read.

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};
use std::time::Duration;

/// The outcome of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TestOutcome {
    /// The test passed.
    Passed,
    /// The test failed, with this message.
    Failed(String),
    /// The test could not be executed or decided, for this reason.
    Errored(String),
}

/// The results of one file or group of tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestSuite {
    /// The name of the group.
    pub name: String,
    /// The tests: name, outcome and duration.
    pub tests: Vec<(String, TestOutcome, Duration)>,
}

/// The results as a JUnit XML document.
pub fn junit(suites: &[TestSuite]) -> String {
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    // Writing to memory does not fail.
    let _ = write(&mut writer, suites);
    let text = String::from_utf8_lossy(&writer.into_inner()).into_owned();
    format!("{text}\n")
}

fn write(writer: &mut Writer<Vec<u8>>, suites: &[TestSuite]) -> std::io::Result<()> {
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    writer.write_event(Event::Start(BytesStart::new("testsuites")))?;
    for suite in suites {
        let count = |is_counted: fn(&TestOutcome) -> bool| {
            suite.tests.iter().filter(|(_, outcome, _)| is_counted(outcome)).count().to_string()
        };
        let time: Duration = suite.tests.iter().map(|(_, _, duration)| *duration).sum();
        let mut start = BytesStart::new("testsuite");
        start.push_attribute(("name", xml_text(&suite.name).as_str()));
        start.push_attribute(("tests", suite.tests.len().to_string().as_str()));
        start.push_attribute((
            "failures",
            count(|outcome| matches!(outcome, TestOutcome::Failed(_))).as_str(),
        ));
        start
            .push_attribute(("errors", count(|outcome| matches!(outcome, TestOutcome::Errored(_))).as_str()));
        start.push_attribute(("time", format!("{:.3}", time.as_secs_f64()).as_str()));
        writer.write_event(Event::Start(start))?;
        for (name, outcome, duration) in &suite.tests {
            write_test(writer, &suite.name, name, outcome, *duration)?;
        }
        writer.write_event(Event::End(BytesEnd::new("testsuite")))?;
    }
    writer.write_event(Event::End(BytesEnd::new("testsuites")))
}

fn write_test(
    writer: &mut Writer<Vec<u8>>,
    suite: &str,
    name: &str,
    outcome: &TestOutcome,
    duration: Duration,
) -> std::io::Result<()> {
    let mut start = BytesStart::new("testcase");
    start.push_attribute(("classname", xml_text(suite).as_str()));
    start.push_attribute(("name", xml_text(name).as_str()));
    start.push_attribute(("time", format!("{:.3}", duration.as_secs_f64()).as_str()));
    let (element, message) = match outcome {
        TestOutcome::Passed => return writer.write_event(Event::Empty(start)),
        TestOutcome::Failed(message) => ("failure", xml_text(message)),
        TestOutcome::Errored(message) => ("error", xml_text(message)),
    };
    writer.write_event(Event::Start(start))?;
    let mut problem = BytesStart::new(element);
    problem.push_attribute(("message", message.lines().next().unwrap_or_default()));
    writer.write_event(Event::Start(problem))?;
    writer.write_event(Event::Text(BytesText::new(&message)))?;
    writer.write_event(Event::End(BytesEnd::new(element)))?;
    writer.write_event(Event::End(BytesEnd::new("testcase")))
}

/// The text without characters that XML 1.0 cannot contain.
fn xml_text(text: &str) -> String {
    let is_allowed = |letter: &char| matches!(letter, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    text.chars().map(|letter| if is_allowed(&letter) { letter } else { '\u{fffd}' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_messages_are_escaped() {
        let tests = vec![
            ("a <b>".to_owned(), TestOutcome::Passed, Duration::from_millis(1500)),
            ("c".to_owned(), TestOutcome::Failed("1 < 2 & \u{1}\nmore".to_owned()), Duration::ZERO),
            ("d".to_owned(), TestOutcome::Errored("no solver".to_owned()), Duration::ZERO),
        ];
        let text = junit(&[TestSuite { name: "cases/a.json".to_owned(), tests }]);
        assert!(
            text.contains(
                r#"<testsuite name="cases/a.json" tests="3" failures="1" errors="1" time="1.500">"#
            )
        );
        assert!(text.contains(r#"name="a &lt;b&gt;" time="1.500"/>"#), "{text}");
        assert!(text.contains("1 &lt; 2 &amp; \u{fffd}\nmore</failure>"), "{text}");
    }
}
