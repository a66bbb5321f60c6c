//! The API server as an administrator sees it: JSON over HTTPS with a token.
//!
//! Not kubectl, which would be the slowest part of the measurement.

use std::io::BufRead;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use ureq::http::{Request, Response};
use ureq::tls::TlsConfig;
use ureq::{Agent, Body};

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The columns that `kubectl get` shows instead of objects.
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// A way to the API server; a clone shares its connections.
#[derive(Clone)]
pub(super) struct Api {
    agent: Agent,
    server: String,
    token: String,
}

impl Api {
    /// A way to `server` for who has `token`.
    pub(super) fn new(server: String, token: &str) -> Self {
        // Its certificate is one that it made for itself a moment ago.
        let tls = TlsConfig::builder().disable_verification(true).build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_idle_connections_per_host(64)
            .timeout_recv_response(Some(PATIENCE))
            .build();
        Self {
            agent: config.new_agent(),
            server,
            token: token.to_owned(),
        }
    }

    /// Whether the API server says that it is ready.
    pub(super) fn is_ready(&self) -> bool {
        self.send("GET", "/readyz", "", "").is_ok()
    }

    /// Reads what is at `path`.
    pub(super) fn get(&self, path: &str) -> Result<Value> {
        self.json("GET", path, "application/json", "")
    }

    /// How many objects the list at `path` has.
    pub(super) fn count(&self, path: &str) -> Result<usize> {
        let list = self.get(path)?;
        Ok(list["items"].as_array().map_or(0, Vec::len))
    }

    /// Creates `object` in the list at `path`.
    pub(super) fn create(&self, path: &str, object: &Value) -> Result<()> {
        self.send("POST", path, "application/json", &object.to_string())
            .map(drop)
    }

    /// Merges `patch` into the object at `path`.
    pub(super) fn patch(&self, path: &str, patch: &Value) -> Result<()> {
        let kind = "application/merge-patch+json";
        self.send("PATCH", path, kind, &patch.to_string()).map(drop)
    }

    /// Deletes the object at `path`.
    pub(super) fn delete(&self, path: &str) -> Result<()> {
        self.send("DELETE", path, "", "").map(drop)
    }

    /// The list at `path` as a table.
    pub(super) fn table(&self, path: &str) -> Result<Value> {
        let path = format!("{path}?includeObject=None");
        self.json("GET", &path, TABLE, "")
    }

    /// The lines of the watch at `path` from `version` on, as tables.
    pub(super) fn watch(
        &self,
        path: &str,
        version: &str,
    ) -> Result<impl Iterator<Item = Result<Value>> + use<>> {
        let path = format!(
            "{path}?includeObject=None&watch=true&resourceVersion={version}&timeoutSeconds=86400"
        );
        let response = self.call("GET", &path, TABLE, "", "")?;
        let lines = std::io::BufReader::new(response.into_body().into_reader()).lines();
        Ok(lines.map(|line| {
            let line = line.context("read from the watch")?;
            serde_json::from_str(&line).context("an event of the watch")
        }))
    }

    fn json(&self, method: &str, path: &str, accept: &str, body: &str) -> Result<Value> {
        let mut response = self.call(method, path, accept, "application/json", body)?;
        let body = response.body_mut().as_reader();
        serde_json::from_reader(body).with_context(|| format!("read the answer to {method} {path}"))
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: &str) -> Result<()> {
        let mut response = self.call(method, path, "application/json", kind, body)?;
        // Read to its end, so that the connection is free for the next request.
        std::io::copy(&mut response.body_mut().as_reader(), &mut std::io::sink())?;
        Ok(())
    }

    fn call(
        &self,
        method: &str,
        path: &str,
        accept: &str,
        kind: &str,
        body: &str,
    ) -> Result<Response<Body>> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.server))
            .header("Authorization", format!("Bearer {}", self.token))
            .header("Accept", accept);
        let asked = || format!("{method} {path}");
        let result = if body.is_empty() {
            self.agent.run(request.body(())?)
        } else {
            self.agent
                .run(request.header("Content-Type", kind).body(body.to_owned())?)
        };
        let mut response = result.with_context(asked)?;
        if !response.status().is_success() {
            let said = response.body_mut().read_to_string().unwrap_or_default();
            bail!("{}: {} {said}", asked(), response.status());
        }
        Ok(response)
    }
}
