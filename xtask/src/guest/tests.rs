//! Boots every guest in emulation with the product's own QEMU, without a cluster: what the
//! end-to-end tests take for granted about their guests is shown here.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Format, Guest, build};
use crate::command;
use crate::image::qemu;

/// Ends a hopeless wait on a slow and shared machine.
const PATIENCE: Duration = Duration::from_secs(1200);

/// Every machine's hardware, beside its disks; `qmp` and `agent` are sockets.
const HARDWARE: &str = "-M q35 -accel tcg -m 512 -nodefaults -no-user-config -display none \
    -serial stdio -mon qmp,mode=control -netdev user,id=net \
    -device virtio-net-pci,netdev=net -device virtio-serial-pci \
    -device virtserialport,chardev=agent,name=org.qemu.guest_agent.0";

#[derive(Clone, Copy)]
enum Firmware {
    SeaBios,
    Uefi,
}

/// A running guest; ends with the value.
struct Machine {
    qemu: Child,
    console: Receiver<String>,
    said: String,
    dir: TempDir,
}

impl Machine {
    fn boot(guest: Guest, firmware: Firmware, user_data: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket =
            |name: &str| format!("path={}/{name},server=on,wait=off", dir.path().display());
        let disk = build(guest, Format::Raw).unwrap().disk;
        let mut qemu = qemu::on_this_machine().unwrap();
        qemu.args(HARDWARE.split_whitespace())
            .args(["-chardev", &format!("socket,id=qmp,{}", socket("qmp"))])
            .args(["-chardev", &format!("socket,id=agent,{}", socket("agent"))])
            .args(["-drive", &drive(&disk, "if=virtio,snapshot=on")]);
        if let Firmware::Uefi = firmware {
            let firmware = qemu::tree().unwrap().join("usr/share/OVMF");
            let code = drive(&firmware.join("OVMF_CODE_4M.fd"), "if=pflash,readonly=on");
            let vars = drive(&firmware.join("OVMF_VARS_4M.fd"), "if=pflash,snapshot=on");
            qemu.args(["-drive", &code, "-drive", &vars]);
        }
        if let Some(user_data) = user_data {
            let seed = seed(dir.path(), user_data);
            qemu.args(["-drive", &drive(&seed, "if=virtio,readonly=on")]);
        }
        let mut qemu = qemu
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(qemu.stdout.take().unwrap());
        let (send, console) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                // Nobody listens any more when the test has seen enough.
                let _ = send.send(String::from_utf8_lossy(&line).into_owned() + "\n");
            }
        });
        Self {
            qemu,
            console,
            said: String::new(),
            dir,
        }
    }

    /// Reads the console up to the line that holds `text`, and returns that line.
    fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self
                .console
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => {
                    self.said += &line;
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("the guest never said {text:?}, but:\n{}", self.said)
                }
            }
        }
    }

    /// Writes one message to a socket of the machine and returns the first answer with `return`.
    fn ask(&self, socket: &str, messages: &[Value]) -> Value {
        let mut stream = UnixStream::connect(self.dir.path().join(socket)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answers = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut last = Value::Null;
        for message in messages {
            writeln!(stream, "{message}").unwrap();
            last = answers
                .by_ref()
                .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap())
                .find(|answer| answer.get("return").is_some() || answer.get("error").is_some())
                .unwrap();
            assert!(last.get("error").is_none(), "{message}: {last}");
        }
        last
    }

    fn ask_agent(&self, command: &str) -> Value {
        self.ask("agent", &[json!({ "execute": command })])["return"].clone()
    }

    /// Presses the power button and waits for QEMU's end.
    fn power_off(&mut self) {
        let commands = ["qmp_capabilities", "system_powerdown"];
        self.ask(
            "qmp",
            &commands.map(|command| json!({ "execute": command })),
        );
        self.wait_for_exit();
    }

    fn wait_for_exit(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.qemu.try_wait().unwrap().is_none() {
            assert!(
                Instant::now() < deadline,
                "the guest is still there:\n{}",
                self.said
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(self.qemu.wait().unwrap().success());
        self.said.extend(self.console.iter());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.qemu.kill().ok();
        self.qemu.wait().ok();
    }
}

fn drive(file: &Path, how: &str) -> String {
    format!("file={},format=raw,{how}", file.display())
}

/// A NoCloud volume for a guest by the name of `alpha`.
fn seed(dir: &Path, user_data: &str) -> PathBuf {
    let image = dir.join("seed.img");
    let files = [
        ("user-data", user_data),
        ("meta-data", r#"{"local-hostname": "alpha"}"#),
    ];
    std::fs::File::create(&image)
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    let mtool = |program: &str| {
        let mut command = Command::new(program);
        command.arg("-i").arg(&image).env("MTOOLS_SKIP_CHECK", "1");
        command
    };
    let geometry = ["-T", "2048", "-h", "64", "-s", "32", "-v", "cidata", "::"];
    command::run(mtool("mformat").args(geometry)).unwrap();
    for (name, content) in files {
        let file = dir.join(name);
        std::fs::write(&file, content).unwrap();
        command::run(mtool("mcopy").arg(&file).arg(format!("::{name}"))).unwrap();
    }
    image
}

fn tiny_does_all_it_promises(firmware: Firmware) {
    let script = "#!/bin/sh\nwget -q -O - http://127.0.0.1/\n\
                  echo query | timeout 2 nc.traditional -u 127.0.0.1 7\ncat /etc/resolv.conf\nexit 3\n";
    let mut machine = Machine::boot(Guest::Tiny, firmware, Some(script));
    let ready = machine.wait_for("tiny guest ready");
    assert!(ready.contains("name=alpha address=10.0.2.15/24"), "{ready}");
    machine.wait_for("alpha\r\n");
    machine.wait_for("query");
    machine.wait_for("nameserver 10.0.2.3");
    machine.wait_for("tiny guest user-data ended: code=3");
    assert_eq!(machine.ask_agent("guest-ping"), json!({}));
    machine.power_off();
    assert!(
        machine.said.contains("tiny guest poweroff"),
        "{}",
        machine.said
    );
}

#[test]
#[ignore = "boots a machine; needs root and the distribution's packages"]
fn tiny_with_seabios() {
    tiny_does_all_it_promises(Firmware::SeaBios);
}

#[test]
#[ignore = "boots a machine; needs root and the distribution's packages"]
fn tiny_with_uefi() {
    tiny_does_all_it_promises(Firmware::Uefi);
}

#[test]
#[ignore = "boots a machine; needs root and the distribution's packages"]
fn tiny_refuses_user_data_that_is_no_script() {
    let mut machine = Machine::boot(Guest::Tiny, Firmware::SeaBios, Some("#cloud-config\n"));
    machine.wait_for("tiny guest user-data refused");
}

#[test]
#[ignore = "boots a machine; needs root and the distribution's packages"]
fn boot_sector_prints_one_line() {
    let mut machine = Machine::boot(Guest::BootSector, Firmware::SeaBios, None);
    assert_eq!(machine.wait_for("ready"), "boot-sector guest ready\r\n");
}

#[test]
#[ignore = "boots a machine; needs root and the distribution's packages"]
fn power_off_prints_every_line_and_ends() {
    let mut machine = Machine::boot(Guest::PowerOff, Firmware::SeaBios, None);
    machine.wait_for_exit();
    let lines: Vec<&str> = machine.said.split_terminator("\r\n").collect();
    let (last, numbered) = lines.split_last().unwrap();
    assert_eq!(*last, "power-off guest ends");
    assert_eq!(numbered.len(), 1024);
    for (number, line) in numbered.iter().enumerate() {
        assert_eq!(line.len(), 62, "{line}");
        assert!(
            line.starts_with(&format!("power-off guest line {number:04} ")),
            "{line}"
        );
    }
}

fn debian_reaches_the_end_of_cloud_init(firmware: Firmware) {
    let user_data = "#cloud-config\npassword: secret\nchpasswd: { expire: false }\n\
                     final_message: the guest debian is up\n";
    let mut machine = Machine::boot(Guest::Debian, firmware, Some(user_data));
    machine.wait_for("alpha login:");
    machine.wait_for("the guest debian is up");
    assert_eq!(machine.ask_agent("guest-ping"), json!({}));
    let name = machine.ask_agent("guest-get-host-name");
    assert_eq!(name["host-name"], "alpha");
    machine.power_off();
}

#[test]
#[ignore = "boots a machine; needs root and the distribution's packages"]
fn debian_with_seabios() {
    debian_reaches_the_end_of_cloud_init(Firmware::SeaBios);
}

#[test]
#[ignore = "boots a machine; needs root and the distribution's packages"]
fn debian_with_uefi() {
    debian_reaches_the_end_of_cloud_init(Firmware::Uefi);
}
