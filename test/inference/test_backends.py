"""The same network in every runtime that is installed answers the same."""

import copy
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vggt_ros.errors import EngineError
from vggt_ros.inference.backend import BackendOptions, choose_backend, open_backend
from vggt_ros.inference.devices import cpu_has_bf16
from vggt_ros.models.vggt_config import VggtConfig

torch = pytest.importorskip("torch", reason="torch is not installed (pip install .[torch])")

CONFIG = VggtConfig.tiny()
HEIGHT, WIDTH = 42, 70


def images(views, seed=0):
    generator = np.random.default_rng(seed)
    return generator.random((views, 3, HEIGHT, WIDTH), np.float32)


def relative_error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def without_batch(network):
    """As engines are made: one scene, `images` (S, 3, H, W)."""

    class OneScene(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(x[None])

    return OneScene()


@pytest.fixture(scope="module")
def network():
    """Build the tiny network with weights that make every part of it matter."""
    from vggt_ros.models.vggt import Vggt

    generator = torch.Generator().manual_seed(0)
    made = Vggt(CONFIG).eval().requires_grad_(False)
    for name, parameter in made.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "gamma")):
            parameter.copy_(1.0 + 0.2 * noise)
        elif parameter.ndim > 1 and not name.endswith(("token", "tokens", "embed")):
            parameter.copy_(noise * parameter[0].numel() ** -0.5)
        else:
            parameter.copy_(0.2 * noise)
    return made


@pytest.fixture(scope="module")
def checkpoint(network, tmp_path_factory):
    from vggt_ros.models.checkpoint import save_vggt

    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_vggt(network, path)
    return path


def export(network, path):
    pytest.importorskip("onnx", reason="onnx is not installed")
    baked = copy.deepcopy(network)
    baked.bake(HEIGHT, WIDTH)
    names = ("images", *CONFIG.output_names)
    torch.onnx.export(
        without_batch(baked),
        (torch.rand(2, 3, HEIGHT, WIDTH),),
        str(path),
        dynamo=False,
        opset_version=18,
        input_names=["images"],
        output_names=list(CONFIG.output_names),
        dynamic_axes={name: {int(name != "images"): "S"} for name in names},
    )
    return path


@pytest.fixture(scope="module")
def onnx_file(network, tmp_path_factory):
    return export(network, tmp_path_factory.mktemp("onnx") / "tiny.onnx")


@pytest.fixture(scope="module")
def reference(checkpoint):
    opened = open_backend(checkpoint, "torch", BackendOptions(device="cpu", threads=1))
    yield opened
    opened.close()


def open_runtime(name, path, **options):
    package = pytest.importorskip(name, reason=f"{name} is not installed")
    assert package
    return open_backend(path, name, BackendOptions(device="cpu", threads=1, **options))


@pytest.fixture(scope="module")
def runtimes(checkpoint, onnx_file):
    """Open each runtime once, for two calls at a time: opening is what takes long."""
    made = {}

    def get(name):
        if name not in made:
            path = checkpoint if name == "torch" else onnx_file
            made[name] = open_runtime(name, path, contexts=2)
        return made[name]

    yield get
    for backend in made.values():
        backend.close()


TOLERANCES = {"onnxruntime": 1e-5, "openvino": 1e-4}


