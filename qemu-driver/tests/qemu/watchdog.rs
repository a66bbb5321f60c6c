//! A guest that starts its watchdog and does not reset it.

use qemu_driver::machine::WatchdogAction;
use qemu_driver::qmp::Event;

use super::boot_sector::BootSector;
use super::guest::{Guest, machine_with};

#[tokio::test]
async fn a_reset_is_no_end() {
    let sector = BootSector::new().print("up.").start_watchdog().halt();
    let machine = machine_with(sector).with_watchdog(WatchdogAction::Reset);
    let mut guest = Guest::booted(machine).await;
    guest.await_text("up.").await;
    guest
        .await_event(&Event::Watchdog(WatchdogAction::Reset))
        .await;
    guest.await_event(&Event::Reset { guest: true }).await;
    guest.await_text("up.").await;
    assert_eq!(guest.qmp.ending(), Default::default());
}

#[tokio::test]
async fn a_power_off_is_told_from_the_guests_own() {
    let sector = BootSector::new().print("up.").start_watchdog().halt();
    let machine = machine_with(sector).with_watchdog(WatchdogAction::Poweroff);
    let (console, status, ending) = Guest::booted(machine).await.end().await;
    assert_eq!((console.as_slice(), status.code()), (&b"up."[..], Some(0)));
    assert_eq!(ending.watchdog, Some(WatchdogAction::Poweroff));
    assert!(!ending.powered_off(), "{ending:?}");
}

#[tokio::test]
async fn a_shutdown_presses_the_power_button() {
    let sector = BootSector::new().arm_power_button().start_watchdog();
    let sector = sector.await_power_button().print("off").power_off();
    let machine = machine_with(sector).with_watchdog(WatchdogAction::Shutdown);
    let (console, _, ending) = Guest::booted(machine).await.end().await;
    assert_eq!(console, b"off");
    assert!(ending.powered_off() && ending.watchdog == Some(WatchdogAction::Shutdown));
}
