"""What helps where the system refuses a file."""

import errno
import os

FREE_SPACE = "free some space there, or choose another disk"
REMEDIES = {
    errno.ENOSPC: FREE_SPACE,
    errno.EDQUOT: f"your quota is used up: {FREE_SPACE}",
    errno.EFBIG: "the file is larger than this disk or `ulimit -f` allows: raise it",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.EROFS: "the disk is mounted read-only: choose another, or mount it again",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ELOOP: "its links lead in a circle: remove one of them",
    errno.ENOENT: "its folder is gone: was it removed or moved while this ran?",
    errno.ENOTDIR: "a file stands where a folder should: remove or rename it",
    errno.EISDIR: "a folder stands where a file should: remove or rename it",
    errno.ENOLCK: "this disk cannot lock files: choose another, or mount it with locks",
    errno.ENOSYS: "this disk cannot lock files: choose another, or mount it with locks",
    errno.EIO: "the disk is failing: look at it before you go on",
    errno.ESTALE: "the network disk has lost the file: mount it again",
    errno.EMFILE: "too many files are open: raise `ulimit -n`",
}


def explain(error: OSError, beside: str = "") -> str:
    """Return what the system said, what is known beside it, and what helps."""
    said = os.strerror(error.errno) if error.errno else str(error)
    return f"{said}{beside}; {REMEDIES.get(error.errno or 0, 'look at the disk')}"
