//! The table of paths: who may come in by each, and what answers there.
//!
//! What stands behind [`Door::FrontProxy`] is reached by the API server alone, in the name of one of
//! its users. Behind [`Door::Anybody`] nothing may be trusted: the API server calls webhooks without a
//! certificate.

use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::body::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Method};

use super::answer::{Answer, either};
use super::failure::Failure;
use super::front_proxy::User;
use super::request::EXPAND;
use crate::json::MAXIMUM_VALUES;

/// A request whose caller was let in.
pub struct Call {
    /// Method.
    pub method: Method,
    /// Path, as it came.
    pub path: String,
    /// What follows the path's question mark.
    pub query: String,
    /// Headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// In whose name the front proxy asks; nobody's behind an open door.
    pub user: Option<User>,
    /// The connection, for a client that wants to speak another protocol.
    pub(super) upgrade: Option<OnUpgrade>,
}

/// Who may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Who reaches the port.
    Anybody,
    /// The API server, in the name of a user.
    FrontProxy,
}

impl Door {
    /// What a body at `path` may have: bytes, and values in its JSON, each of which costs a hundred
    /// times its text when it is read. An AdmissionReview holds two objects, each as large as the API
    /// server takes them; of the subresources, one takes an object and the others options.
    pub(super) fn body_limits(self, path: &str) -> (usize, usize) {
        match self {
            Self::Anybody => (8 << 20, 5 * MAXIMUM_VALUES),
            Self::FrontProxy if path.ends_with(EXPAND) => (1 << 20, MAXIMUM_VALUES),
            Self::FrontProxy => (16 << 10, MAXIMUM_VALUES),
        }
    }
}

/// What answers at a path.
type Answering = dyn Fn(Call) -> BoxFuture<'static, Answer> + Send + Sync;

type Handler = Box<Answering>;

struct Route {
    door: Door,
    path: &'static str,
    below: bool,
    handler: Handler,
}

/// The table.
#[derive(Default)]
pub struct Routes(Vec<Route>);

impl Routes {
    /// `handler` answers at `path`.
    #[must_use]
    pub fn at<F, A>(self, door: Door, path: &'static str, handler: F) -> Self
    where
        F: Fn(Call) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Answer, Failure>> + Send + 'static,
    {
        self.with(door, path, false, handler)
    }

    /// `handler` answers at `path` and at every path below it.
    #[must_use]
    pub fn below<F, A>(self, door: Door, path: &'static str, handler: F) -> Self
    where
        F: Fn(Call) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Answer, Failure>> + Send + 'static,
    {
        self.with(door, path, true, handler)
    }

    fn with<F, A>(mut self, door: Door, path: &'static str, below: bool, handler: F) -> Self
    where
        F: Fn(Call) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Answer, Failure>> + Send + 'static,
    {
        let handler: Handler = Box::new(move |call| handler(call).map(either).boxed());
        self.0.push(Route {
            door,
            path,
            below,
            handler,
        });
        self
    }

    /// What answers at `path`, and who may come in by it: of several, the longest.
    pub(super) fn find(&self, path: &str) -> Option<(Door, &Answering)> {
        let routes = self.0.iter().filter(|route| route.covers(path));
        let route = routes.max_by_key(|route| route.path.len())?;
        Some((route.door, &*route.handler))
    }
}

impl Route {
    fn covers(&self, path: &str) -> bool {
        match path.strip_prefix(self.path) {
            Some("") => true,
            Some(rest) => self.below && rest.starts_with('/'),
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;

    use super::super::answer::text;
    use super::*;

    #[test]
    fn paths_lead_to_the_longest_route_and_to_none_besides() {
        let ok = |_| async { Ok(text(StatusCode::OK, "ok\n")) };
        let routes = Routes::default()
            .at(Door::Anybody, "/healthz", ok)
            .below(Door::FrontProxy, "/apis/g", ok)
            .at(Door::Anybody, "/apis/g/open", ok);
        let door = |path| routes.find(path).map(|(door, _)| door);
        let table = [
            ("/healthz", Some(Door::Anybody)),
            ("/healthz/", None),
            ("/healthzz", None),
            ("/", None),
            ("", None),
            ("/apis/g", Some(Door::FrontProxy)),
            ("/apis/g/v1", Some(Door::FrontProxy)),
            ("/apis/gg", None),
            ("/apis/g/open", Some(Door::Anybody)),
            ("/apis/g/open/x", Some(Door::FrontProxy)),
            ("/APIS/g", None),
        ];
        for (path, expected) in table {
            assert_eq!(door(path), expected, "{path}");
        }
    }
}
