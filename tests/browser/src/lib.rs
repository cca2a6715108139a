//! A browser of a test's own: headless Chromium, driven over its DevTools protocol.
//!
//! Tests of pages call it. It opens pages, presses keys, runs scripts, takes pictures, and says what people with bad eyes, small
//! screens or no mouse would stumble over. It blocks; tests call it from a thread of theirs.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::print_stderr,
    reason = "all of it runs in tests"
)]

mod devtools;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use devtools::Devtools;

/// Longer than anything takes here.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The time from one look at a page to the next where something is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What finds the mistakes; see [`Browser::mistakes`].
const AUDIT: &str = include_str!("audit.js");

/// How a page is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Of the window, in pixels.
    pub width: u32,
    /// Whether the reader prefers dark pages.
    pub dark: bool,
}

impl Look {
    /// A desk and a phone, by day and by night; a tablet and a small window; and the narrowest that WCAG 2.2 asks for (1.4.10).
    pub const ALL: [Self; 7] = [
        Self::new(1600, false),
        Self::new(1600, true),
        Self::new(360, false),
        Self::new(360, true),
        Self::new(800, false),
        Self::new(1040, false),
        Self::new(320, false),
    ];

    const fn new(width: u32, dark: bool) -> Self {
        Self { width, dark }
    }

    /// A part of a picture's name.
    #[must_use]
    pub fn name(self) -> String {
        format!(
            "{}-{}",
            self.width,
            if self.dark { "dark" } else { "light" }
        )
    }
}

/// A browser with one tab, which ends with this.
pub struct Browser {
    devtools: Devtools,
}

impl Browser {
    /// Starts it; says so where Chromium is not installed.
    ///
    /// The reader's clock is that of Kathmandu, which is 5:45 ahead of UTC, so that no two times look the same by chance.
    #[must_use]
    pub fn start() -> Option<Self> {
        let Some(devtools) = Devtools::start() else {
            assert!(
                std::env::var_os("CI").is_none(),
                "continuous integration has a Chromium"
            );
            eprintln!("no Chromium here: the pages are not looked at");
            return None;
        };
        let mut browser = Self { devtools };
        browser.call("Page.enable", json!({}));
        browser.call("Runtime.enable", json!({}));
        let zone = json!({ "timezoneId": "Asia/Kathmandu" });
        browser.call("Emulation.setTimezoneOverride", zone);
        browser.look(Look::ALL[0]);
        Some(browser)
    }

    /// From now on pages are seen like this.
    pub fn look(&mut self, look: Look) {
        let size = json!({
            "width": look.width,
            "height": 900,
            "deviceScaleFactor": 1,
            "mobile": look.width < 700,
        });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = if look.dark { "dark" } else { "light" };
        self.media("prefers-color-scheme", scheme);
    }

    /// What a media query finds from now on, beside the defaults.
    pub fn media(&mut self, name: &str, value: &str) {
        let features = json!({ "features": [{ "name": name, "value": value }] });
        self.call("Emulation.setEmulatedMedia", features);
    }

    /// Whether pages may run scripts from now on.
    pub fn scripts(&mut self, run: bool) {
        let disabled = json!({ "value": !run });
        self.call("Emulation.setScriptExecutionDisabled", disabled);
    }

    /// Opens a page, and waits until it is there with all that belongs to it.
    pub fn open(&mut self, url: &str) {
        self.devtools.forget("Page.loadEventFired");
        let opened = self.call("Page.navigate", json!({ "url": url }));
        assert!(opened.get("errorText").is_none(), "{url}: {opened}");
        self.devtools.wait_for("Page.loadEventFired");
    }

    /// The value of an expression in the page; promises are waited for.
    pub fn value(&mut self, expression: &str) -> Value {
        let ask = json!({
            "expression": expression,
            "awaitPromise": true,
            "returnByValue": true,
        });
        let mut answer = self.call("Runtime.evaluate", ask);
        let thrown = answer.get("exceptionDetails");
        assert!(thrown.is_none(), "{expression}: {answer}");
        answer["result"]["value"].take()
    }

    /// Whether an expression is true in the page. It is not where it cannot be found out, as on a page that is just being left.
    fn is_true(&mut self, expression: &str) -> bool {
        let ask = json!({ "expression": expression, "returnByValue": true });
        let answer = self.devtools.try_call("Runtime.evaluate", ask);
        answer.is_ok_and(|answer| answer["result"]["value"] == true)
    }

    /// Waits until an expression is true in the page.
    pub fn until(&mut self, expression: &str) {
        let started = Instant::now();
        while !self.is_true(expression) {
            assert!(
                started.elapsed() < PATIENCE,
                "never true: {expression}; the page:\n{}",
                self.value("document.body.innerText")
            );
            sleep(LOOK_EVERY);
        }
    }

