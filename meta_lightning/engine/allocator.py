"""Settings of the C library's allocator, so that freed buffers are used again."""

import ctypes
import os

# From malloc.h of the GNU C library. Other libraries have no such function, or ignore it.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 * 2**20 - 1  # the library accepts no more on 64-bit machines
_KEPT_BYTES = 512 * 2**20


def keep_freed_memory() -> bool:
    """Has the GNU C library keep up to half a gigabyte of freed memory for the next buffers of this process.

    By default it hands large buffers back to the operating system and takes new pages for the next ones, which the
    system has to clear. A meta-step on the CPU makes and frees the same buffers each time. Environment variables that
    set the allocator (``MALLOC_...``, ``GLIBC_TUNABLES``) are left in force. The peak of the memory stays the same.

    Returns:
        Whether the allocator was set.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT_BYTES))
