"""TensorRT without a GPU: modules made from the surfaces beside this file.

Every class, member, argument name and enum value is one of the real bindings; anything else
raises, as it would there. A few members do something: "networks" are small JSON files, "engines"
add up their inputs, "device memory" is memory of this process, and streams hold their work back
until they are synchronised.
"""

from __future__ import annotations

import ctypes
import json
import re
import types
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent


def surface(name: str) -> dict:
    """One of the surfaces: tensorrt_10, tensorrt_11, tensorrt_rtx, cuda_bindings."""
    return json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))


def answer(inputs: list[np.ndarray], shape: tuple[int, ...], k: int) -> np.ndarray:
    """What output k of a fake engine is."""
    total = sum(float(x.astype(np.float64).sum()) for x in inputs)
    ramp = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    return (total * (k + 1) + ramp).astype(np.float32)


class Tensor:
    """An input or output of a fake network or engine."""

    def __init__(self, name, shape, dtype="FLOAT"):
        self.name, self.shape, self.dtype = name, tuple(shape), dtype


def _array(address, shape, dtype):
    size = int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
    return np.frombuffer(ctypes.string_at(address, size), dtype).reshape(shape)


# --- what some members do; the module, its GPU and its version come in as `_trt` ---


class _ILogger:
    def __init__(self):
        pass


class _Builder:
    def __init__(self, logger):
        if self._trt._gpu.broken:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    def create_network(self, flags=0):
        flag = self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        wanted = 0 if self._trt._major == 11 else 1 << flag.value
        assert flags == wanted, f"expected a strongly typed network, got flags {flags}"
        return self._trt.INetworkDefinition._make(_content=None)

    def create_builder_config(self):
        return self._trt.IBuilderConfig._make(_flags={"TF32"}, _pools={}, _profiles=[])

    def create_optimization_profile(self):
        return self._trt.IOptimizationProfile._make(_shapes={})

    def build_serialized_network(self, network, config):
        content = network._content
        free = {n for n, shape in content["inputs"].items() if min(shape) < 0}
        profile = config._profiles[0]._shapes if config._profiles else {}
        if content.get("fail") or free - set(profile):
            self._logger.log(self._trt.ILogger.ERROR, "[builder.cpp] no kernel found\nsecond line")
            self._logger.log(self._trt.ILogger.ERROR, "build failed")
            return None
        config._cache._entries["kernel"] = 1
        plan = {
            "version": self._trt.__version__,
            "capability": list(self._trt._gpu.capability),
            "flags": sorted(config._flags),
            "profile": profile,
            "opt_level": config.builder_optimization_level,
            **content,
        }
        return self._trt.IHostMemory(json.dumps(plan).encode())


class _INetworkDefinition:
    num_inputs = property(lambda self: len(self._content["inputs"]))
    num_outputs = property(lambda self: len(self._content["outputs"]))

    def get_input(self, index):
        name = list(self._content["inputs"])[index]
        return self._trt.ITensor._make(_name=name, _shape=self._content["inputs"][name])

    def get_output(self, index):
        name = list(self._content["outputs"])[index]
        return self._trt.ITensor._make(_name=name, _shape=self._content["outputs"][name])


class _ITensor:
    name = property(lambda self: self._name)
    shape = property(lambda self: tuple(self._shape))


class _OnnxParser:
    def __init__(self, network, logger):
        self._network, self._errors = network, []

    def parse_from_file(self, model):
        content = json.loads(Path(model).read_text())
        self._errors = content.get("errors", [])
        self._network._content = content
        return not self._errors

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index):
        return self._trt.ParserError._make(_values=self._errors[index])


class _ParserError:
    def node(self):
        return self._values.get("node", -1)

    def node_name(self):
        return self._values["name"]

    def node_operator(self):
        return self._values["operator"]

    def desc(self):
        return self._values["desc"]


class _IBuilderConfig:
    def set_memory_pool_limit(self, pool, pool_size):
        self._pools[pool] = pool_size

    def set_flag(self, flag):
        assert isinstance(flag, self._trt.BuilderFlag)
        self._flags.add(flag.name)

    def clear_flag(self, flag):
        assert isinstance(flag, self._trt.BuilderFlag)
        self._flags.discard(flag.name)

    def add_optimization_profile(self, profile):
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache):
        here = [self._trt.__version__, list(self._trt._gpu.capability)]
        made = self._trt.ITimingCache._make(_of=here, _entries={})
        if serialized_timing_cache:
            made._of, made._entries = json.loads(bytes(serialized_timing_cache))
        return made

    def set_timing_cache(self, cache, ignore_mismatch):
        here = [self._trt.__version__, list(self._trt._gpu.capability)]
        if cache._of != here and not ignore_mismatch:
            return False
        self._cache = cache
        return True

    def get_timing_cache(self):
        return self._cache

    _cache = types.SimpleNamespace(_entries={})


