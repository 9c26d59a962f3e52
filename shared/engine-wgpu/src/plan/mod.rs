//! A plan: everything of one inference at fixed shapes that can be made before the request is there.
//!
//! Made from a graph, its [`ValueInfos`] and the dispatches of [`crate::lower`]: one activation arena, one uniform buffer, bind
//! groups, and the list of launches. Running it is writing inputs, one compute pass and one submission for each of its
//! turns, reading outputs; no device object is made on the way.

mod arena;
mod faults;
mod flag;
mod pace;
mod parts;
mod split;
mod timing;
mod turns;
mod weights;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arena::Interval;
use flag::Flag;
use pace::Pace;
pub(crate) use pace::per;
pub(crate) use weights::Weights;

use crate::error::{GpuError, ModelError, OpError};
use crate::gpu::{Gpu, Pipeline, PipelineKey, Place};
use crate::ir::{Graph, Literal, ValueId};
use crate::lower::{Arg, Dispatch, Lowering, Repr, WeightId, WeightPool};
use crate::lower::{PARAM_BYTES, PARAM_WORDS};
use crate::value_info::{ValueInfo, ValueInfos};

/// One launch, ready to record.
#[derive(Debug)]
struct Launch {
    label: &'static str,
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    groups: [u32; 3],
    /// Number of elementary operations.
    work: u64,
}

impl Launch {
    fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        let [x, y, z] = self.groups;
        pass.dispatch_workgroups(x, y, z);
    }
}

/// Place of an input or output in the staging buffers.
#[derive(Debug, Clone)]
pub(crate) struct Port {
    /// Type and shape of the value.
    pub(crate) info: ValueInfo,
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
        self.info.known.as_ref()
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
    /// Buffer in which kernels report faults; `None` where no kernel can.
    flag: Option<Flag>,
    /// Bytes of the activation arena.
    pub(crate) arena_bytes: u64,
    /// Elementary operations of one inference.
    pub(crate) work: u64,
    pace: Pace,
}

impl Plan {
    /// Makes a plan; compiles pipelines and uploads weights that are new.
    ///
    /// # Errors
    /// When a node refuses these shapes, memory is over the budget, or the driver refuses.
    pub(crate) fn new(
        gpu: &Gpu,
        graph: &Graph,
        inputs: &[ValueInfo],
        weights: &mut Weights,
        budget: u64,
    ) -> Result<Self, ModelError> {
        let infos = ValueInfos::infer(graph, inputs)?;
        let mut known = WeightPool::default();
        let mut lowering = Lowering::new(graph, &infos, gpu.tuning(), &mut weights.pool, &mut known);
        for at in 0..graph.nodes.len() {
            lowering.node(at, crate::ops::lower).map_err(|source| at_node(graph, at, source))?;
        }
        let Lowering { dispatches, scratch, aliases, .. } = lowering;
        let bound = |weight: fn(&Arg) -> Option<WeightId>| -> BTreeSet<WeightId> {
            dispatches.iter().flat_map(|dispatch| &dispatch.args).filter_map(weight).collect()
        };
        let lasting = bound(|arg| if let Arg::Weight(id) = *arg { Some(id) } else { None });
        let passing = bound(|arg| if let Arg::Known(id) = *arg { Some(id) } else { None });
        let mut layout = Layout::new(gpu, graph, &infos, &dispatches, &scratch, &aliases)?;
        let mut known = Weights::of(known);
        for (pool, ids, place) in [
            (&weights.pool, &lasting, Arg::Weight as fn(WeightId) -> Arg),
            (&known.pool, &passing, Arg::Known as fn(WeightId) -> Arg),
        ] {
            layout.words.extend(ids.iter().map(|&id| (place(id), pool.word_count(id.0) as u64)));
        }
        let needed =
            known.bytes_with(&passing).saturating_add(weights.bytes_with(&lasting)).saturating_add(layout.total);
        if needed > budget {
            return Err(ModelError::OverBudget { needed, budget });
        }
        let words = |arg: Arg| layout.words(arg);
        let cut = dispatches.into_iter().flat_map(|dispatch| parts::cut(dispatch, words, gpu.tuning()));
        let dispatches = split::split(cut.collect());
        let bindings_max = gpu.limits().max_storage_buffers_per_shader_stage;
        let mut parts = Vec::with_capacity(dispatches.len());
        for dispatch in &dispatches {
            let found = parts::bindings(dispatch, words, gpu.tuning(), bindings_max);
            parts.push(found.map_err(|source| at_node(graph, dispatch.node, source))?);
        }
        weights.upload(gpu, &lasting)?;
        known.upload(gpu, &passing)?;
        let ports = (graph.inputs.as_slice(), graph.outputs.as_slice());
        let buffers = Buffers { layout, weights, known: &known };
        Ok(Self::on_device(gpu, ports, &infos, &dispatches, &parts, &buffers)?)
    }

