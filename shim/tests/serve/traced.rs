//! A program under a tracer that stops it before each step: each system call by which it changes
//! something outside of itself, or speaks to somebody. What a random moment may miss is so met every
//! time.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// The calls that are steps, whatever their arguments.
const CALLS: &[(libc::c_long, &str)] = &[
    (libc::SYS_mkdirat, "mkdirat"),
    (libc::SYS_unlinkat, "unlinkat"),
    (libc::SYS_renameat, "renameat"),
    (libc::SYS_renameat2, "renameat2"),
    (libc::SYS_linkat, "linkat"),
    (libc::SYS_symlinkat, "symlinkat"),
    (libc::SYS_mknodat, "mknodat"),
    (libc::SYS_fchown, "fchown"),
    (libc::SYS_fchownat, "fchownat"),
    (libc::SYS_fchmod, "fchmod"),
    (libc::SYS_fchmodat, "fchmodat"),
    (libc::SYS_ftruncate, "ftruncate"),
    (libc::SYS_fallocate, "fallocate"),
    (libc::SYS_mount, "mount"),
    (libc::SYS_umount2, "umount2"),
    (libc::SYS_fsmount, "fsmount"),
    (libc::SYS_move_mount, "move_mount"),
    (libc::SYS_pivot_root, "pivot_root"),
    (libc::SYS_bind, "bind"),
    (libc::SYS_connect, "connect"),
    (libc::SYS_sendto, "sendto"),
    (libc::SYS_sendmsg, "sendmsg"),
    (libc::SYS_sendmmsg, "sendmmsg"),
    (libc::SYS_execve, "execve"),
    (libc::SYS_execveat, "execveat"),
    (libc::SYS_kill, "kill"),
    (libc::SYS_pidfd_send_signal, "pidfd_send_signal"),
];

/// Their older forms.
#[cfg(target_arch = "x86_64")]
const OLDER: &[(libc::c_long, &str)] = &[
    (libc::SYS_mkdir, "mkdir"),
    (libc::SYS_rmdir, "rmdir"),
    (libc::SYS_unlink, "unlink"),
    (libc::SYS_rename, "rename"),
    (libc::SYS_link, "link"),
    (libc::SYS_symlink, "symlink"),
    (libc::SYS_mknod, "mknod"),
    (libc::SYS_chown, "chown"),
    (libc::SYS_chmod, "chmod"),
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[(libc::c_long, &str)] = &[];

/// A step that a process is about to take.
pub(crate) struct Step {
    /// How many were taken before it.
    pub(crate) number: usize,
    /// The thread that takes it, by whose number the process can be signalled.
    pub(crate) thread: Pid,
    /// The system call's name.
    pub(crate) call: &'static str,
}

/// Which programs are watched.
#[derive(Clone, Copy)]
pub(crate) struct Watch {
    /// The one whose steps count.
    pub(crate) program: &'static str,
    /// Those that come before it: each starts the next. Whoever runs another program is let go.
    pub(crate) parents: &'static [&'static str],
}

/// A command under the tracer, and what it starts.
pub(crate) struct Traced {
    ended: mpsc::Receiver<Option<i32>>,
    tracer: JoinHandle<()>,
}

impl Traced {
    /// Runs `command` and calls `before` ahead of each step. Standard input and output are the files
    /// `in` and `out` in `directory`.
    pub(crate) fn run(
        command: &Command,
        directory: &Path,
        watch: Watch,
        before: impl FnMut(&Step) + Send + 'static,
    ) -> Self {
        let (sender, ended) = mpsc::channel();
        let tracer = Tracer {
            watch,
            before,
            taken: 0,
            counts: BTreeMap::new(),
        };
        let mut command = held(command);
        command
            .stdin(File::open(directory.join("in")).unwrap())
            .stdout(File::create(directory.join("out")).unwrap());
        let tracer = thread::spawn(move || tracer.trace(command, &sender));
        Self { ended, tracer }
    }

    /// Waits for the end of the command itself; its exit status, none if a signal ended it.
    pub(crate) fn wait(&self) -> Option<i32> {
        self.ended.recv().unwrap()
    }

    /// Waits until nobody is left to be traced.
    pub(crate) fn join(self) {
        self.tracer.join().unwrap();
    }
}

/// What the tracer's thread knows: no other may ask about its tracees.
struct Tracer<F> {
    watch: Watch,
    before: F,
    taken: usize,
    /// The threads that are traced, and whether their steps count.
    counts: BTreeMap<Pid, bool>,
}

