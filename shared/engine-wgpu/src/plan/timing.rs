//! What each launch of a plan takes on the device, by its own clock.
//!
//! For benches: the sum of these is what an inference could take if all around the kernels were free.

use std::time::Duration;

use super::Plan;
use crate::error::GpuError;
use crate::gpu::{Gpu, SUBMISSION_TIMEOUT};

/// Bytes of one timestamp.
const STAMP_BYTES: u64 = 8;

/// Features of the adapter that timing needs.
const FEATURES: wgpu::Features = wgpu::Features::TIMESTAMP_QUERY.union(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES);

impl Plan {
    /// Runs the launches once on the inputs of the last run, each between two timestamps, and gives the kernels' labels and
    /// times in order; `None` where the adapter has no timestamps within a pass, or the plan more launches than a query set
    /// can hold.
    ///
    /// # Errors
    /// When the device is gone or refuses the queries.
    pub(crate) fn kernel_times(&self, gpu: &Gpu) -> Result<Option<Vec<(&'static str, Duration)>>, GpuError> {
        let Some(count) = u32::try_from(self.launches.len() * 2).ok().filter(|&count| {
            (1..=wgpu::QUERY_SET_MAX_QUERIES).contains(&count) && gpu.device.features().contains(FEATURES)
        }) else {
            return Ok(None);
        };
        let bytes = u64::from(count) * STAMP_BYTES;
        let buffer = |usage| {
            let descriptor =
                wgpu::BufferDescriptor { label: Some("stamps"), size: bytes, usage, mapped_at_creation: false };
            gpu.device.create_buffer(&descriptor)
        };
        let (queries, resolved, readback) = gpu.scoped(|| {
            let descriptor = wgpu::QuerySetDescriptor { label: Some("stamps"), ty: wgpu::QueryType::Timestamp, count };
            let (resolve, src, dst) =
                (wgpu::BufferUsages::QUERY_RESOLVE, wgpu::BufferUsages::COPY_SRC, wgpu::BufferUsages::COPY_DST);
            let queries = gpu.device.create_query_set(&descriptor);
            (queries, buffer(resolve | src), buffer(wgpu::BufferUsages::MAP_READ | dst))
        })?;
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("timing") });
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for (at, launch) in (0_u32..).step_by(2).zip(&self.launches) {
                pass.write_timestamp(&queries, at);
                launch.record(&mut pass);
                pass.write_timestamp(&queries, at + 1);
            }
        }
        encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
        encoder.copy_buffer_to_buffer(&resolved, 0, &readback, 0, bytes);
        let submission = gpu.submit([encoder.finish()]);
        readback.map_async(wgpu::MapMode::Read, .., |_result| {});
        if !gpu.wait(submission, SUBMISSION_TIMEOUT)? {
            return Err(GpuError::Refused("timestamps that do not come".into()));
        }
        let view = readback.get_mapped_range(..).map_err(|error| GpuError::Refused(error.to_string()))?;
        let stamps: Vec<u64> = view
            .chunks_exact(8)
            .map(|stamp| stamp.iter().rev().fold(0, |all, &byte| all << 8 | u64::from(byte)))
            .collect();
        let period = f64::from(gpu.queue.get_timestamp_period());
        let times = self.launches.iter().zip(stamps.chunks_exact(2)).map(|(launch, stamps)| {
            let ticks = stamps.get(1).zip(stamps.first()).map_or(0, |(end, begin)| end.saturating_sub(*begin));
            #[expect(clippy::cast_precision_loss, reason = "a kernel's ticks are far below 2^53")]
            let nanoseconds = ticks as f64 * period;
            (launch.label, Duration::from_secs_f64(nanoseconds / 1e9))
        });
        Ok(Some(times.collect()))
    }
}
