//! The controller against a real API server.
//!
//! Each run starts etcd, kube-apiserver and the controller's own program, as the service account and
//! with the rights that users install. No node exists here: [`node::FakeNode`] plays scheduler and
//! kubelet by writing what these would write.
//!
//! kube-apiserver comes from `$TEST_ASSET_KUBE_APISERVER` or the cache that `cargo xtask cluster up`
//! fills; etcd from `$TEST_ASSET_ETCD` or the path.

mod bench;
mod cases;
mod controller;
mod machines;
mod network;
mod node;
mod recorder;
mod space;
mod tap;
#[path = "../../../vm-api/tests/admission/verdicts.rs"]
mod verdicts;
mod webhooks;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use libtest_mimic::{Arguments, Conclusion, Failed, Trial};

use bench::Bench;
use controller::{Controller, InProcess};

/// Progress delay of the controller under test: short, so that slow starts are soon visible.
const PROGRESS_DELAY_MILLIS: u64 = 2000;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The cases wait; they do not compute.
    arguments.test_threads.get_or_insert(16);
    if arguments.list {
        let all = cases::all()
            .into_iter()
            .map(|(name, _)| Trial::test(name, || Ok(())));
        return libtest_mimic::run(&arguments, all.collect()).exit_code();
    }
    network::enter();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let bench = Arc::new(runtime.block_on(Bench::start()));

    let controller = Controller::start(&bench, "first", &[]);
    runtime.block_on(async { bench.lead_to(&[controller.api_port().await]).await });
    let trials = cases::side_by_side()
        .into_iter()
        .map(|named| trial(named, false, &bench, runtime.handle()))
        .collect();
    let first = libtest_mimic::run(&arguments, trials);
    controller.stop();

    // A controller within this process: it asks machines that are no machines.
    let controller = InProcess::start(&bench, &runtime);
    let trials = cases::with_fake_machines()
        .into_iter()
        .map(|named| trial(named, false, &bench, runtime.handle()))
        .collect();
    let asked = libtest_mimic::run(&arguments, trials);
    controller.stop(&runtime);

    // These start and stop controllers of their own, one after the other.
    arguments.test_threads = Some(1);
    let trials = cases::one_by_one()
        .into_iter()
        .map(|named| trial(named, true, &bench, runtime.handle()))
        .collect();
    let second = libtest_mimic::run(&arguments, trials);
    drop(bench);
    if [first, asked, second].iter().any(Conclusion::has_failed) {
        ExitCode::from(101)
    } else {
        ExitCode::SUCCESS
    }
}

/// Takes away what a failed case before may have left: a leader that is waited for, webhooks.
async fn tidy(bench: &Bench) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(bench.client.clone(), "kubevirt");
    leases
        .delete_collection(&DeleteParams::default(), &ListParams::default())
        .await?;
    webhooks::forget(&bench.client).await
}

/// `alone`: after what the cases before left has been taken away.
fn trial(
    (name, case): (&str, cases::Case),
    alone: bool,
    bench: &Arc<Bench>,
    runtime: &tokio::runtime::Handle,
) -> Trial {
    let (bench, runtime) = (Arc::clone(bench), runtime.clone());
    let own_name = name.to_owned();
    Trial::test(name, move || {
        let run = async {
            if alone {
                tidy(&bench).await?;
            }
            case(Arc::clone(&bench), own_name.clone()).await
        };
        runtime.block_on(run).map_err(|error| {
            let log = bench.log_about(&space::namespace_of(&own_name));
            Failed::from(format!(
                "{error:?}

the controllers' logs about it:
{log}"
            ))
        })
    })
}
