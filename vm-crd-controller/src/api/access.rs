//! May this user do that? The API server's own authorizers answer, by a SubjectAccessReview.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use tracing::warn;

use super::GROUP;
use super::failure::Failure;
use super::front_proxy::User;
use super::request::{EXPAND, Subresource};

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish<'a> {
    version: &'a str,
    verb: &'static str,
    namespace: &'a str,
    resource: &'a str,
    subresource: Option<&'a str>,
    name: Option<&'a str>,
}

impl<'a> Wish<'a> {
    /// To have or to do `wanted`.
    pub(super) fn of(wanted: &'a Subresource) -> Self {
        Self {
            version: wanted.version,
            verb: if wanted.entry.method == hyper::Method::GET {
                "get"
            } else {
                "update"
            },
            namespace: &wanted.namespace,
            resource: wanted.entry.resource.word(),
            subresource: Some(wanted.entry.name),
            name: Some(&wanted.name),
        }
    }

    /// To have a spec expanded.
    pub(super) fn to_expand(version: &'a str, namespace: &'a str) -> Self {
        Self {
            version,
            verb: "update",
            namespace,
            resource: EXPAND,
            subresource: None,
            name: None,
        }
    }

    fn attributes(&self) -> ResourceAttributes {
        ResourceAttributes {
            group: Some(GROUP.to_owned()),
            version: Some(self.version.to_owned()),
            verb: Some(self.verb.to_owned()),
            namespace: Some(self.namespace.to_owned()),
            resource: Some(self.resource.to_owned()),
            subresource: self.subresource.map(str::to_owned),
            name: self.name.map(str::to_owned),
            ..ResourceAttributes::default()
        }
    }

    /// What is said to whom may not, as the API server itself says it.
    fn refusal(&self, user: &User, reason: &str) -> Failure {
        let resource = match self.subresource {
            Some(subresource) => format!("{}/{subresource}", self.resource),
            None => self.resource.to_owned(),
        };
        let about = self
            .name
            .map(|name| format!(" \"{name}\""))
            .unwrap_or_default();
        let reason = if reason.is_empty() {
            String::new()
        } else {
            format!(": {reason}")
        };
        Failure::not_allowed(format!(
            "{}.{GROUP}{about} is forbidden: User \"{}\" cannot {} resource \"{resource}\" in API \
             group \"{GROUP}\" in the namespace \"{}\"{reason}",
            self.resource, user.name, self.verb, self.namespace
        ))
    }
}

/// Asks whether `user` may have its `wish`.
pub(super) async fn check(client: &Client, user: &User, wish: &Wish<'_>) -> Result<(), Failure> {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            uid: user.uid.clone(),
            groups: Some(user.groups.clone()),
            extra: Some(user.extra.clone()),
            resource_attributes: Some(wish.attributes()),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await;
    let status = answer
        .map_err(|error| {
            warn!(%error, "cannot ask whether a user may do something");
            Failure::internal("the API server does not say whether you may: try again")
        })?
        .status
        .unwrap_or_default();
    if status.allowed && status.denied != Some(true) {
        return Ok(());
    }
    Err(wish.refusal(user, status.reason.as_deref().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use hyper::Method;

    use super::super::request::{Asked, read};
    use super::*;

    fn wanted(method: Method, path: &str) -> Subresource {
        let path = format!("/apis/{GROUP}/v1/namespaces/n/{path}");
        match read(&method, &path) {
            Ok(Asked::Subresource(found)) => found,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn permissions_are_asked_for_by_kubevirts_names() {
        let wish = |method, path: &str| {
            let wanted = wanted(method, path);
            let asked = Wish::of(&wanted).attributes();
            let word = |word: Option<String>| word.unwrap_or_default();
            format!(
                "{} {} {}/{} {}",
                word(asked.verb),
                word(asked.namespace),
                word(asked.resource),
                word(asked.subresource),
                word(asked.name)
            )
        };
        let screenshot = wish(Method::GET, "virtualmachineinstances/tl/vnc/screenshot");
        assert_eq!(
            screenshot,
            "get n virtualmachineinstances/vnc/screenshot tl"
        );
        let forward = wish(Method::GET, "virtualmachines/tl/portforward/22/tcp");
        assert_eq!(forward, "get n virtualmachines/portforward tl");
        let start = wish(Method::PUT, "virtualmachines/tl/start");
        assert_eq!(start, "update n virtualmachines/start tl");
    }

    #[test]
    fn who_may_not_is_told_as_by_the_api_server() {
        let wanted = wanted(Method::PUT, "virtualmachines/tl/start");
        let user = User {
            name: "jane".into(),
            ..User::default()
        };
        assert_eq!(
            Wish::of(&wanted).refusal(&user, "").message,
            "virtualmachines.subresources.kubevirt.io \"tl\" is forbidden: User \"jane\" cannot \
             update resource \"virtualmachines/start\" in API group \"subresources.kubevirt.io\" in \
             the namespace \"n\""
        );
    }
}