    /// What the page says.
    pub fn text(&mut self) -> String {
        let text = self.value("document.body.innerText");
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Presses a key, by its name in the UI Events specification.
    pub fn press(&mut self, key: &str) {
        for kind in ["rawKeyDown", "keyUp"] {
            let code = match key {
                "Tab" => 9,
                "Enter" => 13,
                "Escape" => 27,
                "End" => 35,
                "Home" => 36,
                "ArrowLeft" => 37,
                "ArrowRight" => 39,
                _ => 0,
            };
            let event = json!({
                "type": kind,
                "key": key,
                "code": key,
                "windowsVirtualKeyCode": code,
            });
            self.call("Input.dispatchKeyEvent", event);
        }
        if key == "Enter" {
            let event = json!({ "type": "char", "key": key, "text": "\r" });
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Types text where the focus is.
    pub fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// Moves the pointer to the middle of the first element that a selector finds.
    pub fn point_at(&mut self, selector: &str) {
        let place = self.value(&format!(
            "(() => {{ const element = document.querySelector({selector:?}); element.scrollIntoView({{ block: 'center' }});
              const box = element.getBoundingClientRect();
              return {{ x: box.x + box.width / 2, y: box.y + box.height / 2 }}; }})()"
        ));
        let event = json!({ "type": "mouseMoved", "x": place["x"], "y": place["y"] });
        self.call("Input.dispatchMouseEvent", event);
    }

    /// Draws the whole page, also what would have to be scrolled to, and gives the picture's size in bytes.
    pub fn picture(&mut self, file: &Path) -> usize {
        let sizes = self.call("Page.getLayoutMetrics", json!({}));
        let size = &sizes["cssContentSize"];
        let ask = json!({
            "format": "png",
            "captureBeyondViewport": true,
            "clip": { "x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1 },
        });
        let answer = self.call("Page.captureScreenshot", ask);
        let picture = answer["data"].as_str().expect("a picture");
        let picture = STANDARD.decode(picture).expect("Base64");
        fs::write(file, &picture).expect("a file can be written");
        picture.len()
    }

    /// Looks at a page that keeps itself up to date on every screen, keeps a picture of each in a folder, and gives what is wrong
    /// with it.
    pub fn inspect(&mut self, url: &str, folder: &Path, name: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        for look in Look::ALL {
            self.look(look);
            self.open(url);
            self.until("document.getElementById('link').className === 'on'");
            let mut mistakes = self.mistakes();
            let size = self.picture(&folder.join(format!("{name}-{}.png", look.name())));
            assert!(size > 5000, "{url}: a picture of {size} bytes");
            if !look.dark {
                mistakes.extend(self.mistakes_by_keyboard());
            }
            // What a text of somebody else's would have done if it had been taken for more than text.
            if self.value("document.title") == "broken" {
                mistakes.push("a script of somebody else's has run".to_owned());
            }
            let named = |mistake| format!("{name} {}: {mistake}", look.name());
            wrong.extend(mistakes.into_iter().map(named));
        }
        wrong
    }

    /// What is wrong with the open page for somebody who does not see, hear or point as well as others, or has a small screen:
    /// contrast under that of WCAG 2.2 AA, things without a name, headings, landmarks and tables without order, text that is cut
    /// off, a page wider than the window.
    pub fn mistakes(&mut self) -> Vec<String> {
        let found = self.value(AUDIT);
        let found = found.as_array().expect("a list").iter();
        found
            .map(|mistake| mistake.as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// Walks through the page by the tab key alone, and says what cannot be reached, or does not show that it was.
    pub fn mistakes_by_keyboard(&mut self) -> Vec<String> {
        self.value(AUDIT);
        self.value("document.activeElement?.blur(); scrollTo(0, 0)");
        let all = self.value("walk.all()").as_u64().expect("a number");
        let mut mistakes = Vec::new();
        for _ in 0..all {
            self.press("Tab");
            let mistake = self.value("walk.step()");
            mistakes.extend(mistake.as_str().map(str::to_owned));
        }
        let missed = self.value("walk.missed()");
        let missed = missed.as_array().expect("a list").iter();
        mistakes.extend(missed.map(|name| format!("never reached: {name}")));
        mistakes
    }

    /// What went wrong in the page itself since the browser was started: exceptions, and what the page's policy refused.
    pub fn complaints(&mut self) -> Vec<String> {
        // An answer comes after everything that happened before it was asked for.
        self.value("0");
        self.devtools.complaints()
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.devtools.call(method, parameters)
    }
}

/// Fails with what was found.
pub fn nothing_wrong(found: &[String]) {
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Where pictures of a set of pages are kept, to be looked at: a folder of the build's, which version control ignores.
#[must_use]
pub fn folder(build: &str, set: &str) -> PathBuf {
    let folder = Path::new(build).join("pages").join(set);
    fs::create_dir_all(&folder).expect("a folder can be made");
    folder
}
