//! What `Update` asks for: the OCI resources that containerd packs into the call.

use containerd_shim::api::UpdateTaskRequest;
use oci_spec::runtime::LinuxResources;

use crate::task::Fault;

/// The last part of the type's name in the call, whatever prefix containerd gives it.
const TYPE: &str = "LinuxResources";

/// The resources that `request` asks for.
pub(crate) fn parse(request: &UpdateTaskRequest) -> Result<LinuxResources, Fault> {
    let Some(any) = request.resources.as_ref() else {
        return Err(Fault::Invalid("the update names no resources".into()));
    };
    if any.type_url.rsplit('/').next() != Some(TYPE) {
        return Err(Fault::Invalid(format!(
            "the update brings {:?}, but only {TYPE} of the OCI runtime spec are known",
            any.type_url
        )));
    }
    serde_json::from_slice(&any.value)
        .map_err(|error| Fault::Invalid(format!("the update's resources are broken: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim::protos::protobuf::well_known_types::any::Any;

    fn request(type_url: &str, value: &str) -> UpdateTaskRequest {
        let any = Any {
            type_url: type_url.into(),
            value: value.as_bytes().to_vec(),
            ..Any::default()
        };
        UpdateTaskRequest {
            resources: Some(any).into(),
            ..UpdateTaskRequest::default()
        }
    }

    #[test]
    fn only_resources_are_resources() {
        let url = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
        let resources = parse(&request(url, r#"{"cpu":{"quota":150000}}"#)).unwrap();
        assert_eq!(resources.cpu().as_ref().unwrap().quota(), Some(150_000));
        assert!(parse(&request(url, "{")).is_err());
        assert!(parse(&request("a/WindowsResources", "{}")).is_err());
        assert!(parse(&UpdateTaskRequest::default()).is_err());
    }
}