impl<F: FnMut(&Step)> Tracer<F> {
    fn trace(mut self, mut command: Command, ended: &mpsc::Sender<Option<i32>>) {
        let mut child = command.spawn().unwrap();
        let first = Pid::from_raw(child.id().try_into().unwrap());
        waitpid(first, Some(WaitPidFlag::WUNTRACED)).unwrap();
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_EXITKILL;
        ptrace::seize(first, options).unwrap();
        kill(first, Signal::SIGCONT).unwrap();
        self.counts.insert(first, false);
        // Not what other threads of this program wait for.
        let ours = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            let end = match waitpid(None, Some(ours)) {
                Ok(WaitStatus::Exited(thread, status)) => (thread, Some(status)),
                Ok(WaitStatus::Signaled(thread, ..)) => (thread, None),
                Ok(status) => {
                    self.go_on(status);
                    continue;
                }
                Err(Errno::ECHILD) => break,
                Err(error) => panic!("waiting for what is traced: {error}"),
            };
            self.counts.remove(&end.0);
            if end.0 == first {
                // Nobody may want to know.
                let _ = ended.send(end.1);
            }
        }
        // It has ended, as was seen above.
        let _ = child.wait();
    }

    /// Lets a thread that has stopped go on.
    fn go_on(&mut self, status: WaitStatus) {
        let (thread, signal) = match status {
            WaitStatus::PtraceSyscall(thread) => {
                self.look(thread);
                (thread, None)
            }
            WaitStatus::PtraceEvent(thread, _, libc::PTRACE_EVENT_EXEC) => {
                let Some(counts) = self.belongs(thread) else {
                    self.counts.remove(&thread);
                    // It may have been killed.
                    let _ = ptrace::detach(thread, None);
                    return;
                };
                self.counts.insert(thread, counts);
                (thread, None)
            }
            WaitStatus::PtraceEvent(thread, ..) => (thread, None),
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
            other => panic!("a tracee says {other:?}"),
        };
        if !self.counts.contains_key(&thread) {
            let counts = self.belongs(thread).unwrap_or_default();
            self.counts.insert(thread, counts);
        }
        match ptrace::syscall(thread, signal) {
            // Killed while it was stopped.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => panic!("letting {thread} go on: {error}"),
        }
    }

    /// Whether the steps of what `thread` runs count; none if it is not to be traced.
    fn belongs(&self, thread: Pid) -> Option<bool> {
        let program = fs::read_link(format!("/proc/{thread}/exe")).unwrap_or_default();
        let program = program.to_string_lossy();
        let is = |name: &str| program.rsplit('/').next() == Some(name);
        let counts = is(self.watch.program);
        // The init of a container runs from a sealed copy in memory or a mount of the one file.
        let copied = program == "/" || program.starts_with("/memfd:");
        let parent = |name: &&str| is(name) || (*name == "runc" && copied);
        (counts || self.watch.parents.iter().any(parent)).then_some(counts)
    }

    /// Calls `before` if `thread` is about to take a step.
    fn look(&mut self, thread: Pid) {
        let counts = self.counts.get(&thread).is_some_and(|counts| *counts);
        let entry = || {
            ptrace::syscall_info(thread)
                .is_ok_and(|info| info.op == libc::PTRACE_SYSCALL_INFO_ENTRY)
        };
        if !counts || !entry() {
            return;
        }
        let Some(call) = step(thread) else { return };
        let number = self.taken;
        self.taken += 1;
        (self.before)(&Step {
            number,
            thread,
            call,
        });
    }
}

/// `command` behind a shell that waits to be traced.
fn held(command: &Command) -> Command {
    let mut held = Command::new("sh");
    held.args(["-c", "kill -STOP $$; exec \"$0\" \"$@\""])
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(command.get_current_dir().unwrap());
    for (name, value) in command.get_envs() {
        held.env(name, value.unwrap());
    }
    held
}

/// The name of the call that `thread` is about to make, if that is a step.
fn step(thread: Pid) -> Option<&'static str> {
    let line = fs::read_to_string(format!("/proc/{thread}/syscall")).ok()?;
    let mut words = line.split_whitespace();
    let number: libc::c_long = words.next()?.parse().ok()?;
    let arguments: Vec<u64> = words
        .filter_map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok())
        .collect();
    let made = |index: usize| arguments[index] & (libc::O_CREAT.cast_unsigned() as u64) != 0;
    match number {
        libc::SYS_openat if made(2) => return Some("openat"),
        libc::SYS_write | libc::SYS_writev | libc::SYS_pwrite64 => {
            let file = fs::read_link(format!("/proc/{thread}/fd/{}", arguments[0])).ok()?;
            let file = file.to_str()?;
            // Neither a wake-up of its own nor a line of its log.
            let own = file.starts_with("anon_inode:")
                || file.starts_with("pipe:")
                || file.ends_with("/log");
            return (!own).then_some("write");
        }
        _ => {}
    }
    let known = CALLS
        .iter()
        .chain(OLDER)
        .find(|(known, _)| *known == number)?;
    Some(known.1)
}
