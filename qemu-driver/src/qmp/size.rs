//! The size of a running machine: vCPUs and memory that come and go.
//!
//! QEMU offers and asks, the guest takes and lets go in its own time: each call returns at once, and
//! the queries tell how far the guest has come. The answers have types of ours, which take what is
//! there in every version. Source: QEMU, `qapi/machine.json`, `docs/cpu-hotplug.rst`.

use qapi::qmp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Qmp, QmpError};
use crate::args::MEMORY_DEVICE;

/// A place for a vCPU in the machine's topology.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VcpuPlace {
    #[serde(rename = "type")]
    driver: String,
    props: Map<String, Value>,
    /// QEMU's path of the vCPU that is there.
    qom_path: Option<String>,
}

/// The parts of a place, from the outermost; QEMU has `module-id` since 9.1.
const PARTS: [&str; 5] = ["socket-id", "die-id", "module-id", "core-id", "thread-id"];

impl VcpuPlace {
    /// Whether there is a vCPU.
    pub fn is_taken(&self) -> bool {
        self.qom_path.is_some()
    }

    fn order(&self) -> [u64; PARTS.len()] {
        PARTS.map(|part| self.props.get(part).and_then(Value::as_u64).unwrap_or(0))
    }

    /// QEMU's id of a vCPU that is plugged in here: the same for as long as the machine lives.
    fn id(&self) -> String {
        let [socket, die, module, core, thread] = self.order();
        format!("cpu-{socket}-{die}-{module}-{core}-{thread}")
    }
}

/// The guest's memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestMemory {
    /// What the guest has of the memory that it started with: all but what is in the balloon.
    pub base: u64,
    /// What the guest has taken of the memory that can be added.
    pub plugged: u64,
    /// What the guest is asked to have of it.
    pub requested: u64,
}

impl GuestMemory {
    /// All that the guest holds.
    pub fn held(self) -> u64 {
        self.base + self.plugged
    }
}

#[derive(Serialize)]
struct QueryVcpus {}

impl qapi::Command for QueryVcpus {
    type Ok = Vec<VcpuPlace>;
    const NAME: &'static str = "query-hotpluggable-cpus";
    const ALLOW_OOB: bool = false;
}

#[derive(Serialize)]
struct QueryBalloon {}

#[derive(Deserialize)]
struct Balloon {
    actual: u64,
}

impl qapi::Command for QueryBalloon {
    type Ok = Balloon;
    const NAME: &'static str = "query-balloon";
    const ALLOW_OOB: bool = false;
}

#[derive(Serialize)]
struct QueryDevices {}

#[derive(Deserialize)]
struct MemoryDevice {
    #[serde(default)]
    data: Value,
}

impl qapi::Command for QueryDevices {
    type Ok = Vec<MemoryDevice>;
    const NAME: &'static str = "query-memory-devices";
    const ALLOW_OOB: bool = false;
}

/// The command `device_add`, whose arguments are the device's properties.
#[derive(Serialize)]
#[serde(transparent)]
struct AddDevice(Map<String, Value>);

impl qapi::Command for AddDevice {
    type Ok = qapi::Empty;
    const NAME: &'static str = "device_add";
    const ALLOW_OOB: bool = false;
}

impl Qmp {
    /// All places for vCPUs, in the order in which they are filled. The first is always taken.
    pub async fn vcpu_places(&self) -> Result<Vec<VcpuPlace>, QmpError> {
        let mut places = self.connection.execute(&QueryVcpus {}).await?;
        places.sort_by_key(VcpuPlace::order);
        Ok(places)
    }

    /// Puts a vCPU into the free `place`; bringing it online is the guest's matter.
    pub async fn plug_vcpu(&self, place: &VcpuPlace) -> Result<(), QmpError> {
        let mut device = place.props.clone();
        device.insert("driver".into(), place.driver.as_str().into());
        device.insert("id".into(), place.id().into());
        self.connection.execute(&AddDevice(device)).await.map(drop)
    }

    /// Asks the guest to let go of the vCPU at `place`, also one that the machine started with. QEMU
    /// refuses for the first one, which no guest can lose.
    pub async fn unplug_vcpu(&self, place: &VcpuPlace) -> Result<(), QmpError> {
        let Some(path) = &place.qom_path else {
            return Ok(());
        };
        let command = qmp::device_del { id: path.clone() };
        self.execute(&command).await.map(drop)
    }

    /// What the guest has of the memory that it started with: all of it where there is no balloon.
    pub(super) async fn base_memory(&self) -> Result<u64, QmpError> {
        match self.connection.execute(&QueryBalloon {}).await {
            Ok(balloon) => Ok(balloon.actual),
            Err(QmpError::Refused { .. }) => {
                let summary = self.execute(&qmp::query_memory_size_summary {}).await?;
                Ok(summary.base_memory)
            }
            Err(error) => Err(error),
        }
    }

