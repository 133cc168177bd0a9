//! A real browser (`scripts/chromium.sh`), driven through its own protocol: it opens a page in a window of some width, light
//! or dark, and tells what it shows, what it complains of and what it asks for.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use base64::prelude::{BASE64_STANDARD, Engine};
use crossbeam_channel::{Receiver, unbounded};
use serde_json::{Value, json};

use super::sidecar::{PATIENCE, spawn};

/// What the script ends with when no browser is installed.
const BROWSER_MISSING: i32 = 3;

/// The browser. It ends with the value, and at the latest with the process: it waits for the end of its standard input.
pub struct Browser {
    child: Child,
    input: Option<ChildStdin>,
    messages: Receiver<Value>,
    n_sent: u64,
}

/// What came of opening a page.
pub struct Looked {
    /// The console's lines, errors of loading, broken policies and exceptions.
    pub complaints: Vec<String>,
    /// Every address that was asked for.
    pub requests: Vec<String>,
    /// The whole page, as a PNG.
    pub picture: Vec<u8>,
    /// What each of the expressions was.
    pub values: Vec<Value>,
}

impl Browser {
    /// `None`, with a line that says so, where there is no browser; in CI there must be one.
    pub fn start() -> Option<Browser> {
        let mut child = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/chromium.sh"))
            .arg("run")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, messages) = unbounded();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        spawn(move || {
            let mut message = Vec::new();
            while output.read_until(0, &mut message).is_ok_and(|n| n > 0) {
                let sent = serde_json::from_slice(&message[..message.len() - 1]).map(|message| send.send(message));
                if !matches!(sent, Ok(Ok(()))) {
                    return;
                }
                message.clear();
            }
        });
        let mut said = child.stderr.take().unwrap();
        let (log, heard) = unbounded();
        spawn(move || {
            let mut text = String::new();
            let _ = said.read_to_string(&mut text);
            let _ = log.send(text);
        });
        let input = child.stdin.take();
        let mut browser = Browser { child, input, messages, n_sent: 0 };
        if browser.ask("Browser.getVersion", json!({}), None).is_some() {
            return Some(browser);
        }
        browser.input = None;
        let status = browser.child.wait().unwrap();
        let said = heard.recv_timeout(PATIENCE).unwrap_or_default();
        assert_eq!(status.code(), Some(BROWSER_MISSING), "scripts/chromium.sh: {said}");
        assert!(std::env::var_os("CI").is_none(), "CI must have a browser: {said}");
        eprintln!("not looked at in a browser: {said}");
        None
    }

    /// The answer to a command; `None` when the browser is gone. What happens meanwhile is left out.
    fn ask(&mut self, method: &str, params: Value, session: Option<&str>) -> Option<Value> {
        self.ask_and_hear(method, params, session, &mut Vec::new())
    }

    fn ask_and_hear(
        &mut self,
        method: &str,
        params: Value,
        session: Option<&str>,
        events: &mut Vec<Value>,
    ) -> Option<Value> {
        self.n_sent += 1;
        let mut message = json!({"id": self.n_sent, "method": method, "params": params});
        if let Some(session) = session {
            message["sessionId"] = json!(session);
        }
        self.input.as_mut()?.write_all(format!("{message}\0").as_bytes()).ok()?;
        loop {
            let mut message = self.messages.recv_timeout(PATIENCE).ok()?;
            if message["id"] == json!(self.n_sent) {
                assert!(message["error"].is_null(), "{method}: {message}");
                return Some(message["result"].take());
            }
            events.push(message);
        }
    }

    /// Opens `url` in a window of this width and looks at it once it is there.
    pub fn look(&mut self, url: &str, width: u32, dark: bool, expressions: &[&str]) -> Looked {
        let target = self.ask("Target.createTarget", json!({"url": "about:blank"}), None).expect("a browser");
        let target = target["targetId"].clone();
        let attach = json!({"targetId": target, "flatten": true});
        let attached = self.ask("Target.attachToTarget", attach, None).expect("a browser");
        let session = attached["sessionId"].as_str().unwrap().to_owned();
        let mut events = Vec::new();
        let mut ask = |method: &str, params: Value| {
            self.ask_and_hear(method, params, Some(&session), &mut events)
                .unwrap_or_else(|| panic!("{method}: no answer"))
        };
        for domain in ["Page", "Runtime", "Log", "Network", "Audits"] {
            ask(&format!("{domain}.enable"), json!({}));
        }
        let metrics = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600});
        ask("Emulation.setDeviceMetricsOverride", metrics);
        let scheme = if dark { "dark" } else { "light" };
        ask("Emulation.setEmulatedMedia", json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]}));
        ask("Page.navigate", json!({"url": url}));
        while !events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            events.push(self.messages.recv_timeout(PATIENCE).expect("the page loads"));
        }
        let mut ask = |method: &str, params: Value| {
            self.ask_and_hear(method, params, Some(&session), &mut events)
                .unwrap_or_else(|| panic!("{method}: no answer"))
        };
        let mut evaluate = |expression: &str| {
            let mut answer = ask("Runtime.evaluate", json!({"expression": expression, "returnByValue": true}));
            assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
            answer["result"]["value"].take()
        };
        let values = expressions.iter().map(|expression| evaluate(expression)).collect();
        let mut picture = ask("Page.captureScreenshot", json!({"format": "png", "captureBeyondViewport": true}));
        let picture = picture["data"].take();
        self.ask("Target.closeTarget", json!({"targetId": target}), None).expect("a browser");
        let complaints = events.iter().filter(|event| {
            let method = event["method"].as_str().unwrap_or_default();
            let complaints = [
                "Log.entryAdded",
                "Runtime.consoleAPICalled",
                "Runtime.exceptionThrown",
                "Network.loadingFailed",
                "Audits.issueAdded",
                "Page.javascriptDialogOpening",
            ];
            complaints.contains(&method)
        });
        let requests = events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        Looked {
            complaints: complaints.map(ToString::to_string).collect(),
            requests: requests.map(|event| event["params"]["request"]["url"].as_str().unwrap().to_owned()).collect(),
            picture: BASE64_STANDARD.decode(picture.as_str().unwrap()).unwrap(),
            values,
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The end of its input ends it.
        self.input = None;
        let _ = self.child.wait();
    }
}
