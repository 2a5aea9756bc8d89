//! The report on the policies: its content, its empty parts, and the page in a browser.

use crate::browser::Browser;
use crate::command_line::{program, run, text};
use crate::policy_replay::Policies;
use crate::support::{TestApp, project_file};
use cedargate::api;
use cedargate::authz::Scope;
use cedargate::config::DecisionLogFilter;
use reqwest::StatusCode;
use std::path::{Path, PathBuf};
use std::process::Output;

/// The arguments that write the report to a file of the directory.
fn report_arguments(directory: &Path) -> (PathBuf, Vec<String>) {
    let file = directory.join("report.html");
    let fast = ["--without", "mutants", "--without", "proof"];
    let arguments = ["policy", "report", "--html", file.to_str().unwrap()].into_iter().chain(fast);
    let arguments = arguments.map(str::to_owned).collect();
    (file, arguments)
}

fn write_report(directory: &Path, settings: &[(&str, &str)], more: &[&str]) -> (Output, String) {
    let (file, arguments) = report_arguments(directory);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
    let output = run(directory, settings, &arguments);
    (output, std::fs::read_to_string(file).unwrap_or_default())
}

fn report(directory: &Path, settings: &[(&str, &str)], more: &[&str]) -> String {
    let (output, page) = write_report(directory, settings, more);
    assert!(output.status.success(), "{}", text(&output.stderr));
    page
}

/// The text of the page between two texts.
fn between<'a>(page: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = page.split_once(start).unwrap_or_else(|| panic!("the page lacks {start}"));
    rest.split_once(end).unwrap_or_else(|| panic!("the page lacks {end} after {start}")).0
}

#[test]
fn the_report_has_every_route_and_every_policy_and_says_why_parts_are_empty() {
    let directory = tempfile::tempdir().unwrap();
    let page = report(directory.path(), &[], &[]);
    let routes = between(&page, "id=\"routes\"", "</section>");
    let mut number = 3; // The API documentation.
    for group in api::all_routes() {
        for (path, route) in group.paths() {
            number += 1;
            assert!(routes.contains(&format!("<code>{path}</code>")), "{path}");
            let reason = route.public_reason.unwrap_or_default();
            match route.action {
                Some(action) => assert!(routes.contains(&format!("<code>{action}</code>")), "{action}"),
                None => assert!(!reason.is_empty() && routes.contains(reason), "{path} {reason:?}"),
            }
        }
    }
    assert_eq!(routes.matches("<tr>").count(), number + 1);
    assert!(routes.contains("0 routes are uncovered."));

    let policies = between(&page, "id=\"policies\"", "id=\"routes\"");
    for file in ["scopes", "self", "service", "tenancy"] {
        let source = std::fs::read_to_string(project_file(&format!("policies/{file}.cedar"))).unwrap();
        for id in source.split("@id(\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            assert!(policies.contains(&format!("<article class=\"policy\" id=\"policy-{id}\">")), "{id}");
        }
    }
    // The whole source and the description of a policy.
    assert!(policies.contains("unless { resource in principal.organization };"));
    assert!(policies.contains("<p class=\"doc\">Users act on resources of their own organization"));
    assert!(policies.contains("<code>resource.organization</code>"));

    let identity = between(&page, "id=\"identity\"", "</section>");
    assert!(identity.contains("cedargate.db does not exist"), "{identity}");
    assert!(identity.contains("tenancy.cedar"));
    assert!(policies.contains("no decision log was given"));
    assert!(page.contains("The schema declares no action of another service"));
    let history = between(&page, "id=\"history\"", "</section>");
    assert!(history.contains("cedargate.db does not exist"), "{history}");
    assert!(page.contains("Signatures"));
    let changes = between(&page, "id=\"changes\"", "</section>");
    assert!(changes.contains("There is no base to compare with."), "{changes}");
    let warnings = between(&page, "id=\"warnings\"", "</section>");
    for text in ["--without mutants", "found nothing", "policy tests pass"] {
        assert!(warnings.contains(text), "{text}: {warnings}");
    }
    let claims = between(&page, "id=\"claims\"", "</section>");
    assert!(claims.contains("0 are broken") && claims.contains("as PROOF.json records"), "{claims}");
}

