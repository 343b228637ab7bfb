"""What can go wrong with a long run, looked at before it starts: `taehv doctor`."""
