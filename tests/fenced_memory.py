"""Memory between pages that may not be touched, for compiled loops that check no index: SIGSEGV where one strays."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np

PAGE = mmap.PAGESIZE
_PROT_NONE = 0


def fenced_page() -> np.ndarray:
    """One writable page, uint8; the page in front of it and the one behind it may be neither read nor written.

    The mapping goes when the last array on it does. Raises OSError where the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    memory = mmap.mmap(-1, 3 * PAGE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (0, 2):
        if libc.mprotect(ctypes.c_void_p(base + page * PAGE), ctypes.c_size_t(PAGE), _PROT_NONE):
            raise OSError(ctypes.get_errno(), "mprotect failed")
    return np.frombuffer(memory, np.uint8, PAGE, PAGE)
