//! The way to machines that the program takes: the verb `vm:status` by the exec of their pods.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::{AskError, AskMachine, MachinePod, Told};
use crate::verbs::{Machine, Verbs};

/// Bytes of an answer at most: what it tells is bounded by the shim, far below that.
const LIMIT: usize = 1 << 20;

/// How long an answer may take: the shim waits up to 5 s for a guest's agent.
const BOUND: Duration = Duration::from_secs(20);

impl AskMachine for Verbs {
    fn status(&self, pod: MachinePod) -> BoxFuture<'static, Result<Told, AskError>> {
        let verbs = self.clone();
        async move {
            let machine = Machine::new(&pod.namespace, &pod.name, &pod.container);
            let words = ["vm:status", "-o", "json"];
            let answer = verbs.call(&machine, &words, LIMIT, BOUND).await;
            let answer = answer.map_err(|error| AskError::NoAnswer {
                pod: pod.name.clone(),
                why: error.to_string(),
            })?;
            Told::read(&answer).map_err(|error| AskError::Unreadable {
                pod: pod.name,
                why: error.to_string(),
            })
        }
        .boxed()
    }
}
