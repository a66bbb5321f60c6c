//! The user of the measurement: makes, changes and deletes machines, some at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use serde_json::{Value, json};

use super::api::Api;

/// Where the machines are.
pub(super) const MACHINES: &str = "/apis/kubevirt.io/v1/namespaces/scale/virtualmachines";

/// Their namespace.
pub(super) const NAMESPACE: &str = "scale";

/// Requests of the user at the same time.
const WORKERS: usize = 8;

/// How long none may arrive before the rest is given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// How soon it is looked again whether another machine may follow.
const LOOK: Duration = Duration::from_millis(5);

/// A user with so many machines.
pub(super) struct Load {
    api: Api,
    number: usize,
    at_once: usize,
}

impl Load {
    /// A user with `number` machines, of which at most `at_once` are on their way at a time.
    pub(super) fn new(api: &Api, number: usize, at_once: usize) -> Self {
        Self {
            api: api.clone(),
            number,
            at_once,
        }
    }

    /// How many machines.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// Makes all; `done` says how many have arrived.
    pub(super) fn create(&self, done: impl Fn() -> Result<usize> + Sync) -> Result<()> {
        self.each(done, |number| self.api.create(MACHINES, &machine(number)))
    }

    /// Changes all.
    pub(super) fn patch(
        &self,
        patch: &Value,
        done: impl Fn() -> Result<usize> + Sync,
    ) -> Result<()> {
        self.each(done, |number| self.api.patch(&path(number), patch))
    }

    /// Deletes all.
    pub(super) fn delete(&self, done: impl Fn() -> Result<usize> + Sync) -> Result<()> {
        self.each(done, |number| self.api.delete(&path(number)))
    }

    fn each(
        &self,
        done: impl Fn() -> Result<usize> + Sync,
        request: impl Fn(usize) -> Result<()> + Sync,
    ) -> Result<()> {
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= self.number {
                    return Ok(());
                }
                self.wait_for_room(number, &done)?;
                request(number)?;
            }
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let worker = || {
                let result = work();
                // The others end as well after an error.
                next.store(self.number, Ordering::Relaxed);
                result
            };
            let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(worker)).collect();
            let joined = workers.into_iter().map(|worker| worker.join());
            joined.collect()
        });
        for result in results {
            result.map_err(|_| anyhow!("a worker broke down"))??;
        }
        Ok(())
    }

    fn wait_for_room(&self, number: usize, done: impl Fn() -> Result<usize>) -> Result<()> {
        let mut before = done()?;
        let mut since = Instant::now();
        while number >= before.saturating_add(self.at_once) {
            std::thread::sleep(LOOK);
            let now = done()?;
            if now != before {
                (before, since) = (now, Instant::now());
            }
            ensure!(
                since.elapsed() < PATIENCE,
                "{now} of {number} machines arrived, and none in the last {PATIENCE:?}"
            );
        }
        Ok(())
    }
}

fn name(number: usize) -> String {
    format!("machine-{number:05}")
}

fn path(number: usize) -> String {
    format!("{MACHINES}/{}", name(number))
}

/// A machine as people write them: an image, a seed, a network, a few labels.
fn machine(number: usize) -> Value {
    let name = name(number);
    let seed = "#cloud-config\nusers:\n  - name: admin\n    ssh_authorized_keys:\n      \
                - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBGcdbHoGtuQIhbHgGGhbEuC admin@example.com\n\
                packages: [nginx]\nruncmd:\n  - [systemctl, enable, --now, nginx]\n";
    let spec = json!({
        "domain": {
            "cpu": { "cores": 1 },
            "memory": { "guest": "128Mi" },
            "devices": {
                "disks": [
                    { "name": "root", "disk": { "bus": "virtio" } },
                    { "name": "seed", "disk": { "bus": "virtio" } },
                ],
                "interfaces": [{ "name": "default", "masquerade": {}, "ports": [{ "port": 80 }] }],
            },
        },
        "networks": [{ "name": "default", "pod": {} }],
        "terminationGracePeriodSeconds": 30,
        "volumes": [
            { "name": "root", "containerDisk": { "image": "example.com/disks/debian:13" } },
            { "name": "seed", "cloudInitNoCloud": { "userData": seed } },
        ],
    });
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": { "name": name, "labels": { "app": name, "team": "web" } },
        "spec": { "runStrategy": "Always", "template": {
            "metadata": { "labels": { "app": name, "team": "web" } },
            "spec": spec,
        } },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_on_their_way_than_allowed() {
        let load = Load::new(&Api::new(String::new(), ""), 50, 3);
        let done = AtomicUsize::new(0);
        let most = AtomicUsize::new(0);
        let begun = AtomicUsize::new(0);
        load.each(
            || Ok(done.load(Ordering::SeqCst)),
            |_| {
                let on_the_way =
                    begun.fetch_add(1, Ordering::SeqCst) + 1 - done.load(Ordering::SeqCst);
                most.fetch_max(on_the_way, Ordering::SeqCst);
                done.fetch_add(1, Ordering::SeqCst);
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(done.into_inner(), 50);
        assert!(most.into_inner() <= 3);
    }

    #[test]
    fn a_request_that_fails_ends_all() {
        let load = Load::new(&Api::new(String::new(), ""), 1000, 1000);
        let asked = AtomicUsize::new(0);
        let result = load.each(
            || Ok(0),
            |number| {
                asked.fetch_add(1, Ordering::Relaxed);
                anyhow::ensure!(number != 5, "no");
                Ok(())
            },
        );
        assert!(result.is_err());
        assert!(asked.into_inner() < 1000);
    }
}
