//! A plan: everything of one inference at fixed shapes that can be made before the request is there.
//!
//! Made from a graph, its [`Facts`] and the dispatches of [`crate::lower`]: one activation arena, one uniform buffer, bind
//! groups, and the list of launches. Running it is writing inputs, one compute pass, one submit, reading outputs; no
//! device object is made on the way.

mod arena;
mod split;
mod timing;
mod weights;

use std::collections::HashMap;
use std::sync::Arc;

use arena::Interval;
pub(crate) use weights::Weights;

use crate::error::{GpuError, ModelError, OpError};
use crate::facts::{Fact, Facts};
use crate::gpu::{Gpu, PARAM_BYTES, PARAM_WORDS, Pipeline, PipelineKey};
use crate::ir::{Graph, Literal, ValueId};
use crate::lower::{Arg, Dispatch, Lowering, Repr, WeightPool};

/// One launch, ready to record.
#[derive(Debug)]
struct Launch {
    label: &'static str,
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    groups: [u32; 3],
}

impl Launch {
    fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        let [x, y, z] = self.groups;
        pass.dispatch_workgroups(x, y, z);
    }
}

/// Where an input goes or an output comes from.
#[derive(Debug, Clone)]
pub(crate) struct Port {
    /// Type and shape.
    pub(crate) fact: Fact,
    /// Offset in the arena in bytes; meaningless for a known output.
    arena: u64,
    /// Offset in the staging buffer in bytes.
    pub(crate) staging: u64,
    /// Bytes on the device.
    pub(crate) bytes: u64,
}

impl Port {
    /// The value of an output that does not depend on the request.
    pub(crate) fn known(&self) -> Option<&Literal> {
        self.fact.known.as_ref()
    }
}

/// A graph at fixed input shapes.
#[derive(Debug)]
pub(crate) struct Plan {
    launches: Vec<Launch>,
    arena: wgpu::Buffer,
    /// Written by the host, copied into the arena; mapped between runs.
    pub(crate) upload: wgpu::Buffer,
    /// Copied out of the arena, read by the host.
    pub(crate) readback: wgpu::Buffer,
    /// In the graph's order.
    pub(crate) inputs: Vec<Port>,
    /// In the graph's order.
    pub(crate) outputs: Vec<Port>,
    /// Bytes of the activation arena.
    pub(crate) arena_bytes: u64,
}

impl Plan {
    /// Makes a plan; compiles pipelines and uploads weights that are new.
    ///
    /// # Errors
    /// When a node refuses these shapes, memory is over the budget, or the driver refuses.
    pub(crate) fn new(
        gpu: &Gpu,
        graph: &Graph,
        inputs: &[Fact],
        weights: &mut Weights,
        budget: u64,
    ) -> Result<Self, ModelError> {
        let facts = Facts::infer(graph, inputs)?;
        let mut known = WeightPool::default();
        let mut lowering = Lowering::new(graph, &facts, gpu.tuning(), &mut weights.pool, &mut known);
        for at in 0..graph.nodes.len() {
            lowering.node(at).map_err(|source| at_node(graph, at, source))?;
        }
        let Lowering { dispatches, scratch, aliases, .. } = lowering;
        let dispatches = split::split(dispatches);
        let layout = Layout::new(gpu, graph, &facts, &dispatches, &scratch, &aliases)?;
        let needed = layout.total + weights.pending_bytes();
        if needed > budget {
            return Err(ModelError::OverBudget { needed, budget });
        }
        let mut known_weights = Weights::of(known);
        weights.upload(gpu)?;
        known_weights.upload(gpu)?;
        Ok(Self::on_device(gpu, graph, &facts, &dispatches, layout, weights, &known_weights)?)
    }