class _ITimingCache:
    def serialize(self):
        return self._trt.IHostMemory(json.dumps([self._of, self._entries]).encode())


class _IOptimizationProfile:
    def set_shape(self, input, min, opt, max):
        self._shapes[input] = [list(min), list(opt), list(max)]


class _IHostMemory(bytes):
    nbytes = property(lambda self: len(self))


class _Runtime:
    def __init__(self, logger):
        if self._trt._gpu.broken:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine):
        log, error = self._logger.log, self._trt.ILogger.ERROR
        try:
            plan = json.loads(bytes(serialized_engine))
        except ValueError:
            log(error, "Serialization assertion magicTagRead == kMAGIC_TAG failed.")
            return None
        if plan["version"] != self._trt.__version__:
            log(
                error,
                "The engine plan file is not compatible with this version of TensorRT, expecting "
                f"library version {self._trt.__version__} got {plan['version']}, please rebuild.",
            )
            return None
        if plan["capability"] != list(self._trt._gpu.capability):
            log(
                error,
                "The engine plan file is generated on an incompatible device, please rebuild.",
            )
            return None
        tensors = [Tensor(n, s) for key in ("inputs", "outputs") for n, s in plan[key].items()]
        return self._trt.ICudaEngine._make(_plan=plan, _tensors={t.name: t for t in tensors})


class _ICudaEngine:
    num_io_tensors = property(lambda self: len(self._tensors))

    def get_tensor_name(self, index):
        return list(self._tensors)[index]

    def get_tensor_mode(self, name):
        is_input = name in self._plan["inputs"]
        return self._trt.TensorIOMode.INPUT if is_input else self._trt.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        kind = self._plan.get("dtypes", {}).get(name, "FLOAT")
        return getattr(self._trt.DataType, kind)

    def get_tensor_shape(self, name):
        return self._tensors[name].shape

    def get_tensor_profile_shape(self, name, profile_index):
        assert profile_index == 0
        return self._plan["profile"][name]

    def create_execution_context(self):
        self._trt._gpu.check_current()
        return self._trt.IExecutionContext._make(_engine=self, _shapes={}, _addresses={})

    def create_engine_inspector(self):
        return self._trt.EngineInspector._make(_engine=self)


class _EngineInspector:
    def get_engine_information(self, format):
        assert format == self._trt.LayerInformationFormat.JSON
        kind = self._engine._plan.get("computes_in", "FP16")
        inner = [{"Name": "hidden", "Format/Datatype": f"Row major linear {kind} format"}]
        ports = [{"Name": n, "Format/Datatype": "Float"} for n in self._engine._tensors]
        key = "Bindings" if self._trt._major == 10 else "I/O Tensors"
        layers = [{"Name": "layer", "Inputs": ports[:1], "Outputs": inner}]
        return json.dumps({"Layers": layers, key: [p["Name"] for p in ports]})


class _IExecutionContext:
    def set_input_shape(self, name, shape):
        assert isinstance(shape, tuple)
        assert name in self._engine._plan["inputs"]
        self._shapes[name] = shape
        return True

    def set_tensor_address(self, name, memory):
        self._addresses[name] = int(memory)
        return True

    def infer_shapes(self):
        return [n for n in self._engine._plan["inputs"] if n not in self._shapes]

    def get_tensor_shape(self, name):
        views = next(iter(self._shapes.values()))[0]
        return tuple(views if s < 0 else s for s in self._engine._tensors[name].shape)

    def execute_async_v3(self, stream_handle):
        self._trt._gpu.check_current()
        if self._engine._plan.get("fail_to_run"):
            return False
        addresses, shapes = dict(self._addresses), dict(self._shapes)
        outputs = {n: self.get_tensor_shape(n) for n in self._engine._plan["outputs"]}
        for name in (*shapes, *outputs):
            assert addresses[name] in self._trt._gpu.blocks, f"{name}: no device memory"

        def work():
            inputs = [_array(addresses[n], s, np.float32) for n, s in shapes.items()]
            for k, (name, shape) in enumerate(outputs.items()):
                value = answer(inputs, shape, k)
                ctypes.memmove(addresses[name], value.ctypes.data, value.nbytes)

        self._trt._gpu.queue(int(stream_handle), work)
        return True


def _nptype(trt_type):
    known = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT64": np.int64}
    if trt_type.name not in known:
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
    return known[trt_type.name]


# --- the modules ---


