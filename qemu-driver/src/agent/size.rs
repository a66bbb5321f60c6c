//! vCPUs and memory that were plugged in: many guests use them only when they are told to.

use qapi::qga;

use super::{Agent, AgentError};

/// How Linux treats memory that is plugged in.
const POLICY: &str = "/sys/devices/system/memory/auto_online_blocks";

/// The policy of a guest that leaves it to somebody else.
const NOBODY: &[u8] = b"offline";

/// Memory is used at once, but for nothing that could not move away again when it shall shrink.
const MOVABLE: &[u8] = b"online_movable";

impl Agent {
    /// Brings vCPUs online or takes them offline until `wanted` are online, as far as there are so
    /// many and the guest can do without the others; how many are.
    pub async fn set_online_vcpus(&self, wanted: usize) -> Result<usize, AgentError> {
        let mut vcpus = self.execute(&qga::guest_get_vcpus {}).await?;
        let online = vcpus.iter().filter(|vcpu| vcpu.online).count();
        let more = wanted > online;
        vcpus.retain(|vcpu| vcpu.online != more && (more || vcpu.can_offline != Some(false)));
        if !more {
            // The last that came goes first.
            vcpus.sort_by_key(|vcpu| std::cmp::Reverse(vcpu.logical_id));
        }
        vcpus.truncate(wanted.abs_diff(online));
        if vcpus.is_empty() {
            return Ok(online);
        }
        for vcpu in &mut vcpus {
            vcpu.online = more;
            // Only told, never set.
            vcpu.can_offline = None;
        }
        let changed = self.execute(&qga::guest_set_vcpus { vcpus }).await?;
        let changed = usize::try_from(changed).unwrap_or(0);
        Ok(if more {
            online + changed
        } else {
            online.saturating_sub(changed)
        })
    }

    /// Lets the guest use memory as soon as it is plugged in, if nobody in it decides on that.
    pub async fn accept_memory(&self) -> Result<(), AgentError> {
        let file = self.open(POLICY, "r").await?;
        let command = qga::guest_file_read {
            handle: file,
            count: Some(64),
        };
        let policy = self.execute(&command).await;
        self.close(file).await?;
        if !policy?.buf_b64.starts_with(NOBODY) {
            return Ok(());
        }
        let file = self.open(POLICY, "w").await?;
        let command = qga::guest_file_write {
            handle: file,
            buf_b64: MOVABLE.to_vec(),
            count: None,
        };
        let written = self.execute(&command).await;
        self.close(file).await?;
        written.map(drop)
    }

    async fn open(&self, path: &str, mode: &str) -> Result<i64, AgentError> {
        let command = qga::guest_file_open {
            path: path.into(),
            mode: Some(mode.into()),
        };
        self.execute(&command).await
    }

    async fn close(&self, handle: i64) -> Result<(), AgentError> {
        self.execute(&qga::guest_file_close { handle })
            .await
            .map(drop)
    }
}