@pytest.mark.filterwarnings("ignore")
class TestParity:
    @pytest.mark.parametrize("name", TOLERANCES)
    def test_answers_as_torch_for_any_number_of_views(self, name, runtimes, reference):
        opened = runtimes(name)
        assert (opened.name, opened.device, opened.precision) == (name, "cpu", "fp32")
        for views in (1, 2, 3, 8):
            x = images(views)
            expected = reference.run({"images": x})
            found = opened.run({"images": x})
            assert list(found) == list(CONFIG.output_names)
            for output, value in expected.items():
                assert found[output].shape == value.shape
                assert found[output].dtype == np.float32
                error = relative_error(found[output], value)
                assert error < TOLERANCES[name], (output, views, error)

    @pytest.mark.parametrize("name", TOLERANCES)
    def test_specs_are_those_of_the_torch_back_end(self, name, runtimes, reference):
        opened = runtimes(name)
        assert [s.name for s in opened.inputs] == ["images"]
        assert opened.inputs[0].shape == (None, 3, HEIGHT, WIDTH)
        for spec, wanted in zip(opened.outputs, reference.outputs, strict=True):
            assert (spec.name, spec.dtype) == (wanted.name, wanted.dtype)
            assert len(spec.shape) == len(wanted.shape)

    def test_keeps_the_order_of_the_views(self, runtimes, reference):
        # the first is the reference: the last two may change places, the first may not
        x = images(3)
        for backend in (reference, runtimes("onnxruntime")):
            plain = backend.run({"images": x})["depth"]
            swapped = backend.run({"images": x[[0, 2, 1]]})["depth"][:, [0, 2, 1]]
            turned = backend.run({"images": x[[2, 1, 0]]})["depth"][:, [2, 1, 0]]
            assert relative_error(swapped, plain) < 1e-4
            assert relative_error(turned, plain) > 1e-2

    @pytest.mark.parametrize(("precision", "limit"), [("fp16", 5e-3), ("bf16", 5e-2)])
    def test_torch_in_half_precision(self, checkpoint, reference, precision, limit):
        options = BackendOptions(device="cpu", threads=1, precision=precision)
        opened = open_backend(checkpoint, "torch", options)
        assert opened.precision == precision
        expected = reference.run({"images": images(2)})
        for name, value in opened.run({"images": images(2)}).items():
            assert value.dtype == np.float32
            assert relative_error(value, expected[name]) < limit, name

    def test_openvino_in_bf16_where_the_processor_has_it(self, onnx_file, reference):
        pytest.importorskip("openvino", reason="openvino is not installed")
        if not cpu_has_bf16():
            with pytest.raises(EngineError, match="AMX or AVX512-BF16"):
                open_runtime("openvino", onnx_file, precision="bf16")
            pytest.skip("this processor has no bfloat16")
        opened = open_runtime("openvino", onnx_file, precision="bf16")
        assert opened.precision == "bf16"
        expected = reference.run({"images": images(2)})
        for name, value in opened.run({"images": images(2)}).items():
            assert relative_error(value, expected[name]) < 5e-2, name

    def test_a_checkpoint_in_half_precision_opens_as_it_is_stored(self, network, tmp_path):
        from vggt_ros.models.checkpoint import save_vggt

        path = tmp_path / "model.safetensors"
        save_vggt(copy.deepcopy(network).half(), path)
        assert open_backend(tmp_path, options=BackendOptions(device="cpu")).precision == "fp16"
        with_wish = BackendOptions(device="cpu", precision="fp32")
        assert open_backend(path, options=with_wish).precision == "fp32"

    def test_precision_of_the_export_is_found_without_onnx(self, onnx_file, network):
        from vggt_ros.inference.onnx_file import read_numbers

        numbers = read_numbers(onnx_file)
        assert numbers.precision == "fp32"
        assert numbers.elements["fp32"] > 0.9 * sum(p.numel() for p in network.parameters())

    def test_sizes_that_differ_from_call_to_call(self, reference):
        generator = np.random.default_rng(1)
        for height, width in ((28, 56), (70, 42)):
            x = generator.random((2, 3, height, width), np.float32)
            assert reference.run({"images": x})["depth"].shape == (1, 2, height, width, 1)


