//! Builds the holder (`holder/holder.rs`): a static program without any library, embedded in the
//! shim, which writes it into the rootfs of each sandbox.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    let source = "holder/holder.rs";
    println!("cargo::rerun-if-changed={source}");
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let output = Path::new(&variable("OUT_DIR")).join("holder");

    let mut rustc = Command::new(variable("RUSTC"));
    rustc
        .args([
            "--edition",
            "2024",
            "--crate-name",
            "holder",
            "--crate-type",
            "bin",
        ])
        .args(["--target", &variable("TARGET")])
        .args([
            "-C",
            "panic=abort",
            "-C",
            "opt-level=s",
            "-C",
            "strip=symbols",
        ])
        // Loaded at a fixed address by the kernel alone: no start files, no loader, one segment.
        .args([
            "-C",
            "relocation-model=static",
            "-C",
            "link-arg=-nostartfiles",
        ])
        .args(["-C", "link-arg=-nostdlib", "-C", "link-arg=-static"])
        .args(["-C", "link-arg=-Wl,--build-id=none,-n,-z,noseparate-code"])
        .arg("-o")
        .arg(&output)
        .arg(source);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.args(["-C", &format!("linker={linker}")]);
    }
    let status = rustc
        .status()
        .expect("rustc, which cargo just named, starts");
    assert!(status.success(), "building {source} failed: {status}");
}
