//! The seed for cloud-init's source ConfigDrive: the files of an OpenStack instance.

use serde_json::{Value, json};

use super::Identification;
use crate::iso::Tree;

/// Where the files are that any version of OpenStack has.
const DIRECTORY: &str = "openstack/latest";

pub(super) fn add(
    tree: &mut Tree,
    user_data: Option<Vec<u8>>,
    network_data: Option<Vec<u8>>,
    identification: &Identification<'_>,
) {
    let devices: Vec<Value> = identification
        .tagged
        .iter()
        .map(|disk| {
            json!({
                "type": "disk", "bus": disk.bus.as_str(), "serial": disk.serial,
                "tags": [disk.tag],
            })
        })
        .collect();
    let mut meta_data = json!({
        // Which instance it is, to cloud-init; the second to other readers.
        "uuid": identification.uuid,
        "instance_id": identification.instance_id,
        "hostname": identification.hostname,
        "local_hostname": identification.hostname,
    });
    if !devices.is_empty() {
        meta_data["devices"] = devices.into();
    }
    if !identification.keys.is_empty() {
        let keys = identification.keys.iter().enumerate();
        let named = keys.map(|(index, key)| (format!("key-{index}"), key.as_str().into()));
        meta_data["public_keys"] = Value::Object(named.collect());
    }
    let meta_data = Some(meta_data.to_string().into_bytes());
    for (name, content) in [
        ("meta_data.json", meta_data),
        ("user_data", user_data),
        ("network_data.json", network_data),
    ] {
        if let Some(content) = content {
            tree.add(&format!("{DIRECTORY}/{name}"), content);
        }
    }
}
