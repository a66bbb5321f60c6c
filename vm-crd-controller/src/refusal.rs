//! Refusals of the API server that are the user's to mend, told from troubles that pass.

/// What the API server says about an object that it will not take as it is: wrong, forbidden by
/// quota, Pod Security or a webhook. None for everything that a retry may get past.
pub(crate) fn message(error: &kube::Error) -> Option<String> {
    match error {
        kube::Error::Api(status) if matches!(status.code, 400 | 403 | 413 | 422) => {
            Some(status.message.clone())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn only_what_the_user_can_mend_is_a_refusal() {
        let error = |code| {
            kube::Error::Api(Box::new(Status {
                code,
                message: "no".to_owned(),
                ..Status::default()
            }))
        };
        for code in [400, 403, 422] {
            assert_eq!(message(&error(code)).as_deref(), Some("no"), "{code}");
        }
        for code in [401, 404, 409, 429, 500, 503] {
            assert_eq!(message(&error(code)), None, "{code}");
        }
    }
}
