//! Image volumes, which not every cluster has.
//!
//! Whether it has them shows when a pod is made. An API server that knows them, and has them switched
//! off, makes the pod without them and says nothing; an older one drops what such a volume is made of, and
//! then refuses a volume that is made of nothing.

use k8s_openapi::api::core::v1::{Pod, Volume};
use vm_api::contract::KERNEL_BOOT_VOLUME;
use vm_api::field::FieldError;
use vm_api::v1::VirtualMachineInstanceSpec;

use super::obstacle::Obstacle;

/// Whether `pod` needs image volumes.
pub(super) fn needed(pod: &Pod) -> bool {
    volumes(pod).any(|volume| volume.image.is_some())
}

/// What keeps `pod` from being made as it is, if the API server would make `made` of it.
pub(super) fn dropped(
    spec: &VirtualMachineInstanceSpec,
    pod: &Pod,
    made: &Pod,
) -> Option<Obstacle> {
    let kept = |volume: &Volume| {
        let mut others = volumes(made);
        others.any(|other| other.name == volume.name && other.image.is_some())
    };
    let missing = volumes(pod).filter(|volume| volume.image.is_some() && !kept(volume));
    unsupported(spec, missing)
}

/// What keeps `pod` from being made if `error` is about its image volumes.
pub(super) fn refused(
    spec: &VirtualMachineInstanceSpec,
    pod: &Pod,
    error: &kube::Error,
) -> Option<Obstacle> {
    let kube::Error::Api(status) = error else {
        return None;
    };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let fields: Vec<_> = causes.map(|cause| cause.field.as_str()).collect();
    let refused = volumes(pod).enumerate().filter(|(index, volume)| {
        let field = format!("spec.volumes[{index}]");
        volume.image.is_some() && fields.contains(&field.as_str())
    });
    unsupported(spec, refused.map(|(_, volume)| volume))
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let specs = pod.spec.iter();
    specs.flat_map(|spec| spec.volumes.iter().flatten())
}

fn unsupported<'a>(
    spec: &VirtualMachineInstanceSpec,
    volumes: impl Iterator<Item = &'a Volume>,
) -> Option<Obstacle> {
    let sentences: Vec<_> = volumes.map(|volume| sentence(spec, &volume.name)).collect();
    (!sentences.is_empty()).then_some(Obstacle::Unsupported(sentences))
}

fn sentence(spec: &VirtualMachineInstanceSpec, volume: &str) -> String {
    let mut volumes = spec.volumes.iter();
    let path = match volumes.position(|own| own.name == volume) {
        Some(index) => format!("volumes[{index}].containerDisk"),
        None => "domain.firmware.kernelBoot.container".to_owned(),
    };
    let instead = if volume == KERNEL_BOOT_VOLUME {
        "or put the kernel into the image of the first containerDisk"
    } else {
        "or put that disk on a claim (persistentVolumeClaim)"
    };
    let message = format!(
        "needs an image volume beside the machine's first image, and this cluster has none: switch on \
         the feature gate ImageVolume (Kubernetes 1.31 and newer, containerd 2.1), {instead}"
    );
    FieldError::new(path, message).under("spec").to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn error(causes: Value) -> kube::Error {
        let status = json!({
            "status": "Failure", "code": 422, "message": "Pod is invalid", "reason": "Invalid",
            "details": { "causes": causes },
        });
        kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()))
    }

    #[test]
    fn a_cluster_without_image_volumes_is_told_from_other_mistakes() {
        let pod = json!({ "spec": { "containers": [], "volumes": [
            { "name": "a", "persistentVolumeClaim": { "claimName": "a" } },
            { "name": "b", "image": { "reference": "x" } },
            { "name": "kernel-boot", "image": { "reference": "y" } },
        ] } });
        let pod = serde_json::from_value(pod).unwrap();
        let spec = json!({ "volumes": [
            { "name": "root", "containerDisk": { "image": "z" } },
            { "name": "b", "containerDisk": { "image": "x" } },
        ] });
        let spec = serde_json::from_value(spec).unwrap();
        let missing = |index| json!({ "field": format!("spec.volumes[{index}]"), "reason": "FieldValueRequired" });
        let found = refused(&spec, &pod, &error(json!([missing(1), missing(2)])));
        let Some(Obstacle::Unsupported(sentences)) = found else {
            panic!("{found:?}");
        };
        assert!(sentences[0].starts_with("spec.volumes[1].containerDisk: needs an image volume"));
        assert!(sentences[1].starts_with("spec.domain.firmware.kernelBoot.container: needs"));
        assert_eq!(refused(&spec, &pod, &error(json!([missing(0)]))), None);
        assert_eq!(refused(&spec, &pod, &error(json!([]))), None);
    }

    #[test]
    fn volumes_that_the_cluster_drops_in_silence_are_noticed() {
        let pod = |volumes: Value| -> Pod {
            let pod = json!({ "spec": { "containers": [], "volumes": volumes } });
            serde_json::from_value(pod).unwrap()
        };
        let claim = json!({ "name": "a", "persistentVolumeClaim": { "claimName": "a" } });
        let image = json!({ "name": "b", "image": { "reference": "x" } });
        let wanted = pod(json!([claim, image]));
        let spec = json!({ "volumes": [{ "name": "b", "containerDisk": { "image": "x" } }] });
        let spec = serde_json::from_value(spec).unwrap();
        assert!(needed(&wanted) && !needed(&pod(json!([claim]))));
        assert_eq!(dropped(&spec, &wanted, &wanted), None);
        let found = dropped(&spec, &wanted, &pod(json!([claim])));
        let Some(Obstacle::Unsupported(sentences)) = found else {
            panic!("{found:?}");
        };
        assert!(sentences[0].starts_with("spec.volumes[0].containerDisk: needs an image volume"));
    }
}
