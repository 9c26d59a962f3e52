//! System calls for giving up privileges that no safe interface offers for all threads at once.
#![expect(unsafe_code, reason = "calls of the C library without pointers to anything but a constant")]

use std::io;

/// Changes user and group of the whole process, for good; supplementary groups are kept where devices need them.
///
/// The C library's calls, because the kernel's own change one thread only.
///
/// # Errors
/// When the process may not, or the user does not exist in its namespace.
pub(super) fn become_user(id: u32, keep_groups: bool) -> io::Result<()> {
    let done = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    if !keep_groups {
        // SAFETY: a count of zero reads nothing behind the pointer.
        done(unsafe { libc::setgroups(0, std::ptr::null()) })?;
    }
    // SAFETY: three numbers; no memory is touched.
    done(unsafe { libc::setresgid(id, id, id) })?;
    // SAFETY: as above.
    done(unsafe { libc::setresuid(id, id, id) })
}

/// Moves this process into a network namespace of its own, which has no interface.
///
/// # Errors
/// When the process may not.
pub(super) fn leave_network() -> rustix::io::Result<()> {
    // SAFETY: only unsharing the table of file descriptors could break assumptions of safe code.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
}

/// Ends this process at once, without the destructors of its libraries.
pub(super) fn end_process() -> ! {
    // SAFETY: never returns and touches no memory.
    unsafe { libc::_exit(0) }
}
