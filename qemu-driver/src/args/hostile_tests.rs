//! Words from outside in QEMU's arguments: whatever is accepted, it stays the value that it is.

use proptest::prelude::*;

use super::*;
use crate::machine::*;

/// Where words from outside go. What a type refuses is left as it is in a harmless machine.
#[derive(Clone, Debug)]
struct Words {
    name: String,
    disk: String,
    disk_serial: String,
    nic: String,
    tag: String,
    device: String,
    serial: String,
    cpu: String,
    machine_type: String,
    firmware: String,
    feature: String,
    vendor: String,
    manufacturer: String,
    input: String,
}

impl Words {
    fn harmless() -> Self {
        Self {
            name: "machine".into(),
            disk: "disk".into(),
            disk_serial: "D1".into(),
            nic: "nic".into(),
            tag: "tag".into(),
            device: "device".into(),
            serial: "S1".into(),
            cpu: "qemu64".into(),
            machine_type: "pc-q35-7.2".into(),
            firmware: "/code.fd".into(),
            feature: "avx2".into(),
            vendor: "KVM".into(),
            manufacturer: "Somebody".into(),
            input: "tablet".into(),
        }
    }
}

fn file() -> DiskFile {
    DiskFile::new(tempfile::tempfile().unwrap()).unwrap()
}

fn machine(words: &Words) -> Machine {
    let harmless = Words::harmless();
    let name = |word: &str, harmless: &str| {
        let name = Name::new("thing", word);
        name.unwrap_or_else(|_| Name::new("thing", harmless).unwrap())
    };
    let model = CpuWord::new(words.cpu.as_str());
    let model = model.unwrap_or_else(|_| CpuWord::new(harmless.cpu.as_str()).unwrap());
    let feature = CpuWord::new(words.feature.as_str());
    let feature = feature.unwrap_or_else(|_| CpuWord::new(harmless.feature.as_str()).unwrap());
    let cpu = Cpu::new(1, 1, 1, CpuModel::Named(model)).unwrap();
    let cpu = cpu.with_features(vec![(feature, true)]);
    let text = |word: &str, harmless: &str| {
        let text = FirmwareText::new("text", word);
        text.unwrap_or_else(|_| FirmwareText::new("text", harmless).unwrap())
    };
    let vendor = Vendor::new(words.vendor.as_str());
    let vendor = vendor.unwrap_or_else(|_| Vendor::new(harmless.vendor.as_str()).unwrap());
    let features = Features {
        hyperv: Hyperv {
            vendor: Some(vendor),
            ..Hyperv::default()
        },
        ..Features::default()
    };
    let chassis = Chassis {
        manufacturer: Some(text(&words.manufacturer, &harmless.manufacturer)),
        ..Chassis::default()
    };
    let machine_type = MachineType::new(words.machine_type.as_str());
    let uefi = Uefi::new(&words.firmware, file());
    let uefi = uefi.unwrap_or_else(|_| Uefi::new(&harmless.firmware, file()).unwrap());
    let mut machine = Machine::new(
        name(&words.name, &harmless.name),
        Uuid::from_u128(1),
        machine_type.unwrap_or_else(|_| MachineType::new(harmless.machine_type).unwrap()),
        Accelerator::Kvm,
        cpu,
        Memory::new(64 << 20).unwrap(),
    )
    .with_serial(text(&words.serial, &harmless.serial))
    .with_chassis(chassis)
    .with_features(features)
    .with_firmware(Firmware::Uefi(uefi));
    let disk = |serial: &str| {
        let image = DiskImage::File {
            file: file(),
            format: Format::Raw,
        };
        let name = name(&words.disk, &harmless.disk);
        let disk = Disk::new(name, DiskDevice::Disk, DiskBus::Scsi, image).unwrap();
        disk.with_serial(serial)
    };
    let disk = disk(&words.disk_serial).unwrap_or_else(|_| disk(&harmless.disk_serial).unwrap());
    machine.add_disk(disk).unwrap();
    let mac = MacAddress::new([2, 0, 0, 0, 0, 1]).unwrap();
    let tap = vec![std::fs::File::open("/dev/null").unwrap().into()];
    let nic = name(&words.nic, &harmless.nic);
    machine
        .add_nic(Nic::new(nic, tap, mac, NicModel::Virtio).unwrap())
        .unwrap();
    let input = Input {
        name: name(&words.input, &harmless.input),
        bus: InputBus::Usb,
    };
    machine.add_input(input).unwrap();
    let socket = || std::os::unix::net::UnixStream::pair().unwrap().0;
    let tag = Filesystem::new(name(&words.tag, &harmless.tag), socket());
    let tag = tag
        .unwrap_or_else(|_| Filesystem::new(name(&harmless.tag, &harmless.tag), socket()).unwrap());
    machine.add_filesystem(tag).unwrap();
    let device = name(&words.device, &harmless.device);
    let address = "0000:3b:00.0".parse().unwrap();
    machine
        .add_host_device(HostDevice::new(device, address))
        .unwrap();
    machine
}

