"""Runs a command and prints what it took; imports little, for a child's peak begins with ours."""

import json
import os
import sys
import time


def main() -> None:
    begun_s = time.monotonic()
    read, write = os.pipe()
    out = [(os.POSIX_SPAWN_DUP2, write, 1), (os.POSIX_SPAWN_CLOSE, read)]
    child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=out)
    os.close(write)
    said = b""
    while piece := os.read(read, 1 << 16):
        said = (said + piece)[-2000:]
    _, status, used = os.wait4(child, 0)
    wall_s = time.monotonic() - begun_s
    os.sync()
    print(
        json.dumps(
            {
                "wall_s": wall_s,
                "cpu_s": used.ru_utime + used.ru_stime,
                "rss_mb": used.ru_maxrss * 1024 / 1e6,
                "exit_code": os.waitstatus_to_exitcode(status),
                "sync_s": time.monotonic() - begun_s - wall_s,
                "said": (said.decode(errors="replace").strip().splitlines() or [""])[-1],
            }
        )
    )


if __name__ == "__main__":
    main()
