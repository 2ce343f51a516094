"""llama.cpp's own HTTP server, as anybody may run one: a program of its own that knows nothing of Cria's engines.

Argument: a GGUF file. The key is in the environment. Prints its port; ends when standard input closes.
"""

import os
import socket
import sys

import xllamacpp


def main(path: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = path, {"second"}
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_parallel, params.n_ctx, params.n_gpu_layers = 2, 2048, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.fit_params = params.warmup = params.ui = False
    params.api_keys = [os.environ["SECOND_KEY"]]
    params.verbosity = 1
    server = xllamacpp.Server(params)
    print(port, flush=True)
    sys.stdin.read()
    del server
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
