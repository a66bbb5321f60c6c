//! What is run in the guest to send a signal to a command.

/// Sends the signal `$2` to the process `$1` alone.
const ONE: &str = r#"kill -"$2" "$1""#;

/// Ends the process `$1` and all that it has started by the signal `$2`: its descendants, and whoever
/// is in a session or process group that one of these leads, as everybody in the command's terminal
/// is. A mere hang-up of that terminal would miss those who ignore it.
///
/// All are stopped before any is ended: none can start another meanwhile, and the tree does not fall
/// apart while it is read. Source: `proc(5)`, `/proc/pid/stat`; the name in it may hold anything.
const ALL: &str = r#"
all=" $1 "
kill -STOP "$1" 2>/dev/null
tries=0 more=1
while [ -n "$more" ] && [ $tries -lt 50 ]; do
    more= tries=$((tries + 1))
    for stat in /proc/[0-9]*/stat; do
        { read -r line < "$stat"; } 2>/dev/null || continue
        pid=${stat#/proc/} pid=${pid%/stat}
        rest=${line##*) } rest=${rest#* }
        parent=${rest%% *} rest=${rest#* }
        group=${rest%% *} rest=${rest#* }
        session=${rest%% *}
        case $all in *" $pid "*) continue ;; esac
        case $all in *" $parent "*|*" $group "*|*" $session "*)
            kill -STOP "$pid" 2>/dev/null
            all="$all$pid "
            more=1 ;;
        esac
    done
done
kill -"$2" $all 2>/dev/null
"#;

/// The script that sends a signal: to the command alone, or to `all` that it has started.
pub(super) fn script(all: bool) -> &'static str {
    if all { ALL } else { ONE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    /// Starts `args` in this machine, with the variable `MARK` by which its processes are known.
    fn start(mark: &str, args: &[&str]) -> Child {
        Command::new(args[0])
            .args(&args[1..])
            .env("MARK", mark)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// How many processes have the mark.
    fn marked(mark: &str) -> usize {
        let mark = format!("MARK={mark}");
        let processes = std::fs::read_dir("/proc").unwrap();
        let has_it = |process: std::io::Result<std::fs::DirEntry>| {
            let environ = std::fs::read(process.unwrap().path().join("environ"));
            let environ = environ.unwrap_or_default();
            environ
                .split(|byte| *byte == 0)
                .any(|pair| pair == mark.as_bytes())
        };
        processes.map(has_it).filter(|has_it| *has_it).count()
    }

    fn until(mark: &str, count: usize) {
        let begun = Instant::now();
        while marked(mark) != count {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "{}",
                marked(mark)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Two that ignore the hang-up, one of them behind a parent that has left.
    const STUBBORN: &str = "trap '' HUP; (sleep 60 & true); sleep 60; true";

    #[test]
    fn nobody_outlives_the_kill_of_a_command() {
        let mark = |case: &str| format!("{case}-{}", std::process::id());
        for (case, args, count) in [
            ("plain", &["setsid", "sh", "-c", STUBBORN][..], 3),
            ("terminal", &["script", "-qec", STUBBORN, "/dev/null"], 4),
            (
                "su",
                &["setsid", "su", "-s", "/bin/sh", "-c", STUBBORN, "root"],
                4,
            ),
        ] {
            let mark = mark(case);
            let mut command = start(&mark, args);
            until(&mark, count);
            let pid = command.id().to_string();
            let killed = Command::new("/bin/sh")
                .args(["-c", script(true), "sh", &pid, "9"])
                .status()
                .unwrap();
            assert!(killed.success(), "{case}: {killed}");
            assert_eq!(command.wait().unwrap().signal(), Some(9), "{case}");
            until(&mark, 0);
        }
    }

    #[test]
    fn another_signal_is_for_the_command_alone() {
        let mark = format!("one-{}", std::process::id());
        let mut command = start(&mark, &["sh", "-c", "sleep 2 & exec sleep 60"]);
        until(&mark, 2);
        let pid = command.id().to_string();
        let shell = Command::new("/bin/sh")
            .args(["-c", script(false), "sh", &pid, "15"])
            .status();
        assert!(shell.unwrap().success());
        assert_eq!(command.wait().unwrap().signal(), Some(15));
        assert_eq!(marked(&mark), 1);
        until(&mark, 0);
    }
}
