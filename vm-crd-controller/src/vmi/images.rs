//! The form of images beside the machine container's own, which depends on the cluster.
//!
//! Whether it has image volumes shows when a pod is made. An API server that knows them, and has them
//! switched off, makes the pod without them and says nothing; an older one drops what such a volume is made
//! of, and then refuses a volume that is made of nothing. Such a cluster gets sidecars. What was found out
//! is good for all machines, and for a while only: clusters are upgraded.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Pod, Volume};
use vm_api::contract::KERNEL_BOOT_VOLUME;
use vm_api::field::FieldError;
use vm_api::v1::VirtualMachineInstanceSpec;

use super::obstacle::Obstacle;
use crate::render::ImageForm;

/// How long after image volumes were switched on or off new machines follow.
const GOOD_FOR: Duration = Duration::from_secs(600);

/// The form of images in this cluster, as far as it is known.
#[derive(Debug, Default)]
pub struct Finding(Mutex<Option<(ImageForm, Instant)>>);

impl Finding {
    /// The form, if it was found out lately.
    pub(super) fn form(&self) -> Option<ImageForm> {
        let found = self.lock().filter(|(_, since)| since.elapsed() < GOOD_FOR);
        found.map(|(form, _)| form)
    }

    /// The cluster takes this form.
    pub(super) fn learn(&self, form: ImageForm) {
        *self.lock() = Some((form, Instant::now()));
    }

    /// The cluster has refused what it took before.
    pub(super) fn forget(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<(ImageForm, Instant)>> {
        // Nothing panics while it holds this.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `pod` needs image volumes.
pub(super) fn needed(pod: &Pod) -> bool {
    volumes(pod).any(|volume| volume.image.is_some())
}

/// Whether the image volumes of `pod`, if any, are in what the API server would `make` of it.
pub(super) fn kept(pod: &Pod, made: &Pod) -> bool {
    let is_made = |volume: &Volume| {
        let mut others = volumes(made);
        others.any(|other| other.name == volume.name && other.image.is_some())
    };
    volumes(pod).all(|volume| volume.image.is_none() || is_made(volume))
}

/// Whether `error` is about image volumes of `pod`.
pub(super) fn refused(pod: &Pod, error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let fields: Vec<_> = causes.map(|cause| cause.field.as_str()).collect();
    volumes(pod).enumerate().any(|(index, volume)| {
        let field = format!("spec.volumes[{index}]");
        volume.image.is_some() && fields.contains(&field.as_str())
    })
}

/// Whether the init containers of a pod that the API server would make are the sidecars that they were
/// asked to be: without that they would never end, and the machine never begin.
pub(super) fn are_sidecars(made: &Pod) -> bool {
    let of_pod = made.spec.iter();
    let mut containers = of_pod.flat_map(|spec| spec.init_containers.iter().flatten());
    let is_sidecar = |it: &Container| it.restart_policy.as_deref() == Some("Always");
    containers.all(is_sidecar)
}

/// That the cluster has neither form for the images of `pod`, which has image volumes.
pub(super) fn unsupported(spec: &VirtualMachineInstanceSpec, pod: &Pod) -> Obstacle {
    let images = volumes(pod).filter(|volume| volume.image.is_some());
    let sentences = images.map(|volume| sentence(spec, &volume.name));
    Obstacle::Unsupported(sentences.collect())
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let specs = pod.spec.iter();
    specs.flat_map(|spec| spec.volumes.iter().flatten())
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
        "needs an image volume or a native sidecar beside the machine's first image, and this cluster has \
         neither: switch on the feature gate ImageVolume or SidecarContainers, {instead}"
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

    fn pod(volumes: Value) -> Pod {
        let pod = json!({ "spec": { "containers": [], "volumes": volumes } });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_cluster_without_image_volumes_is_told_from_other_mistakes() {
        let pod = pod(json!([
            { "name": "a", "persistentVolumeClaim": { "claimName": "a" } },
            { "name": "b", "image": { "reference": "x" } },
            { "name": "kernel-boot", "image": { "reference": "y" } },
        ]));
        let missing = |index| json!({ "field": format!("spec.volumes[{index}]"), "reason": "FieldValueRequired" });
        assert!(refused(&pod, &error(json!([missing(1), missing(2)]))));
        assert!(!refused(&pod, &error(json!([missing(0)]))));
        assert!(!refused(&pod, &error(json!([]))));
        let spec = json!({ "volumes": [
            { "name": "root", "containerDisk": { "image": "z" } },
            { "name": "b", "containerDisk": { "image": "x" } },
        ] });
        let found = unsupported(&serde_json::from_value(spec).unwrap(), &pod);
        let Obstacle::Unsupported(sentences) = found else {
            panic!("{found:?}");
        };
        assert!(sentences[0].starts_with("spec.volumes[1].containerDisk: needs an image volume"));
        assert!(sentences[1].starts_with("spec.domain.firmware.kernelBoot.container: needs"));
    }

    #[test]
    fn volumes_that_the_cluster_drops_in_silence_are_noticed() {
        let claim = json!({ "name": "a", "persistentVolumeClaim": { "claimName": "a" } });
        let image = json!({ "name": "b", "image": { "reference": "x" } });
        let wanted = pod(json!([claim, image]));
        let without = pod(json!([claim]));
        assert!(needed(&wanted) && !needed(&without));
        assert!(kept(&wanted, &wanted) && kept(&without, &without));
        assert!(!kept(&wanted, &without));
        // What an older API server makes of an image.
        assert!(!kept(&wanted, &pod(json!([claim, { "name": "b" }]))));
    }

    #[test]
    fn sidecars_that_would_never_end_are_noticed() {
        let made = |restart: Value| {
            let container = json!({ "name": "image-b", "restartPolicy": restart });
            let pod = json!({ "spec": { "containers": [], "initContainers": [container] } });
            serde_json::from_value::<Pod>(pod).unwrap()
        };
        assert!(are_sidecars(&made("Always".into())));
        assert!(!are_sidecars(&made(Value::Null)));
    }

    #[test]
    fn what_was_found_out_is_remembered_until_it_is_wrong() {
        let finding = Finding::default();
        assert_eq!(finding.form(), None);
        finding.learn(ImageForm::Sidecar);
        assert_eq!(finding.form(), Some(ImageForm::Sidecar));
        finding.forget();
        assert_eq!(finding.form(), None);
    }
}
