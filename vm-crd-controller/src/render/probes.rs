//! The probes of a guest as those of its machine container, which kubelet does.
//!
//! A command runs in the guest, as every command of a machine container does; the agent is asked by
//! the verb `vm:agent`. What a probe leaves out is filled in by the API server, with the figures that
//! KubeVirt has too.

use k8s_openapi::api::core::v1::{ExecAction, Probe as PodProbe};
use vm_api::FieldError;
use vm_api::contract::AGENT_PING;
use vm_api::machine::{Check, check};
use vm_api::v1::Probe;

/// The probe at `path` of the spec, as the pod has it.
pub(super) fn render(probe: Option<&Probe>, path: &str) -> Result<Option<PodProbe>, FieldError> {
    let Some(probe) = probe else { return Ok(None) };
    let mut rendered = PodProbe {
        initial_delay_seconds: probe.initial_delay_seconds,
        period_seconds: probe.period_seconds,
        timeout_seconds: probe.timeout_seconds,
        success_threshold: probe.success_threshold,
        failure_threshold: probe.failure_threshold,
        ..PodProbe::default()
    };
    match check(probe, path)? {
        Check::Exec(action) => rendered.exec = Some(action.clone()),
        Check::AgentPing => {
            let command = AGENT_PING.map(str::to_owned).into();
            rendered.exec = Some(ExecAction {
                command: Some(command),
            });
        }
        Check::HttpGet(action) => rendered.http_get = Some(action.clone()),
        Check::TcpSocket(action) => rendered.tcp_socket = Some(action.clone()),
    }
    Ok(Some(rendered))
}
