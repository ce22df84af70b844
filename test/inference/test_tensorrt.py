"""Builder and runner against fakes made of the real bindings' surfaces: 10, 11 and RTX."""

import json
import runpy
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from vggt_ros.engine.tensorrt_build import BuildOptions, ShapeRange, build_engine
from vggt_ros.engine.tensorrt_inspect import (
    effective_precision,
    gpu_facts,
    precision_line,
    precision_warning,
    report_precisions,
    tensor_precisions,
)
from vggt_ros.errors import EngineError, ExportError
from vggt_ros.inference.backend import BackendOptions, open_backend
from vggt_ros.inference.passport import (
    ModelFacts,
    Passport,
    Precision,
    Runtime,
    passport_path,
    to_json,
)

SURFACE = Path(__file__).resolve().parent / "tensorrt_surface"
fake = types.SimpleNamespace(**runpy.run_path(str(SURFACE / "fake.py")))
fake_cuda = types.SimpleNamespace(**runpy.run_path(str(SURFACE / "fake_cuda.py")))

NETWORK = {
    "inputs": {"images": [-1, 3, 4, 6]},
    "outputs": {"depth": [1, -1, 4, 6, 1], "pose_enc": [1, -1, 9]},
}
RANGE = {"images": ShapeRange((1, 3, 4, 6), (4, 3, 4, 6), (8, 3, 4, 6))}


@pytest.fixture
def gpu():
    return fake_cuda.Gpu()


@pytest.fixture(params=[10, 11])
def major(request):
    return request.param


@pytest.fixture
def install(monkeypatch, gpu):
    """Put fakes where the real modules would be."""

    def put(major=11, interface="cuda-python"):
        trt = fake.fake_tensorrt(major, gpu)
        monkeypatch.setitem(sys.modules, "tensorrt", trt)
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
        for name in ("pycuda", "pycuda.driver", "cuda", "cuda.bindings", "cuda.bindings.runtime"):
            monkeypatch.setitem(sys.modules, name, None)
        if interface == "cuda-python":
            runtime = fake_cuda.fake_cuda_runtime(gpu)
            package = types.ModuleType("cuda.bindings")
            package.runtime = runtime
            monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
            monkeypatch.setitem(sys.modules, "cuda.bindings", package)
            monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime)
        elif interface == "pycuda":
            driver = fake_cuda.fake_pycuda_driver(gpu)
            package = types.ModuleType("pycuda")
            package.driver = driver
            monkeypatch.setitem(sys.modules, "pycuda", package)
            monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
        return trt

    return put


