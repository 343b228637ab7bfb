"""What every folder stands on: errors, paths, files, hashes, signals, random numbers. It imports nothing of ours."""