#[test]
fn the_report_loads_nothing_and_has_no_script() {
    let directory = tempfile::tempdir().unwrap();
    let page = report(directory.path(), &[], &[]);
    for forbidden in
        ["<script", "<link", "<img", "<iframe", "src=", "url(", "@import", "http://", "https://", " on"]
    {
        let found = page.match_indices(forbidden).find(|(position, _)| {
            // ` on` only where an attribute such as `onclick=` follows.
            forbidden != " on"
                || page[position + 3..].split(['=', ' ', '<']).next().is_some_and(|name| {
                    !name.is_empty() && page[position + 3 + name.len()..].starts_with("=\"")
                })
        });
        assert!(
            found.is_none(),
            "{forbidden}: {:?}",
            found.map(|(position, _)| &page[position..position + 60])
        );
    }
    // All links lead to parts of the page that exist.
    for target in page.split("href=\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(page.contains(&format!("id=\"{target}\"")), "{target}");
    }
    // The same input gives the same page but for its time.
    let again = report(directory.path(), &[], &[]);
    let time = |page: &str| between(page, ", made ", "</p>").to_owned();
    assert_eq!(page.replace(&time(&page), "TIME"), again.replace(&time(&again), "TIME"));
}

/// A copy of the shipped policies with a policy and a policy test whose texts are HTML.
fn hostile_policies() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("policies");
    std::fs::create_dir_all(target.join("cases")).unwrap();
    for name in ["scopes.cedar", "self.cedar", "service.cedar", "tenancy.cedar", "scopes.json"] {
        std::fs::copy(project_file(&format!("policies/{name}")), target.join(name)).unwrap();
    }
    let policy = "@id(\"\\\"><script>alert(1)</script>\")\n@doc(\"</p><img src=x onerror=alert(2)>\")\n\
        permit (principal in Scope::\"admin\", action == Action::\"fetchForm\", resource) when { \"<b>\" == \"<b>\" };\n";
    std::fs::write(target.join("<i>.cedar"), policy).unwrap();
    let cases = std::fs::read_to_string(project_file("policies/cases/permission-table.json")).unwrap();
    let mut cases: Vec<serde_json::Value> = serde_json::from_str(&cases).unwrap();
    cases.retain(|case| case["request"]["action"] == "Action::\"fetchForm\"");
    assert!(!cases.is_empty());
    for case in &mut cases {
        case["name"] = format!("{}<script>alert(3)</script>", case["name"].as_str().unwrap()).into();
    }
    std::fs::write(target.join("cases/<u>.json"), serde_json::to_string(&cases).unwrap()).unwrap();
    directory
}

#[test]
fn the_report_names_what_a_leaked_api_key_cannot_do() {
    let directory = tempfile::tempdir().unwrap();
    let page = report(directory.path(), &[], &[]);
    let of_credential =
        |kind: &str| between(&page, &format!("id=\"credential-{kind}-admin\""), "</section>").to_owned();
    let (_, denied) = of_credential("apiKey")
        .split_once("It cannot do the following, which a session of this scope can: ")
        .map(|(can, cannot)| (can.to_owned(), cannot.to_owned()))
        .unwrap();
    // Provisioning keys can, so that it is not only sessions.
    assert!(denied.contains(">deleteUser</a>"), "{denied}");
    assert!(of_credential("provisioningKey").contains(">deleteUser</a>"));
    assert!(!page.contains("Only a session"));
}

