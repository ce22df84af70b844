"""The networks as PyTorch modules, and the files their weights come in.

Importing this package needs no torch; its modules but `vggt_config` and `safetensors_file` do.
"""
