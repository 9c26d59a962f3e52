//! Describes the machine, as far as it matters for running models.
//!
//! Fed by `/proc`, `/sys` and the standard library; feeds `doctor`, `status` and the hello to the hub. Unknown is said as
//! `None` or an empty list, never guessed.

use std::fs;

use serde::{Deserialize, Serialize};

/// Hardware and system of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Architecture, like `x86_64` or `aarch64`.
    pub arch: String,
    /// Operating system as it calls itself, like `Debian GNU/Linux 12 (bookworm)`.
    pub os: Option<String>,
    /// Version of the kernel.
    pub kernel: Option<String>,
    /// Name of the processor.
    pub cpu: Option<String>,
    /// Threads that can run at once, after affinity and container limits.
    pub threads: usize,
    /// Bytes of memory that this process may hope for: the machine's or its container's, whichever is less.
    pub memory_bytes: Option<u64>,
    /// Instruction sets that make models fast, like `avx2`, `avx512_vnni`, `asimddp`.
    pub features: Vec<String>,
}

/// Instruction sets worth naming, as Linux calls them: vectors, half floats and integer dot products.
const FEATURES: [&str; 18] = [
    "sse4_2",
    "avx",
    "f16c",
    "fma",
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
];

/// Looks at the machine. Takes about a millisecond.
#[must_use]
pub fn machine() -> Machine {
    let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
    Machine {
        arch: std::env::consts::ARCH.to_owned(),
        os: read("/etc/os-release").as_deref().and_then(pretty_name),
        kernel: read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
        cpu: cpu_name(&cpuinfo),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: memory_bytes(),
        features: features(&cpuinfo),
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches('"').to_owned())
}

/// The value of the first line of `/proc/cpuinfo` with that key.
fn cpuinfo_value<'a>(cpuinfo: &'a str, wanted: &str) -> Option<&'a str> {
    let mut pairs = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(key, _)| key.trim() == wanted).map(|(_, value)| value.trim())
}

fn cpu_name(cpuinfo: &str) -> Option<String> {
    // x86 says "model name"; Arm boards say "Model" (the board) or nothing.
    let name = cpuinfo_value(cpuinfo, "model name").or_else(|| cpuinfo_value(cpuinfo, "Model"))?;
    Some(name.to_owned())
}

fn features(cpuinfo: &str) -> Vec<String> {
    let flags = cpuinfo_value(cpuinfo, "flags").or_else(|| cpuinfo_value(cpuinfo, "Features")).unwrap_or_default();
    let flags: Vec<&str> = flags.split_ascii_whitespace().collect();
    FEATURES.into_iter().filter(|feature| flags.contains(feature)).map(str::to_owned).collect()
}

/// Returns the bytes of memory that this process may hope for: those of the machine or of its container, whichever is less.
#[must_use]
pub fn memory_bytes() -> Option<u64> {
    let machine = read("/proc/meminfo").as_deref().and_then(memory_total);
    let container = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse().ok());
    machine.into_iter().chain(container).min()
}

/// `MemTotal:       16384 kB`, where the kernel's kB is 1024 bytes.
fn memory_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_x86_and_an_arm_machine_are_understood() {
        let x86 = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R)\nflags\t\t: fpu avx2 avx512_vnni avx512vl\n";
        assert_eq!(cpu_name(x86).as_deref(), Some("Intel(R) Xeon(R)"));
        assert_eq!(features(x86), ["avx2", "avx512_vnni"]);
        let arm = "processor\t: 0\nFeatures\t: fp asimd asimddp\n\nModel\t\t: Raspberry Pi 5 Model B\n";
        assert_eq!(cpu_name(arm).as_deref(), Some("Raspberry Pi 5 Model B"));
        assert_eq!(features(arm), ["asimd", "asimddp"]);
        assert_eq!(memory_total("MemTotal:       16384 kB\n"), Some(16_777_216));
        assert_eq!(pretty_name("ID=debian\nPRETTY_NAME=\"Debian 12\"\n").as_deref(), Some("Debian 12"));
    }

    #[test]
    fn this_machine_has_a_thread_and_memory() {
        let machine = machine();
        assert!(machine.threads >= 1);
        assert!(machine.memory_bytes.is_some_and(|bytes| bytes > 0));
    }
}