    fn on_device(
        gpu: &Gpu,
        graph: &Graph,
        facts: &Facts,
        dispatches: &[Dispatch],
        layout: Layout,
        weights: &Weights,
        known: &Weights,
    ) -> Result<Self, GpuError> {
        let buffer = |label, size: u64, usage| {
            let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
            gpu.scoped(|| gpu.device.create_buffer(&descriptor))
        };
        let (storage, src, dst) =
            (wgpu::BufferUsages::STORAGE, wgpu::BufferUsages::COPY_SRC, wgpu::BufferUsages::COPY_DST);
        let arena = buffer("arena", layout.total.max(PARAM_BYTES), storage | src | dst)?;
        let slots = u64::try_from(dispatches.len()).unwrap_or(u64::MAX).max(1);
        let params = buffer("params", slots * PARAM_BYTES, wgpu::BufferUsages::UNIFORM | dst)?;
        gpu.queue.write_buffer(&params, 0, &param_bytes(dispatches));
        let mut launches = Vec::with_capacity(dispatches.len());
        for (slot, dispatch) in (0_u64..).zip(dispatches) {
            let read_only = dispatch.args.iter().map(|arg| matches!(arg, Arg::Weight(_) | Arg::Known(_))).collect();
            let pipeline = gpu.pipeline(PipelineKey { kernel: Arc::clone(&dispatch.kernel), read_only })?;
            let mut entries = vec![entry(0, &params, slot * PARAM_BYTES, PARAM_BYTES)];
            for (binding, arg) in (1_u32..).zip(&dispatch.args) {
                let (buffer, offset, bytes) = match *arg {
                    Arg::Weight(id) => weights.range(id),
                    Arg::Known(id) => known.range(id),
                    Arg::Value(_) | Arg::Scratch(_) => {
                        let (offset, bytes) = layout.range(*arg);
                        (&arena, offset, bytes)
                    }
                };
                entries.push(entry(binding, buffer, offset, bytes));
            }
            let descriptor = wgpu::BindGroupDescriptor {
                label: Some(dispatch.kernel.label),
                layout: &pipeline.layout,
                entries: &entries,
            };
            let bind_group = gpu.scoped(|| gpu.device.create_bind_group(&descriptor))?;
            launches.push(Launch { label: dispatch.kernel.label, pipeline, bind_group, groups: dispatch.groups });
        }
        let (inputs, upload_bytes) = ports(&graph.inputs, facts, &layout);
        let (outputs, readback_bytes) = ports(&graph.outputs, facts, &layout);
        let upload = buffer("upload", upload_bytes, wgpu::BufferUsages::MAP_WRITE | src)?;
        let readback = buffer("readback", readback_bytes, wgpu::BufferUsages::MAP_READ | dst)?;
        Ok(Self { launches, arena, upload, readback, inputs, outputs, arena_bytes: layout.total })
    }

    /// Number of kernel launches of one inference.
    pub(crate) fn launch_count(&self) -> usize {
        self.launches.len()
    }

    /// Records one inference: inputs in, one compute pass, outputs out.
    pub(crate) fn record(&self, gpu: &Gpu) -> wgpu::CommandBuffer {
        let mut encoder =
            gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("inference") });
        for port in &self.inputs {
            encoder.copy_buffer_to_buffer(&self.upload, port.staging, &self.arena, port.arena, port.bytes);
        }
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for launch in &self.launches {
                launch.record(&mut pass);
            }
        }
        for port in self.outputs.iter().filter(|port| port.known().is_none()) {
            encoder.copy_buffer_to_buffer(&self.arena, port.arena, &self.readback, port.staging, port.bytes);
        }
        encoder.finish()
    }
}

fn at_node(graph: &Graph, at: usize, source: OpError) -> ModelError {
    let node = &graph.nodes[at];
    ModelError::Node { node: node.name.clone(), operator: node.op.clone(), source }
}

fn entry(binding: u32, buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> wgpu::BindGroupEntry<'_> {
    let size = std::num::NonZeroU64::new(bytes);
    wgpu::BindGroupEntry {
        binding,
        resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size }),
    }
}

fn param_bytes(dispatches: &[Dispatch]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(dispatches.len() * PARAM_WORDS * 4);
    for dispatch in dispatches {
        let words = dispatch.params.iter().copied().chain(std::iter::repeat(0)).take(PARAM_WORDS);
        bytes.extend(words.flat_map(u32::to_le_bytes));
    }
    bytes
}

