"""Runs a command and prints what it took, as the kernel counts it: `measure.py COMMAND ...`.

The command's own output goes to stderr. JSON on one line: `seconds` by the clock, `rss_kib` at the highest, `cpu_seconds`, `code`.
"""

import json
import os
import sys
import time

begun = time.perf_counter()
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
_, status, usage = os.wait4(child, 0)
print(
    json.dumps(
        {
            "seconds": time.perf_counter() - begun,
            "rss_kib": usage.ru_maxrss,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "code": os.waitstatus_to_exitcode(status),
        }
    )
)
