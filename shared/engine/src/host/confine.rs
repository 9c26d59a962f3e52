//! Privileges that a host gives up before it reads a model.
//!
//! Called by [`super::serve`] in two steps: [`at_start`] while the process has one thread, [`once_open`] when the engine's
//! library is loaded and before the first model. What the system does not permit is noted and not fatal: isolation by a
//! process of its own is the essential part.

use std::collections::BTreeMap;
use std::fs;

use rustix::process::{Resource, Rlimit, Signal};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::privileges;

/// User and group that a host of a root daemon runs as: `nobody`, who owns nothing.
const NOBODY: u32 = 65_534;

/// Open files of a host at most: three for each of some tens of sessions, libraries, and devices of a GPU.
const OPEN_FILES_MAX: u64 = 512;

/// Score that makes the kernel take a host before the daemon when memory runs out; 1000 is the highest.
const OOM_SCORE: &str = "800";

/// Gives up what can be given up before the engine is open: core dumps, new privileges, files, the life after the daemon.
pub(super) fn at_start() -> Vec<String> {
    let mut notes = Vec::new();
    let mut note = |what: &str, done: rustix::io::Result<()>| {
        if let Err(error) = done {
            notes.push(format!("{what}: {error}"));
        }
    };
    note("die with the daemon", rustix::process::set_parent_process_death_signal(Some(Signal::KILL)));
    note("no new privileges", rustix::thread::set_no_new_privs(true));
    note("no core dumps", limit(Resource::Core, 0));
    note("few open files", limit(Resource::Nofile, OPEN_FILES_MAX));
    if rustix::process::geteuid().is_root() {
        note("no network", privileges::leave_network());
    }
    if let Err(error) = fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        notes.push(format!("first to go when memory runs out: {error}"));
    }
    notes
}

fn limit(resource: Resource, most: u64) -> rustix::io::Result<()> {
    let now = rustix::process::getrlimit(resource);
    let most = now.maximum.map_or(most, |maximum| maximum.min(most));
    rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
}

/// Limits the memory of this process from now on: what it allocates, not what its libraries map.
///
/// # Errors
/// When the limit is over the one that [`once_open`] has set for good.
pub(super) fn limit_memory(bytes: u64) -> rustix::io::Result<()> {
    let maximum = rustix::process::getrlimit(Resource::Data).maximum;
    let current = Some(maximum.map_or(bytes, |maximum| maximum.min(bytes)));
    rustix::process::setrlimit(Resource::Data, Rlimit { current, maximum })
}

/// Gives up the rest: the user, the network, other processes, and files where the engine needs none. `data_bytes_max` is the
/// memory that no order can go beyond.
pub(super) fn once_open(needs_files: bool, region_bytes_max: u64, data_bytes_max: Option<u64>) -> Vec<String> {
    let mut notes = Vec::new();
    // The largest file that it may write is a shared region.
    if let Err(error) = limit(Resource::Fsize, region_bytes_max) {
        notes.push(format!("no large files: {error}"));
    }
    if let Some(bytes) = data_bytes_max
        && let Err(error) = limit(Resource::Data, bytes)
    {
        notes.push(format!("limited memory: {error}"));
    }
    if rustix::process::geteuid().is_root()
        && let Err(error) = privileges::become_user(NOBODY, needs_files)
    {
        notes.push(format!("run as nobody: {error}"));
    }
    // The kernel forgets it when the user changes.
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        notes.push(format!("die with the daemon: {error}"));
    }
    // Each process filters its own system calls; `clone3` apart, because the C library takes another way only after `ENOSYS`.
    for program in [filter(needs_files), without_clone3()] {
        let applied = program
            .and_then(|program| seccompiler::apply_filter_all_threads(&program).map_err(|error| error.to_string()));
        if let Err(error) = applied {
            notes.push(format!("filter system calls: {error}"));
        }
    }
    notes
}