/// Inputs or outputs one after the other in a staging buffer, and its size.
fn ports(ids: &[ValueId], facts: &Facts, layout: &Layout) -> (Vec<Port>, u64) {
    let mut staging = 0;
    let mut ports = Vec::with_capacity(ids.len());
    for &id in ids {
        let fact = facts.of(id).clone();
        let (arena, bytes) = if fact.known.is_some() { (0, 0) } else { layout.range(Arg::Value(layout.root(id))) };
        ports.push(Port { fact, arena, staging, bytes });
        staging += bytes;
    }
    // A mapped buffer may not be empty.
    (ports, staging.max(PARAM_BYTES))
}

/// Where each value and scratch space lies in the arena.
#[derive(Debug)]
struct Layout {
    ranges: HashMap<Arg, (u64, u64)>,
    aliases: HashMap<ValueId, ValueId>,
    total: u64,
}

impl Layout {
    fn new(
        gpu: &Gpu,
        graph: &Graph,
        facts: &Facts,
        dispatches: &[Dispatch],
        scratch: &[(usize, usize)],
        aliases: &HashMap<ValueId, ValueId>,
    ) -> Result<Self, ModelError> {
        let alignment = u64::from(gpu.limits().min_storage_buffer_offset_alignment).max(PARAM_BYTES);
        let root = |id: ValueId| aliases.get(&id).copied().unwrap_or(id);
        let end = dispatches.len() + 1;
        // Step 0 writes the inputs, step n runs dispatch n-1, the last step reads the outputs.
        let mut lives: HashMap<Arg, (usize, usize)> = HashMap::new();
        let mut touch = |arg: Arg, step: usize| {
            let life = lives.entry(arg).or_insert((step, step));
            *life = (life.0.min(step), life.1.max(step));
        };
        for &id in &graph.inputs {
            touch(Arg::Value(id), 0);
        }
        for (step, dispatch) in (1..).zip(dispatches) {
            for &arg in dispatch.args.iter().filter(|arg| matches!(arg, Arg::Value(_) | Arg::Scratch(_))) {
                touch(arg, step);
            }
        }
        for &id in graph.outputs.iter().filter(|&&id| facts.of(id).known.is_none()) {
            touch(Arg::Value(root(id)), end);
        }
        // A fixed order makes two plans of one graph equal to the byte.
        let mut args: Vec<(Arg, (usize, usize))> = lives.into_iter().collect();
        args.sort_unstable_by_key(|&(arg, _life)| arg);
        let mut intervals = Vec::with_capacity(args.len());
        for &(arg, (from, to)) in &args {
            let words = match arg {
                Arg::Value(id) => Repr::of(facts.of(id).dtype).words(facts.of(id).elements()),
                Arg::Scratch(id) => scratch[id.0].0,
                Arg::Weight(_) | Arg::Known(_) => 0,
            };
            let bytes = u64::try_from(words).unwrap_or(u64::MAX).saturating_mul(4).max(4);
            let limit = gpu.limits().max_storage_buffer_binding_size;
            if bytes > limit {
                return Err(ModelError::OverBudget { needed: bytes, budget: limit });
            }
            intervals.push(Interval { bytes: bytes.next_multiple_of(alignment), from, to });
        }
        let (offsets, total) = arena::pack(&intervals);
        if total > gpu.limits().max_buffer_size {
            return Err(ModelError::OverBudget { needed: total, budget: gpu.limits().max_buffer_size });
        }
        let places = args.iter().zip(offsets.iter().zip(&intervals));
        let ranges = places.map(|(&(arg, _life), (&offset, interval))| (arg, (offset, interval.bytes))).collect();
        Ok(Self { ranges, aliases: aliases.clone(), total })
    }

    fn root(&self, id: ValueId) -> ValueId {
        self.aliases.get(&id).copied().unwrap_or(id)
    }

    /// Offset and bytes of something in the arena.
    fn range(&self, arg: Arg) -> (u64, u64) {
        // Every arg of every dispatch, every input and every unknown output was touched above.
        self.ranges.get(&arg).copied().unwrap_or((0, 0))
    }
}
