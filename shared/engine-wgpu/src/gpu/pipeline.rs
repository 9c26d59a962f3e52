//! Kernels as pipelines: puts the bindings in front of a kernel's text and compiles it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::GpuError;
use crate::lower::{KernelSource, PARAM_WORDS};

/// Key of a pipeline: launches with equal keys share one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PipelineKey {
    /// The kernel with its text.
    pub(crate) kernel: Arc<KernelSource>,
    /// Kind of the argument at each binding.
    pub(crate) places: Vec<Place>,
}

/// Kind of the argument at one binding of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// True if it is a read-only weight.
    pub(crate) read_only: bool,
    /// In how many bindings it lies, being larger than one may be.
    pub(crate) parts: u32,
}

/// A compiled kernel with its layout.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
    /// True if it has been launched, and so has been compiled for good: some drivers do that only then.
    launched: AtomicBool,
}

impl Pipeline {
    /// Returns whether a launch of it has come to an end.
    pub(crate) fn has_been_launched(&self) -> bool {
        self.launched.load(Ordering::Relaxed)
    }

    /// Notes that a launch of it has come to an end.
    pub(crate) fn note_launch(&self) {
        self.launched.store(true, Ordering::Relaxed);
    }
}

/// Opens the adapter's pipeline cache, where there is one.
pub(super) fn open_cache(device: &wgpu::Device, data: Option<&[u8]>) -> Option<wgpu::PipelineCache> {
    if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
        return None;
    }
    let descriptor = wgpu::PipelineCacheDescriptor { label: Some("sanderling"), data, fallback: true };
    // SAFETY: the data comes from `Gpu::pipeline_cache` of an earlier run, kept by the daemon in its own state folder;
    // wgpu checks its header against adapter and driver, and `fallback` starts an empty cache where it does not match.
    #[expect(unsafe_code, reason = "the API is unsafe because a forged cache could hold anything")]
    Some(unsafe { device.create_pipeline_cache(&descriptor) })
}

/// The kernel's text with its bindings in front.
pub(crate) fn source(key: &PipelineKey, part_words: u64) -> String {
    let mut text = format!(
        "@group(0) @binding(0) var<uniform> params: array<vec4<u32>, {}>;\n\
         fn param(k: u32) -> u32 {{ return params[k >> 2u][k & 3u]; }}\n\
         fn first_word() -> u32 {{ return params[{}].x; }}\n\
         fn group_base() -> vec3<u32> {{ return params[{}].yzw; }}\n",
        PARAM_WORDS / 4,
        PARAM_WORDS / 4 - 1,
        PARAM_WORDS / 4 - 1
    );
    let mut first = 1;
    for (binding, place) in key.kernel.bindings.iter().zip(&key.places) {
        // wgpu tracks whole buffers: every range of the arena is read_write, or one dispatch could not read and write it.
        let access = if place.read_only { "read" } else { "read_write" };
        text.push_str(&binding.text(first, access, place.parts, part_words));
        first += place.parts as usize;
    }
    text.push_str(&key.kernel.body);
    text
}

/// Compiles the kernel of a pipeline.
pub(super) fn compile(
    device: &wgpu::Device,
    cache: Option<&wgpu::PipelineCache>,
    key: &PipelineKey,
    part_words: u64,
) -> Result<Pipeline, GpuError> {
    let entry = |binding: usize, ty: wgpu::BufferBindingType| wgpu::BindGroupLayoutEntry {
        binding: u32::try_from(binding).unwrap_or(u32::MAX),
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    };
    let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform)];
    for Place { read_only, parts } in key.places.iter().copied() {
        for _part in 0..parts {
            entries.push(entry(entries.len(), wgpu::BufferBindingType::Storage { read_only }));
        }
    }
    let label = Some(key.kernel.label);
    let text = source(key, part_words);
    let compiled = scoped(device, || {
        let checks = wgpu::ShaderRuntimeChecks {
            // Can cost a hundredfold (gfx-rs/wgpu#7698); our loops run over params that the plan has computed.
            force_loop_bounding: false,
            ..wgpu::ShaderRuntimeChecks::checked()
        };
        let descriptor = wgpu::ShaderModuleDescriptor { label, source: wgpu::ShaderSource::Wgsl(text.as_str().into()) };
        // SAFETY: bounds checks stay on; without loop bounding the one promise is that loops end, and every loop in
        // `wgsl/` counts to a param or a constant.
        #[expect(unsafe_code, reason = "the only way to turn loop bounding off")]
        let module = unsafe { device.create_shader_module_trusted(descriptor, checks) };
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&layout)],
            ..wgpu::PipelineLayoutDescriptor::default()
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..wgpu::PipelineCompilationOptions::default()
            },
            cache,
        });
        Pipeline { pipeline, layout, launched: AtomicBool::new(false) }
    });
    compiled.map_err(|error| {
        tracing::debug!(kernel = key.kernel.label, text, "a kernel did not compile");
        GpuError::Refused(format!("kernel {}: {error}", key.kernel.label))
    })
}

/// Runs something that creates device objects and reports what the driver refused.
pub(super) fn scoped<T>(device: &wgpu::Device, create: impl FnOnce() -> T) -> Result<T, GpuError> {
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let made = create();
    let memory = pollster::block_on(memory.pop());
    let validation = pollster::block_on(validation.pop());
    match memory.or(validation) {
        None => Ok(made),
        Some(error) => Err(GpuError::Refused(error.to_string())),
    }
}