#[test]
fn hostile_ids_descriptions_and_names_stay_text() {
    let directory = hostile_policies();
    let policies = directory.path().join("policies");
    let page = report(directory.path(), &[("CEDARGATE_POLICIES", policies.to_str().unwrap())], &[]);
    assert!(page.contains("&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(page.contains("&lt;/p&gt;&lt;img src=x onerror=alert(2)&gt;"));
    assert!(page.contains("&lt;script&gt;alert(3)&lt;/script&gt;"));
    assert!(page.contains("/&lt;i&gt;.cedar") && page.contains("/&lt;u&gt;.json"));
    assert!(page.contains("no proof of this version is recorded"));
    for tag in ["<script", "<img", "<b>", "<i>", "<u>"] {
        assert!(!page.contains(tag), "{tag}");
    }
    let id = "policy-_22_3e_3cscript_3ealert_281_29_3c_2fscript_3e";
    assert!(page.contains(&format!("id=\"{id}\"")) && page.contains(&format!("href=\"#{id}\"")));
}

#[tokio::test]
async fn the_report_compares_the_files_with_the_active_version_and_reads_the_decision_log() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("decisions.ndjson").display().to_string();
    let app = TestApp::start_with(|config| {
        config.decision_log = DecisionLogFilter::All;
        config.decision_log_path = log.clone();
    })
    .await;
    let guest = app.user(Scope::Guest).await;
    app.admin().await.get("/v2/forms").await.expect(StatusCode::OK);
    guest.get("/v2/forms").await.expect_problem(403, "forbidden");
    app.state.decision_log.close();
    let lines = std::fs::read_to_string(&log).unwrap();
    let last = lines.lines().rfind(|line| line.contains("\"policies\":[\"bot\"]")).unwrap();
    let last: serde_json::Value = serde_json::from_str(last).unwrap();
    std::fs::write(&log, format!("{lines}no decision\n")).unwrap();

    let settings = [("CEDARGATE_DATABASE_URL", app.url())];
    let page = report(app.directory(), &settings, &["--log", &log]);
    let identity = between(&page, "id=\"identity\"", "</section>");
    assert!(identity.contains("The active version is the version of these files."), "{identity}");
    let history = between(&page, "id=\"history\"", "</section>");
    assert!(history.contains("<strong>active</strong>") && history.contains("start"), "{history}");
    let number = lines.lines().count();
    assert!(page.contains(&format!("decision logs with {number} decisions.")), "{number}");
    assert!(page.contains("One further line is no decision."));
    let bot = between(&page, "id=\"policy-bot\"", "</article>");
    assert!(bot.contains(last["time"].as_str().unwrap()), "{last}");
    let tenancy = between(&page, "id=\"policy-key.creation\"", "</article>");
    assert!(tenancy.contains("in no decision of the logs"));

    let changed = hostile_policies();
    let policies = changed.path().join("policies");
    let settings = [settings[0], ("CEDARGATE_POLICIES", policies.to_str().unwrap())];
    let page = report(changed.path(), &settings, &[]);
    assert!(page.contains("This report does not describe what the service decides."));
}

#[test]
fn a_report_that_cannot_be_written_or_read_fails() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["policy", "report", "--html", "no/such/directory/report.html"];
    let output = run(directory.path(), &[], &arguments);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no/such/directory/report.html"));
    let (output, page) = write_report(directory.path(), &[], &["--log", "missing.ndjson"]);
    assert_eq!((output.status.code(), page.as_str()), (Some(1), ""));
    assert!(!directory.path().join("report.html").exists());
    assert!(text(&output.stderr).contains("missing.ndjson"));
}

#[test]
fn external_domains_have_tables_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let paths = |name: &str| {
        let example = project_file(&format!("examples/documents/{name}"));
        format!("{},{}", project_file(name).display(), example.display())
    };
    let (schema, policies) = (paths("schema"), paths("policies"));
    let settings = [("CEDARGATE_SCHEMA", schema.as_str()), ("CEDARGATE_POLICIES", policies.as_str())];
    let page = report(directory.path(), &settings, &[]);
    let domain = between(&page, "id=\"domain-Docs\"", "</section>");
    assert!(domain.contains("Docs::Action::&quot;share&quot;"));
    assert!(domain.contains("<a class=\"id\" href=\"#policy-docs.final\">docs.final</a>"));
    assert!(domain.contains("results for the entities of the policy data"));
    // Results have their policy tests, and cells link to them.
    assert!(domain.contains("policy tests</summary>"), "{domain}");
    let (_, link) = domain.split_once("<a class=\"cases\" href=\"#").expect("no link to policy tests");
    let row = format!("<tr id=\"{}\">", link.split('"').next().unwrap());
    assert!(domain.contains(&row), "{row}");
}

