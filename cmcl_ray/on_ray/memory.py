"""How a worker process treats memory that torch has freed.

The C library gives each large block back to the system and fetches the next one page by page. A forward pass frees and takes
the same blocks again and again, which costs an embedding process a fifth of its time and a training process some percent.
"""

import ctypes
import logging
import platform

logger = logging.getLogger(__name__)

# Parameters of mallopt in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# Blocks up to this size come from memory the process keeps; 32 MiB is the most glibc takes.
_BLOCK_BYTES = 32 * 2**20
_KEPT_BYTES = 256 * 2**20


def keep_freed_memory() -> bool:
    """Let this process keep up to 256 MiB of freed memory for its next blocks; for processes of our own only.

    Returns:
        Whether the C library could be told; only glibc can.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    told = [mallopt(_MMAP_THRESHOLD, _BLOCK_BYTES), mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)]
    logger.debug("malloc keeps freed memory: %s", told)
    return all(told)
