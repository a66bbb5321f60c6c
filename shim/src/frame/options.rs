//! The runtime's options from containerd's configuration: `ConfigPath`, the path of the node's own
//! TOML file, in a `runtimeoptions.v1.Options`. The bindings do not have that message.

use std::path::PathBuf;

use containerd_shim::protos::protobuf::CodedInputStream;
use containerd_shim::protos::protobuf::well_known_types::any::Any;

/// The message's name, with or without a prefix.
const TYPE: &str = "runtimeoptions.v1.Options";

/// Tag of the field `config_path`: number 2, length-delimited.
const CONFIG_PATH: u32 = 2 << 3 | 2;

/// The path that the first options among `extensions` name.
pub(super) fn config_path(extensions: &[Any]) -> Option<PathBuf> {
    let options = |any: &&Any| any.type_url.rsplit('/').next() == Some(TYPE);
    let any = extensions.iter().find(options)?;
    read(&any.value).ok().flatten()
}

fn read(message: &[u8]) -> containerd_shim::protos::protobuf::Result<Option<PathBuf>> {
    let mut path = None;
    let mut input = CodedInputStream::from_bytes(message);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        if tag == CONFIG_PATH {
            path = Some(input.read_string()?).filter(|path| !path.is_empty());
        } else {
            containerd_shim::protos::protobuf::rt::skip_field_for_tag(tag, &mut input)?;
        }
    }
    Ok(path.map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(type_url: &str, value: &[u8]) -> Vec<Any> {
        vec![Any {
            type_url: type_url.into(),
            value: value.to_vec(),
            ..Any::default()
        }]
    }

    #[test]
    fn the_path_is_found_among_the_fields() {
        let message = b"\x0a\x01t\x12\x04/a/b\x1a\x02xy";
        let found = config_path(&options("runtimeoptions.v1.Options", message));
        assert_eq!(found, Some(PathBuf::from("/a/b")));
        let found = config_path(&options(
            "types.containerd.io/runtimeoptions.v1.Options",
            message,
        ));
        assert_eq!(found, Some(PathBuf::from("/a/b")));
    }

    #[test]
    fn other_and_broken_options_name_none() {
        assert_eq!(
            config_path(&options("containerd.runc.v1.Options", b"\x12\x02/a")),
            None
        );
        assert_eq!(
            config_path(&options("runtimeoptions.v1.Options", b"\x12\x7f/a")),
            None
        );
        assert_eq!(
            config_path(&options("runtimeoptions.v1.Options", b"\x12\x00")),
            None
        );
        assert_eq!(config_path(&[]), None);
    }
}