/// System calls that no engine needs: network, other processes and programs, kernel interfaces.
const NEVER: &[libc::c_long] = &[
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_pidfd_send_signal,
    libc::SYS_setrlimit,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_by_handle_at,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_msgget,
    libc::SYS_shmget,
    libc::SYS_semget,
];

/// System calls that only an engine with drivers needs: files by name, and memory that counts to nobody's limit.
const FILES: &[libc::c_long] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_memfd_create,
];

/// The same calls by their older names, which newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const FILES_OLD: &[libc::c_long] = &[
    libc::SYS_open,
    libc::SYS_creat,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_mknod,
    libc::SYS_chmod,
    libc::SYS_chown,
];
#[cfg(not(target_arch = "x86_64"))]
const FILES_OLD: &[libc::c_long] = &[];

/// Calls that start a process, by names that newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const PROCESSES_OLD: &[libc::c_long] = &[libc::SYS_fork, libc::SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
const PROCESSES_OLD: &[libc::c_long] = &[];

/// Makes the filter: what is named above fails with `EPERM`, everything else goes on.
fn filter(needs_files: bool) -> Result<BpfProgram, String> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let files = if needs_files { &[][..] } else { FILES };
    let files_old = if needs_files { &[][..] } else { FILES_OLD };
    for &call in NEVER.iter().chain(PROCESSES_OLD).chain(files).chain(files_old) {
        rules.insert(call, Vec::new());
    }
    // A thread shares the address space; anything else is a new process.
    let thread = u64::try_from(libc::CLONE_THREAD).unwrap_or_default();
    let new_process = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), 0);
    rules.insert(libc::SYS_clone, rule(new_process)?);
    // Reading limits is harmless. Of its own it may set that of memory, as it is ordered to.
    let sets = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0);
    let data = u64::from(libc::RLIMIT_DATA);
    let other = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, data);
    rules.insert(libc::SYS_prlimit64, vec![both(sets, other)?]);
    // Shared memory without a file counts to no limit of this process.
    if !needs_files {
        let flags = u64::try_from(libc::MAP_SHARED | libc::MAP_ANONYMOUS).unwrap_or_default();
        let shared = SeccompCondition::new(3, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flags), flags);
        rules.insert(libc::SYS_mmap, rule(shared)?);
    }
    // Signals to itself are how the C library aborts.
    let own = u64::from(std::process::id());
    let other = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, own);
    rules.insert(libc::SYS_tgkill, rule(other)?);
    program(rules, libc::EPERM)
}

/// Makes the filter that leaves `clone` as the only way to start threads: arguments of `clone3` cannot be looked at.
fn without_clone3() -> Result<BpfProgram, String> {
    program(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS)
}

fn program(rules: BTreeMap<i64, Vec<SeccompRule>>, error: libc::c_int) -> Result<BpfProgram, String> {
    let refuse = SeccompAction::Errno(u32::try_from(error).unwrap_or(1));
    let architecture = std::env::consts::ARCH.try_into().map_err(|error: BackendError| error.to_string())?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture);
    let filter = filter.map_err(|error| error.to_string())?;
    filter.try_into().map_err(|error: BackendError| error.to_string())
}

fn both(
    first: Result<SeccompCondition, BackendError>,
    second: Result<SeccompCondition, BackendError>,
) -> Result<SeccompRule, String> {
    let conditions = [first, second].into_iter().collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    SeccompRule::new(conditions).map_err(|error| error.to_string())
}

fn rule(condition: Result<SeccompCondition, BackendError>) -> Result<Vec<SeccompRule>, String> {
    let condition = condition.map_err(|error| error.to_string())?;
    let rule = SeccompRule::new(vec![condition]).map_err(|error| error.to_string())?;
    Ok(vec![rule])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_can_be_made_for_this_machine() {
        assert!(!filter(true).unwrap().is_empty());
        assert!(filter(false).unwrap().len() > filter(true).unwrap().len());
    }
}
