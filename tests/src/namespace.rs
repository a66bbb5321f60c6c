//! A namespace of the test's own: what a case makes is gone when it ends, also when it fails.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::{Manifest, Output, SOON, STARTED, eventually, kubectl, kubectl_input};

/// A namespace that lives as long as the value.
pub struct TestNamespace {
    name: String,
}

impl TestNamespace {
    /// Creates it, with a name that begins with `case`.
    #[track_caller]
    pub fn new(case: &str) -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("the clock runs");
        let name = format!("{case}-{:x}", now.as_nanos() & 0xffff_ffff);
        kubectl(&["create", "namespace", &name]).expect_success();
        let this = Self { name };
        // Pods are refused until the default service account is there.
        eventually(SOON, || this.get("serviceaccount", "default").map(drop));
        this
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `kubectl -n <namespace>`.
    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        kubectl(&[&["--namespace", &self.name], arguments].concat())
    }

    /// Applies a manifest, which must be accepted.
    #[track_caller]
    pub fn apply(&self, manifest: &Manifest) {
        self.try_apply(manifest).expect_success();
    }

    /// Applies a manifest and returns what kubectl said.
    #[track_caller]
    pub fn try_apply(&self, manifest: &Manifest) -> Output {
        let arguments = [
            "--namespace",
            &self.name,
            "apply",
            "--server-side",
            "-f",
            "-",
        ];
        kubectl_input(&arguments, manifest.to_string().as_bytes())
    }

    /// The object, or why there is none.
    pub fn get(&self, kind: &str, name: &str) -> Result<Value, String> {
        let output = self.kubectl(&["get", kind, name, "-o", "json"]);
        if output.code != Some(0) {
            return Err(output.stderr);
        }
        serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
    }

    /// The objects of a kind that a label selector matches.
    pub fn list(&self, kind: &str, selector: &str) -> Vec<Value> {
        let text = self
            .kubectl(&["get", kind, "-l", selector, "-o", "json"])
            .expect_success();
        let mut list: Value = serde_json::from_str(&text).expect("kubectl prints JSON");
        list["items"]
            .as_array_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Waits until the value at `pointer` (RFC 6901) of the object is `wanted`.
    #[track_caller]
    pub fn wait_for(&self, kind: &str, name: &str, pointer: &str, wanted: &str) {
        eventually(STARTED, || {
            let object = self.get(kind, name)?;
            let seen = match object.pointer(pointer) {
                Some(Value::String(text)) => text.clone(),
                Some(value) => value.to_string(),
                None => String::new(),
            };
            if seen == wanted {
                return Ok(());
            }
            Err(format!(
                "{pointer} is {seen:?}, not {wanted:?}: {:#}",
                object["status"]
            ))
        });
    }

    /// Waits until the object is gone.
    #[track_caller]
    pub fn wait_gone(&self, kind: &str, name: &str) {
        eventually(STARTED, || match self.get(kind, name) {
            Err(error) if error.contains("NotFound") => Ok(()),
            Err(error) => Err(error),
            Ok(object) => Err(format!("still there: {:#}", object["status"])),
        });
    }

    /// Waits until the container's log holds `text`, and returns the log.
    #[track_caller]
    pub fn wait_for_log(&self, pod: &str, container: &str, text: &str) -> String {
        eventually(STARTED, || {
            let output = self.kubectl(&["logs", pod, "-c", container]);
            let log = output.text();
            if log.contains(text) {
                return Ok(log);
            }
            let phase = self.get("pod", pod).map(|pod| pod["status"].to_string());
            Err(format!(
                "{text:?} not in the log: {log}{}\n{phase:?}",
                output.stderr
            ))
        })
    }

    /// Waits for a warning about the object whose message holds `text`, and returns the message.
    #[track_caller]
    pub fn wait_for_event(&self, object: &str, text: &str) -> String {
        let selector = format!("involvedObject.name={object},type=Warning");
        eventually(STARTED, || {
            let events = self
                .kubectl(&["get", "events", "--field-selector", &selector, "-o", "json"])
                .expect_success();
            let events: Value = serde_json::from_str(&events).expect("kubectl prints JSON");
            let messages: Vec<_> = events["items"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|event| event["message"].as_str())
                .collect();
            match messages.iter().find(|message| message.contains(text)) {
                Some(message) => Ok((*message).to_owned()),
                None => Err(format!("no event with {text:?} among {messages:#?}")),
            }
        })
    }

    /// Applies the pod `vm`, which must get an event that holds every one of `words` while its
    /// machine never runs, and deletes it.
    #[track_caller]
    pub fn expect_refused(&self, pod: &Manifest, words: &[&str]) {
        self.apply(pod);
        let message = self.wait_for_event("vm", words[0]);
        for word in words {
            assert!(message.contains(word), "{word:?} is not in {message:?}");
        }
        let status = self.get("pod", "vm").expect("the pod is there")["status"].clone();
        assert_ne!(
            status["containerStatuses"][0]["started"], true,
            "{status:#}"
        );
        self.kubectl(&["delete", "pod", "vm", "--grace-period=1"])
            .expect_success();
        self.wait_gone("pod", "vm");
    }
}

impl Drop for TestNamespace {
    fn drop(&mut self) {
        // Nothing to tell the case that ends; what stays behind shows in the suite's footprint.
        let _ = std::panic::catch_unwind(|| {
            if std::thread::panicking() {
                let state = self.kubectl(&["get", "vm,vmi,pods,events", "-o", "wide"]);
                eprintln!("--- {} when it failed:\n{}", self.name, state.text());
            }
            // The next case need not wait for it, the suite's end does.
            kubectl(&["delete", "namespace", &self.name, "--wait=false"])
        });
    }
}
