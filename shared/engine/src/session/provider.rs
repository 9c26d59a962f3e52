//! Execution providers, as configurations name them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An execution provider that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// The processor; always there, and the last resort of a graph that another provider cannot run whole.
    Cpu,
    /// NVIDIA GPUs, through CUDA.
    Cuda,
    /// Intel processors, GPUs and NPUs.
    OpenVino,
    /// NVIDIA GPUs through TensorRT.
    TensorRt,
    /// Optimised kernels for Arm and x86 processors.
    Xnnpack,
}

impl Provider {
    /// Every provider that can be asked for.
    pub const ALL: [Self; 5] = [Self::Cpu, Self::Cuda, Self::OpenVino, Self::TensorRt, Self::Xnnpack];

    /// The name in config files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::OpenVino => "openvino",
            Self::TensorRt => "tensorrt",
            Self::Xnnpack => "xnnpack",
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// No execution provider has that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no execution provider is called {0:?}: use cpu, cuda, openvino, tensorrt or xnnpack")]
pub struct UnknownProvider(String);

impl FromStr for Provider {
    type Err = UnknownProvider;
    fn from_str(text: &str) -> Result<Self, UnknownProvider> {
        let known = Self::ALL.into_iter().find(|provider| provider.as_str() == text);
        known.ok_or_else(|| UnknownProvider(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_provider_reads_back_from_its_name() {
        for provider in Provider::ALL {
            assert_eq!(provider.as_str().parse(), Ok(provider));
        }
        assert!("gpu".parse::<Provider>().is_err());
    }
}
