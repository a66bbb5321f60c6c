//! A guest of one sector that prints on the first serial port.

use std::path::Path;

/// What the guest prints.
pub(crate) const GREETING: &str = "one sector says hello";

/// What the guest does after it has printed.
#[derive(Clone, Copy)]
pub(crate) enum Then {
    Halt,
    PowerOff,
}

/// Writes the disk of such a guest, of 1 MiB, to `path`.
pub(crate) fn write_disk(path: &Path, then: Then) {
    let mut disk = vec![0; 1 << 20];
    disk[..512].copy_from_slice(&sector(then));
    std::fs::write(path, disk).unwrap();
}

/// Real-mode code at 0x7c00.
fn sector(then: Then) -> [u8; 512] {
    let mut code = vec![
        0xfa, // cli
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xd8, // mov ds, ax
        0xbe, 0, 0, // mov si, message
        0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xac, // next: lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x03, // jz done
        0xee, // out dx, al
        0xeb, 0xf8, // jmp next
    ];
    if let Then::PowerOff = then {
        // done: the control register of q35's power management, as SeaBIOS places it
        code.extend([0xba, 0x04, 0x06]); // mov dx, 0x604
        code.extend([0xb8, 0x00, 0x20]); // mov ax, 0x2000
        code.push(0xef); // out dx, ax
    }
    code.extend([0xf4, 0xeb, 0xfd]); // halt: hlt; jmp halt
    let message = u16::try_from(0x7c00 + code.len()).unwrap().to_le_bytes();
    code[6..8].copy_from_slice(&message);
    code.extend(GREETING.bytes().chain(*b"\r\n\0"));
    let mut sector = [0; 512];
    sector[..code.len()].copy_from_slice(&code);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}
