"""A program that stands in for vLLM: ``serve`` takes the flags that Cria gives and speaks the protocol, in few words.

It says back what it was told (flags, and the last message), wants the key of its environment, and can end itself.
"""

import argparse
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("serve")
    parser.add_argument("folder")
    for flag in ("host", "port", "served-model-name", "tensor-parallel-size", "quantization", "dtype", "max-model-len"):
        parser.add_argument(f"--{flag}")
    parser.add_argument("--enable-lora", action="store_true")
    for flag in ("max-loras", "max-lora-rank"):
        parser.add_argument(f"--{flag}", type=int)
    parser.add_argument("--lora-modules", nargs="+", type=json.loads, default=[])
    return parser.parse_args()


TOLD = _arguments()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Be quiet."""

    def _json(self, status: int, data: Any) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _knows_key(self) -> bool:
        if self.headers["Authorization"] == f"Bearer {os.environ['VLLM_API_KEY']}":
            return True
        self._json(401, {"error": {"message": "Unauthorized"}})
        return False

    def do_GET(self) -> None:
        if self.path == "/health":
            self._json(200, {})
        elif self._knows_key():
            names = [TOLD.served_model_name, *(one["name"] for one in TOLD.lora_modules)]
            most = int(TOLD.max_model_len or 2048)
            self._json(200, {"data": [{"id": name, "max_model_len": most} for name in names]})

    def do_POST(self) -> None:
        if not self._knows_key():
            return
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = asked["messages"][-1]["content"]
        if text == "who":
            text = " ".join([asked["model"], str(TOLD.max_lora_rank), *(key for key in asked if key == "loras")])
        if text == "die":
            print("RuntimeError: the engine core died", file=sys.stderr, flush=True)
            os._exit(7)
        if "top_k" in asked and text == "strict":
            self._json(400, {"error": {"message": "Unrecognized request argument supplied: top_k"}})
            return
        self.send_response(200)
        self.end_headers()
        for word in (f"quantization={TOLD.quantization} ", f"gpus={TOLD.tensor_parallel_size} ", text):
            self._event({"choices": [{"delta": {"content": word}, "finish_reason": None}]})
        self._event({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        self._event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, data: Any) -> None:
        self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")


ThreadingHTTPServer((TOLD.host, int(TOLD.port)), Handler).serve_forever()
