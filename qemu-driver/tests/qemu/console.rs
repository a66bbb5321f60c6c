//! The serial console: every byte, in both directions, whoever is slow.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::boot_sector::BootSector;
use super::guest::{Guest, LONG, machine_with};

fn pattern() -> Vec<u8> {
    (0..=255u8).cycle().take(64 << 10).collect()
}

#[tokio::test]
async fn no_byte_is_lost_when_the_guest_powers_off_at_once() {
    let guest = Guest::booted(machine_with(BootSector::new().print_64_kib().power_off())).await;
    let (console, status, _) = guest.end().await;
    assert_eq!(status.code(), Some(0));
    assert!(console == pattern(), "{} bytes", console.len());
}

#[tokio::test]
async fn a_reader_that_comes_late_slows_the_guest_down() {
    let mut guest = Guest::booted(machine_with(BootSector::new().print_64_kib().power_off())).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut console: Vec<u8> = Vec::new();
    let read = async {
        let mut chunk = [0; 512];
        loop {
            match guest.console.read(&mut chunk).await.unwrap() {
                0 => break,
                read => console.extend(&chunk[..read]),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, read)
        .await
        .expect("the guest goes on");
    let (_, status, ending) = guest.end().await;
    assert!(console == pattern(), "{} bytes", console.len());
    assert!(status.success() && ending.powered_off());
}

#[tokio::test]
async fn input_reaches_the_guest() {
    let sector = BootSector::new()
        .print(">")
        .echo()
        .echo()
        .echo()
        .power_off();
    let mut guest = Guest::booted(machine_with(sector)).await;
    guest.await_text(">").await;
    guest.console.write_all(b"abc").await.unwrap();
    let (console, status, _) = guest.end().await;
    assert_eq!((console.as_slice(), status.code()), (&b"abc"[..], Some(0)));
}

#[tokio::test]
async fn a_guest_that_never_reads_its_input_ends_all_the_same() {
    let sector = BootSector::new()
        .arm_power_button()
        .print("up")
        .await_power_button()
        .print("off")
        .power_off();
    let mut guest = Guest::booted(machine_with(sector)).await;
    guest.await_text("up").await;
    // Far more than the guest's port takes; part of it is still in the socket when QEMU ends.
    let typed = guest.console.write_all(&[b'x'; 100_000]);
    let _ = tokio::time::timeout(Duration::from_millis(300), typed).await;
    guest.qmp.system_powerdown().await.unwrap();
    let mut console = Vec::new();
    let read = tokio::time::timeout(LONG, guest.console.read_to_end(&mut console))
        .await
        .unwrap();
    if let Err(error) = read {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    assert_eq!(console, b"off");
    assert!(guest.child.wait().await.unwrap().success());
}
