//! A kernel from outside of the disks, and tables that the firmware hands on.

use super::volumes::{PullPolicy, image_path};
use super::words::strict;
use crate::field::FieldError;
use crate::v1::{KernelBoot, VirtualMachineInstanceSpec};

const KERNEL: &str = "domain.firmware.kernelBoot";

pub(super) fn check(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let Some(firmware) = &spec.domain.firmware else {
        return Vec::new();
    };
    let mut errors = Vec::new();
    if let Some(boot) = &firmware.kernel_boot {
        errors.extend(kernel(boot));
    }
    if let Some(tables) = &firmware.acpi {
        let names = [
            ("slicNameRef", &tables.slic_name_ref),
            ("msdmNameRef", &tables.msdm_name_ref),
        ];
        for (field, name) in names {
            let name = name.as_deref().unwrap_or_default();
            if !name.is_empty() && !spec.volumes.iter().any(|volume| volume.name == name) {
                let message = format!("no volume is called `{name}`: add it to volumes");
                errors.push(FieldError::new(
                    format!("domain.firmware.acpi.{field}"),
                    message,
                ));
            }
        }
    }
    errors
}

fn kernel(boot: &KernelBoot) -> Vec<FieldError> {
    let Some(container) = &boot.container else {
        let alone = boot.kernel_args.as_deref().is_some_and(|it| !it.is_empty());
        let message = "arguments need a kernel: set container, or leave them out";
        let error = || FieldError::new(format!("{KERNEL}.kernelArgs"), message);
        return alone.then(error).into_iter().collect();
    };
    let path = format!("{KERNEL}.container");
    let field = |name: &str| format!("{path}.{name}");
    let mut errors = Vec::new();
    if container.image.is_empty() {
        errors.push(FieldError::new(field("image"), "name the image"));
    }
    let policy = || field("imagePullPolicy");
    let given = container.image_pull_policy.as_deref();
    errors.extend(strict::<PullPolicy>(policy, given));
    let files = [
        ("kernelPath", &container.kernel_path),
        ("initrdPath", &container.initrd_path),
    ]
    .map(|(name, file)| (name, file.as_deref().unwrap_or_default()));
    if files.iter().all(|(_, file)| file.is_empty()) {
        let message = "neither kernelPath nor initrdPath is set: name what the image holds";
        errors.push(FieldError::new(&path, message));
    }
    for (name, file) in files {
        errors.extend(image_path(file, &field(name)));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn paths(firmware: Value) -> Vec<String> {
        let spec = json!({
            "domain": { "firmware": firmware }, "volumes": [{ "name": "table" }],
        });
        let errors = check(&serde_json::from_value(spec).unwrap());
        errors
            .into_iter()
            .map(|error| error.path.replace("domain.firmware.", ""))
            .collect()
    }

    #[test]
    fn a_kernel_comes_from_a_file_of_an_image() {
        let boot = |container: Value| paths(json!({ "kernelBoot": { "container": container } }));
        let none: [&str; 0] = [];
        assert_eq!(
            boot(json!({ "image": "a", "kernelPath": "/boot/vmlinuz" })),
            none
        );
        assert_eq!(
            boot(json!({ "image": "" })),
            ["kernelBoot.container.image", "kernelBoot.container"]
        );
        for wrong in ["vmlinuz", "/boot/", "/../vmlinuz"] {
            assert_eq!(
                boot(json!({ "image": "a", "initrdPath": wrong })),
                ["kernelBoot.container.initrdPath"]
            );
        }
        let args = |args: &str| paths(json!({ "kernelBoot": { "kernelArgs": args } }));
        assert_eq!(args("quiet"), ["kernelBoot.kernelArgs"]);
        assert_eq!(args(""), none);
    }

    #[test]
    fn a_table_is_in_a_volume() {
        let table = |name: &str| paths(json!({ "acpi": { "slicNameRef": name } }));
        assert_eq!(table("gone"), ["acpi.slicNameRef"]);
        assert_eq!(table("table"), Vec::<String>::new());
    }
}
