"""llama.cpp in its own process, as Ollama runs it, because its constructor holds the GIL while it loads a model.

`python -m exporter.embedded.runner MODEL CONTEXT_LENGTH SLOTS THREADS` prints the address of llama.cpp's HTTP server
and ends when its standard input ends, so that it cannot outlive its parent.
"""

import os
import sys

import xllamacpp


def main() -> None:
    """Serve until standard input ends."""
    model, context_length, slots, threads = sys.argv[1], *map(int, sys.argv[2:])
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = context_length * slots
    params.n_parallel = slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers = 0
    params.warmup = False
    params.verbosity = -1
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)  # the destructor of a server that has just started can block forever


if __name__ == "__main__":
    main()
