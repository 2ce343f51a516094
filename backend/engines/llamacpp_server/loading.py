"""From a model folder to something that answers: a GGUF file made once, room for conversations, llama.cpp's server.

Knows nothing about HTTP.
"""

import tempfile
from contextlib import ExitStack
from pathlib import Path

from backend.engines.adapters import open_loras
from backend.engines.allocator import freed_at_once
from backend.engines.choice import KIND_OF_BITS
from backend.engines.folder import open_folder, wanted_context
from backend.engines.generator import Generator, Readiness
from backend.engines.llamacpp_server.adapters import nbytes, write_adapters
from backend.engines.llamacpp_server.completions import Completions
from backend.engines.llamacpp_server.copies import copies_for
from backend.engines.llamacpp_server.generator import LlamaGenerator
from backend.engines.llamacpp_server.serving import Door, check_numbers, read_ahead, remark, start_server
from backend.engines.llamacpp_server.sizes import cache_per_token, computed, fit_room
from backend.engines.llamacpp_server.store import make_gguf
from backend.events import Progress
from backend.ram import ram
from backend.text import Message
from backend.weights.gguf_kinds import check_convertible


def load(readiness: Readiness) -> Generator:
    """Load the folder that ``readiness`` names, reporting bytes there: of making the file, if that has to be done.

    Raises:
        WeightsError: the folder is not what it should be, or not a model llama.cpp can compute.
        MachineError: it does not fit into memory or onto the disk.
        EngineError: llama.cpp refused it.
    """
    from backend.engines.transformers_server.tokenizer import load_tokenizer

    options = readiness.options
    folder = open_folder(readiness.folder)
    form, adapters = check_convertible(folder.checkpoint), open_loras(folder.checkpoint, options.loras)
    whole = wanted_context(folder, options.context)
    wanted = computed(whole, form.longest, asked=bool(options.context))
    kind = KIND_OF_BITS[options.bits]
    readiness.total_bytes = folder.checkpoint.nbytes

    def report(progress: Progress) -> None:
        readiness.note, readiness.loaded_bytes, readiness.total_bytes = progress.note, progress.done, progress.total

    tokenizer = load_tokenizer(folder)
    with freed_at_once():  # else what making the file took stays with the process: 14 to 40 MB
        path = make_gguf(folder, kind, report)
    readiness.note = None
    free = ram().free or 0
    weights, per_token = path.stat().st_size + nbytes(adapters), cache_per_token(form.size)
    room = fit_room(weights, per_token, free, wanted=wanted, asked=bool(options.context))
    read_ahead([path], readiness)
    with ExitStack() as failing, tempfile.TemporaryDirectory(prefix="cria-lora-") as place:
        door = Door()
        failing.callback(door.close)
        server = start_server(path, room, write_adapters(folder.checkpoint, adapters, Path(place)), door=door)
        check_numbers(server, folder.checkpoint.shape.bos or 0)
        return LlamaGenerator(
            tokenizer,
            Completions(server, options.loras, slots=room.slots, copies=copies_for(door, room, per_token)),
            stops=folder.stops,
            context=room.context,
            slots=room.slots,
            placement=Message("gguf.placement", {"kind": kind.upper()}),
            note=remark(room, wanted, whole, template=bool(tokenizer.chat_template)),
            closing=failing.pop_all().close,
        )
