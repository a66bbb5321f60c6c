//! What the agent is asked to start: a shell that finds the command's ports, opens them as its
//! streams, and becomes the command.

use qapi::qga;

use super::{Command, port_name};
use crate::bounded;

/// Roles of the ports.
pub(super) const IN: &str = "in";
pub(super) const OUT: &str = "out";
pub(super) const ERR: &str = "err";
pub(super) const TERMINAL: &str = "tty";
pub(super) const CONTROL: &str = "control";

/// Exit code of the bootstrap when the guest lacks what it needs; its words are on its own standard
/// error, which the agent keeps.
pub(super) const LACKING: i64 = 125;

/// Defines `port NAME`, which sets `$port` to the device of the port with that name: it appears some
/// milliseconds after it was plugged in. `$PATH` is what a login would have at least.
const PRELUDE: &str = r#"
export PATH="${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
port() {
    tries=0
    while [ $tries -lt 200 ]; do
        for device in /sys/class/virtio-ports/*; do
            name=
            { read -r name < "$device/name"; } 2>/dev/null
            port=/dev/${device##*/}
            [ "$name" = "$1" ] && [ -c "$port" ] && return
        done
        sleep 0.05 2>/dev/null || sleep 1
        tries=$((tries + 1))
    done
    echo "the guest shows no serial port $1: it needs the kernel module virtio_console, sysfs in /sys and its devices in /dev" >&2
    exit 125
}
has() { command -v "$1" >/dev/null 2>&1; }
"#;

/// Without a terminal: `$1` is the input's port or empty, `$2` the output's, `$3` that of errors,
/// `$4` where to start, `$5` the user or empty; the rest is the command.
const PLAIN: &str = r#"
port "$2"; out=$port
port "$3"; err=$port
if [ -n "$1" ]; then port "$1"; exec < "$port"; else exec < /dev/null; fi
exec > "$out" 2> "$err"
directory=$4 user=$5
shift 5
has setsid && set -- setsid "$@"
"#;

/// With a terminal: `$1` is the port of its input and output, `$2` that which is told the terminal's
/// device, `$3` a command line for a shell in it.
///
/// `script` comes with util-linux, which nearly every guest has; python is often there where it is
/// not.
const IN_TERMINAL: &str = r#"
has script || has python3 || { echo "the guest has neither script (util-linux) nor python3, one of which a terminal needs: install one of them, or do without a terminal" >&2; exit 125; }
port "$2"; export CONTROL="$port"
port "$1"
exec 0<> "$port" 1>&0 2>&0
export SHELL=/bin/sh
if has script; then exec script -qec "$3" /dev/null; fi
exec python3 -c 'import os, pty, sys
end = pty.spawn(["/bin/sh", "-c", sys.argv[1]])
sys.exit(128 + os.WTERMSIG(end) if os.WIFSIGNALED(end) else os.WEXITSTATUS(end))' "$3"
"#;

/// The beginning of the shell's command line in the terminal: tells its device and lets it be like
/// any other. The same arguments follow as in [`PLAIN`], from the directory on.
const FIRST_IN_TERMINAL: &str = r#"
terminal=$(tty)
echo "$terminal" > "$CONTROL"
stty sane 2>/dev/null
unset CONTROL SHELL
directory=$1 user=$2
shift 2
[ -n "$user" ] && chown "$user" "$terminal"
"#;

/// The end of both: becomes the command.
const BECOME: &str = r#"
entry() {
    getent passwd "$1" 2>/dev/null && return
    while IFS= read -r line; do
        case $line in "$1:"*) echo "$line"; return ;; esac
    done < /etc/passwd
    return 1
}
if ! entry=$(entry "${user:-root}") && [ -n "$user" ]; then
    echo "the guest has no user $user" >&2
    exit 126
