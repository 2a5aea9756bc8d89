//! The page of `examples/browser`, in Chromium, against a service on another origin.

use crate::browser::Browser;
use crate::resources::create_resource;
use crate::support::{ADMIN, Client, PASSWORD, TestApp, project_file, wait_until};
use actix_web::{App, HttpResponse, HttpServer, web};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::net::TcpListener;

/// A text that would be harmful as HTML.
const HOSTILE: &str =
    "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>";

/// Serves the files of the page as they are, except for the address of the service. Returns the origin.
fn serve_page(listener: TcpListener, service: &str) -> String {
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let service = service.to_owned();
    let file = move |name: &str| {
        let text = std::fs::read_to_string(project_file("examples/browser").join(name)).unwrap();
        text.replace("http://127.0.0.1:8080", &service)
    };
    let files = [
        ("/", file("index.html"), "text/html"),
        ("/style.css", file("style.css"), "text/css"),
        ("/app.js", file("app.js"), "text/javascript"),
        ("/api.js", file("api.js"), "text/javascript"),
    ];
    let server = HttpServer::new(move || {
        files.iter().cloned().fold(App::new(), |app, (path, text, kind)| {
            let answer = move || HttpResponse::Ok().content_type(kind).body(text.clone());
            app.route(path, web::get().to(move || std::future::ready(answer())))
        })
    });
    tokio::spawn(server.workers(1).disable_signals().listen(listener).unwrap().run());
    origin
}

/// The page in a browser.
struct Page {
    browser: Browser,
    origin: String,
}

impl Page {
    /// The text of the element with this id, once it contains a text.
    async fn text_with(&self, id: &str, part: &str) -> String {
        wait_until(async || {
            let text = self.text(id).await;
            if text.contains(part) { Ok(text) } else { Err(format!("#{id}: {part:?} is not in {text:?}")) }
        })
        .await
    }

    async fn text(&self, id: &str) -> String {
        let element = self.browser.find(&format!("//*[@id='{id}']")).await;
        self.browser.text(&element).await
    }

    async fn is_shown(&self, id: &str) -> bool {
        let element = self.browser.find(&format!("//*[@id='{id}']")).await;
        self.browser.is_shown(&element).await
    }

    /// Waits until an element is shown, or hidden.
    async fn wait_for(&self, id: &str, is_shown: bool) {
        wait_until(async || match self.is_shown(id).await == is_shown {
            true => Ok(()),
            false => Err(format!("#{id} is not as expected; the error is {:?}", self.text("error").await)),
        })
        .await;
    }

    async fn fill(&self, id: &str, text: &str) {
        let element = self.browser.find(&format!("//*[@id='{id}']")).await;
        self.browser.fill(&element, text).await;
    }

    async fn click(&self, xpath: &str) {
        let element = self.browser.find(xpath).await;
        self.browser.click(&element).await;
    }

    async fn sign_in(&self, password: &str) {
        self.wait_for("sign-in", true).await;
        self.fill("email", ADMIN).await;
        self.fill("password", password).await;
        self.click("//form[@id='sign-in']//button").await;
    }

    /// The names of the listed conversations, once there are as many as expected.
    async fn conversations(&self, expected: usize) -> Vec<String> {
        let script =
            "[...document.querySelectorAll('#conversations button')].map(one => one.firstChild.data)";
        wait_until(async || {
            let names: Vec<String> = serde_json::from_value(self.browser.evaluate(script).await).unwrap();
            if names.len() == expected { Ok(names) } else { Err(format!("{names:?}")) }
        })
        .await
    }

    /// Searches without waiting for the answer.
    async fn search_by_script(&self, text: &str) {
        let script = "document.getElementById('search').value = text; document.querySelector('#filter button').click()";
        self.browser.evaluate(&format!("((text) => {{ {script} }})({})", json!(text))).await;
    }

    /// What the page stores in the browser.
    async fn stored(&self) -> Value {
        self.browser.evaluate("JSON.parse(localStorage.getItem('cedargate.tokens'))").await
    }

    /// Writes a picture of the page, for people, if the variable `SCREENSHOTS` names a directory.
    async fn picture(&self, name: &str) {
        let Some(directory) = std::env::var_os("SCREENSHOTS") else { return };
        use base64::prelude::{BASE64_STANDARD, Engine};
        for (width, scheme) in [(1200, "light"), (1200, "dark"), (360, "light"), (360, "dark")] {
            self.browser.emulate(width, scheme).await;
            let picture = BASE64_STANDARD.decode(self.browser.screenshot().await).unwrap();
            let file = format!("{name}-{width}-{scheme}.png");
            std::fs::write(std::path::Path::new(&directory).join(file), picture).unwrap();
        }
        self.browser.emulate(1200, "light").await;
    }
}

