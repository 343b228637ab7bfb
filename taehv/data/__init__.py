"""Videos to clips: probing, decoding, splitting, storing, sampling."""
