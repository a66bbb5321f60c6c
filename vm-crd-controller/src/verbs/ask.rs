//! The reconcilers' way to what only a machine knows: the verb `vm:status`.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Machine, Verbs};
use crate::ask::{AskError, AskMachine, MachinePod, Told};

/// Bytes of a status: it has the guest's interfaces in it, as many as it says.
const LIMIT: usize = 1 << 20;

/// Time that a machine has to tell.
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
