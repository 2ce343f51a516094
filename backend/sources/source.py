"""What a source is: a place with weights and the list of its files. Knows nothing about how to open or check one."""

from dataclasses import dataclass
from pathlib import Path

BUILTIN = "builtin:"
WEIGHT_ENDINGS = (".safetensors", ".bin", ".pth", ".pt")  # the best kind first


@dataclass(frozen=True)
class SourceFile:
    """One file of a source, by its name inside the folder, with its length in bytes.

    ``member`` is its full name in the archive that it is still packed in.
    """

    name: str
    size: int
    member: str = ""


@dataclass(frozen=True)
class Source:
    """A place with weights. ``spec`` is what was asked for; ``folder`` is where the bytes are.

    While ``packed``, that is an archive file, and ``files`` are the ones that unpacking it would give, or the archive
    alone where only unpacking can tell.
    """

    spec: str
    folder: Path
    files: tuple[SourceFile, ...]
    packed: bool = False

    @property
    def label(self) -> str:
        """What to call it in a sentence."""
        return self.spec.removeprefix(BUILTIN)

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def has(self, name: str) -> bool:
        """Tell whether there is a file of that name."""
        return any(file.name == name for file in self.files)

    @property
    def address(self) -> str:
        """What means the same place from any working directory."""
        return self.spec if self.spec.startswith(BUILTIN) else str(self.folder)

    @property
    def weights(self) -> tuple[SourceFile, ...]:
        """The files that hold weights: of the best kind only, where a folder has the same ones twice."""
        kinds = (tuple(file for file in self.files if file.name.endswith(ending)) for ending in WEIGHT_ENDINGS)
        return next((files for files in kinds if sum(file.size for file in files)), ())

    @property
    def weight_bytes(self) -> int:
        """Bytes of the files that hold weights; of an archive that nobody looked into yet, the fewest they can be."""
        return sum(file.size for file in self.weights or (self.files if self.packed else ()))
