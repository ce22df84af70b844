"""From a checkpoint to an ONNX graph of the wanted precision, and on to an engine.

Importing this package needs numpy alone; torch, onnx and onnxruntime are imported by the passes
that use them (`pip install 'vggt_ros[export]'`).
"""
