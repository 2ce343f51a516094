"""What a file is when it is not what its name says, by its first bytes, and the error that says so. Knows nothing about
how any of them is read.

Sources of the marks: ggml-org/ggml (``docs/gguf.md`` and the older magics), numpy's ``format`` module, the HDF5 and
POSIX tar specifications, PKWARE's APPNOTE, and what torch and safetensors write.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from backend.errors import WeightsError

START_BYTES = 512  # how much of a file ``kind_of`` wants to see

_MARKS = (
    (b"GGUF", "GGUF"),
    ((b"lmgg", b"tjgg", b"fmgg", b"algg"), "GGML"),
    (b"\x93NUMPY", "NumPy"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!", "RAR"),
    (b"%PDF", "PDF"),
    (b"\x7fELF", "ELF"),
    (b"MZ", "EXE"),
)
_PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
TORCH, SAFETENSORS, PICKLE, TAR, NPZ = "PyTorch", "safetensors", "pickle", "tar", "NumPy (npz)"
_ENDINGS: Mapping[str, str] = {TORCH: ".bin", SAFETENSORS: ".safetensors"}  # of what is read here under its own name
_OLD_TORCH = b"\x80\x02\x8a\x0a"  # a pickled magic number


def kind_of(start: bytes) -> str | None:
    """Return the name of the format that a file with these first bytes has, None for an unknown one."""
    # First, because it begins with a length, and a header of 640 bytes would be taken for a pickle.
    if start[8:9] in (b"{", b" ") and start[5:8] == bytes(3):
        return SAFETENSORS
    for marks, name in _MARKS:
        if start.startswith(marks):
            return name
    if start[257:262] == b"ustar":
        return TAR
    if start.startswith(b"PK\x03\x04"):
        return NPZ if start[30:].split(b"PK")[0].partition(b".npy")[1] else TORCH
    if start.startswith(_OLD_TORCH):
        return TORCH
    return PICKLE if start.startswith(_PICKLE) else None


def misplaced(path: Path, kind: str | None, otherwise: str) -> WeightsError:
    """Return the error for a file of the wrong kind; ``otherwise`` is the key where the kind is not known."""
    if kind is None:
        return WeightsError(otherwise, file=path.name)
    if kind in _ENDINGS:
        return WeightsError("files.misnamed", file=path.name, kind=kind, ending=_ENDINGS[kind])
    return WeightsError("files.other_kind", file=path.name, kind=kind)


def kind_of_members(names: Iterable[str]) -> str | None:
    """Return what a zip with these members is when torch's save did not write it, None if that is unknown."""
    known = list(names)
    if any(name.endswith(".npy") for name in known):
        return NPZ
    if any(name.endswith("/constants.pkl") for name in known):
        return "TorchScript"
    weights = (".bin", ".pth", ".pt", ".safetensors")
    return "zip" if any(name.endswith(weights) for name in known) else None