@pytest.fixture
def onnx_file(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_text(json.dumps(NETWORK))
    return path


def build(onnx_file, **options):
    engine = onnx_file.with_suffix(".engine")
    report = build_engine(onnx_file, engine, BuildOptions(**{"profile": RANGE, **options}))
    return engine, report


def images(views, seed=0):
    return np.random.default_rng(seed).random((views, 3, 4, 6), np.float32)


class TestEndToEnd:
    @pytest.mark.parametrize("interface", ["cuda-python", "pycuda"])
    def test_build_and_run(self, install, gpu, onnx_file, major, interface):
        trt = install(major, interface)
        engine, report = build(onnx_file)
        assert report.version == trt.__version__
        assert report.size_bytes == engine.stat().st_size
        assert report.inputs == (("images", (-1, 3, 4, 6)),)
        assert [name for name, _ in report.outputs] == ["depth", "pose_enc"]
        assert report.gpu.compute_capability == "9.0"
        assert "TF32" not in json.loads(engine.read_bytes())["flags"]
        backend = open_backend(engine, options=BackendOptions(contexts=2))
        assert (backend.name, backend.device) == ("tensorrt", "cuda:0 (NVIDIA Fake)")
        assert backend.precision == "fp16"
        assert [s.name for s in backend.inputs] == ["images"]
        assert backend.inputs[0].shape == (None, 3, 4, 6)
        for views in (3, 1, 8, 2):
            x = images(views)
            found = backend.run({"images": x})
            assert list(found) == ["depth", "pose_enc"]
            for k, (name, value) in enumerate(found.items()):
                shape = tuple(views if s < 0 else s for s in NETWORK["outputs"][name])
                assert value.shape == shape
                assert np.array_equal(value, fake.answer([x], shape, k))
        backend.close()
        backend.close()
        assert not gpu.blocks, "memory was not given back"
        with pytest.raises(EngineError, match="was closed"):
            backend.run({"images": images(1)})

    def test_times_of_the_parts(self, install, onnx_file, major):
        install(major)
        backend = open_backend(build(onnx_file)[0])
        x = images(2)
        outputs, times = backend.run_timed({"images": x})
        assert np.array_equal(outputs["depth"], backend.run({"images": x})["depth"])
        assert len(times) == 3
        assert all(0 <= ms < 1e3 for ms in times)
        backend.close()

    def test_parallel_calls_do_not_mix(self, install, onnx_file, major):
        install(major)
        engine, _ = build(onnx_file)
        backend = open_backend(engine, options=BackendOptions(contexts=3))
        barrier = threading.Barrier(6)

        def call(seed):
            barrier.wait()
            x = images(1 + seed % 4, seed)
            return x, backend.run({"images": x})["depth"]

        with ThreadPoolExecutor(6) as pool:
            for x, depth in pool.map(call, range(6)):
                assert np.array_equal(depth, fake.answer([x], depth.shape, 0))
        backend.close()

    def test_fixed_sizes_need_no_range(self, install, tmp_path, major):
        install(major)
        path = tmp_path / "fixed.onnx"
        path.write_text(json.dumps({"inputs": {"x": [2, 3]}, "outputs": {"y": [2]}}))
        engine, _ = build(path, profile={})
        backend = open_backend(engine)
        x = np.ones((2, 3), np.float32)
        assert np.array_equal(backend.run({"x": x})["y"], fake.answer([x], (2,), 0))
        with pytest.raises(EngineError, match=r"expected shape \(2, 3\), got \(1, 3\)"):
            backend.run({"x": x[:1]})

    def test_rtx_through_the_same_code(self, install, onnx_file, gpu, monkeypatch):
        install(10)
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake.fake_tensorrt("rtx", gpu))
        engine, report = build(onnx_file, module="tensorrt_rtx")
        assert report.backend == "tensorrt_rtx"
        backend = open_backend(engine, "tensorrt_rtx")
        assert backend.name == "tensorrt_rtx"
        assert backend.run({"images": images(2)})["depth"].shape == (1, 2, 4, 6, 1)


