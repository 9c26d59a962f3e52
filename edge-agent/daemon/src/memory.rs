//! Memory of the machine and of processes, as the kernel tells it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Memory that the processes of this agent may still take, and could ever take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// Bytes that can be taken now.
    pub(crate) available: u64,
    /// Bytes in all.
    pub(crate) total: u64,
    /// Owner of the limit.
    pub(crate) limit: Limit,
}

/// Limit of the memory of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Memory of the machine.
    Machine,
    /// Control group: a container, or `MemoryMax=` of the service.
    Group,
    /// Limit of each process (`ulimit`, `LimitDATA=`, `LimitAS=`).
    Process,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Machine => "the memory of the machine",
            Self::Group => "the memory limit of its control group",
            Self::Process => "the memory limit of its processes",
        })
    }
}

/// Returns the limits of memory that apply to this agent: of the machine, of each control group above it, and of a process.
/// Empty where the kernel tells nothing.
pub(crate) fn rooms() -> Vec<Room> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let machine = Path::new("/proc/meminfo");
    let machine = kibibytes_in(machine, "MemAvailable:").zip(kibibytes_in(machine, "MemTotal:"));
    let machine = machine.map(|(available, total)| Room { available, total, limit: Limit::Machine });
    let groups = groups.lines().flat_map(|line| rooms_of_group(Path::new("/sys/fs/cgroup"), line));
    machine.into_iter().chain(groups).chain(room_of_process(&limits)).collect()
}

/// Returns the memory in bytes that programs can still take without swapping; `None` where the kernel does not tell.
pub(crate) fn available() -> Option<u64> {
    rooms().into_iter().map(|room| room.available).min()
}

/// Returns the resident memory of a process in bytes; `None` if it is gone.
pub(crate) fn resident(pid: u32) -> Option<u64> {
    kibibytes_in(Path::new(&format!("/proc/{pid}/status")), "VmRSS:")
}

/// Returns the room of the control group of a line of `/proc/self/cgroup`, and of each group above it.
fn rooms_of_group(root: &Path, line: &str) -> Vec<Room> {
    let mut fields = line.splitn(3, ':');
    let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
        return Vec::new();
    };
    let is_second = number == "0" && controllers.is_empty();
    let roots: &[&str] = match is_second {
        true => &["", "unified"],
        false if controllers.split(',').any(|controller| controller == "memory") => &["memory"],
        false => return Vec::new(),
    };
    let folders = roots.iter().flat_map(|name| {
        // Inside of a container the path is the host's, and only the root is there.
        let inner = Path::new(path.trim_start_matches('/'));
        inner.ancestors().map(|ancestor| root.join(name).join(ancestor)).collect::<Vec<PathBuf>>()
    });
    folders.filter_map(|folder| room_of_group(&folder, is_second)).collect()
}

fn room_of_group(folder: &Path, is_second: bool) -> Option<Room> {
    let (limit, usage, cache) = match is_second {
        true => ("memory.max", "memory.current", ["inactive_file ", "active_file "]),
        false => ("memory.limit_in_bytes", "memory.usage_in_bytes", ["total_inactive_file ", "total_active_file "]),
    };
    let number = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    // No limit is "max", or a number beyond any machine.
    let total = number(limit).filter(|limit| *limit < UNLIMITED_FROM)?;
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    // The kernel takes the cache of files back before it ends a process.
    let bytes = |line: &str| cache.iter().find_map(|name| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    let cached = stat.lines().filter_map(bytes).fold(0, u64::saturating_add);
    let used = number(usage)?.saturating_sub(cached);
    Some(Room { available: total.saturating_sub(used), total, limit: Limit::Group })
}

/// Bytes from which a limit of a control group is none: an exbibyte.
const UNLIMITED_FROM: u64 = 1 << 60;

/// Returns the smallest limit of memory in the text of `/proc/self/limits`; child processes of the agent inherit it.
fn room_of_process(limits: &str) -> Option<Room> {
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let total = ["Max data size", "Max address space"].into_iter().filter_map(limit).min()?;
    Some(Room { available: total, total, limit: Limit::Process })
}

/// Reads a line like `VmRSS:    1234 kB` of a file under `/proc`.
fn kibibytes_in(path: &Path, field: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
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
        fs::write(&file, "MemTotal:       2048 kB\nMemAvailable:      3 kB\nOdd: x kB\n").unwrap();
        assert_eq!(kibibytes_in(&file, "MemAvailable:"), Some(3072));
        assert_eq!(kibibytes_in(&file, "Odd:"), None);
        assert_eq!(kibibytes_in(&file, "Missing:"), None);
        assert_eq!(kibibytes_in(&folder.path().join("none"), "MemAvailable:"), None);
        assert!(resident(std::process::id()).is_some_and(|bytes| bytes > 0) && available().is_some());
    }

    fn write(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
    }

    #[test]
    fn every_control_group_above_the_process_counts_and_its_file_cache_does_not() {
        let root = tempfile::tempdir().unwrap();
        let slice = root.path().join("system.slice");
        write(
            &slice,
            &[
                ("memory.max", "1000\n"),
                ("memory.current", "900\n"),
                ("memory.stat", "anon 1\ninactive_file 30\nactive_file 20\n"),
            ],
        );
        write(&slice.join("agent.service"), &[("memory.max", "max\n"), ("memory.current", "100\n")]);
        let room = Room { available: 150, total: 1000, limit: Limit::Group };
        assert_eq!(rooms_of_group(root.path(), "0::/system.slice/agent.service"), [room]);
        write(&slice.join("agent.service"), &[("memory.max", "200\n"), ("memory.stat", "inactive_file 0\n")]);
        let own = Room { available: 100, total: 200, limit: Limit::Group };
        assert_eq!(rooms_of_group(root.path(), "0::/system.slice/agent.service"), [own, room]);
    }

    #[test]
    fn control_groups_of_the_first_kind_count_also_where_only_their_root_is_seen() {
        let root = tempfile::tempdir().unwrap();
        let files = [
            ("memory.limit_in_bytes", "500"),
            ("memory.usage_in_bytes", "600"),
            ("memory.stat", "inactive_file 400\ntotal_inactive_file 7"),
        ];
        write(&root.path().join("memory"), &files);
        let full = Room { available: 0, total: 500, limit: Limit::Group };
        assert_eq!(rooms_of_group(root.path(), "4:memory:/docker/0123"), [full]);
        assert_eq!(rooms_of_group(root.path(), "4:cpu,memory:/"), [full]);
        assert_eq!(rooms_of_group(root.path(), "1:cpu:/docker/0123"), []);
        write(&root.path().join("memory"), &[("memory.limit_in_bytes", "9223372036854771712")]);
        for line in ["4:memory:/", "0::/", "", "4:memory", "x"] {
            assert_eq!(rooms_of_group(root.path(), line), [], "{line:?}");
        }
    }

    #[test]
    fn the_smallest_limit_of_a_process_counts() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max data size             300000               unlimited            bytes     \n\
                      Max address space         unlimited            unlimited            bytes     \n";
        assert_eq!(room_of_process(limits).map(|room| room.total), Some(300_000));
        assert_eq!(room_of_process(&limits.replace("300000   ", "unlimited")), None);
        assert_eq!(room_of_process(""), None);
    }
}