/// The service with some conversations, and the page on another origin.
async fn start() -> (TestApp, Client, Page) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let app = TestApp::start_with(|config| {
        config.cors_origins = vec![origin];
        config.access_ttl = 900;
    })
    .await;
    let admin = app.admin().await;
    for number in 0..12 {
        app.clock.advance(1_000);
        let status = if number < 3 { "closed" } else { "open" };
        let body = json!({ "name": format!("Question {number}"), "status": status });
        create_resource(&admin, "/v2/conversations", body).await;
    }
    app.clock.advance(1_000);
    let body = json!({
        "name": HOSTILE, "status": "open", "messages": [{ "text": "When are you open?" }, { "text": HOSTILE }],
    });
    create_resource(&admin, "/v2/conversations", body).await;
    let origin = serve_page(listener, &app.base);
    let browser = Browser::start().await;
    (app, admin, Page { browser, origin })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_signs_in_lists_searches_sends_and_signs_out() {
    let (app, admin, page) = start().await;
    page.browser.open(&page.origin).await;

    page.sign_in("wrong").await;
    page.text_with("error", "The email or the password is wrong.").await;
    page.picture("wrong-password").await;
    assert!(!page.is_shown("app").await);
    assert_eq!(page.stored().await, Value::Null);
    page.sign_in(PASSWORD).await;
    page.wait_for("app", true).await;
    page.text_with("count", "13 conversations").await;
    assert!(!page.is_shown("error").await && !page.is_shown("sign-in").await);
    assert_eq!(page.text("user").await, ADMIN);

    // The newest first, and the rest on demand. Hostile texts stay texts.
    let names = page.conversations(10).await;
    assert_eq!((names[0].as_str(), names[1].as_str()), (HOSTILE, "Question 11"));
    page.click("//*[@id='more']").await;
    assert_eq!(page.conversations(13).await[12], "Question 0");
    assert!(!page.is_shown("more").await);
    page.picture("list").await;

    // Filter and search.
    page.click("//select[@id='state']/option[@value='closed']").await;
    page.click("//form[@id='filter']//button").await;
    assert_eq!(page.conversations(3).await, ["Question 2", "Question 1", "Question 0"]);
    page.click("//select[@id='state']/option[@value='']").await;
    page.fill("search", "qUESTION 1").await;
    page.click("//form[@id='filter']//button").await;
    page.text_with("conversations", "Question 11").await;
    page.text_with("count", "3 conversations").await;
    assert_eq!(page.conversations(3).await, ["Question 11", "Question 10", "Question 1"]);
    page.fill("search", "<img").await;
    page.click("//form[@id='filter']//button").await;
    assert_eq!(page.conversations(1).await, [HOSTILE]);

    // Read and send.
    page.click("//ul[@id='conversations']//button").await;
    page.text_with("messages", "When are you open?").await;
    assert!(page.text("messages").await.contains(HOSTILE));
    assert_eq!(page.text("name").await, HOSTILE);
    page.fill("text", "From nine to five <b>daily</b>").await;
    page.click("//form[@id='send']//button").await;
    page.text_with("messages", "From nine to five <b>daily</b>").await;
    page.text_with("status", "The message was sent.").await;
    page.picture("conversation").await;
    let stored = admin.get("/v2/messages?text=^From nine").await.expect(StatusCode::OK);
    assert_eq!(stored.as_array().unwrap().len(), 1, "{stored}");
    let injected = "document.querySelectorAll('main img, main script, main b').length";
    assert_eq!(page.browser.evaluate(injected).await, 0);
    assert_eq!(page.browser.evaluate("document.title").await, "Conversations");
    // A blank message is an error that the page shows, and the text stays.
    page.browser.evaluate("document.getElementById('text').value = '  '").await;
    page.click("//form[@id='send']//button").await;
    page.text_with("error", "text:").await;

    let token = page.stored().await["token"].as_str().unwrap().to_owned();
    page.click("//*[@id='sign-out']").await;
    page.text_with("status", "You are signed out.").await;
    assert_eq!(page.stored().await, Value::Null);
    assert_eq!(page.browser.evaluate("document.querySelectorAll('#messages li').length").await, 0);
    app.bearer(&token).get("/v2/users/me").await.expect_problem(401, "invalid_token");
    admin.get("/v2/users/me").await.expect(StatusCode::OK);
    page.browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_refreshed_and_the_end_of_a_session_reaches_all_tabs() {
    let (app, admin, page) = start().await;
    page.browser.open(&page.origin).await;
    page.sign_in(PASSWORD).await;
    page.text_with("count", "13 conversations").await;
    let first = page.stored().await;

    // Two tabs refresh at once: one does, and the other one uses its tokens.
    let one_tab = page.browser.tab().await;
    page.browser.open_tab().await;
    page.browser.open(&page.origin).await;
    page.text_with("count", "13 conversations").await;
    let other_tab = page.browser.tab().await;
    app.clock.advance(901_000);
    page.search_by_script("Question 11").await;
    page.browser.switch_to(&one_tab).await;
    page.search_by_script("Question 1").await;
    page.text_with("count", "3 conversations").await;
    page.browser.switch_to(&other_tab).await;
    page.text_with("count", "1 conversation").await;
    let second = page.stored().await;
    assert_ne!(second["refreshToken"], first["refreshToken"]);
    let reused = "SELECT count(*) FROM audit WHERE event = 'token.reused'";
    let refreshed = "SELECT count(*) FROM audit WHERE event = 'token.refreshed'";
    // A tab may see the storage of the other one late, and then repeats the refresh, which returns the same tokens.
    assert_eq!(app.count(reused).await, 0);
    assert!((1..=2).contains(&app.count(refreshed).await));

    // A reload keeps the session. The token has expired again: signing out works all the same.
    page.browser.open(&page.origin).await;
    page.text_with("count", "13 conversations").await;
    app.clock.advance(901_000);
    let sessions = "SELECT count(*) FROM sessions WHERE ended_at IS NULL";
    let before = app.count(sessions).await;
    page.click("//*[@id='sign-out']").await;
    page.text_with("status", "You are signed out.").await;
    assert_eq!(app.count(sessions).await, before - 1);
    page.browser.switch_to(&one_tab).await;
    page.text_with("status", "You are signed out.").await;
    assert!(!page.is_shown("app").await);

    // An ended session leads to the sign-in form.
    page.sign_in(PASSWORD).await;
    page.text_with("count", "13 conversations").await;
    let admin = Client { bearer: app.admin().await.bearer, ..admin };
    admin.delete("/v2/users/me/sessions").await.expect(StatusCode::NO_CONTENT);
    page.click("//form[@id='filter']//button").await;
    page.wait_for("sign-in", true).await;
    assert_eq!(page.stored().await, Value::Null);

    // Everywhere.
    page.sign_in(PASSWORD).await;
    page.text_with("count", "13 conversations").await;
    page.click("//*[@id='sign-out-everywhere']").await;
    page.text_with("status", "You are signed out.").await;
    assert_eq!(app.count(sessions).await, 0);
    page.browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_fits_narrow_screens_and_is_readable_in_both_color_schemes() {
    let (_app, _, page) = start().await;
    page.browser.open(&page.origin).await;
    page.sign_in(PASSWORD).await;
    page.conversations(10).await;
    page.click("//ul[@id='conversations']//button").await;
    page.text_with("messages", "When are you open?").await;
    let width = "document.documentElement.scrollWidth <= innerWidth";
    // Every field has a label, every button a text, and focus moves to the opened conversation.
    let unnamed =
        "[...document.querySelectorAll('input, select, textarea')].filter(one => !one.labels.length).length";
    let silent = "[...document.querySelectorAll('button')].filter(one => !one.textContent.trim()).length";
    assert_eq!(page.browser.evaluate(unnamed).await, 0);
    assert_eq!(page.browser.evaluate(silent).await, 0);
    assert_eq!(page.browser.evaluate("document.activeElement.id").await, "name");
    for scheme in ["light", "dark"] {
        for screen in [320, 1200] {
            page.browser.emulate(screen, scheme).await;
            assert_eq!(page.browser.evaluate(width).await, true, "{screen} {scheme}");
        }
        // WCAG 2.2, 1.4.3: contrast of at least 4.5.
        for (front, back) in [
            ("body", "body"),
            ("#count", "#app > section"),
            ("#sign-out", "#sign-out"),
            ("#send button", "#send button"),
            ("#messages small", "#messages li"),
        ] {
            let script = format!("({CONTRAST})('{front}', '{back}')");
            let contrast = page.browser.evaluate(&script).await.as_f64().unwrap();
            assert!(contrast >= 4.5, "{scheme} {front}: {contrast}");
        }
    }
    page.browser.close().await;
}

/// The contrast between the text of an element and the background of another one.
const CONTRAST: &str = "(front, back) => {
  const parts = (selector, property) =>
    getComputedStyle(document.querySelector(selector))[property].match(/[0-9.]+/g).slice(0, 3).map(Number);
  const luminance = (color) => color
    .map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
  const [one, other] = [luminance(parts(front, 'color')), luminance(parts(back, 'backgroundColor'))];
  return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
}";
