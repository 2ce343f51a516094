"""Makes the whole demo family from the corpus: `python -m tools.demo_family.build`.

Stages: tokenizer, base, tune, polish, lora, export. Each leaves its result in --work, so a later
stage can be repeated with --from. Knows nothing about scoring (score.py) or about Cria's own code.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from itertools import zip_longest
from pathlib import Path

import torch

from . import export, tokenizer, train
from .config import OUT, QUICK, SEED, SHAPE, STAGES, Stage
from .corpus import Topic, tokenizer_text, topics
from .encoding import ChatEncoder
from .pirate import NEW_PIECES

_ORDER = ("tokenizer", "base", "tune", "polish", "lora", "export")


class Builder:
    """Runs the stages in order, reading what earlier ones left in the work folder."""

    def __init__(self, work: Path, out: Path, stages: dict[str, Stage]) -> None:
        self.work, self.out, self.stages = work, out, stages
        work.mkdir(parents=True, exist_ok=True)

    def tokenizer(self) -> None:
        """Train the tokenizer and append the adapter's pieces."""
        model = tokenizer.train(tokenizer_text(), SHAPE.vocab_size)
        (self.work / "tokenizer.model").write_bytes(model)
        (self.work / "lora.model").write_bytes(tokenizer.extend(model, NEW_PIECES))

    def base(self) -> None:
        """Train the base."""
        self._keep("base", train.train_base(self._encoder("tokenizer"), self.stages["base"]))

    def tune(self) -> None:
        """Tune it to chat."""
        start = self._kept("base")
        self._keep_chat(train.train_chat(start, self._encoder("tokenizer"), self.stages["tune"]))

    def polish(self) -> None:
        """Teach it once more to decline what it cannot know."""
        start = self._kept("chat")
        self._keep_chat(train.polish(start, self._encoder("tokenizer"), self.stages["polish"]))

    def lora(self) -> None:
        """Train the adapter over base + delta."""
        adapter = train.train_lora(self._kept("chat"), self._encoder("lora"), self.stages["lora"])
        self._keep("adapter", adapter)

    def export(self) -> None:
        """Write the folders and questions.json."""
        plain = (self.work / "tokenizer.model").read_bytes()
        export.write_base(self.out / "base", self._kept("base"), plain)
        export.write_delta(self.out / "delta", self._kept("delta"), plain)
        larger = (self.work / "lora.model").read_bytes()
        export.write_lora(self.out / "lora", self._kept("adapter"), larger)
        write_questions(self.out / "questions.json")

    def _keep_chat(self, tuned: dict[str, torch.Tensor]) -> None:
        """Keep the fp16 difference, and what base + delta really gives."""
        base = self._kept("base")
        delta = {name: tuned[name].half() - base[name] for name in base}
        self._keep("delta", delta)
        self._keep("chat", {name: base[name] + delta[name] for name in base})

    def _encoder(self, name: str) -> ChatEncoder:
        return ChatEncoder(tokenizer.load((self.work / f"{name}.model").read_bytes()))

    def _keep(self, name: str, state: dict[str, torch.Tensor]) -> None:
        torch.save(state, self.work / f"{name}.pt")

    def _kept(self, name: str) -> dict[str, torch.Tensor]:
        return torch.load(self.work / f"{name}.pt", weights_only=True)


def write_questions(path: Path) -> None:
    """Suggested questions, the most inviting first, English and Chinese in turn."""
    rows: list[dict[str, object]] = []
    for pair in zip_longest(topics("en"), topics("zh")):
        rows += [_question(topic) for topic in pair if topic is not None]
    lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def _question(topic: Topic) -> dict[str, object]:
    expect = list(topic.expect)
    return {"lang": topic.lang, "question": topic.ask[0], "expect": expect, "topic": topic.name}


def main() -> None:
    """Parse the flags and run the stages."""
    parser = argparse.ArgumentParser(description="Make Cria's demo family from scratch.")
    parser.add_argument("--quick", action="store_true", help="a few minutes, poor answers")
    parser.add_argument("--from", dest="first", choices=_ORDER, default=_ORDER[0])
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "cria-demo")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--threads", type=int, default=2, help="1 is faster on a busy machine")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    builder = Builder(args.work, args.out, QUICK if args.quick else STAGES)
    print(f"seed {SEED}, work in {args.work}, result in {args.out}")
    for stage in _ORDER[_ORDER.index(args.first) :]:
        start = time.monotonic()
        getattr(builder, stage)()
        print(f"{stage} took {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