class TestRunnerRefuses:
    def test_another_version(self, install, onnx_file):
        install(10)
        engine, _ = build(onnx_file)
        install(11)
        with pytest.raises(EngineError, match=r"got 10\.16.*vggt-ros engine build") as caught:
            open_backend(engine)
        assert "\n" not in str(caught.value)

    def test_another_gpu(self, install, onnx_file, gpu, major):
        install(major)
        engine, _ = build(onnx_file)
        gpu.capability = (8, 6)
        with pytest.raises(EngineError, match=r"NVIDIA Fake.*8\.6.*incompatible device"):
            open_backend(engine)
        assert not gpu.blocks

    def test_the_passport_says_what_it_was_built_with(self, install, onnx_file):
        install(10)
        engine, report = build(onnx_file)
        model = ModelFacts("vggt", "tiny", "none", "", "zero_to_one")
        runtime = Runtime("tensorrt", report.version, report.gpu.name, "9.0", report.gpu.driver)
        passport = Passport(
            engine.name, "", model, Precision("int8", "fp16"), runtime, (), (),
            notes={"version_compatible": "true"},
        )  # fmt: skip
        passport_path(engine).write_text(to_json(passport))
        assert open_backend(engine).precision == "fp16"
        install(11)
        with pytest.raises(
            EngineError, match=r"passport says tensorrt 10\.16.*NVIDIA Fake \(9\.0"
        ):
            open_backend(engine)

    def test_not_an_engine(self, install, tmp_path):
        install()
        path = tmp_path / "bad.engine"
        path.write_bytes(b"nonsense")
        with pytest.raises(EngineError, match=r"bad\.engine: the engine does not load"):
            open_backend(path)

    def test_a_passport_that_cannot_be_read(self, install, onnx_file):
        install()
        engine, _ = build(onnx_file)
        passport_path(engine).write_text("{")
        with pytest.raises(EngineError, match="not a readable passport"):
            open_backend(engine)

    def test_no_gpu(self, install, onnx_file, gpu):
        install()
        engine, _ = build(onnx_file)
        gpu.count = 0
        with pytest.raises(EngineError, match="found no NVIDIA GPU") as caught:
            open_backend(engine)
        assert "\n" not in str(caught.value)
        gpu.count = 2
        with pytest.raises(EngineError, match="expected device cuda:5, found 2 GPUs"):
            open_backend(engine, options=BackendOptions(device="cuda:5"))

    def test_the_processor(self, install, onnx_file):
        install()
        engine, _ = build(onnx_file)
        with pytest.raises(EngineError, match="NVIDIA GPUs only"):
            open_backend(engine, options=BackendOptions(device="cpu"))

    def test_another_precision(self, install, onnx_file):
        install()
        engine, _ = build(onnx_file)
        with pytest.raises(EngineError, match="the file computes in fp16, asked was fp32"):
            open_backend(engine, options=BackendOptions(precision="fp32"))

    def test_sizes_outside_of_the_profile(self, install, onnx_file):
        install()
        backend = open_backend(build(onnx_file)[0])
        with pytest.raises(EngineError, match=r"from \(1, 3, 4, 6\) to \(8, 3, 4, 6\), got \(9,"):
            backend.run({"images": images(9)})
        assert backend.run({"images": images(8)})["depth"].shape[1] == 8

    @pytest.mark.parametrize("interface", ["cuda-python", "pycuda"])
    def test_too_little_memory(self, install, onnx_file, gpu, interface):
        install(11, interface)
        backend = open_backend(build(onnx_file)[0])
        gpu.memory = 100
        with pytest.raises(EngineError, match=r"too little memory: .* needed, .* free"):
            backend.run({"images": images(2)})
        gpu.memory = 2**34
        assert backend.run({"images": images(2)})["depth"].shape[1] == 2

    def test_a_type_that_numpy_has_not(self, install, tmp_path):
        install()
        path = tmp_path / "bf16.onnx"
        path.write_text(json.dumps({**NETWORK, "dtypes": {"depth": "BF16"}}))
        with pytest.raises(EngineError, match="'depth': expected a type that NumPy has, got BF16"):
            open_backend(build(path)[0])

    def test_a_fault_while_running_reaches_the_caller(self, install, tmp_path):
        install()
        path = tmp_path / "net.onnx"
        path.write_text(json.dumps({**NETWORK, "fail_to_run": True}))
        backend = open_backend(build(path)[0])
        with pytest.raises(EngineError, match="execute_async_v3 failed"):
            backend.run({"images": images(1)})

    def test_a_major_version_that_is_not_supported(self, install, onnx_file, tmp_path):
        trt = install()
        engine, _ = build(onnx_file)
        trt.__version__ = "8.6.1"
        with pytest.raises(EngineError, match=r"expected major version 10 or 11, found 8\.6\.1"):
            open_backend(engine)

    def test_libraries_that_do_not_fit_the_driver(self, install, onnx_file, gpu):
        install()
        engine, _ = build(onnx_file)
        gpu.broken = True
        for call in (lambda: open_backend(engine), lambda: build(onnx_file)):
            with pytest.raises(EngineError, match="does not start: its libraries do not fit"):
                call()

    def test_no_cuda_interface(self, install, onnx_file):
        install(interface="none")
        with pytest.raises(EngineError, match=r"pip install 'vggt_ros\[tensorrt\]'"):
            build(onnx_file)


