//! Keys and passwords for the guest's users.
//!
//! They come from Secrets and reach the guest by its seed or its agent.

use serde::{Deserialize, Serialize};

use super::Empty;

/// A credential for the guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct AccessCredential {
    /// Public keys for SSH.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssh_public_key: Option<SshPublicKeyAccessCredential>,
    /// Passwords.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_password: Option<UserPasswordAccessCredential>,
}

/// Public keys for SSH.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SshPublicKeyAccessCredential {
    /// Where they are.
    pub source: AccessCredentialSource,
    /// How they reach the guest.
    pub propagation_method: SshPublicKeyPropagationMethod,
}

/// How keys reach the guest; exactly one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SshPublicKeyPropagationMethod {
    /// By a NoCloud seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_cloud: Option<Empty>,
    /// By a config drive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_drive: Option<Empty>,
    /// By the guest agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qemu_guest_agent: Option<QemuGuestAgentUsers>,
}

/// Users whose keys the guest agent sets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct QemuGuestAgentUsers {
    /// Names.
    pub users: Vec<String>,
}

/// Passwords.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct UserPasswordAccessCredential {
    /// Where they are.
    pub source: AccessCredentialSource,
    /// How they reach the guest.
    pub propagation_method: UserPasswordPropagationMethod,
}

/// How passwords reach the guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct UserPasswordPropagationMethod {
    /// By the guest agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qemu_guest_agent: Option<Empty>,
}

/// Where a credential is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct AccessCredentialSource {
    /// A Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<AccessCredentialSecret>,
}

/// A Secret with a credential.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct AccessCredentialSecret {
    /// Name of the Secret.
    pub secret_name: String,
}
