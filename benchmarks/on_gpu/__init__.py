"""What only a GPU can show: ``benchmarks/gpu.sh`` says how to run it."""
