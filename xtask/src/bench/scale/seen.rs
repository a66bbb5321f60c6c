//! The machines as `kubectl get --watch` shows them, counted by their status.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::api::Api;
use super::load::MACHINES;

/// The columns that are read.
const COLUMNS: [&str; 2] = ["Name", "Status"];

/// What the watch has shown so far.
#[derive(Clone, Default)]
pub(super) struct Seen(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Status by name.
    machines: HashMap<String, String>,
    /// Why the watch ended.
    broken: Option<String>,
}

/// What a watch shows.
struct Events {
    columns: [usize; 2],
    lines: Box<dyn Iterator<Item = Result<Value>> + Send>,
}

impl State {
    fn check(&self) -> Result<()> {
        match &self.broken {
            Some(why) => bail!("the watch of machines broke: {why}"),
            None => Ok(()),
        }
    }
}

impl Seen {
    /// Begins to watch.
    pub(super) fn watch(api: &Api) -> Result<Self> {
        let seen = Self::default();
        let mut events = seen.list(api)?;
        let (shared, api) = (seen.clone(), api.clone());
        std::thread::spawn(move || {
            loop {
                // The API server may end a watch at any time, as when a kind's schema has changed.
                match shared.follow(events).and_then(|()| shared.list(&api)) {
                    Ok(more) => events = more,
                    Err(error) => return shared.end(format!("{error:#}")),
                }
            }
        });
        Ok(seen)
    }

    /// Takes in a list of the machines; what follows it.
    fn list(&self, api: &Api) -> Result<Events> {
        let list = api.table(MACHINES)?;
        let columns = columns(&list)?;
        let version = list["metadata"]["resourceVersion"]
            .as_str()
            .context("a list without a version")?;
        let lines = Box::new(api.watch(MACHINES, version)?);
        self.lock().machines.clear();
        self.take_in("ADDED", &list, columns);
        Ok(Events { columns, lines })
    }

    /// Takes in what a watch shows, until it ends.
    fn follow(&self, events: Events) -> Result<()> {
        for event in events.lines {
            let event = event?;
            let kind = event["type"].as_str().unwrap_or_default();
            self.take_in(kind, &event["object"], events.columns);
        }
        Ok(())
    }

    /// How many machines have that status.
    pub(super) fn count(&self, status: &str) -> Result<usize> {
        Ok(count(&*self.sound()?, status))
    }

    /// How many machines there are.
    pub(super) fn all(&self) -> Result<usize> {
        Ok(self.sound()?.machines.len())
    }

    /// Waits until `number` machines have that status.
    pub(super) fn wait_for(&self, status: &str, number: usize, limit: Duration) -> Result<()> {
        self.wait(limit, |state| count(state, status) == number)
            .with_context(|| format!("until {number} machines are {status}"))
    }

    /// Waits until there is none.
    pub(super) fn wait_for_none(&self, limit: Duration) -> Result<()> {
        self.wait(limit, |state| state.machines.is_empty())
            .context("until no machine is left")
    }

    fn wait(&self, limit: Duration, holds: impl Fn(&State) -> bool) -> Result<()> {
        let end = Instant::now() + limit;
        let mut state = self.lock();
        while !holds(&state) {
            state.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let mut counts = HashMap::<_, usize>::new();
                for status in state.machines.values() {
                    *counts.entry(status).or_default() += 1;
                }
                bail!("waited {limit:?} in vain; there are {counts:?}");
            }
            let woken = self.0.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    fn take_in(&self, kind: &str, table: &Value, columns: [usize; 2]) {
        // A list of nothing has none.
        let rows = table["rows"].as_array().map_or(&[][..], Vec::as_slice);
        let mut state = self.lock();
        for row in rows {
            let [name, status] =
                columns.map(|column| row["cells"][column].as_str().unwrap_or_default());
            if kind == "DELETED" {
                state.machines.remove(name);
            } else {
                state.machines.insert(name.to_owned(), status.to_owned());
            }
        }
        self.0.changed.notify_all();
    }

    fn end(&self, why: String) {
        self.lock().broken = Some(why);
        self.0.changed.notify_all();
    }

    /// What the watch has shown, unless it broke.
    fn sound(&self) -> Result<std::sync::MutexGuard<'_, State>> {
        let state = self.lock();
        state.check()?;
        Ok(state)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(state: &State, status: &str) -> usize {
    state
        .machines
        .values()
        .filter(|seen| *seen == status)
        .count()
}

/// Where the columns are that are read.
fn columns(table: &Value) -> Result<[usize; 2]> {
    let mut found = [0; 2];
    for (wanted, found) in COLUMNS.iter().zip(&mut found) {
        let definitions = table["columnDefinitions"].as_array();
        *found = definitions
            .and_then(|all| all.iter().position(|column| column["name"] == *wanted))
            .with_context(|| format!("no column {wanted}"))?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn machines_are_counted_by_their_newest_status() {
        let table = json!({ "columnDefinitions": [
            { "name": "Name" }, { "name": "Age" }, { "name": "Status" }] });
        let columns = columns(&table).unwrap();
        let seen = Seen::default();
        let show = |kind: &str, name: &str, status: Value| {
            let rows = json!([{ "cells": [name, "1s", status] }]);
            seen.take_in(kind, &json!({ "rows": rows }), columns);
        };
        show("ADDED", "a", Value::Null);
        show("ADDED", "b", json!("Running"));
        show("MODIFIED", "a", json!("Running"));
        assert_eq!(
            (seen.count("Running").unwrap(), seen.all().unwrap()),
            (2, 2)
        );
        seen.wait_for("Running", 2, Duration::ZERO).unwrap();
        show("DELETED", "a", json!("Running"));
        assert_eq!(seen.all().unwrap(), 1);
        let error = seen.wait_for_none(Duration::ZERO).unwrap_err();
        assert!(
            format!("{error:#}").contains(r#"{"Running": 1}"#),
            "{error:#}"
        );
    }
}
