"""Images into network inputs and network outputs into scenes; needs no torch."""