/// The arguments without the values of their options: what QEMU is told to have and to do.
fn skeleton(words: &Words) -> Vec<String> {
    let (line, _channels) = CommandLine::new(machine(words)).unwrap();
    let args = line.args.iter().map(|arg| arg.to_str().unwrap());
    args.map(|arg| match serde_json::from_str::<Value>(arg) {
        Ok(value @ Value::Object(_)) => keys(&value),
        _ => {
            // A comma that is written twice belongs to the value.
            let arg = arg.replace(",,", "");
            let options = arg.split(',');
            let names = options.map(|option| option.split_once('=').map_or("", |(name, _)| name));
            let mut names: Vec<_> = names.collect();
            // The processor's feature is a name from outside.
            if names.last() == Some(&"hv-vendor-id") {
                names[1] = "feature";
            }
            names.join(",")
        }
    })
    .collect()
}

/// The keys of `value`, and its values as far as no word from outside is among them.
fn keys(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map
                .iter()
                .map(|(key, value)| match key.as_str() {
                    "driver" | "qom-type" | "type" => format!("{key}: {value}"),
                    _ => format!("{key}: {}", keys(value)),
                })
                .collect();
            keys.sort();
            format!("{{{}}}", keys.join(", "))
        }
        Value::String(_) => String::new(),
        other => other.to_string(),
    }
}

fn word() -> impl Strategy<Value = String> {
    const KNOWN: &[&str] = &[
        "a,format=raw",
        "a,,b",
        "a=b",
        "a\",\"driver\":\"host_device",
        "{}",
        "a\nb",
        "a\0",
        "-device",
        "on",
        "file:///etc/shadow",
        "json:{}",
        "/dev/fdset/1",
        "/code,readonly=off.fd",
        "/a\"b.fd",
        "a.b_c-d",
        "pc-q35-7.2,usb=on",
        "pc-q35-rhel9",
        "host,+vmx",
        "%s",
        "ä",
    ];
    prop_oneof![
        prop::sample::select(KNOWN).prop_map(str::to_owned),
        "[a-z0-9]{1,6}[,=:\"{}\\\\ \n\0;+-]?[a-z0-9]{0,6}",
        "[A-Za-z0-9][A-Za-z0-9._-]{0,70}",
        "/[^/]{1,20}",
        any::<String>(),
    ]
}

fn words() -> impl Strategy<Value = Words> {
    prop::array::uniform14(word()).prop_map(|all| {
        let [
            name,
            disk,
            disk_serial,
            nic,
            tag,
            device,
            serial,
            cpu,
            machine_type,
            firmware,
            feature,
            vendor,
            manufacturer,
            input,
        ] = all;
        Words {
            name,
            disk,
            disk_serial,
            nic,
            tag,
            device,
            serial,
            cpu,
            machine_type,
            firmware,
            feature,
            vendor,
            manufacturer,
            input,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn no_word_becomes_an_option(words in words()) {
        prop_assert_eq!(skeleton(&words), skeleton(&Words::harmless()));
    }
}