    fn on_device(
        gpu: &Gpu,
        (inputs, outputs): (&[ValueId], &[ValueId]),
        infos: &ValueInfos,
        dispatches: &[Dispatch],
        parts: &[Vec<u32>],
        buffers: &Buffers<'_>,
    ) -> Result<Self, GpuError> {
        let layout = &buffers.layout;
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
        for ((slot, dispatch), parts) in (0_u64..).zip(dispatches).zip(parts) {
            let place =
                |(arg, &parts): (&Arg, &u32)| Place { read_only: matches!(arg, Arg::Weight(_) | Arg::Known(_)), parts };
            let places = dispatch.args.iter().zip(parts).map(place).collect();
            let pipeline = gpu.pipeline(PipelineKey { kernel: Arc::clone(&dispatch.kernel), places })?;
            let mut entries = vec![entry(0, (&params, slot * PARAM_BYTES, PARAM_BYTES))];
            for (at, (&arg, &parts)) in dispatch.args.iter().zip(parts).enumerate() {
                let first = if at + 1 == dispatch.args.len() { dispatch.part } else { 0 };
                for part in first..first + parts {
                    entries.push(entry(entries.len(), buffers.part(&arena, arg, part, gpu.tuning().part_words)));
                }
            }
            let descriptor = wgpu::BindGroupDescriptor {
                label: Some(dispatch.kernel.label),
                layout: &pipeline.layout,
                entries: &entries,
            };
            let bind_group = gpu.scoped(|| gpu.device.create_bind_group(&descriptor))?;
            let Dispatch { groups, effort, .. } = dispatch;
            let work = effort.work;
            launches.push(Launch { label: dispatch.kernel.label, pipeline, bind_group, groups: *groups, work });
        }
        let (inputs, upload_bytes) = ports(inputs, infos, layout);
        let (outputs, readback_bytes) = ports(outputs, infos, layout);
        let flag = Flag::of(layout.ranges.get(&Arg::Fault).map(|&(arena, _bytes)| arena), upload_bytes, readback_bytes);
        let [upload_bytes, readback_bytes] =
            [upload_bytes, readback_bytes].map(|bytes| bytes + flag.as_ref().map_or(0, |_flag| PARAM_BYTES));
        let upload = buffer("upload", upload_bytes, wgpu::BufferUsages::MAP_WRITE | src)?;
        let readback = buffer("readback", readback_bytes, wgpu::BufferUsages::MAP_READ | dst)?;
        let work = dispatches.iter().fold(0, |work: u64, dispatch| work.saturating_add(dispatch.effort.work));
        let (arena_bytes, pace) = (layout.total, Pace::new());
        Ok(Self { launches, arena, upload, readback, inputs, outputs, flag, arena_bytes, work, pace })
    }

    /// Number of kernel launches of one inference.
    pub(crate) fn launch_count(&self) -> usize {
        self.launches.len()
    }
}

fn at_node(graph: &Graph, at: usize, source: OpError) -> ModelError {
    let node = &graph.nodes[at];
    ModelError::Node { node: node.name.clone(), operator: node.op.clone(), source }
}

/// A range of a buffer: offset and bytes.
type Range<'a> = (&'a wgpu::Buffer, u64, u64);

/// Buffers that the arguments of launches lie in.
struct Buffers<'a> {
    layout: Layout,
    weights: &'a Weights,
    known: &'a Weights,
}

impl Buffers<'_> {
    /// A part of an argument; the whole of it, unless it is larger than a binding may be.
    fn part<'b>(&'b self, arena: &'b wgpu::Buffer, arg: Arg, part: u32, part_words: u64) -> Range<'b> {
        let of_weight = |weights: &'b Weights, id| weights.pieces(id).nth(part as usize);
        let found = match arg {
            Arg::Weight(id) => of_weight(self.weights, id),
            Arg::Known(id) => of_weight(self.known, id),
            Arg::Value(_) | Arg::Scratch(_) | Arg::Fault => None,
        };
        found.unwrap_or_else(|| {
            let (offset, bytes) = self.layout.range(arg);
            let from = u64::from(part) * part_words * 4;
            (arena, offset + from, bytes.saturating_sub(from).min(part_words * 4))
        })
    }
}

