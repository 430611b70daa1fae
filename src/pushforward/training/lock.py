"""One process trains in a run directory at a time.

The lock is the kernel's (`flock` on a file in the directory), so it ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pushforward.artefacts import reason
from pushforward.errors import UserError

LOCK = ".lock"


def refuse_if_running(directory: Path) -> None:
    """A UserError that names the process where one trains in this directory. Writes nothing."""
    with contextlib.suppress(OSError), open(directory / LOCK) as file:
        if not _take(file):
            raise _refusal(directory, file)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Within it the directory is there and no other process gets it. One that it made and that stayed empty goes again."""
    refuse_if_running(directory)
    made = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = _opened(directory)
    except OSError as error:
        raise UserError(f"could not make the run directory {directory}: {reason(error)}.") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (directory / LOCK).unlink()  # before it is released: who comes after sees that this file is not the lock
        file.close()
        if made:
            with contextlib.suppress(OSError):
                directory.rmdir()


def _opened(directory: Path) -> IO[str]:
    """The lock, taken, with this process's name in it."""
    path = directory / LOCK
    while True:
        file = open(path, "a+")  # noqa: SIM115
        if not _take(file):
            with file:
                raise _refusal(directory, file)
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()  # its holder ended, and took it away, between the two lines above
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


def _take(file: IO[str]) -> bool:
    """False where another process holds it. Where locks cannot be had (Windows, some network disks) everyone gets it."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass
    return True


def _refusal(directory: Path, file: IO[str]) -> UserError:
    file.seek(0)
    who = file.read().strip() or "another process"
    return UserError(f"{who} is training in {directory}; wait for it, stop it, or choose another --out.")
