"""llama.cpp in a process of its own, as Ollama runs it: its constructor holds Python's lock for as long as it loads.

`python -m exporter.embedded.runner MODEL CONTEXT_LENGTH SLOTS THREADS` prints the address of llama.cpp's HTTP server
and ends when its standard input does, so that it cannot outlive its parent.
"""

import importlib
import os
import sys


def main() -> None:
    """Serve until standard input ends."""
    model, context_length, slots, threads = sys.argv[1], *map(int, sys.argv[2:])
    llama = importlib.import_module("xllamacpp")
    params = llama.CommonParams()
    params.model.path = model
    params.n_ctx = context_length * slots
    params.n_parallel = slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers = 0
    params.warmup = False
    params.verbosity = -1
    server = llama.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)  # not by way of the server's destructor, which can wait for ever when it had only just begun


if __name__ == "__main__":
    main()
