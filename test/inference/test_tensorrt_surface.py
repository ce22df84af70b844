"""Every attribute of TensorRT and CUDA that the source touches is in the real bindings."""

import ast
import runpy
import subprocess
import sys
import types
from pathlib import Path

import pytest

SURFACE = Path(__file__).resolve().parent / "tensorrt_surface"
fake = types.SimpleNamespace(**runpy.run_path(str(SURFACE / "fake.py")))
fake_cuda = types.SimpleNamespace(**runpy.run_path(str(SURFACE / "fake_cuda.py")))

OBJECTS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "error": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "tensor": "ITensor",
    "plan": "IHostMemory",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "context": "IExecutionContext",
}
"""Names that hold TensorRT's objects in the files below, and their classes."""

FILES = {
    "inference/tensorrt_module.py": ("inspector", "engine"),
    "inference/tensorrt_backend.py": ("runtime", "engine", "context"),
    "engine/tensorrt_build.py": tuple(OBJECTS.keys() - {"inspector", "context", "engine"}),
}


class TestSurface:
    """Every attribute that the code touches is in the real bindings of both versions."""

    def accesses(self, file, repository):
        """(class, or "" for the module, attribute) of one file."""
        tree = ast.parse((repository / "vggt_ros" / file).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute):
                continue
            chain = []
            root = node
            while isinstance(root, ast.Attribute):
                chain.insert(0, root.attr)
                root = root.value
            if not isinstance(root, ast.Name):
                continue
            names = [root.id, *chain]
            if names[0] in ("self", "loaded") and len(names) > 1:
                names = names[1:]
            names[0] = names[0].removeprefix("_")
            if names[0] in ("trt", "module") and len(names) > 1:
                yield "", names[1]
                if len(names) > 2 and names[1] != "__version__":
                    yield names[1], names[2]
            elif names[0] in FILES[file] and len(names) > 1:
                yield OBJECTS[names[0]], names[1]

    @pytest.mark.parametrize(("file", "least"), zip(FILES, (7, 18, 28), strict=True))
    @pytest.mark.parametrize("version", [10, 11, "rtx"])
    def test_every_attribute_is_real(self, file, least, repository, version):
        surface = fake.surface(f"tensorrt_{version}")
        found = set(self.accesses(file, repository))
        assert len(found) >= least, "the walk found too little: were names changed?"
        for cls, attribute in found:
            if not cls:
                known = {*surface["classes"], *surface["functions"], "__version__"}
            else:
                described = surface["classes"][cls]
                known = {
                    *described["methods"],
                    *described["properties"],
                    *described["attributes"],
                    *described.get("enum", ()),
                }
            assert attribute in known, f"TensorRT {version}: {cls or 'tensorrt'}.{attribute}"

    def test_cuda_names_are_real(self, repository):
        surface = fake.surface("cuda_bindings")
        text = (repository / "vggt_ros/inference/cuda_memory.py").read_text(encoding="utf-8")
        tree = ast.parse(text)
        names = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        names |= {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)
                  and isinstance(n.value, str) and " " not in n.value}  # fmt: skip
        used = {
            n for n in names if (n.startswith("cuda") and n[4:5].isupper()) or n == "cudaError_t"
        }
        assert len(used) >= 18
        known = {*surface["functions"], *surface["constants"], *surface["enums"]}
        for members in surface["enums"].values():
            known |= set(members)
        assert used <= known, used - known

    def test_the_real_bindings_where_they_are_installed(self):
        try:
            from cuda.bindings import runtime
        except ImportError:
            pytest.skip("cuda.bindings is not installed (pip install cuda-python)")
        for name in fake_cuda.fake_cuda_runtime(fake_cuda.Gpu()).__dict__:
            if name.startswith("cuda"):
                assert hasattr(runtime, name), name

    @pytest.mark.slow
    def test_the_surfaces_are_those_of_the_wheels(self, tmp_path):
        """Fetches the wheels again; skipped where they cannot be had."""
        command = [sys.executable, str(SURFACE / "extract.py"), "--out", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"extract.py: {done.stderr.strip().splitlines()[-1]}")
        for path in SURFACE.glob("*.json"):
            assert (tmp_path / path.name).read_text() == path.read_text()

    def test_what_version_11_dropped_raises(self):
        gpu = fake_cuda.Gpu()
        trt = fake.fake_tensorrt(11, gpu)
        for name in ("FP16", "BF16", "INT8", "FP8", "OBEY_PRECISION_CONSTRAINTS"):
            assert hasattr(fake.fake_tensorrt(10, gpu).BuilderFlag, name)
            with pytest.raises(AttributeError):
                getattr(trt.BuilderFlag, name)
        with pytest.raises(AttributeError):
            trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH  # noqa: B018
        config = trt.Builder(trt.ILogger()).create_builder_config()
        with pytest.raises(AttributeError, match="int8_calibrator is not there"):
            config.int8_calibrator = None
        with pytest.raises(AttributeError, match="num_optimization_profiles is read-only"):
            config.num_optimization_profiles = 1
        with pytest.raises(AttributeError):
            trt.Builder(trt.ILogger()).platform_has_fast_fp16  # noqa: B018
        with pytest.raises(TypeError, match="incompatible"):
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)
        with pytest.raises(TypeError, match="incompatible"):
            trt.OnnxParser(None, None).parse_from_file(Path("x"))
