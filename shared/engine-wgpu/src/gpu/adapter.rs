//! Choosing an adapter, and saying what there is.

use serde::Serialize;
pub use types::gpu::{BackEnd, Power};

use crate::error::GpuError;

fn backends(back_end: BackEnd) -> wgpu::Backends {
    match back_end {
        BackEnd::Vulkan => wgpu::Backends::VULKAN,
        BackEnd::Metal => wgpu::Backends::METAL,
        BackEnd::Dx12 => wgpu::Backends::DX12,
        BackEnd::Gl => wgpu::Backends::GL,
    }
}

/// Configuration of the adapter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AdapterChoice {
    /// Only this API; `None` tries all that this build has.
    pub back_end: Option<BackEnd>,
    /// Only adapters whose name holds this text, without regard to case.
    pub name: Option<String>,
    /// Which of several to prefer.
    pub power: Power,
    /// True if an adapter that computes on the processor will do.
    ///
    /// It is 10 to 40 times slower than ONNX Runtime on the same processor: for tests only.
    pub allow_software: bool,
    /// Computes products in workgroup memory; `None`: on real GPUs only, where it pays.
    pub workgroup_tiles: Option<bool>,
    /// Multiplies bytes by `dot4I8Packed`; `None`: on real GPUs only, since drivers without such an instruction take it
    /// apart.
    pub integer_dot: Option<bool>,
    /// Most bytes of one binding, if fewer than the adapter offers: lets small models walk the road of large ones.
    pub binding_bytes: Option<u64>,
}

/// Environment variable with a part of the name of the adapter that tests and benches use.
const TEST_ADAPTER_VARIABLE: &str = "SANDERLING_TEST_ADAPTER";

/// Environment variable with the API that tests and benches use, like `vulkan`.
const TEST_BACK_END_VARIABLE: &str = "SANDERLING_TEST_BACK_END";

impl AdapterChoice {
    /// Choice of tests and benches: any adapter, or the one that `SANDERLING_TEST_ADAPTER` (a part of its name) and
    /// `SANDERLING_TEST_BACK_END` (like `vulkan`) name.
    #[must_use]
    pub fn for_tests() -> Self {
        let given = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        let back_end = given(TEST_BACK_END_VARIABLE).and_then(|name| BackEnd::named(&name));
        Self { allow_software: true, name: given(TEST_ADAPTER_VARIABLE), back_end, ..Self::default() }
    }
}

/// One adapter, for `doctor` and errors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AdapterReport {
    /// Name by the driver.
    pub name: String,
    /// API it is reached by, like `vulkan`.
    pub back_end: String,
    /// Kind of device: `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
    /// Driver and its version.
    pub driver: String,
    /// True if it computes on the processor.
    pub software: bool,
    /// Most bytes of one buffer binding.
    pub binding_bytes_max: u64,
    /// Most bytes of one buffer.
    pub buffer_bytes_max: u64,
    /// Most threads of one workgroup.
    pub invocations_max: u32,
    /// Bytes of memory shared by a workgroup.
    pub workgroup_bytes_max: u32,
    /// Storage buffers that one kernel may bind.
    pub storage_buffers_max: u32,
    /// Optional abilities that this engine makes use of, as far as they are there.
    pub features: Vec<&'static str>,
    /// Threads that work in lockstep and can read each other's numbers, where it is always so many.
    pub subgroup: Option<u32>,
}

/// Every adapter that this machine and build offer, through any API.
#[must_use]
pub fn adapters() -> Vec<AdapterReport> {
    enumerate(None).iter().map(report).collect()
}

/// Asks every driver for its adapters. Drivers print to standard error while they look for a desktop session.
fn enumerate(back_end: Option<BackEnd>) -> Vec<wgpu::Adapter> {
    telemetry::without_noise(|| pollster::block_on(instance(back_end).enumerate_adapters(wgpu::Backends::all())))
}

fn instance(back_end: Option<BackEnd>) -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = back_end.map_or(wgpu::Backends::all(), backends);
    // Validation layers are for developing the driver's user; they are slow and not installed on devices.
    descriptor.flags = wgpu::InstanceFlags::empty();
    wgpu::Instance::new(descriptor)
}

pub(super) fn choose(choice: &AdapterChoice) -> Result<(wgpu::Adapter, AdapterReport), GpuError> {
    let reported = |adapter: wgpu::Adapter| {
        let report = report(&adapter);
        (adapter, report)
    };
    let found: Vec<(wgpu::Adapter, AdapterReport)> = enumerate(choice.back_end).into_iter().map(reported).collect();
    let seen = found.iter().map(|(_adapter, report)| format!("{} ({}, {})", report.name, report.back_end, report.kind));
    let seen = seen.collect::<Vec<_>>().join("; ");
    let named = |report: &AdapterReport| {
        choice.name.as_ref().is_none_or(|name| report.name.to_lowercase().contains(&name.to_lowercase()))
    };
    let fits = |report: &AdapterReport| named(report) && (choice.allow_software || !report.software);
    let best = found
        .into_iter()
        .filter(|(_adapter, report)| fits(report))
        .min_by_key(|(_adapter, report)| rank(report, choice.power));
    best.ok_or_else(|| {
        GpuError::NoAdapter(if seen.is_empty() {
            "there is none: install a Vulkan driver (Debian: mesa-vulkan-drivers), or use the engine ort".into()
        } else {
            format!("there are {seen}; a software adapter must be allowed by name in the configuration")
        })
    })
}

/// Smaller is better.
fn rank(report: &AdapterReport, power: Power) -> (u8, u8) {
    let kind = match (report.kind, power) {
        ("discrete", Power::High) | ("integrated", Power::Low) => 0,
        ("discrete", Power::Low) | ("integrated", Power::High) => 1,
        ("virtual", _) => 2,
        ("software", _) => 4,
        _ => 3,
    };
    // OpenGL is the last resort: more copies, no pipeline cache.
    (kind, u8::from(report.back_end == "gl"))
}

fn report(adapter: &wgpu::Adapter) -> AdapterReport {
    let info = adapter.get_info();
    let limits = adapter.limits();
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => "discrete",
        wgpu::DeviceType::IntegratedGpu => "integrated",
        wgpu::DeviceType::VirtualGpu => "virtual",
        wgpu::DeviceType::Cpu => "software",
        wgpu::DeviceType::Other => "other",
    };
    let features = adapter.features();
    let known = [
        ("timestamp-query", wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES),
        ("pipeline-cache", wgpu::Features::PIPELINE_CACHE),
        ("shader-f16", wgpu::Features::SHADER_F16),
        ("subgroup", wgpu::Features::SUBGROUP),
    ];
    AdapterReport {
        name: info.name,
        back_end: info.backend.to_str().to_owned(),
        kind,
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        // Mesa's GL on llvmpipe calls itself "other".
        software: info.device_type == wgpu::DeviceType::Cpu || adapter.get_info().name.contains("llvmpipe"),
        binding_bytes_max: limits.max_storage_buffer_binding_size,
        buffer_bytes_max: limits.max_buffer_size,
        invocations_max: limits.max_compute_invocations_per_workgroup,
        workgroup_bytes_max: limits.max_compute_workgroup_storage_size,
        storage_buffers_max: limits.max_storage_buffers_per_shader_stage,
        subgroup: Some(info.subgroup_max_size)
            .filter(|&size| features.contains(wgpu::Features::SUBGROUP) && size == info.subgroup_min_size),
        features: known
            .into_iter()
            .filter(|(_name, feature)| features.contains(*feature))
            .map(|(name, _)| name)
            .collect(),
    }
}
