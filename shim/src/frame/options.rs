//! The runtime's options from containerd's configuration: `ConfigPath`, the path of the node's own
//! TOML file, in a `runtimeoptions.v1.Options`. The bindings do not have that message. `ConfigBody`,
//! into which containerd puts the options when they have no `ConfigPath`, is refused.

use std::path::PathBuf;

use containerd_shim::protos::protobuf::CodedInputStream;
use containerd_shim::protos::protobuf::well_known_types::any::Any;

/// The message's name, with or without a prefix.
const TYPE: &str = "runtimeoptions.v1.Options";

/// Tag of the field `config_path`: number 2, length-delimited.
const CONFIG_PATH: u32 = 2 << 3 | 2;

/// Tag of the field `config_body`: number 3, length-delimited.
const CONFIG_BODY: u32 = 3 << 3 | 2;

/// Why the runtime's options in containerd's configuration cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OptionsError {
    /// There are settings where none are read.
    #[error(
        "containerd's configuration has options for this runtime that it does not read \
         (ConfigBody, {0:?}): write the node's settings into a file and name that as ConfigPath"
    )]
    Body(String),
    /// They are not what their type says.
    #[error(
        "containerd's options for this runtime are no {TYPE}: {0}; the one option that is read is \
         ConfigPath"
    )]
    Broken(containerd_shim::protos::protobuf::Error),
}

/// The path that the first options among `extensions` name.
pub(super) fn config_path(extensions: &[Any]) -> Option<PathBuf> {
    check(extensions).ok().flatten()
}

/// The same, or what is wrong with those options.
pub(super) fn check(extensions: &[Any]) -> Result<Option<PathBuf>, OptionsError> {
    let options = |any: &&Any| any.type_url.rsplit('/').next() == Some(TYPE);
    let Some(any) = extensions.iter().find(options) else {
        return Ok(None);
    };
    let (path, body) = read(&any.value).map_err(OptionsError::Broken)?;
    match body {
        Some(body) => Err(OptionsError::Body(body)),
        None => Ok(path.map(PathBuf::from)),
    }
}

/// The path and the body in `message`.
fn read(
    message: &[u8],
) -> containerd_shim::protos::protobuf::Result<(Option<String>, Option<String>)> {
    let (mut path, mut body) = (None, None);
    let mut input = CodedInputStream::from_bytes(message);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        if tag == CONFIG_PATH {
            path = Some(input.read_string()?).filter(|path| !path.is_empty());
        } else if tag == CONFIG_BODY {
            body = Some(input.read_string()?).filter(|body| !body.is_empty());
        } else {
            containerd_shim::protos::protobuf::rt::skip_field_for_tag(tag, &mut input)?;
        }
    }
    Ok((path, body))
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
        let message = b"\x0a\x01t\x12\x04/a/b\x1a\x00\x22\x01x";
        let found = config_path(&options("runtimeoptions.v1.Options", message));
        assert_eq!(found, Some(PathBuf::from("/a/b")));
        let found = config_path(&options(
            "types.containerd.io/runtimeoptions.v1.Options",
            message,
        ));
        assert_eq!(found, Some(PathBuf::from("/a/b")));
    }

    #[test]
    fn options_that_would_be_lost_are_refused_by_name() {
        let body = b"\x0a\x01t\x1a\x09debug = 1";
        let broken = b"\x12\x7f/a";
        for (message, words) in [
            (body.as_slice(), "(ConfigBody, \"debug = 1\")"),
            (broken.as_slice(), "no runtimeoptions.v1.Options"),
        ] {
            let error = check(&options(TYPE, message)).unwrap_err().to_string();
            assert!(
                error.contains(words) && error.contains("ConfigPath"),
                "{error}"
            );
        }
    }

    #[test]
    fn other_and_empty_options_name_none() {
        assert_eq!(
            config_path(&options("containerd.runc.v1.Options", b"\x12\x02/a")),
            None
        );
        assert_eq!(
            config_path(&options("runtimeoptions.v1.Options", b"\x12\x00")),
            None
        );
        assert_eq!(config_path(&[]), None);
    }
}
