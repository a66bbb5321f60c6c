//! Keys and passwords for the guest's users: each from a Secret, by one way that is there.

use crate::field::FieldError;
use crate::v1::{
    AccessCredential, AccessCredentialSource, SshPublicKeyPropagationMethod,
    VirtualMachineInstanceSpec,
};

/// The seeds that the spec has: a key by way of one needs it.
struct Seeds {
    no_cloud: bool,
    config_drive: bool,
}

pub(super) fn check(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let volumes = &spec.volumes;
    let seeds = Seeds {
        no_cloud: volumes.iter().any(|it| it.cloud_init_no_cloud.is_some()),
        config_drive: volumes
            .iter()
            .any(|it| it.cloud_init_config_drive.is_some()),
    };
    let listed = spec.access_credentials.iter().enumerate();
    listed
        .flat_map(|(index, credential)| {
            one(credential, &seeds, &format!("accessCredentials[{index}]"))
        })
        .collect()
}

fn one(credential: &AccessCredential, seeds: &Seeds, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if credential.ssh_public_key.is_some() == credential.user_password.is_some() {
        let message = "choose one of sshPublicKey and userPassword";
        errors.push(FieldError::new(path, message));
    }
    if let Some(key) = &credential.ssh_public_key {
        let path = format!("{path}.sshPublicKey");
        errors.extend(source(&key.source, &path));
        errors.extend(method(&key.propagation_method, seeds, &path));
    }
    if let Some(password) = &credential.user_password {
        let path = format!("{path}.userPassword");
        errors.extend(source(&password.source, &path));
        if password.propagation_method.qemu_guest_agent.is_none() {
            let message = "no way is set: use qemuGuestAgent: {}";
            errors.push(FieldError::new(
                format!("{path}.propagationMethod"),
                message,
            ));
        }
    }
    errors
}

fn source(source: &AccessCredentialSource, path: &str) -> Option<FieldError> {
    source.secret.is_none().then(|| {
        let message = "no source is set: use secret";
        FieldError::new(format!("{path}.source"), message)
    })
}

fn method(method: &SshPublicKeyPropagationMethod, seeds: &Seeds, path: &str) -> Option<FieldError> {
    let path = format!("{path}.propagationMethod");
    let set = [
        method.no_cloud.is_some(),
        method.config_drive.is_some(),
        method.qemu_guest_agent.is_some(),
    ];
    let message = match set {
        [true, false, false] if seeds.no_cloud => return None,
        [true, false, false] => "noCloud needs a volume cloudInitNoCloud",
        [false, true, false] if seeds.config_drive => return None,
        [false, true, false] => "configDrive needs a volume cloudInitConfigDrive",
        [false, false, true] => {
            let users = method.qemu_guest_agent.as_ref().map(|agent| &agent.users);
            let nobody = users.is_none_or(Vec::is_empty);
            return nobody.then(|| {
                let message = "name the users whose keys these are";
                FieldError::new(format!("{path}.qemuGuestAgent.users"), message)
            });
        }
        _ => "choose one of noCloud, configDrive and qemuGuestAgent",
    };
    Some(FieldError::new(path, message))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn paths(credential: Value, volumes: Value) -> Vec<String> {
        let spec = json!({ "accessCredentials": [credential], "volumes": volumes });
        let errors = check(&serde_json::from_value(spec).unwrap());
        errors
            .into_iter()
            .map(|error| error.path.replace("accessCredentials[0]", ""))
            .collect()
    }

    #[test]
    fn a_key_has_a_source_and_one_way() {
        let key = |method: Value| {
            json!({ "sshPublicKey": {
                "source": { "secret": { "secretName": "s" } }, "propagationMethod": method,
            } })
        };
        let way = [".sshPublicKey.propagationMethod"];
        let seed = json!([{ "name": "a", "cloudInitNoCloud": { "userData": "x" } }]);
        let no_cloud = json!({ "noCloud": {} });
        assert_eq!(paths(key(no_cloud.clone()), json!([])), way);
        assert_eq!(paths(key(no_cloud), seed.clone()), Vec::<String>::new());
        assert_eq!(paths(key(json!({})), seed.clone()), way);
        let two = json!({ "noCloud": {}, "configDrive": {} });
        assert_eq!(paths(key(two), seed.clone()), way);
        let nobody = json!({ "qemuGuestAgent": { "users": [] } });
        assert_eq!(
            paths(key(nobody), seed),
            [".sshPublicKey.propagationMethod.qemuGuestAgent.users"]
        );
    }

    #[test]
    fn a_password_goes_by_the_agent() {
        let password = json!({ "userPassword": { "source": {}, "propagationMethod": {} } });
        assert_eq!(
            paths(password, json!([])),
            [".userPassword.source", ".userPassword.propagationMethod"]
        );
        assert_eq!(paths(json!({}), json!([])), [""]);
    }
}
