//! A browser that tests control with the WebDriver protocol (W3C): Chromium by chromedriver, without a window.

use crate::support::http_client;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// The key of an element in the protocol (W3C WebDriver, section 12.1).
const ELEMENT_KEY: &str = "element-6066-11e4-a52e-4f735466cecf";

/// An element of the page.
pub struct Element(String);

/// A tab of the browser.
pub struct Tab(String);

/// A browser, which ends when this value is dropped.
pub struct Browser {
    driver: Child,
    client: reqwest::Client,
    /// The address of the session.
    session: String,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

impl Browser {
    /// Starts chromedriver on a free port, and a browser.
    pub async fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is needed: apt-get install chromium-driver");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.find_map(|line| {
            let line = line.unwrap();
            let (_, port) = line.split_once("started successfully on port ")?;
            Some(port.trim_end_matches('.').to_owned())
        });
        // The pipe is read to its end, so that the driver can write to it.
        std::thread::spawn(move || lines.for_each(drop));
        let base = format!("http://127.0.0.1:{}/session", port.unwrap());
        let client = http_client();
        let arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"];
        let options = json!({ "goog:chromeOptions": { "args": arguments } });
        let body = json!({ "capabilities": { "alwaysMatch": options } });
        let mut browser = Self { driver, client, session: base.clone() };
        let session = browser.send("", body).await;
        browser.session = format!("{base}/{}", session["sessionId"].as_str().unwrap());
        browser
    }

    async fn send(&self, path: &str, body: Value) -> Value {
        let request = self.client.post(format!("{}{path}", self.session)).json(&body);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        assert!(answer["value"]["error"].is_null(), "{path} {body}: {answer}");
        answer["value"].clone()
    }

    async fn get(&self, path: &str) -> Value {
        let request = self.client.get(format!("{}{path}", self.session));
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        assert!(answer["value"]["error"].is_null(), "{path}: {answer}");
        answer["value"].clone()
    }

    pub async fn open(&self, url: &str) {
        self.send("/url", json!({ "url": url })).await;
    }

    pub async fn url(&self) -> String {
        self.get("/url").await.as_str().unwrap().to_owned()
    }

    /// The element with an id that the fragment of the address names.
    pub async fn target(&self) -> Element {
        let url = self.url().await;
        let (_, id) = url.split_once('#').unwrap();
        self.find(&format!("//*[@id='{id}']")).await
    }

    /// The first element that an XPath expression selects.
    pub async fn find(&self, path: &str) -> Element {
        let found = self.send("/element", json!({ "using": "xpath", "value": path })).await;
        Element(found[ELEMENT_KEY].as_str().unwrap().to_owned())
    }

    /// As [`Browser::find`], relative to an element.
    pub async fn find_in(&self, Element(element): &Element, path: &str) -> Element {
        let query = json!({ "using": "xpath", "value": path });
        let found = self.send(&format!("/element/{element}/element"), query).await;
        Element(found[ELEMENT_KEY].as_str().unwrap().to_owned())
    }

    /// The text of an element as it is shown.
    pub async fn text(&self, Element(element): &Element) -> String {
        self.get(&format!("/element/{element}/text")).await.as_str().unwrap().to_owned()
    }

    pub async fn click(&self, Element(element): &Element) {
        self.send(&format!("/element/{element}/click"), json!({})).await;
    }

    /// Replaces the text of a form field.
    pub async fn fill(&self, Element(element): &Element, text: &str) {
        self.send(&format!("/element/{element}/clear"), json!({})).await;
        self.send(&format!("/element/{element}/value"), json!({ "text": text })).await;
    }

    /// Whether an element is shown.
    pub async fn is_shown(&self, Element(element): &Element) -> bool {
        self.get(&format!("/element/{element}/displayed")).await.as_bool().unwrap()
    }

    /// The tab that is controlled.
    pub async fn tab(&self) -> Tab {
        Tab(self.get("/window").await.as_str().unwrap().to_owned())
    }

    /// Opens another tab, and controls it from now on.
    pub async fn open_tab(&self) {
        let opened = self.send("/window/new", json!({ "type": "tab" })).await;
        self.switch_to(&Tab(opened["handle"].as_str().unwrap().to_owned())).await;
    }

    /// Controls this tab from now on.
    pub async fn switch_to(&self, Tab(handle): &Tab) {
        self.send("/window", json!({ "handle": handle })).await;
    }

    /// The picture of the page, as PNG in Base64.
    pub async fn screenshot(&self) -> String {
        self.get("/screenshot").await.as_str().unwrap().to_owned()
    }

    /// The value of a script.
    pub async fn evaluate(&self, script: &str) -> Value {
        self.send("/execute/sync", json!({ "script": format!("return {script}"), "args": [] })).await
    }

    /// Shows the page on a screen of this width, in this color scheme.
    pub async fn emulate(&self, width: u64, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        let media = json!({ "cmd": "Emulation.setEmulatedMedia", "params": { "features": features } });
        self.send("/goog/cdp/execute", media).await;
        let screen = json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": true });
        let screen = json!({ "cmd": "Emulation.setDeviceMetricsOverride", "params": screen });
        self.send("/goog/cdp/execute", screen).await;
    }

    /// Ends the browser.
    pub async fn close(self) {
        let request = self.client.delete(&self.session);
        assert!(request.send().await.unwrap().status().is_success());
    }
}
