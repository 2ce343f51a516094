"""What an engine is: the values that go in, the values that come out, and the one interface between them.

An engine is a process that has one model loaded and speaks the OpenAI chat protocol on a loopback port. Knows nothing
about any particular engine, about pages, or about where models come from.
"""

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePath
from typing import Literal, Protocol

from backend.errors import CriaError
from backend.text import Message

Device = Literal["auto", "cuda", "cpu", "mps"]
Dtype = Literal["auto", "float32", "float16", "bfloat16"]
Role = Literal["system", "user", "assistant"]


MOST_LORAS = 8  # attached at once
MOST_SCALE = 100.0
SHORTEST_S = 0.2  # of decoding that a speed is taken from: in less, a breath of the machine would be all of it
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Lora:
    """One adapter to attach to a loaded base, without merging. ``folder`` is an absolute path.

    ``scale`` multiplies the strength it was trained with; 0 switches it off. ``name`` is what people and requests call
    it.
    """

    folder: str
    scale: float = 1.0

    @property
    def name(self) -> str:
        """The name of its folder; of a download, which lies in ORG--NAME/COMMIT, that of its repository."""
        path = PurePath(self.folder)
        repository = path.parent.name.partition("--")[2] if _COMMIT.fullmatch(path.name) else ""
        return repository or path.name


@dataclass(frozen=True)
class EngineOptions:
    """How to load a model. ``num_gpus`` 0 means "as many as needed"; ``gpus`` names them by index instead.

    ``max_gpu_memory`` is bytes per GPU (0: no cap); ``context`` is tokens (0: what the model was made for). After
    ``idle_minutes`` without a request the model gives its memory back until somebody asks again (0: never). ``url``,
    ``remote_model`` (empty: the first one there) and ``key_file`` (a path, never the key) are for a server elsewhere.
    ``keep_quantised``: weights that bitsandbytes quantises are written beside the model, for the next load.
    """

    engine: str = "auto"  # or a name of ``ENGINES``; ``choice`` says what automatic means
    device: Device = "auto"
    bits: Literal[16, 8, 4] = 16
    num_gpus: int = 0
    gpus: tuple[int, ...] = ()
    max_gpu_memory: int = 0
    dtype: Dtype = "auto"
    context: int = 0
    idle_minutes: int = 0
    url: str = ""
    remote_model: str = ""
    key_file: str = ""
    loras: tuple[Lora, ...] = ()
    keep_quantised: bool = False


@dataclass(frozen=True)
class Sampling:
    """How to pick tokens. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 switch those filters off.

    ``loras`` are (name, scale) of the attached adapters that take part in this reply; those not named are off. None:
    all of them, each at the scale it was attached with.
    """

    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 40
    repetition_penalty: float = 1.0
    max_new_tokens: int = 512
    loras: tuple[tuple[str, float], ...] | None = None


@dataclass(frozen=True)
class ChatMessage:
    """One turn of a conversation."""

    role: Role
    content: str


class Finish(StrEnum):
    """Why a reply ended."""

    STOP = "stop"  # the model said it was done, or a stop string came
    LENGTH = "length"  # max_new_tokens reached
    CONTEXT = "context"  # the model's context is full
    TIME = "time"  # it took longer than this server allows one reply
    CANCELLED = "cancelled"  # somebody pressed Stop or left
    ERROR = "error"