    /// What memory the guest has.
    pub async fn guest_memory(&self) -> Result<GuestMemory, QmpError> {
        let base = self.base_memory().await?;
        let devices = self.connection.execute(&QueryDevices {}).await?;
        let ours = devices
            .into_iter()
            .find(|device| device.data["id"] == MEMORY_DEVICE);
        let number = |name: &str| ours.as_ref().and_then(|device| device.data[name].as_u64());
        Ok(GuestMemory {
            base,
            plugged: number("size").unwrap_or(0),
            requested: number("requested-size").unwrap_or(0),
        })
    }

    /// Asks the guest to have `bytes` of the memory that can be added, a multiple of
    /// [`MEMORY_BLOCK`](crate::machine::MEMORY_BLOCK). QEMU refuses where the machine has no room.
    pub async fn request_memory(&self, bytes: u64) -> Result<(), QmpError> {
        let command = qmp::qom_set {
            path: format!("/machine/peripheral/{MEMORY_DEVICE}"),
            property: "requested-size".into(),
            value: json!(bytes),
        };
        self.execute(&command).await.map(drop)
    }

    /// Lets the guest tell how much memory it could do without, every `seconds`; 0 for never.
    pub async fn poll_available_memory(&self, seconds: u32) -> Result<(), QmpError> {
        let command = qmp::qom_set {
            path: BALLOON.into(),
            property: "guest-stats-polling-interval".into(),
            value: json!(seconds),
        };
        self.execute(&command).await.map(drop)
    }

    /// What the guest last told of the memory that it could do without.
    pub async fn available_memory(&self) -> Result<AvailableMemory, QmpError> {
        let command = qmp::qom_get {
            path: BALLOON.into(),
            property: "guest-stats".into(),
        };
        self.execute(&command)
            .await
            .map(|answer| available(&answer))
    }

    /// Asks the guest to keep `bytes` of the memory that it started with, and to put the rest of it
    /// into the balloon.
    pub async fn balloon(&self, bytes: u64) -> Result<(), QmpError> {
        let value = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.execute(&qmp::balloon { value }).await.map(drop)
    }
}

/// QEMU's path of the balloon.
const BALLOON: &str = "/machine/peripheral/balloon";

/// The memory that a guest could do without, by its own word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AvailableMemory {
    /// When it was told, in seconds; 0 for never.
    pub at: u64,
    /// Bytes. `None` if the guest's driver does not tell.
    pub bytes: Option<u64>,
}

/// Source: QEMU, `docs/interop/virtio-balloon-stats.rst`: what is not told is -1.
fn available(answer: &Value) -> AvailableMemory {
    let told = |name: &str| {
        let bytes = answer["stats"][name].as_u64();
        bytes.filter(|bytes| *bytes != u64::MAX)
    };
    AvailableMemory {
        at: answer["last-update"].as_u64().unwrap_or(0),
        bytes: told("stat-available-memory").or_else(|| told("stat-free-memory")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_does_not_tell_is_not_known() {
        for (available_memory, free, expected) in [
            (json!(5), json!(3), Some(5)),
            (json!(u64::MAX), json!(3), Some(3)),
            (json!(-1), json!(u64::MAX), None),
        ] {
            let stats =
                json!({"stat-available-memory": available_memory, "stat-free-memory": free});
            let told = available(&json!({"last-update": 7, "stats": stats}));
            let bytes = expected;
            assert_eq!(told, AvailableMemory { at: 7, bytes });
        }
        assert_eq!(available(&json!({})), AvailableMemory::default());
    }

    #[test]
    fn places_are_ordered_from_the_first_socket() {
        let place = |props: Value| VcpuPlace {
            driver: "max-x86_64-cpu".into(),
            props: serde_json::from_value(props).unwrap(),
            qom_path: None,
        };
        // QEMU 7.2 tells them backwards; later versions know more parts.
        let mut places = [
            place(json!({"socket-id": 10, "die-id": 0, "core-id": 0, "thread-id": 0})),
            place(json!({"socket-id": 2, "module-id": 0, "core-id": 1, "thread-id": 0})),
            place(json!({"socket-id": 2, "core-id": 0, "thread-id": 1, "node-id": 0})),
            place(json!({"socket-id": 0, "core-id": 0, "thread-id": 0})),
        ];
        places.sort_by_key(VcpuPlace::order);
        assert_eq!(
            places.map(|place| place.id()),
            [
                "cpu-0-0-0-0-0",
                "cpu-2-0-0-0-1",
                "cpu-2-0-0-1-0",
                "cpu-10-0-0-0-0"
            ]
        );
    }
}
