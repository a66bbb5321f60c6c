//! The group's subresources: a request is read, its user asked about, and the operation done.

use std::sync::Arc;

use hyper::StatusCode;
use kube::{Client, ResourceExt};
use serde_json::json;
use vm_api::v1::VirtualMachineInstance;

use super::access::{self, Wish};
use super::answer::{Answer, json as json_answer, text};
use super::failure::Failure;
use super::front_proxy::User;
use super::guest::Guest;
use super::instances::{self, Instances};
use super::machines;
use super::request::{self, Asked, Subresource};
use super::routes::Call;
use super::streams::{Port, Room, Streams};
use super::table::{Operation, Resource};
use super::{discovery, graph, objects, options};
use crate::events::Events;
use crate::instancetype::Types;
use crate::verbs::Verbs;

/// What the group needs.
pub(super) struct Group {
    pub(super) client: Client,
    /// By which instance types and preferences are found.
    pub(super) types: Types,
    pub(super) verbs: Verbs,
    pub(super) events: Events,
    pub(super) room: Room,
}

impl Group {
    /// Answers a request below the group's path.
    pub(super) async fn answer(self: Arc<Self>, mut call: Call) -> Result<Answer, Failure> {
        let asked = request::read(&call.method, &call.path)?;
        let user = call.user.take();
        let user = user.ok_or_else(|| Failure::unauthorized("the request names no user"))?;
        match asked {
            Asked::Group => Ok(json_answer(StatusCode::OK, &discovery::group())),
            Asked::Resources(version) => {
                Ok(json_answer(StatusCode::OK, &discovery::resources(version)))
            }
            Asked::Version => Ok(json_answer(StatusCode::OK, &discovery::version())),
            Asked::Health => Ok(text(StatusCode::OK, "ok")),
            Asked::ExpandSpec { version, namespace } => {
                let wish = Wish::to_expand(version, &namespace);
                access::check(&self.client, &user, &wish).await?;
                machines::expanded_body(&self.types, &namespace, &call.body).await
            }
            Asked::Subresource(wanted) => self.subresource(call, &user, wanted).await,
        }
    }

    async fn subresource(
        &self,
        mut call: Call,
        user: &User,
        wanted: Subresource,
    ) -> Result<Answer, Failure> {
        access::check(&self.client, user, &Wish::of(&wanted)).await?;
        let (namespace, name) = (wanted.namespace.as_str(), wanted.name.as_str());
        let machine = |verb| machines::change(&self.client, namespace, name, verb, &call.body);
        let instances = Instances {
            client: &self.client,
            verbs: &self.verbs,
            events: &self.events,
        };
        let instance = |verb| instances.change(namespace, name, verb, &call.body);
        let guest = || Guest::of(&self.client, &self.verbs, namespace, name);
        match wanted.entry.operation {
            Operation::Refused(why) => Err(Failure::not_supported(format!(
                "{}/{} is not supported: {why}",
                wanted.entry.resource.word(),
                wanted.entry.name
            ))),
            Operation::Start => machine(machines::Verb::Start).await,
            Operation::Stop => machine(machines::Verb::Stop).await,
            Operation::Restart => machine(machines::Verb::Restart).await,
            Operation::ExpandSpec => {
                machines::expanded(&self.types, &self.client, namespace, name).await
            }
            Operation::ObjectGraph => self.graph(&call, &wanted).await,
            Operation::Pause => instance(instances::Verb::Pause).await,
            Operation::Unpause => instance(instances::Verb::Unpause).await,
            Operation::Freeze => instance(instances::Verb::Freeze).await,
            Operation::Unfreeze => instance(instances::Verb::Unfreeze).await,
            Operation::Reset => instance(instances::Verb::Reset).await,
            Operation::SoftReboot => instance(instances::Verb::SoftReboot).await,
            Operation::GuestInfo => guest().await?.info().await,
            Operation::UserList => guest().await?.users().await,
            Operation::FilesystemList => guest().await?.filesystems().await,
            Operation::Console => {
                let instance = objects::instance(&self.client, namespace, name).await?;
                self.streams().console(&mut call, &instance).await
            }
            Operation::Vnc => {
                let instance = objects::instance(&self.client, namespace, name).await?;
                self.streams().vnc(&mut call, &instance).await
            }
            Operation::Screenshot => {
                let instance = objects::instance(&self.client, namespace, name).await?;
                let mut query = form_urlencoded::parse(call.query.as_bytes());
                let wake = query.any(|(key, value)| key == "moveCursor" && value == "true");
                self.streams().screenshot(&instance, wake).await
            }
            Operation::PortForward => {
                let port = Port::read(&wanted.rest)?;
                let instance = self.instance_of(&wanted).await?;
                self.streams().port(&mut call, &instance, port).await
            }
        }
    }

    fn streams(&self) -> Streams<'_> {
        Streams {
            client: &self.client,
            verbs: &self.verbs,
            room: &self.room,
        }
    }

    async fn instance_of(&self, wanted: &Subresource) -> Result<VirtualMachineInstance, Failure> {
        let (namespace, name) = (&wanted.namespace, &wanted.name);
        match wanted.entry.resource {
            Resource::Machines => objects::instance_of_machine(&self.client, namespace, name).await,
            Resource::Instances => objects::instance(&self.client, namespace, name).await,
        }
    }

    async fn graph(&self, call: &Call, wanted: &Subresource) -> Result<Answer, Failure> {
        let options: options::Graph = options::read(&call.body)?;
        let (namespace, name) = (&wanted.namespace, &wanted.name);
        let (machine, instance) = match wanted.entry.resource {
            Resource::Machines => {
                let vm = objects::machine(&self.client, namespace, name).await?;
                let instance = objects::instance_of(&self.client, &vm).await?;
                (Some(vm), instance)
            }
            Resource::Instances => {
                let instance = objects::instance(&self.client, namespace, name).await?;
                (None, Some(instance))
            }
        };
        let pod = match &instance {
            Some(instance) => objects::pod(&self.client, instance).await?,
            None => None,
        };
        let pod = pod.map(|pod| pod.name_any());
        let spec = match (&machine, &instance) {
            (Some(vm), _) => json!(vm.spec.template.spec),
            (None, Some(instance)) => json!(instance.spec),
            (None, None) => json!({}),
        };
        let machine = machine.map(|vm| json!(vm.spec));
        let root = graph::Root {
            namespace,
            name,
            machine: machine.as_ref(),
            spec: &spec,
            has_instance: instance.is_some(),
            pod: pod.as_deref(),
        };
        Ok(json_answer(StatusCode::OK, &graph::graph(&root, &options)))
    }
}
