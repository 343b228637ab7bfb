#!/bin/sh
# What only a GPU can show. Each part takes at most 8 minutes on one GPU and compiles at most 4 graphs:
#
#   benchmarks/gpu.sh --part correctness      every path of the model, and the step's gradients, against float64
#   benchmarks/gpu.sh --part step             speed of the training step, lever by lever, all loss terms
#   benchmarks/gpu.sh --part codec            encode, decode, chunks, streams, at 480x832
#   benchmarks/gpu.sh --part train            a training on the GPU, killed and resumed: equal, bit for bit?
#
# --rehearse runs the same lines on a CPU, tiny. --out FOLDER appends every result to FOLDER/<part>.jsonl as it comes.
# Needs torch >= 2.11, numpy, accelerate, safetensors, pyyaml, pytorch-msssim, and gcc for torch.compile.
set -eu
cd "$(dirname "$0")/.."
export PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" -m benchmarks.on_gpu "$@"
