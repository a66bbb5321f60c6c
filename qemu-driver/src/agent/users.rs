//! Keys and passwords of the guest's users.

use qapi::qga;

use super::{Agent, AgentError};

impl Agent {
    /// Makes `keys` the public keys by which `user` can enter the guest by SSH, and no others.
    pub async fn set_authorized_keys(
        &self,
        user: &str,
        keys: Vec<String>,
    ) -> Result<(), AgentError> {
        let command = qga::guest_ssh_add_authorized_keys {
            username: user.to_owned(),
            keys,
            reset: Some(true),
        };
        self.execute(&command).await.map(drop)
    }

    /// Gives `user` this password.
    pub async fn set_password(&self, user: &str, password: &str) -> Result<(), AgentError> {
        let command = qga::guest_set_user_password {
            username: user.to_owned(),
            password: password.as_bytes().to_vec(),
            crypted: false,
        };
        self.execute(&command).await.map(drop)
    }
}
