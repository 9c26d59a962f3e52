//! Prints every adapter of this machine as a JSON array, for `cargo xtask gpu-check`.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a tool of a test talks to its caller")]

fn main() {
    println!("{}", serde_json::to_string(&engine_wgpu::gpu::adapters()).unwrap());
}
