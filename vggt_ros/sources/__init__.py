"""Where images come from when it is not a live topic: bags, folders, videos and webcams."""
