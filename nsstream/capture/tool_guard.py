"""ToolGuard: a shell that waits beside a capture tool, and kills the tool's group when this process is gone.

Promises: however this process ends, ``kill -9`` among the ways, the group it watches has no process left soon after.

Why not PR_SET_PDEATHSIG (``setpriv --pdeathsig``): the kernel takes the signal back when a process changes its
credentials, which tcpdump does as root (it becomes the user tcpdump) and dumpcap does where it has file capabilities;
and it sends the signal when the thread that started the tool ends, not the process (prctl(2)). The guard holds the
reading end of a pipe whose writing end is here alone, and sees it close.
"""

from __future__ import annotations

import os
import subprocess
from typing import Final

_SCRIPT: Final = 'read -r _; kill -s KILL -- "-$1"'


class ToolGuard:
    """Watches over one process group, in a session of its own, so that no Ctrl-C ends it before."""

    def __init__(self, group: int) -> None:
        """Start the guard. Raises OSError if there is no shell or no room for a process."""
        reading, self._writing = os.pipe()  # closed in every child of ours that calls exec
        try:
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, "nsstream-guard", str(group)],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )
        except OSError:
            os.close(self._writing)
            raise
        finally:
            os.close(reading)

    def dismiss(self) -> None:
        """End the guard and leave the group alone; to be called before the group's number can be given out again."""
        self._shell.kill()
        self._shell.wait()
        os.close(self._writing)
