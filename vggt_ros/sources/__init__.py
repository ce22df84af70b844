"""Where images come from when it is not a live topic: bags and folders."""
