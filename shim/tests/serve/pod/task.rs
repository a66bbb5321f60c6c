//! Containerd's end of one container: the calls of its Task API.

use std::path::PathBuf;

use containerd_shim::api::{
    ConnectRequest, CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse,
    KillRequest, ShutdownRequest, StartRequest, StateRequest, StateResponse, UpdateTaskRequest,
    WaitRequest,
};
use containerd_shim::protos::api::Mount;
use containerd_shim::protos::protobuf::well_known_types::any::Any;
use containerd_shim::protos::shim_async::TaskClient;
use containerd_shim::protos::ttrpc::Result;
use serde_json::Value;

use super::bound;

/// Containerd's end of one container.
pub(crate) struct Task {
    pub(crate) client: TaskClient,
    pub(crate) id: String,
    pub(crate) address: String,
    pub(super) bundle: PathBuf,
    pub(super) image: PathBuf,
}

impl Task {
    /// The request for `Create`, with output to `stdout`.
    pub(crate) fn create_request(&self, stdout: &str) -> CreateTaskRequest {
        let rootfs = Mount {
            type_: "bind".into(),
            source: self.image.to_str().unwrap().into(),
            options: vec!["rbind".into(), "rw".into()],
            ..Mount::default()
        };
        CreateTaskRequest {
            id: self.id.clone(),
            bundle: self.bundle.to_str().unwrap().into(),
            rootfs: vec![rootfs],
            stdout: stdout.into(),
            // The node's own shim wants both or none.
            stderr: stdout.into(),
            ..CreateTaskRequest::default()
        }
    }

    pub(crate) async fn create(&self, stdout: &str) -> Result<CreateTaskResponse> {
        self.client
            .create(bound(), &self.create_request(stdout))
            .await
    }

    pub(crate) async fn run(&self) -> u32 {
        self.try_run().await.unwrap()
    }

    pub(crate) async fn try_run(&self) -> Result<u32> {
        let request = StartRequest {
            id: self.id.clone(),
            ..StartRequest::default()
        };
        let started = self.client.start(bound(), &request).await?;
        Ok(started.pid)
    }

    pub(crate) async fn state(&self) -> Result<StateResponse> {
        let request = StateRequest {
            id: self.id.clone(),
            ..StateRequest::default()
        };
        self.client.state(bound(), &request).await
    }

    pub(crate) async fn kill(&self, signal: u32) -> Result<()> {
        let request = KillRequest {
            id: self.id.clone(),
            signal,
            ..KillRequest::default()
        };
        self.client.kill(bound(), &request).await.map(drop)
    }

    /// Asks for other `resources`, as kubelet writes them.
    pub(crate) async fn update(&self, resources: &Value) -> std::result::Result<(), String> {
        let resources = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
            value: resources.to_string().into_bytes(),
            ..Any::default()
        };
        let request = UpdateTaskRequest {
            id: self.id.clone(),
            resources: Some(resources).into(),
            ..UpdateTaskRequest::default()
        };
        let updated = self.client.update(bound(), &request).await;
        updated.map(drop).map_err(|error| error.to_string())
    }

    /// Waits for the end; its status.
    pub(crate) async fn wait(&self) -> u32 {
        self.try_wait().await.unwrap()
    }

    pub(crate) async fn try_wait(&self) -> Result<u32> {
        let request = WaitRequest {
            id: self.id.clone(),
            ..WaitRequest::default()
        };
        let ended = self.client.wait(bound(), &request).await?;
        Ok(ended.exit_status)
    }

    pub(crate) async fn delete(&self) -> Result<DeleteResponse> {
        let request = DeleteRequest {
            id: self.id.clone(),
            ..DeleteRequest::default()
        };
        self.client.delete(bound(), &request).await
    }

    pub(crate) async fn shutdown(&self) {
        self.try_shutdown().await.unwrap();
    }

    pub(crate) async fn try_shutdown(&self) -> Result<()> {
        let request = ShutdownRequest {
            id: self.id.clone(),
            ..ShutdownRequest::default()
        };
        self.client.shutdown(bound(), &request).await.map(drop)
    }

    pub(crate) async fn shim_pid(&self) -> i32 {
        let request = ConnectRequest {
            id: self.id.clone(),
            ..ConnectRequest::default()
        };
        let response = self.client.connect(bound(), &request).await.unwrap();
        response.shim_pid.try_into().unwrap()
    }

    /// Kills, deletes and shuts down, as containerd does at the end of a container.
    pub(crate) async fn finish(&self) {
        // It may have ended by itself.
        let _ = self.kill(9).await;
        self.wait().await;
        self.delete().await.unwrap();
        self.shutdown().await;
    }
}
