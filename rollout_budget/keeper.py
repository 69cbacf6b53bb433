"""Runs one command and makes sure that nothing of it outlives the process that asked for it.

Started as a script, `keeper.py GRACE_S COMMAND...`, in an interpreter without packages: it imports the standard library
only. The command runs in a process group of its own. When the keeper's standard input ends (its parent closed it, or died
in any way, SIGKILL included), or when the keeper is told to stop, the group gets SIGTERM and, GRACE_S later, SIGKILL. When
the command itself ends, what it left of its group is killed. The keeper exits with the command's status.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from types import FrameType


def signal_group(group: int, number: signal.Signals) -> None:
    """Send a signal to a process group, which may be gone already."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says EPERM of a group of zombies
        os.killpg(group, number)


def main(arguments: list[str]) -> int:
    """Run the command to its end and return its status."""
    grace_s, command = float(arguments[0]), arguments[1:]
    stopping = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()

    def wait_for_parent() -> None:
        while os.read(0, 1024):
            pass
        stopping.set()

    def end_group() -> None:
        stopping.wait()
        signal_group(child.pid, signal.SIGTERM)
        kill = threading.Timer(grace_s, signal_group, (child.pid, signal.SIGKILL))
        kill.daemon = True
        kill.start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)  # noqa: S603 - our caller's own command
    for task in (wait_for_parent, end_group):
        threading.Thread(target=task, daemon=True).start()
    if hasattr(os, "waitid"):  # not on macOS before Python 3.13
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        signal_group(child.pid, signal.SIGKILL)  # before the child is reaped: its pid names this group and no other
    status = child.wait()
    signal_group(child.pid, signal.SIGKILL)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
