//! The holder: PID 1 of a pod's PID namespace, the process behind the sandbox container.
//!
//! A program of its own without any library, so that it costs a few pages: it lives as long as the
//! pod does and does nothing. It relies on descriptor [`SHIM`] being the read end of a pipe whose
//! only writer is the shim, and promises to end when that writer is gone, by which the kernel ends
//! everything else in the PID namespace: no QEMU outlives its shim.
//!
//! `unsafe` stands here alone in the shim: without a C library, system calls and the entry point
//! are written in assembler.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::panic::PanicInfo;

/// The descriptor on which the shim's end is noticed; `runc --preserve-fds 1` puts it there.
const SHIM: usize = 3;

/// Numbers of the system calls, from the kernel's `unistd` tables.
#[cfg(target_arch = "x86_64")]
mod number {
    pub const READ: usize = 0;
    pub const SIGACTION: usize = 13;
    pub const EXIT_GROUP: usize = 231;
    pub const PRCTL: usize = 157;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const READ: usize = 63;
    pub const SIGACTION: usize = 134;
    pub const EXIT_GROUP: usize = 94;
    pub const PRCTL: usize = 167;
}

const SIGKILL: usize = 9;
const SIGCHLD: usize = 17;
const SIG_IGN: usize = 1;
const PR_SET_PDEATHSIG: usize = 1;
const EINTR: isize = -4;
/// Bytes of the kernel's signal set.
const SIGSET: usize = 8;

// The kernel enters with the stack pointer aligned to 16 and no return address: a Rust function
// wants a call.
#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "call {hold}", "ud2", hold = sym hold);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, #0", "bl {hold}", "brk #1", hold = sym hold);

extern "C" fn hold() -> ! {
    // Ignoring SIGCHLD makes the kernel reap: orphans of the pod become this process's children.
    let ignore: [usize; 4] = [SIG_IGN, 0, 0, 0];
    // Second rope beside the pipe: at this point the parent is the shim, as the nearest subreaper.
    // SAFETY: the arguments follow the manual pages; `ignore` outlives the call.
    unsafe {
        call(
            number::SIGACTION,
            [SIGCHLD, ignore.as_ptr() as usize, 0, SIGSET],
        );
        call(number::PRCTL, [PR_SET_PDEATHSIG, SIGKILL, 0, 0]);
    }
    let mut byte = 0_u8;
    loop {
        // SAFETY: one byte is read into one byte.
        let read = unsafe { call(number::READ, [SHIM, &raw mut byte as usize, 1, 0]) };
        if read == 0 || (read < 0 && read != EINTR) {
            // SAFETY: ends the process.
            unsafe { call(number::EXIT_GROUP, [0, 0, 0, 0]) };
        }
    }
}

/// One system call: `number` and its first four arguments; the answer, negative for an error.
///
/// # Safety
/// The arguments must be what the kernel expects of that call.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, [a, b, c, d]: [usize; 4]) -> isize {
    let answer: isize;
    // SAFETY: the calling convention of x86-64 Linux: rcx and r11 are lost.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => answer, in("rdi") a, in("rsi") b,
            in("rdx") c, in("r10") d, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    answer
}

/// One system call: `number` and its first four arguments; the answer, negative for an error.
///
/// # Safety
/// The arguments must be what the kernel expects of that call.
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: usize, [a, b, c, d]: [usize; 4]) -> isize {
    let answer: isize;
    // SAFETY: the calling convention of AArch64 Linux.
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") a as isize => answer, in("x1") b,
            in("x2") c, in("x3") d, options(nostack));
    }
    answer
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}
