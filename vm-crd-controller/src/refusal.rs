//! Refusals of the API server that are the user's to mend, told from troubles that pass.

/// What an error of the API server about a new object means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The object will not be taken as it is: wrong, or forbidden by quota, Pod Security or a
    /// webhook; the API server's sentence.
    Mend(String),
    /// The namespace is being deleted, and everything in it.
    Leaving,
    /// Anything that a retry may get past.
    Passing,
}

/// What admission plugin OwnerReferencesPermissionEnforcement says of our owner references while the
/// API server, just started, has not discovered the owner's kind or not read our roles yet.
const OWNER_UNKNOWN: &str = "cannot set blockOwnerDeletion";

/// Whether the API server has just started and does not know the owner's kind yet.
pub(crate) fn knows_no_owner(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403 && status.message.contains(OWNER_UNKNOWN))
}

/// What `error` means.
pub(crate) fn refusal(error: &kube::Error) -> Refusal {
    let kube::Error::Api(status) = error else {
        return Refusal::Passing;
    };
    if knows_no_owner(error) {
        return Refusal::Passing;
    }
    let causes = status.details.iter().flat_map(|details| &details.causes);
    if causes
        .into_iter()
        .any(|cause| cause.reason == "NamespaceTerminating")
    {
        return Refusal::Leaving;
    }
    match status.code {
        400 | 403 | 413 | 422 => Refusal::Mend(status.message.clone()),
        _ => Refusal::Passing,
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn status(code: u16) -> Status {
        Status {
            code,
            message: "no".to_owned(),
            ..Status::default()
        }
    }

    #[test]
    fn only_what_the_user_can_mend_is_a_refusal() {
        let judge = |code| refusal(&kube::Error::Api(Box::new(status(code))));
        for code in [400, 403, 422] {
            assert_eq!(judge(code), Refusal::Mend("no".to_owned()), "{code}");
        }
        for code in [401, 404, 409, 429, 500, 503] {
            assert_eq!(judge(code), Refusal::Passing, "{code}");
        }
    }

    #[test]
    fn an_api_server_that_does_not_know_the_owner_yet_is_waited_for() {
        let message = "pods \"a\" is forbidden: cannot set blockOwnerDeletion in this case because \
                       cannot find RESTMapping for APIVersion kubevirt.io/v1 Kind VirtualMachineInstance";
        let status = Status {
            message: message.to_owned(),
            ..status(403)
        };
        assert_eq!(
            refusal(&kube::Error::Api(Box::new(status))),
            Refusal::Passing
        );
    }

    #[test]
    fn nothing_is_mended_in_a_namespace_that_leaves() {
        let status: Status = serde_json::from_value(serde_json::json!({
            "status": "Failure", "code": 403, "message": "no", "reason": "Forbidden",
            "details": { "causes": [{ "reason": "NamespaceTerminating" }] },
        }))
        .unwrap();
        assert_eq!(
            refusal(&kube::Error::Api(Box::new(status))),
            Refusal::Leaving
        );
    }
}