fn entry(binding: usize, (buffer, offset, bytes): Range<'_>) -> wgpu::BindGroupEntry<'_> {
    let size = std::num::NonZeroU64::new(bytes);
    wgpu::BindGroupEntry {
        binding: u32::try_from(binding).unwrap_or(u32::MAX),
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
fn ports(ids: &[ValueId], infos: &ValueInfos, layout: &Layout) -> (Vec<Port>, u64) {
    let mut staging = 0;
    let mut ports = Vec::with_capacity(ids.len());
    for &id in ids {
        let info = infos.of(id).clone();
        let (arena, bytes) = if info.known.is_some() { (0, 0) } else { layout.range(Arg::Value(layout.root(id))) };
        ports.push(Port { info, arena, staging, bytes });
        staging += bytes;
    }
    // A mapped buffer may not be empty.
    (ports, staging.max(PARAM_BYTES))
}

/// Ranges of the arena for each value and scratch space.
#[derive(Debug)]
struct Layout {
    ranges: HashMap<Arg, (u64, u64)>,
    /// Words of each thing that launches read or write, weights included.
    words: HashMap<Arg, u64>,
    aliases: HashMap<ValueId, ValueId>,
    total: u64,
}

impl Layout {
    fn new(
        gpu: &Gpu,
        graph: &Graph,
        infos: &ValueInfos,
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
            for &arg in &dispatch.args {
                match arg {
                    Arg::Value(_) | Arg::Scratch(_) => touch(arg, step),
                    // Zeroed before the first launch, read after the last.
                    Arg::Fault => [0, end].into_iter().for_each(|step| touch(arg, step)),
                    Arg::Weight(_) | Arg::Known(_) => {}
                }
            }
        }
        for &id in graph.outputs.iter().filter(|&&id| infos.of(id).known.is_none()) {
            touch(Arg::Value(root(id)), end);
        }
        // A fixed order makes two plans of one graph equal to the byte.
        let mut args: Vec<(Arg, (usize, usize))> = lives.into_iter().collect();
        args.sort_unstable_by_key(|&(arg, _life)| arg);
        let mut intervals = Vec::with_capacity(args.len());
        let mut sizes = HashMap::with_capacity(args.len());
        for &(arg, (from, to)) in &args {
            let words = match arg {
                Arg::Value(id) => Repr::of(infos.of(id).dtype).words(infos.of(id).elements()),
                Arg::Scratch(id) => scratch[id.0].0,
                Arg::Fault => 1,
                Arg::Weight(_) | Arg::Known(_) => 0,
            };
            let words = u64::try_from(words).unwrap_or(u64::MAX).max(1);
            sizes.insert(arg, words);
            let bytes = words.saturating_mul(4);
            intervals.push(Interval { bytes: bytes.next_multiple_of(alignment), from, to });
        }
        let (offsets, total) = arena::pack(&intervals);
        if total > gpu.limits().max_buffer_size {
            return Err(ModelError::OverBudget { needed: total, budget: gpu.limits().max_buffer_size });
        }
        let places = args.iter().zip(offsets.iter().zip(&intervals));
        let ranges = places.map(|(&(arg, _life), (&offset, interval))| (arg, (offset, interval.bytes))).collect();
        Ok(Self { ranges, words: sizes, aliases: aliases.clone(), total })
    }

    fn root(&self, id: ValueId) -> ValueId {
        self.aliases.get(&id).copied().unwrap_or(id)
    }

    /// Words of something that launches read or write.
    fn words(&self, arg: Arg) -> u64 {
        self.words.get(&arg).copied().unwrap_or(0)
    }

    /// Offset and bytes of something in the arena.
    fn range(&self, arg: Arg) -> (u64, u64) {
        // Every arg of every dispatch, every input and every unknown output was touched above.
        self.ranges.get(&arg).copied().unwrap_or((0, 0))
    }
}

#[cfg(test)]
mod tests {
    use types::Dim;

    use super::*;
    use crate::gpu::AdapterChoice;
    use crate::ir::{Attributes, ElementType, Node, Value};
    use crate::session::WgpuSession;

    /// Device memory that the test's plans may take, in bytes.
    const BUDGET: u64 = 1 << 20;

    fn relu() -> Graph {
        let mut graph = Graph::default();
        let declared = Some((ElementType::F32, Some(vec![Dim::Fixed(4)])));
        let [x, y] = ["x", "y"].map(|name| graph.add_value(Value { name: name.into(), declared: declared.clone() }));
        (graph.inputs, graph.outputs) = (vec![x], vec![y]);
        graph.nodes.push(Node {
            name: "relu".into(),
            domain: String::new(),
            op: "Relu".into(),
            opset: 17,
            inputs: vec![Some(x)],
            outputs: vec![Some(y)],
            attributes: Attributes::default(),
        });
        graph
    }

    #[test]
    fn a_kernel_is_launched_for_the_first_time_until_a_run_has_ended() {
        let choice = AdapterChoice { allow_software: true, ..AdapterChoice::default() };
        let gpu = match Gpu::open(&choice, None) {
            Ok(gpu) => gpu,
            Err(error) => return println!("skipped: {error}"),
        };
        let graph = relu();
        let inputs = [ValueInfo::new(ElementType::F32, vec![4])];
        let plan = || Plan::new(&gpu, &graph, &inputs, &mut Weights::default(), BUDGET).unwrap();
        let before = plan();
        assert_eq!(before.first_launches(&(0..1)), 1);
        // Loading a model runs it once.
        let _session = WgpuSession::new(Arc::clone(&gpu), &graph, BUDGET, None).unwrap();
        assert_eq!(plan().first_launches(&(0..1)), 0);
        assert_eq!(before.first_launches(&(0..1)), 0, "another plan's run compiled its kernel too");
    }
}
