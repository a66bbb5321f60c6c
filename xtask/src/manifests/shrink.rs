//! Makes a machine small enough for the test nodes. It is another machine then, which is said
//! wherever its outcome is.

use serde_json::Value;

/// What is left, in words.
pub(super) const SIZE: &str = "one processor and 256Mi of memory";

const MEMORY: &str = "256Mi";

/// Leaves machines and instance types in `object` one processor and little memory.
pub(super) fn shrink(object: &mut Value) {
    let Some(fields) = object.as_object_mut() else {
        if let Value::Array(items) = object {
            items.iter_mut().for_each(shrink);
        }
        return;
    };
    for (name, field) in fields {
        match (name.as_str(), field) {
            ("sockets" | "cores" | "threads", field) if field.is_u64() => *field = 1.into(),
            ("requests" | "limits", Value::Object(amounts)) => {
                for (resource, small) in [("cpu", "1"), ("memory", MEMORY)] {
                    if let Some(amount) = amounts.get_mut(resource) {
                        *amount = small.into();
                    }
                }
            }
            ("guest", field) if field.is_string() => *field = MEMORY.into(),
            ("guest", field) if field.is_u64() => *field = 1.into(),
            (_, field) => shrink(field),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn amounts_are_small_and_the_rest_stays() {
        let mut object = json!({ "spec": { "template": { "spec": {
            "domain": {
                "cpu": { "cores": 8, "model": "host-model" },
                "memory": { "guest": "64Gi" },
                "resources": { "requests": { "memory": "64Gi", "example.com/a": 1 } },
            },
        } } } });
        shrink(&mut object);
        let domain = &object["spec"]["template"]["spec"]["domain"];
        let expected = json!({
            "cpu": { "cores": 1, "model": "host-model" },
            "memory": { "guest": "256Mi" },
            "resources": { "requests": { "memory": "256Mi", "example.com/a": 1 } },
        });
        assert_eq!(*domain, expected);
    }
}