@dataclass(frozen=True)
class Usage:
    """Token counts of one request, and seconds until its first token and from first to last, by the engine's clock:
    without the wait for a place in the queue or for a model that wakes up. Of the prompt, ``cached_tokens`` were not
    computed again, as an earlier request had begun alike.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token_s: float = 0.0
    decode_s: float = 0.0
    cached_tokens: int = 0

    @property
    def tokens_per_s(self) -> float:
        """Decode speed; 0 while it took too short a time to tell one."""
        is_enough = self.decode_s >= SHORTEST_S and self.completion_tokens > 1
        return (self.completion_tokens - 1) / self.decode_s if is_enough else 0.0


@dataclass(frozen=True)
class Waiting:
    """Where somebody stands in the queue: 1 is next. ``seconds`` is how long it may take, 0 while nobody can tell."""

    place: int
    seconds: float = 0.0


@dataclass(frozen=True)
class Piece:
    """One step of a streamed reply: new text (maybe empty), what it used so far where the engine says that, and in the
    last piece why it ended and what it used in all.

    Before the first text there may be pieces that only say that one is ``waiting``.
    """

    text: str = ""
    tokens: int = 0  # completion tokens so far
    finish: Finish | None = None
    usage: Usage | None = None
    waiting: Waiting | None = None


class EngineState(StrEnum):
    """Where an engine stands."""

    OFF = "off"
    STARTING = "starting"  # process started, not yet loading
    LOADING = "loading"  # reading weights
    READY = "ready"
    ASLEEP = "asleep"  # unloaded after a time without requests; the next request loads it again
    STOPPING = "stopping"
    FAILED = "failed"


@dataclass(frozen=True)
class EngineStatus:
    """A snapshot of the engine for anyone who looks. Byte counts are of weights; figures are live (0 when unknown)."""

    state: EngineState = EngineState.OFF
    model: str = ""
    options: EngineOptions = EngineOptions()
    loaded_bytes: int = 0
    total_bytes: int = 0
    seconds: float = 0.0  # since this state began
    context: int = 0  # tokens the loaded model can take, prompt and reply together
    placement: Message | None = None  # where it runs, e.g. "CPU, float32"
    note: Message | None = None  # what happens now, or a warning worth showing
    error: CriaError | None = None
    log_tail: tuple[str, ...] = ()
    active: int = 0  # requests being answered
    waiting: int = 0
    tokens_per_s: float = 0.0  # all requests together, last seconds
    memory_bytes: int = 0  # resident memory of the engine process
    gpu_memory_bytes: int = 0  # of all GPUs
    gpu_memory_each: tuple[tuple[int, int], ...] = ()  # (GPU, bytes of it)
    pid: int = 0
    slots: int = 0  # replies that are computed at once
    computed_tokens: int = 0  # since this process began
    cache_used: int = 0  # tokens of cache
    cache_total: int = 0
    short: int = 0  # replies that ended for want of memory since this process began, which goes on
    restarts: int = 0  # of this load
    restarted_at: float = 0.0  # seconds since the epoch, of the last restart
    restarted_after: CriaError | None = None
    offer: EngineOptions | None = None  # the next smaller way to load it, where memory was the trouble
    returning: bool = False  # it was ready before, and wakes up or starts again by itself

    @property
    def answers(self) -> bool:
        """Tell whether a request gets an answer: at once, or once an engine that sleeps or crashed is back."""
        is_back_soon = self.returning and self.state in {EngineState.STARTING, EngineState.LOADING}
        return is_back_soon or self.state in {EngineState.READY, EngineState.ASLEEP}


class ChatEngine(Protocol):
    """What the page, the gateway and the terminal need of a loaded engine."""

    def status(self) -> EngineStatus:
        """Return a fresh snapshot; never blocks and never raises."""
        ...

    def chat(self, messages: Sequence[ChatMessage], sampling: Sampling) -> AsyncIterator[Piece]:
        """Stream one reply. Closing the iterator stops the computation within one token.

        Raises:
            EngineError: no engine is ready, it refused the request, or it died (what was produced came before).
            ContextFull: prompt and room for a reply exceed the context; the error names the numbers.
        """
        ...


class EngineControl(ChatEngine, Protocol):
    """What an administrator can do besides chatting."""

    def load(self, folder: Path, options: EngineOptions) -> None:
        """Start loading a model folder in the background, replacing the loaded one; follow it with ``status``.

        Raises:
            UsageError: options that cannot work together or on this machine, said before anything is unloaded.
            WeightsError: the folder is not a loadable model.
        """
        ...

    def unload(self) -> None:
        """End the engine process so that every byte of memory comes back; returns when it is gone."""
        ...

    def close(self) -> None:
        """End everything, for good."""
        ...
