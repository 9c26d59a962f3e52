//! Options of a GPU, as configurations name them and as the wgpu engine reads them.

use serde::{Deserialize, Serialize};

/// An API to reach a GPU by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackEnd {
    /// Vulkan, on Linux, Android and Windows.
    Vulkan,
    /// Metal, on Apple's systems.
    Metal,
    /// Direct3D 12, on Windows.
    Dx12,
    /// OpenGL 4.3 or OpenGL ES 3.1 with compute shaders.
    Gl,
}

impl BackEnd {
    /// Returns the back end of that name; `None` for any other text.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "vulkan" => Some(Self::Vulkan),
            "metal" => Some(Self::Metal),
            "dx12" => Some(Self::Dx12),
            "gl" => Some(Self::Gl),
            _ => None,
        }
    }
}

/// Preference among several GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    /// The integrated GPU first: a device on battery.
    Low,
    /// The discrete GPU first.
    #[default]
    High,
}
