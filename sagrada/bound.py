"""Run a command that cannot outlive its parent: `python -I -S bound.py PARENT_PID SIGNAL COMMAND...`.

A program of its own instead of a `preexec_fn`, which is unsafe as soon as the parent has threads. The kernel
sends the signal when the *thread* that started this process ends: start it from one that lives as long as the
parent.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel for the signal, then become the command."""
    parent, signal_number, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit("The process that asked for this one is gone already.")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