class TestBuilder:
    def test_timing_cache_of_another_version_is_thrown_away(self, install, onnx_file, caplog):
        cache = onnx_file.with_name("timing.cache")
        install(10)
        assert build(onnx_file, timing_cache=cache)[1].timing_cache == "new"
        assert build(onnx_file, timing_cache=cache)[1].timing_cache == "reused"
        install(11)
        assert build(onnx_file, timing_cache=cache)[1].timing_cache == "replaced"
        assert "of another TensorRT version or GPU; it is deleted" in caplog.text
        assert json.loads(cache.read_bytes())[0][0].startswith("11.")
        assert build(onnx_file, timing_cache=cache)[1].timing_cache == "reused"

    def test_options_reach_the_builder(self, install, onnx_file, gpu):
        trt = install(11)
        engine, _ = build(onnx_file, version_compatible=True, tf32=True, opt_level=3)
        plan = json.loads(engine.read_bytes())
        assert plan["flags"] == ["TF32", "VERSION_COMPATIBLE"]
        assert plan["opt_level"] == 3
        written = {name for cls, name in trt._touched if cls == "IBuilderConfig"}
        assert {"max_aux_streams", "profiling_verbosity", "set_memory_pool_limit"} <= written

    def test_errors_of_the_parser_are_listed(self, install, tmp_path):
        install()
        path = tmp_path / "bad.onnx"
        errors = [
            {"node": 3, "name": "/up", "operator": "Resize", "desc": "no antialias"},
            {"desc": "external weights are missing"},
        ]
        path.write_text(json.dumps({**NETWORK, "errors": errors}))
        with pytest.raises(EngineError) as caught:
            build(path)
        text = str(caught.value)
        assert "node 3 '/up' (Resize): no antialias; the model: external weights" in text
        assert "\n" not in text
        assert not path.with_suffix(".engine").exists()

    def test_a_failed_build_leaves_what_was_there(self, install, tmp_path):
        install()
        path = tmp_path / "net.onnx"
        path.write_text(json.dumps({**NETWORK, "fail": True}))
        path.with_suffix(".engine").write_bytes(b"old")
        with pytest.raises(EngineError, match=r"could not build.*no kernel found") as caught:
            build(path, timing_cache=tmp_path / "t.cache")
        assert "\n" not in str(caught.value)
        assert path.with_suffix(".engine").read_bytes() == b"old"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["net.engine", "net.onnx"]

    def test_a_folder_that_is_not_there(self, install, onnx_file):
        install()
        with pytest.raises(ExportError, match="nowhere"):
            build_engine(
                onnx_file, onnx_file.parent / "nowhere" / "x", BuildOptions(profile=RANGE)
            )

    def test_no_gpu(self, install, onnx_file, gpu):
        install()
        gpu.count = 0
        with pytest.raises(EngineError, match="no NVIDIA GPU") as caught:
            build(onnx_file)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"profile": {}}, r"'images' has free sizes, \(\*, 3, 4, 6\)"),
            ({"profile": {**RANGE, "image": RANGE["images"]}}, "shapes for 'image' were given"),
            (
                {"profile": {"images": ShapeRange((1, 3, 4, 6), (9, 3, 4, 6), (8, 3, 4, 6))}},
                "minimum <= optimum",
            ),
            ({"profile": {"images": ShapeRange((1, 3), (1, 3), (1, 3))}}, "minimum <= optimum"),
            (
                {"profile": {"images": ShapeRange((1, 3, 5, 6), (1, 3, 5, 6), (1, 3, 5, 6))}},
                r"that fit \(\*, 3, 4, 6\)",
            ),
            ({"opt_level": 6}, "opt_level: expected 0 to 5, got 6"),
            ({"workspace_gb": 0}, "workspace: expected GiB above 0"),
        ],
    )
    def test_wrong_options(self, install, onnx_file, options, message):
        install()
        with pytest.raises(EngineError, match=message):
            build(onnx_file, **options)
        assert not onnx_file.with_suffix(".engine").exists()

    def test_no_onnx_file(self, tmp_path):
        with pytest.raises(EngineError, match="vggt-ros engine export"):
            build_engine(tmp_path / "none.onnx", tmp_path / "x.engine")


