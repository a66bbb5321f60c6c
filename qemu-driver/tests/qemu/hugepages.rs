//! Guest memory in huge pages of 2 MiB, which the kernel is asked for while the test runs. Needs
//! root.

use std::fs;

use qemu_driver::machine::HugePage;

use super::boot_sector::BootSector;
use super::guest::{Guest, machine_with};

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

fn read(name: &str) -> u64 {
    let text = fs::read_to_string(format!("{POOL}/{name}")).unwrap();
    text.trim().parse().unwrap()
}

/// A pool that has `more` pages for as long as the value lives.
struct Pool {
    before: u64,
}

impl Pool {
    fn with(more: u64) -> Self {
        let pool = Self {
            before: read("nr_hugepages"),
        };
        pool.set(pool.before + more);
        assert!(
            read("nr_hugepages") >= pool.before + more,
            "memory is short"
        );
        pool
    }

    fn set(&self, pages: u64) {
        fs::write(format!("{POOL}/nr_hugepages"), pages.to_string()).expect("this test needs root");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.set(self.before);
    }
}

/// KiB of huge pages that the process has mapped and that are there.
fn mapped(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let of = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.unwrap().trim().trim_end_matches(" kB");
        kib.parse::<u64>().unwrap()
    };
    of("Shared_Hugetlb:") + of("Private_Hugetlb:")
}

#[tokio::test]
async fn all_of_it_is_there_before_the_guest_starts_and_given_back_at_its_end() {
    let machine = || {
        let machine = machine_with(BootSector::new().print("up.").halt());
        machine.with_hugepages(HugePage::TwoMi).unwrap()
    };
    let free = read("free_hugepages") - read("resv_hugepages");
    if free < 16 {
        let words = Guest::refused(machine()).await;
        assert!(words.contains("emory"), "{words}");
    }
    let pool = Pool::with(16);
    let mut guest = Guest::new(machine()).await;
    let pid = guest.child.id().unwrap();
    assert_eq!(mapped(pid), 32 << 10);
    guest.qmp.cont().await.unwrap();
    guest.await_text("up.").await;
    guest.qmp.quit().await.unwrap();
    guest.end().await;
    assert_eq!(read("free_hugepages"), pool.before.max(free) + 16);
}
