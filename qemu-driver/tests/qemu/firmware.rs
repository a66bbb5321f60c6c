//! UEFI from flash.

use std::path::Path;

use qemu_driver::machine::{DiskFile, Firmware, Uefi};

use super::guest::{Guest, file, machine_of};

const CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const SECURE_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd";
const VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

fn uefi(code: &str) -> Uefi {
    let vars = std::fs::read(Path::new(VARS)).expect("OVMF is installed");
    Uefi::new(code, DiskFile::new(file(&vars)).unwrap()).unwrap()
}

#[tokio::test]
async fn uefi_speaks_on_the_console() {
    let machine = machine_of(128 << 20).with_firmware(Firmware::Uefi(uefi(CODE)));
    let mut guest = Guest::booted(machine).await;
    guest.await_text("BdsDxe").await;
    guest.qmp.quit().await.unwrap();
}

#[tokio::test]
async fn secure_boot_has_its_own_code() {
    let uefi = uefi(SECURE_CODE).with_secure_boot();
    let mut guest = Guest::booted(machine_of(128 << 20).with_firmware(Firmware::Uefi(uefi))).await;
    guest.await_text("BdsDxe").await;
    guest.qmp.quit().await.unwrap();
}

#[tokio::test]
async fn a_missing_firmware_is_named() {
    let uefi = uefi("/nowhere/CODE.fd");
    let words = Guest::refused(machine_of(128 << 20).with_firmware(Firmware::Uefi(uefi))).await;
    assert!(words.contains("/nowhere/CODE.fd"), "{words}");
}
