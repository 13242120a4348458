//! The display of a spec: what draws it, what is typed and pointed with, and who may look.

use super::Fd;
use serde::{Deserialize, Serialize};

/// Widest and highest picture that a graphics card proposes to its guest: what an EDID can say.
pub const MAX_RESOLUTION: u32 = 4095;
/// Smallest picture that a graphics card proposes.
pub const MIN_RESOLUTION: u32 = 64;
/// Most bytes that a guest may ever be given for pictures.
pub const MAX_VIDEO_MEMORY: u64 = 1 << 30;

/// A virtio graphics card with one output (virtio 1.3 §5.7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuSpec {
    /// Preferred width in pixels, [`MIN_RESOLUTION`] to [`MAX_RESOLUTION`].
    #[serde(default = "width")]
    pub width: u32,
    /// Preferred height in pixels, likewise.
    #[serde(default = "height")]
    pub height: u32,
    /// Bytes that all pictures of the guest may take together, 1 MiB to [`MAX_VIDEO_MEMORY`].
    #[serde(default = "memory")]
    pub memory: u64,
}

fn width() -> u32 {
    1280
}

fn height() -> u32 {
    800
}

fn memory() -> u64 {
    64 << 20
}

impl Default for GpuSpec {
    fn default() -> Self {
        Self {
            width: width(),
            height: height(),
            memory: memory(),
        }
    }
}

/// What an input device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputModel {
    /// Keys.
    Keyboard,
    /// A pointer that says where it is.
    Tablet,
    /// A pointer that says how far it has moved.
    Mouse,
}

/// A virtio input device (virtio 1.3 §5.8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputSpec {
    /// What it is.
    pub model: InputModel,
}

/// Whom a VNC server lets in beside those who are there; libvirt's `sharePolicy=`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SharePolicy {
    /// A client that asks to be alone ends the others.
    #[default]
    AllowExclusive,
    /// A client that asks to be alone is refused.
    ForceShared,
    /// Everybody is let in, whatever they ask.
    Ignore,
}

/// The VNC server of a machine.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VncSpec {
    /// Listening stream sockets, TCP or Unix; none when nobody can come in.
    pub listeners: Vec<Fd>,
    /// Listening sockets whose clients come as WebSockets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub websockets: Vec<Fd>,
    /// What a client has to know; VNC looks at the first eight bytes. None asks for nothing.
    #[serde(default)]
    pub password: Option<String>,
    /// Seconds since 1970 after which the password opens nothing any more.
    #[serde(default)]
    pub password_until: Option<u64>,
    /// Who is let in beside whom.
    #[serde(default)]
    pub share: SharePolicy,
}

impl std::fmt::Debug for VncSpec {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VncSpec")
            .field("listeners", &self.listeners)
            .field("websockets", &self.websockets)
            .field("password", &self.password.is_some())
            .field("password_until", &self.password_until)
            .field("share", &self.share)
            .finish()
    }
}