def fake_tensorrt(major: int | str, gpu) -> types.ModuleType:
    """A module `tensorrt` (10, 11) or `tensorrt_rtx` ("rtx") with the surface of the real one."""
    described = surface(f"tensorrt_{major}")
    module = types.ModuleType("tensorrt")
    module.__version__ = described["version"]
    module._major, module._gpu, module._touched = major, gpu, set()
    for name, content in described["classes"].items():
        if "enum" in content:
            setattr(module, name, _enum(name, content["enum"]))
        else:
            setattr(module, name, _guarded(module, name, content))
    for key, value in module.ILogger._description["enum_values"].items():
        setattr(module.ILogger, key, value)
    assert "nptype" in described["functions"]
    module.nptype = _nptype
    return module


def _enum(name, members):
    """Like pybind11's: no arithmetic, but `int()`."""
    cls = type(name, (), {"__int__": lambda self: self.value, "__repr__": lambda self: self.name})
    for key, value in members.items():
        member = cls()
        member.name, member.value = key, value
        setattr(cls, key, member)
    return cls


def _guarded(module, name, content):
    behaviour = globals().get(f"_{name}", type(f"_{name}", (), {}))
    known = {*content["methods"], *content["properties"], *content["attributes"]}
    invented = {m for m in vars(behaviour) if not m.startswith("_")} - known
    assert not invented, f"the real {name} has no {invented}"
    namespace = {"_trt": module}
    for method, overloads in content["methods"].items():
        done = vars(behaviour).get(method)
        namespace[method] = _method(module, name, method, overloads, done)
    if "__init__" in vars(behaviour):
        init = _method(module, name, "__init__", content["init"], vars(behaviour)["__init__"])
        namespace["__init__"] = init

    def set_attribute(self, key, value):
        if type(self) is cls and not key.startswith("_"):  # Python subclasses may have their own
            access = content["properties"].get(key)
            if access != "rw":
                raise AttributeError(f"{name}.{key} is {'read-only' if access else 'not there'}")
            module._touched.add((name, key))
        object.__setattr__(self, key, value)

    def get_attribute(self, key):
        if not key.startswith("_") and type(self) is cls and key not in known:
            raise AttributeError(f"{name} has no {key}")
        return object.__getattribute__(self, key)

    @classmethod
    def make(cls, **state):
        made = cls.__new__(cls)
        for key, value in state.items():
            object.__setattr__(made, key, value)
        return made

    namespace |= {"__setattr__": set_attribute, "__getattribute__": get_attribute, "_make": make}
    severities = surface_severities(module) if name == "ILogger" else {}
    namespace["_description"] = {"enum_values": severities}
    cls = type(name, (behaviour,), namespace)
    return cls


def surface_severities(module):
    values = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
    described = surface(f"tensorrt_{module._major}")["classes"]["ILogger"]["attributes"]
    assert set(values) <= set(described)
    cls = _enum("Severity", {value: k for k, value in enumerate(values)})
    return {value: getattr(cls, value) for value in values}


def _method(module, cls, name, overloads, done):
    accepted = [_parameters(signature) for signature in overloads]

    def call(self, *args, **kwargs):
        module._touched.add((cls, name))
        if accepted and not any(_fits(params, args, kwargs) for params in accepted):
            raise TypeError(f"{cls}.{name}{args}{kwargs}: incompatible with {overloads}")
        if done is None:
            raise NotImplementedError(f"{cls}.{name} is real, but the fake does nothing for it")
        return done(self, *args, **kwargs)

    return call


def _parameters(signature):
    """[(name, annotation, has a default)] of a pybind11 signature, without self."""
    inner = signature[signature.index("(") + 1 : signature.rindex(") ->")]
    parts, depth, start = [], 0, 0
    for k, character in enumerate(inner):
        depth += (character in "([{<") - (character in ")]}>")
        if character == "," and depth == 0:
            parts.append(inner[start:k])
            start = k + 1
    parts.append(inner[start:])
    found = [re.match(r"\s*(\w+)(?:: ([\w.]+))?(?:[^=]*?( = ))?", part) for part in parts]
    return [(m[1], m[2] or "", bool(m[3])) for m in found if m][1:]


def _fits(params, args, kwargs):
    names = [name for name, _, _ in params]
    if len(args) > len(params) or not set(kwargs) <= set(names[len(args) :]):
        return False
    values = {**dict(zip(names, args, strict=False)), **kwargs}
    for name, annotation, optional in params:
        if name not in values:
            if not optional:
                return False
            continue
        value = values[name]
        wrong = {
            "str": not isinstance(value, str),
            "bool": not isinstance(value, bool),
            "typing.SupportsInt": not hasattr(value, "__int__"),
        }
        if wrong.get(annotation):
            return False
    return True
