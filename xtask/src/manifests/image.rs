//! The one change that a manifest is given: its images are those that the test cluster has.

use serde_json::Value;

/// The guest of the test cluster.
pub(super) const GUEST: &str = "kubevirt.local/guest/tiny:qcow2";

/// Puts `image` in place of every containerDisk and every image with a kernel. The cluster has no
/// registry, so that a policy which always asks one goes with it.
pub(super) fn replace(value: &mut Value, image: &str) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match name.as_str() {
                    "containerDisk" => of(field, image),
                    "kernelBoot" => {
                        if let Some(container) = field.get_mut("container") {
                            of(container, image);
                        }
                    }
                    _ => replace(field, image),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                replace(item, image);
            }
        }
        _ => {}
    }
}

fn of(source: &mut Value, image: &str) {
    let Some(fields) = source.as_object_mut() else {
        return;
    };
    if fields.get("image").is_some_and(Value::is_string) {
        fields.insert("image".to_owned(), image.into());
    }
    if fields.get("imagePullPolicy") == Some(&"Always".into()) {
        fields.insert("imagePullPolicy".to_owned(), "IfNotPresent".into());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_images_are_replaced() {
        let mut spec = json!({
            "domain": { "firmware": { "kernelBoot": { "container": { "image": "a", "kernelPath": "/k" } } } },
            "volumes": [
                { "name": "a", "containerDisk": { "image": "b", "imagePullPolicy": "Always", "path": "/p" } },
                { "name": "b", "containerDisk": {} },
                { "name": "c", "emptyDisk": { "capacity": "1Gi" } },
            ],
            "image": "mine",
        });
        replace(&mut spec, "tiny");
        let expected = json!({
            "domain": { "firmware": { "kernelBoot": { "container": { "image": "tiny", "kernelPath": "/k" } } } },
            "volumes": [
                { "name": "a", "containerDisk": { "image": "tiny", "imagePullPolicy": "IfNotPresent", "path": "/p" } },
                { "name": "b", "containerDisk": {} },
                { "name": "c", "emptyDisk": { "capacity": "1Gi" } },
            ],
            "image": "mine",
        });
        assert_eq!(spec, expected);
    }
}