fi
rest=${entry#*:*:} uid=${rest%%:*}
rest=${rest#*:} gid=${rest%%:*}
rest=${rest#*:*:} home=${rest%%:*}
export HOME="${home:-/}"
if [ -n "$user" ]; then
    set -- env -- HOME="$HOME" USER="$user" LOGNAME="$user" "$@"
    if setpriv --help 2>/dev/null | grep -q -e --reuid; then
        set -- setpriv --reuid "$uid" --regid "$gid" --init-groups -- "$@"
    else
        set -- su -s /bin/sh -c 'exec "$@"' -- "$user" sh "$@"
    fi
fi
cd "$directory" || exit 126
exec "$@"
"#;

/// The agent's command for `command`, whose ports carry `number`.
pub(super) fn command(command: &Command, number: u64) -> qga::guest_exec {
    let user = command.user.as_ref().map(ToString::to_string);
    let mut tail = vec![command.directory.clone(), user.unwrap_or_default()];
    tail.extend(words(command));
    let port = |role| port_name(number, role);
    let (script, arguments) = if command.terminal {
        let line: Vec<_> = tail.iter().map(|word| quoted(word)).collect();
        let line = format!("set -- {}\n{FIRST_IN_TERMINAL}{BECOME}", line.join(" "));
        (
            format!("{PRELUDE}{IN_TERMINAL}"),
            vec![port(TERMINAL), port(CONTROL), line],
        )
    } else {
        let stdin = if command.stdin {
            port(IN)
        } else {
            String::new()
        };
        let mut arguments = vec![stdin, port(OUT), port(ERR)];
        arguments.extend(tail);
        (format!("{PRELUDE}{PLAIN}{BECOME}"), arguments)
    };
    let mut arg = vec!["-c".to_owned(), script, "sh".to_owned()];
    arg.extend(arguments);
    qga::guest_exec {
        path: "/bin/sh".to_owned(),
        arg: Some(arg),
        env: None,
        input_data: None,
        capture_output: Some(qga::GuestExecCaptureOutput::flag(true)),
    }
}

/// The command with its variables. `env` takes any name, where a shell takes only its own.
fn words(command: &Command) -> Vec<String> {
    let mut words = Vec::new();
    if !command.env.is_empty() {
        words.extend(["env".to_owned(), "--".to_owned()]);
        words.extend(
            command
                .env
                .iter()
                .map(|(name, value)| format!("{name}={value}")),
        );
    }
    if command.args.first().is_some_and(|name| name.contains('=')) {
        // A program of such a name, if there is one; `env` would take it for a variable.
        words.extend(["sh", "-c", r#"exec "$@""#, "sh"].map(str::to_owned));
    }
    words.extend(command.args.iter().cloned());
    words
}

/// `word` as a shell reads it back.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// What the bootstrap said, fit to be shown on one line.
pub(super) fn words_of(said: &[u8]) -> String {
    const MOST: usize = 512;
    bounded::text(String::from_utf8_lossy(said).trim(), MOST)
}

/// The agent's command that runs `script` with `arguments`; nobody reads what it says.
pub(super) fn helper(script: &str, arguments: &[&str]) -> qga::guest_exec {
    let mut arg = vec!["-c".to_owned(), script.to_owned(), "sh".to_owned()];
    arg.extend(arguments.iter().map(|&argument| argument.to_owned()));
    qga::guest_exec {
        path: "/bin/sh".to_owned(),
        arg: Some(arg),
        env: None,
        input_data: None,
        capture_output: None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::exec::User;

    fn shell(words: &[String]) -> std::process::Output {
        let mut shell = std::process::Command::new("/bin/sh");
        shell.args(words).output().unwrap()
    }

    fn of(args: &[&str]) -> Command {
        Command {
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            env: vec![("A.B".into(), "it's \"quoted\"\n$HOME".into())],
            directory: "/".into(),
            user: None,
            stdin: false,
            terminal: false,
            urgent: false,
        }
    }

    #[test]
    fn words_survive_the_shell() {
        let word = "it's \"a\"\n$word `x` \\ *";
        let script = format!("printf %s {}", quoted(word));
        let output = shell(&["-c".into(), script]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), word);
    }

    /// The last part of the script, without the ports, in this machine's own shell.
    #[test]
    fn the_command_gets_its_words_and_variables() {
        let run = |args: &[&str]| {
            let script = format!("directory=/ user=; {BECOME}");
            let mut arguments = vec!["-c".to_owned(), script, "sh".to_owned()];
            arguments.extend(words(&of(args)));
            String::from_utf8_lossy(&shell(&arguments).stdout).into_owned()
        };
        let said = run(&["sh", "-c", "pwd; printf '%s|' \"$@\"", "x", "a b", "*"]);
        assert_eq!(said, "/\na b|*|");
        let said = run(&["env"]);
        assert!(said.contains("A.B=it's \"quoted\"\n$HOME\n"), "{said}");
    }

    #[test]
    fn a_command_that_is_not_there_is_named() {
        let script = format!("directory=/ user=; {BECOME}");
        let output = shell(&["-c".into(), script, "sh".into(), "no-such-command".into()]);
        assert_eq!(output.status.code(), Some(127));
        assert!(String::from_utf8_lossy(&output.stderr).contains("no-such-command"));
    }

    #[test]
    fn a_command_is_no_variable() {
        for user in ["", "root"] {
            for env in [vec![], vec![("A".to_owned(), "1".to_owned())]] {
                let script = format!("directory=/ user={user}; {BECOME}");
                let mut arguments = vec!["-c".to_owned(), script, "sh".to_owned()];
                let command = Command {
                    env,
                    ..of(&["B=2", "true"])
                };
                arguments.extend(words(&command));
                let output = shell(&arguments);
                assert_eq!(output.status.code(), Some(127), "{output:?}");
                assert!(output.stdout.is_empty(), "{output:?}");
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(said.contains("B=2: not found"), "{said}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn any_word_survives_the_shell(word in "[^\0]{0,40}|['\"$`\\\\\n;&|*]{1,12}") {
            let output = shell(&["-c".into(), format!("printf %s {}", quoted(&word))]);
            prop_assert_eq!(String::from_utf8_lossy(&output.stdout), word);
        }
    }

    proptest! {
        #[test]
        fn what_the_guest_says_is_shown_on_one_line(said: Vec<u8>, times in 0..40_usize) {
            let words = words_of(&said.repeat(times));
            prop_assert!(words.chars().count() <= 512);
            prop_assert!(!words.contains(char::is_control));
        }
    }

    #[test]
    fn scripts_are_shell() {
        let mut terminal = of(&["true"]);
        terminal.terminal = true;
        terminal.user = Some(User::new("u").unwrap());
        for command in [of(&["true"]), terminal] {
            let arguments = super::command(&command, 1).arg.unwrap();
            for script in [&arguments[1], arguments.last().unwrap()] {
                let output = shell(&["-n".into(), "-c".into(), script.clone()]);
                assert!(output.status.success(), "{script}: {output:?}");
            }
        }
    }
}