class TestDepthAnything:
    """Folders of transformers; the network itself is tested with its definition."""

    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        class Disparity(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.scale = torch.nn.Parameter(torch.ones(1))

            def forward(self, x):
                assert x.dtype == self.scale.dtype
                return (self.scale * x.sum(dim=1),)

        module = types.ModuleType("vggt_ros.models.depth_anything")
        module.load_depth_anything = lambda path: Disparity()
        monkeypatch.setitem(sys.modules, module.__name__, module)
        (tmp_path / "config.json").write_text('{"model_type": "depth_anything"}')
        return tmp_path

    @pytest.mark.parametrize("precision", ["auto", "fp32", "bf16", "fp16"])
    def test_folder_by_its_config(self, folder, precision):
        opened = open_backend(folder, options=BackendOptions("cpu", precision))
        assert opened.precision == precision.replace("auto", "fp32")
        assert [s.shape for s in opened.outputs] == [(None, None, None)]
        x = images(3)
        depth = opened.run({"images": x})["depth"]
        assert depth.shape == (3, HEIGHT, WIDTH)
        assert depth.dtype == np.float32
        assert relative_error(depth, x.sum(axis=1)) < 0.01

    def test_broken_config(self, folder):
        (folder / "config.json").write_text("{")
        with pytest.raises(EngineError, match=r"config\.json: not readable as JSON"):
            open_backend(folder)


@pytest.fixture(scope="module", params=["torch", "onnxruntime", "openvino"])
def opened(request, runtimes):
    return runtimes(request.param)


class TestCalls:
    def test_from_several_threads(self, opened):
        inputs = [images(2, seed) for seed in range(6)]
        alone = [opened.run({"images": x})["depth"] for x in inputs]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda x: opened.run({"images": x})["depth"], inputs))
        for expected, found in zip(alone, together, strict=True):
            assert relative_error(found, expected) < 1e-5

    def test_results_are_the_callers_own(self, opened):
        first = opened.run({"images": images(2)})
        kept = {name: value.copy() for name, value in first.items()}
        opened.run({"images": images(2, seed=5)})
        for name, value in first.items():
            assert np.array_equal(value, kept[name])
            value += 1.0  # writable

    def test_views_of_arrays_that_are_not_in_one_piece(self, opened):
        x = images(2)
        strided = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        assert not strided.flags.c_contiguous
        expected = opened.run({"images": x})["depth"]
        assert np.array_equal(opened.run({"images": strided})["depth"], expected)

    @pytest.mark.parametrize("name", ["torch", "onnxruntime", "openvino"])
    def test_closed(self, name, checkpoint, onnx_file):
        opened = open_runtime(name, checkpoint if name == "torch" else onnx_file)
        opened.close()
        opened.close()
        with pytest.raises(EngineError, match="was closed"):
            opened.run({"images": images(1)})

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({}, "'images' is missing"),
            ({"image": images(1)}, r"got 'image' \(did you mean 'images'\?\)"),
            ({"images": images(1).astype(np.float64)}, "expected float32, got float64"),
            ({"images": images(1)[0]}, r"expected shape \(\*, 3, .*, got \(3, 42, 70\)"),
            ({"images": images(1)[:, :2]}, r"expected shape .*, got \(1, 2, 42, 70\)"),
            ({"images": images(1)[:0]}, r"got \(0, 3, 42, 70\)"),
            ({"images": [[1.0]]}, "expected a NumPy array, got list"),
        ],
    )
    def test_wrong_inputs_are_named(self, opened, inputs, message):
        with pytest.raises(EngineError, match=message):
            opened.run(inputs)

    def test_an_error_in_a_thread_reaches_its_caller_and_the_next_call_works(self, opened):
        errors = []

        def run_wrongly():
            try:
                opened.run({"images": images(1)[..., :-1]})
            except EngineError as error:
                errors.append(error)

        threads = [threading.Thread(target=run_wrongly) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(errors) == 5
        assert opened.run({"images": images(1)})["depth"].shape[1] == 1


class TestRefusals:
    def test_a_gpu_that_is_not_there(self, checkpoint, onnx_file):
        cases = [("torch", checkpoint), ("onnxruntime", onnx_file), ("openvino", onnx_file)]
        for name, path in cases:
            pytest.importorskip(name)
            with pytest.raises(EngineError, match="cpu"):
                open_backend(path, name, BackendOptions(device="cuda:77"))

    def test_cuda_provider_that_does_not_load(self, onnx_file, monkeypatch):
        """A build for GPUs on a machine without one goes on with the CPU; here it must not."""
        runtime = pytest.importorskip("onnxruntime")
        monkeypatch.setattr(runtime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
        for device in ("cuda:0", "auto"):
            with pytest.raises(EngineError, match="cuda"):
                open_backend(onnx_file, "onnxruntime", BackendOptions(device=device))

    def test_a_session_that_fell_back_in_silence(self, onnx_file, monkeypatch):
        runtime = pytest.importorskip("onnxruntime")
        real = runtime.InferenceSession
        monkeypatch.setattr(runtime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
        monkeypatch.setattr(
            runtime,
            "InferenceSession",
            lambda path, settings, **_: real(path, settings, providers=["CPUExecutionProvider"]),
        )
        with pytest.raises(EngineError, match="could not load its CUDA provider"):
            open_backend(onnx_file, "onnxruntime", BackendOptions(device="cuda:0"))

    @pytest.mark.parametrize("device", ["gpu", "cuda:x", "", "CPU"])
    def test_devices_with_another_name(self, device, checkpoint, onnx_file):
        for name, path in (("torch", checkpoint), ("onnxruntime", onnx_file)):
            pytest.importorskip(name)
            with pytest.raises(EngineError, match="expected auto, cpu or cuda:N"):
                open_backend(path, name, BackendOptions(device=device))

    def test_unknown_precision(self, checkpoint, onnx_file):
        for name, path in (
            ("torch", checkpoint),
            ("onnxruntime", onnx_file),
            ("openvino", onnx_file),
        ):
            pytest.importorskip(name)
            with pytest.raises(EngineError, match="auto or one of fp32, bf16, fp16, got 'fp8'"):
                open_backend(path, name, BackendOptions(device="cpu", precision="fp8"))

    def test_precision_other_than_the_files(self, onnx_file):
        pytest.importorskip("onnxruntime")
        with pytest.raises(EngineError, match="the file computes in fp32, asked was fp16"):
            open_backend(onnx_file, options=BackendOptions(device="cpu", precision="fp16"))

    def test_precision_without_instructions(self, onnx_file, monkeypatch):
        pytest.importorskip("openvino")
        from vggt_ros.inference import openvino_backend

        monkeypatch.setattr(openvino_backend, "cpu_has_bf16", lambda: False)
        with pytest.raises(EngineError, match="needs a processor with AMX or AVX512-BF16"):
            open_backend(onnx_file, "openvino", BackendOptions(precision="bf16"))

    @pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
    @pytest.mark.parametrize("content", [b"", b"no network", b"\x08\x07"])
    def test_files_that_are_no_networks(self, name, content, tmp_path):
        pytest.importorskip(name)
        path = tmp_path / "broken.onnx"
        path.write_bytes(content)
        with pytest.raises(EngineError, match=r"broken\.onnx") as caught:
            open_backend(path, name)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
    def test_truncated_files(self, name, onnx_file, tmp_path):
        pytest.importorskip(name)
        path = tmp_path / "short.onnx"
        path.write_bytes(onnx_file.read_bytes()[:100_000])
        with pytest.raises(EngineError, match=r"short\.onnx"):
            open_backend(path, name)

    def test_sides_that_are_no_multiples_of_14(self, reference):
        with pytest.raises(EngineError, match="14"):
            reference.run({"images": np.zeros((1, 3, 42, 43), np.float32)})

    @pytest.mark.parametrize("name", ["torch", "onnxruntime", "openvino", "tensorrt"])
    def test_a_runtime_that_is_not_installed(self, name, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, name, None)
        path = tmp_path / "some.onnx"
        path.write_bytes(b"x")
        with pytest.raises(EngineError, match=rf"pip install 'vggt_ros\[{name}\]'"):
            open_backend(path, name)

    @pytest.mark.parametrize("wrong", [{"contexts": 0}, {"threads": -1}])
    def test_counts_below_the_least(self, checkpoint, wrong):
        with pytest.raises(EngineError, match=f"{next(iter(wrong))}: expected at least"):
            open_backend(checkpoint, options=BackendOptions(**wrong))

    def test_files_that_are_not_there(self, tmp_path):
        with pytest.raises(EngineError, match="found nothing there"):
            open_backend(tmp_path / "none.onnx")
        with pytest.raises(EngineError, match="did you mean 'tensorrt'"):
            choose_backend("x.engine", "tensort")