#[tokio::test]
async fn a_click_on_a_cell_leads_to_its_policy() {
    let directory = tempfile::tempdir().unwrap();
    let (file, arguments) = report_arguments(directory.path());
    let output = program(directory.path(), &[]).args(&arguments).output().unwrap();
    assert!(output.status.success());
    let browser = Browser::start().await;
    browser.open(&format!("file://{}", file.display())).await;
    // The cell of admins with a session who delete a user of an organization below.
    let row = "//table[caption[contains(., 'credential session')]]//tr[th/a[text()='deleteUser']]";
    let cell = browser.find(&format!("{row}/td[11]/a")).await;
    assert_eq!(browser.text(&cell).await.replace(['●', '\n'], "").trim(), "allowed");
    browser.click(&cell).await;
    let outcome = browser.target().await;
    let shown = browser.text(&outcome).await;
    assert!(
        shown.contains("session, provisioning key: admin (own, below)")
            && shown.contains("Permitted by admin"),
        "{shown}"
    );
    let policy = browser.find_in(&outcome, ".//a[text()='admin']").await;
    browser.click(&policy).await;
    assert!(browser.url().await.ends_with("#policy-admin"));
    let policy = browser.find("//*[@id='policy-admin']").await;
    let shown = browser.text(&policy).await;
    assert!(
        shown.contains("principal in Scope::\"admin\"") && shown.contains("Admins list services"),
        "{shown}"
    );
    // A key cannot.
    let row = row.replace("session", "API key");
    let cell = browser.find(&format!("{row}/td[11]/a")).await;
    browser.click(&cell).await;
    let outcome = browser.target().await;
    let shown = browser.text(&outcome).await;
    assert!(shown.contains("Forbidden by key.identities"), "{shown}");
    // On a phone the page is not wider than the window, in light and in dark mode.
    for scheme in ["light", "dark"] {
        browser.emulate(360, scheme).await;
        let width = browser.evaluate("document.documentElement.scrollWidth").await;
        assert!(width.as_u64().unwrap() <= 360, "{scheme}: {width}");
        let (text, page) =
            ("getComputedStyle(document.body).color", "getComputedStyle(document.body).backgroundColor");
        let brightness = async |color: &str| {
            let color = browser.evaluate(color).await;
            let numbers = color.as_str().unwrap().split(|c: char| !c.is_ascii_digit());
            numbers.filter_map(|number| number.parse::<u32>().ok()).take(3).sum::<u32>()
        };
        let is_dark = brightness(page).await < brightness(text).await;
        assert_eq!(is_dark, scheme == "dark");
    }
    browser.close().await;
}

/// The report of `new`, compared with `old`, with all parts.
fn compared_report(old: &Policies, new: &Policies) -> String {
    let base = old.path("").display().to_string();
    let output = new.command(&["policy", "report", "--html", "report.html", "--base", &base]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    std::fs::read_to_string(new.path("report.html")).unwrap()
}

/// The shipped policies with their tests and claims.
fn shipped_policies() -> Policies {
    let policies = Policies::new();
    for name in ["policies/cases", "policies/claims"] {
        std::fs::create_dir_all(policies.path(name)).unwrap();
        for entry in std::fs::read_dir(project_file(name)).unwrap() {
            let file = entry.unwrap().path();
            std::fs::copy(&file, policies.path(name).join(file.file_name().unwrap())).unwrap();
        }
    }
    policies
}

#[test]
fn the_report_shows_changes_with_their_witnesses_and_what_is_proven() {
    let [old, new] = [shipped_policies(), shipped_policies()];
    new.replace(
        "policies/tenancy.cedar",
        "unless { resource in principal.organization };",
        "unless { resource in principal.organization || (action == Action::\"fetchForm\" && principal in Scope::\"admin\") };",
    );
    let page = compared_report(&old, &new);
    let changes = between(&page, "id=\"changes\"", "id=\"warnings\"");
    assert!(changes.contains("Some requests are newly allowed."), "{changes}");
    assert!(!changes.contains("No request is newly allowed"));
    assert!(changes.contains("<code>fetchForm</code>") && changes.contains("+ newly allowed"), "{changes}");
    assert!(changes.contains("&quot;request&quot;") && changes.contains("href=\"#policy-tenancy\""));
    assert!(changes.contains("by a changed policy"), "{changes}");
    // The weakened policy breaks a claim.
    let claims = between(&page, "id=\"claims\"", "</section>");
    assert!(claims.contains("broken, ") && claims.contains("when this report was made"), "{claims}");
    let page = compared_report(&new, &old);
    let warnings = between(&page, "id=\"warnings\"", "id=\"access\"");
    assert!(warnings.contains("change a decision that no policy test checks"), "{warnings}");
    let changes = between(&page, "id=\"changes\"", "id=\"warnings\"");
    assert!(changes.contains("No request is newly allowed, and some are newly denied."), "{changes}");
    assert!(changes.contains("This is proven for all requests of"));
    let claims = between(&page, "id=\"claims\"", "</section>");
    assert!(claims.contains("0 are broken, 0 are unknown."), "{claims}");
}
