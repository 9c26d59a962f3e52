//! Memory of the machine and of processes, as the kernel tells it.

use std::path::Path;

/// Returns the memory in bytes that programs can still take without swapping; `None` where the kernel does not tell.
pub(crate) fn available() -> Option<u64> {
    kibibytes_in(Path::new("/proc/meminfo"), "MemAvailable:")
}

/// Returns the resident memory of a process in bytes; `None` if it is gone.
pub(crate) fn resident(pid: u32) -> Option<u64> {
    kibibytes_in(Path::new(&format!("/proc/{pid}/status")), "VmRSS:")
}

/// Reads a line like `VmRSS:    1234 kB` of a file under `/proc`.
fn kibibytes_in(path: &Path, field: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_the_kernel_is_read_and_anything_else_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("meminfo");
        std::fs::write(&file, "MemTotal:       2048 kB\nMemAvailable:      3 kB\nOdd: x kB\n").unwrap();
        assert_eq!(kibibytes_in(&file, "MemAvailable:"), Some(3072));
        assert_eq!(kibibytes_in(&file, "Odd:"), None);
        assert_eq!(kibibytes_in(&file, "Missing:"), None);
        assert_eq!(kibibytes_in(&folder.path().join("none"), "MemAvailable:"), None);
        assert!(resident(std::process::id()).is_some_and(|bytes| bytes > 0) && available().is_some());
    }
}
