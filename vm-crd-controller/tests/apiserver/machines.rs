//! Machines that are no machines: no kubelet exists here, so what would be asked by `exec` is answered
//! with what the case says, in the words of `vm:status -o json`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;
use vm_crd_controller::ask::{AskError, AskMachine, MachinePod, Told};

/// Answers for the machines of all cases, by namespace; a machine of which nothing was said does not
/// answer.
#[derive(Clone, Default)]
pub(crate) struct FakeMachines(Arc<Mutex<HashMap<String, Machine>>>);

#[derive(Default)]
struct Machine {
    answer: Option<Value>,
    asked: u32,
}

impl FakeMachines {
    /// From now on the machine of `namespace` answers so.
    pub(crate) fn answer(&self, namespace: &str, answer: Value) {
        self.with(namespace, |machine| machine.answer = Some(answer));
    }

    /// How often the machine of `namespace` was asked.
    pub(crate) fn asked(&self, namespace: &str) -> u32 {
        self.with(namespace, |machine| machine.asked)
    }

    fn with<T>(&self, namespace: &str, look: impl FnOnce(&mut Machine) -> T) -> T {
        let mut machines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        look(machines.entry(namespace.to_owned()).or_default())
    }
}

impl AskMachine for FakeMachines {
    fn status(&self, machine: MachinePod) -> BoxFuture<'static, Result<Told, AskError>> {
        let answer = self.with(&machine.namespace, |machine| {
            machine.asked += 1;
            machine.answer.clone()
        });
        let pod = machine.name;
        async move {
            let Some(answer) = answer else {
                let why = "it is a fake".to_owned();
                return Err(AskError::NoAnswer { pod, why });
            };
            Told::read(answer.to_string().as_bytes()).map_err(|error| AskError::Unreadable {
                pod,
                why: error.to_string(),
            })
        }
        .boxed()
    }
}
