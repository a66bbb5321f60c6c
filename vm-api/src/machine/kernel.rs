//! A kernel that is booted instead of a disk's.

use crate::field::FieldError;
use crate::v1::{KernelBootContainer, VirtualMachineInstanceSpec};

/// Bytes of a command line at most: what Linux takes on x86 (`COMMAND_LINE_SIZE`).
const COMMAND_LINE_BYTES: usize = 2048;

/// Bytes that no path reaches (`linux/limits.h`).
const PATH_MAX: usize = 4096;

/// Where the fields are.
const PATH: &str = "domain.firmware.kernelBoot";

/// A kernel with what it is started with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KernelBoot<'a> {
    /// The image that holds it.
    pub container: &'a KernelBootContainer,
    /// Path of the kernel in the image.
    pub kernel: &'a str,
    /// Path of the initial RAM disk in the image.
    pub initrd: Option<&'a str>,
    /// The command line.
    pub arguments: &'a str,
}

/// The kernel that the spec asks for, if it does.
pub fn kernel_boot(
    spec: &VirtualMachineInstanceSpec,
) -> Result<Option<KernelBoot<'_>>, FieldError> {
    let firmware = spec.domain.firmware.as_ref();
    let Some(boot) = firmware.and_then(|firmware| firmware.kernel_boot.as_ref()) else {
        return Ok(None);
    };
    let arguments = boot.kernel_args.as_deref().unwrap_or_default();
    if arguments.len() >= COMMAND_LINE_BYTES || arguments.contains(char::is_control) {
        let message =
            format!("use fewer than {COMMAND_LINE_BYTES} bytes, and no control characters");
        return Err(FieldError::new(format!("{PATH}.kernelArgs"), message));
    }
    let Some(container) = &boot.container else {
        if arguments.is_empty() {
            return Ok(None);
        }
        let message = "they are for a kernel, and no container with one is named";
        return Err(FieldError::new(format!("{PATH}.kernelArgs"), message));
    };
    let at = |field: &str| format!("{PATH}.container{field}");
    if container.image.is_empty() {
        return Err(FieldError::new(at(".image"), "name the image"));
    }
    let kernel = file(&container.kernel_path, || at(".kernelPath"))?;
    let initrd = file(&container.initrd_path, || at(".initrdPath"))?;
    let Some(kernel) = kernel else {
        let message = "name the kernel in the image (kernelPath): a machine boots its own or none";
        return Err(FieldError::new(at(""), message));
    };
    Ok(Some(KernelBoot {
        container,
        kernel,
        initrd,
        arguments,
    }))
}

fn file(path: &Option<String>, field: impl FnOnce() -> String) -> Result<Option<&str>, FieldError> {
    let Some(path) = path.as_deref().filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let fits = path.starts_with('/')
        && path.len() < PATH_MAX
        && !path.ends_with('/')
        && !path.contains(char::is_control)
        && path.split('/').all(|part| part != "..");
    if !fits {
        let message = format!("`{path}` is not the absolute path of a file in the image");
        return Err(FieldError::new(field(), message));
    }
    Ok(Some(path))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(boot: Value) -> Result<Option<(String, Option<String>, String)>, String> {
        let spec = json!({ "domain": { "firmware": { "kernelBoot": boot } } });
        let spec = serde_json::from_value(spec).unwrap();
        let owned = |text: &str| text.to_owned();
        kernel_boot(&spec)
            .map(|boot| {
                boot.map(|it| (owned(it.kernel), it.initrd.map(owned), owned(it.arguments)))
            })
            .map_err(|error| error.path)
    }

    #[test]
    fn a_kernel_comes_from_an_image() {
        assert_eq!(read(json!({})), Ok(None));
        assert_eq!(read(json!({ "kernelArgs": "" })), Ok(None));
        let boot = json!({
            "container": { "image": "x", "kernelPath": "/boot/vmlinuz", "initrdPath": "/boot/initrd" },
            "kernelArgs": "console=ttyS0,115200 a=b",
        });
        let expected = (
            "/boot/vmlinuz".to_owned(),
            Some("/boot/initrd".to_owned()),
            "console=ttyS0,115200 a=b".to_owned(),
        );
        assert_eq!(read(boot), Ok(Some(expected)));
    }

    #[test]
    fn what_is_no_kernel_is_named() {
        let container = |container: Value| json!({ "container": container });
        let image = |kernel: &str, initrd: &str| {
            container(json!({ "image": "x", "kernelPath": kernel, "initrdPath": initrd }))
        };
        for (boot, field) in [
            (json!({ "kernelArgs": "quiet" }), "kernelArgs"),
            (json!({ "kernelArgs": "a\nb" }), "kernelArgs"),
            (json!({ "kernelArgs": "x".repeat(2048) }), "kernelArgs"),
            (
                container(json!({ "image": "", "kernelPath": "/k" })),
                "container.image",
            ),
            (container(json!({ "image": "x" })), "container"),
            (image("", "/i"), "container"),
            (image("k", ""), "container.kernelPath"),
            (image("/../k", ""), "container.kernelPath"),
            (image("/k", "/i/"), "container.initrdPath"),
        ] {
            assert_eq!(read(boot), Err(format!("{PATH}.{field}")));
        }
    }
}
