//! The devices that programs beside QEMU serve, and the guest's memory as those need it.

use std::os::fd::OwnedFd;

use serde_json::{Value, json};

use super::{Builder, devices::root_port};
use crate::machine::Filesystem;
use crate::pci::FILESYSTEMS;

/// Requests that may be under way for a shared directory: what virtiofsd's own guide uses.
const QUEUE_SIZE: u32 = 1024;

/// Memory of the guest: private to QEMU, unless programs beside it need it too.
pub(super) fn memory(id: &str, bytes: u64, shared: bool) -> Value {
    let mut memory = json!({"qom-type": "memory-backend-ram", "id": id, "size": bytes});
    if shared {
        memory["qom-type"] = "memory-backend-memfd".into();
        memory["share"] = true.into();
    }
    memory
}

pub(super) fn filesystems(build: &mut Builder, filesystems: Vec<Filesystem>) {
    for (index, filesystem) in filesystems.into_iter().enumerate() {
        let place = FILESYSTEMS.place(index);
        let tag = filesystem.tag().to_string();
        let id = format!("fs-{tag}");
        let backend = build.descriptors.pass(filesystem.into_backend());
        build.option("-chardev", format!("socket,id={id},fd={backend}"));
        build.device(&root_port(&place));
        build.device(&json!({
            "driver": "vhost-user-fs-pci", "id": id, "bus": place.port, "chardev": id, "tag": tag,
            "queue-size": QUEUE_SIZE,
        }));
    }
}

/// The TPM behind `control`, swtpm's control channel.
pub(super) fn tpm(build: &mut Builder, control: OwnedFd) {
    let control = build.descriptors.pass(control);
    build.option("-chardev", format!("socket,id=tpm,fd={control}"));
    build.option("-tpmdev", "emulator,id=tpm,chardev=tpm");
    build.device(&json!({"driver": "tpm-crb", "id": "tpm", "tpmdev": "tpm"}));
}