class TestInspection:
    def test_both_schemas(self):
        layer = {
            "Name": "a",
            "Inputs": [{"Name": "images", "Format/Datatype": "Row major linear FP32"}],
            "Outputs": [
                {"Name": "h", "Format/Datatype": "Row major linear FP16 format"},
                {"Name": "q", "Format/Datatype": "Thirty-two wide row major Int8 format where"},
            ],
        }
        again = {
            "Name": "b",
            "Inputs": layer["Outputs"],
            "Outputs": [{"Name": "h2", "Format/Datatype": "Half"}],
        }
        old = {"Layers": [layer, again], "Bindings": ["images", "h2"]}
        ports = [{"Name": "images", "Datatype": "Float"}, {"Name": "new", "Datatype": "BF16"}]
        new = {"Layers": [layer, again], "I/O Tensors": ports}
        assert tensor_precisions(json.dumps(old)) == {"FP16": 2, "FP32": 1, "INT8": 1}
        assert tensor_precisions(json.dumps(new)) == {"FP16": 2, "BF16": 1, "FP32": 1, "INT8": 1}

    def test_engines_without_details(self):
        counts = tensor_precisions(json.dumps({"Layers": ["a", "b"], "Bindings": ["images"]}))
        assert counts == {}
        assert effective_precision(counts) == ""
        assert "unknown" in precision_line(counts)

    def test_the_exact_line(self):
        line = precision_line({"FP16": 812, "FP32": 6})
        assert line == "[INFO] Engine tensor precisions: FP16:812, FP32:6"

    def test_warning_where_quantised_tensors_are_missing(self):
        counts = {"FP16": 812, "FP32": 6}
        assert "INT8 requested but engine contains no INT8 tensors" in precision_warning(
            counts, "int8"
        )
        assert "computes in fp16" in precision_warning(counts, "fp8")
        assert precision_warning(counts, "fp16") == ""
        assert precision_warning({"INT8": 1}, "INT8") == ""

    def test_report_of_a_build(self, install, onnx_file, major):
        install(major)
        _, report = build(onnx_file)
        lines = report_precisions(report.inspector_json, "fp8")
        assert lines[0] == "[INFO] Engine tensor precisions: FP16:1, FP32:1"
        assert lines[1].startswith(
            "[WARNING] FP8 requested but engine contains no FP8 tensors; TensorRT likely fell "
            "back to FP16/FP32"
        )

    @pytest.mark.parametrize("text", ["", "[]", "{"])
    def test_not_the_inspectors_json(self, text):
        with pytest.raises(EngineError, match="engine inspector"):
            tensor_precisions(text)

    def test_facts_of_this_machine_for_the_passport(self, install, major):
        from vggt_ros.inference.verify import this_machine

        trt = install(major)
        here = this_machine("tensorrt")
        assert (here.backend, here.version) == ("tensorrt", trt.__version__)
        assert (here.gpu, here.compute_capability) == ("NVIDIA Fake", "9.0")
        assert here.driver
        with pytest.raises(EngineError, match="cuda:7"):
            this_machine("tensorrt", "cuda:7")

    def test_facts_of_the_gpu(self, install):
        install(interface="pycuda")
        facts = gpu_facts()
        assert (facts.name, facts.compute_capability) == ("NVIDIA Fake", "9.0")
        assert facts.driver
