//! The part of `edge-agent doctor` that looks at what can run models: ONNX Runtime, and the GPUs.

#[cfg(not(feature = "wgpu"))]
use console::ExitKind;
use types::EngineName;

use super::doctor::Check;
use super::doctor_state;
use crate::config::AgentConfig;
use crate::state::Folder;

/// One check for each engine, one for each adapter.
///
/// An engine that cannot be had is a failure only where no other is configured beside it.
pub(super) fn engines(config: &AgentConfig, folder: &Folder) -> Vec<Check> {
    let mut checks: Vec<Check> = config.engines_wanted().into_iter().map(|name| engine(config, folder, name)).collect();
    if checks.iter().any(Check::is_ok) {
        checks = checks.into_iter().map(Check::not_fatal).collect();
    }
    #[cfg(feature = "wgpu")]
    checks.extend(gpu::adapters(config));
    checks
}

fn engine(config: &AgentConfig, folder: &Folder, name: EngineName) -> Check {
    match name {
        // The configuration refuses the engine of tests.
        EngineName::Ort | EngineName::Fake => doctor_state::library(folder, &config.engine),
        #[cfg(feature = "wgpu")]
        EngineName::Wgpu => gpu::open(config),
        #[cfg(not(feature = "wgpu"))]
        EngineName::Wgpu => Check::failed("wgpu", ExitKind::Runtime, "this build is without it", "use \"ort\""),
    }
}

#[cfg(feature = "wgpu")]
mod gpu {
    use console::ExitKind;
    use engine_wgpu::gpu::{AdapterReport, Gpu};

    use crate::cli::doctor::Check;
    use crate::config::AgentConfig;
    use crate::engines;
    use service::units;

    /// Opens the adapter that the agent would take.
    pub(super) fn open(config: &AgentConfig) -> Check {
        const NAME: &str = "wgpu";
        match Gpu::open(&engines::adapter_choice(&config.engine.wgpu), None) {
            Ok(gpu) => {
                let AdapterReport { name, back_end, driver, .. } = gpu.report();
                Check::ok(NAME, format!("takes {name} through {back_end} ({driver})"))
            }
            Err(error) => {
                let advice =
                    "install a driver for the GPU, or see engine.wgpu; or leave it to \"ort\" in engine.engines";
                Check::failed(NAME, ExitKind::Runtime, telemetry::chain(&error), advice)
            }
        }
    }

    /// Every adapter, taken or not.
    pub(super) fn adapters(config: &AgentConfig) -> Vec<Check> {
        engines::adapters().iter().map(|report| adapter(config, report)).collect()
    }

    fn adapter(config: &AgentConfig, report: &AdapterReport) -> Check {
        const NAME: &str = "adapter";
        let features =
            if report.features.is_empty() { "no optional features".to_owned() } else { report.features.join(", ") };
        let mut found = format!(
            "{} ({}, {}): {} a binding, {} threads and {} a workgroup, {} buffers a kernel; {features}",
            report.name,
            report.back_end,
            report.kind,
            units::bytes(report.binding_bytes_max),
            report.invocations_max,
            units::bytes(report.workgroup_bytes_max.into()),
            report.storage_buffers_max,
        );
        if report.software && !config.engine.wgpu.allow_software {
            found.push_str("; refused, being software: engine.wgpu.allow_software is false");
        }
        Check::ok(NAME, found).with_details(report)
    }
}
