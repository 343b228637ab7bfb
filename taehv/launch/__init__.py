"""From a profile to processes, and the pipeline around the stages."""
