"""A stand-in for `launch` and `launch_ros`, which PyPI lacks: enough to run our launch files.

Signatures are those of the Jazzy packages as far as the files use them, so that a misspelt keyword
fails here too. `run` does what `ros2 launch` does with a description, without starting anything.
"""

import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

TRUE, FALSE = ("true", "1"), ("false", "0")


class LaunchConfiguration:
    def __init__(self, variable_name, *, default=None):
        self.name, self.default = variable_name, default

    def perform(self, context):
        value = context.configurations.get(self.name, self.default)
        if value is None:
            raise KeyError(f"launch configuration '{self.name}' does not exist")
        return value


class PathJoinSubstitution:
    def __init__(self, substitutions):
        self.parts = substitutions

    def perform(self, context):
        return str(Path(*(text(part, context) for part in self.parts)))


class FindPackageShare:
    def __init__(self, package):
        self.package = package

    def perform(self, context):
        assert self.package == "vggt_ros"
        return str(context.repository)


class IfCondition:
    def __init__(self, predicate_expression):
        self.expression = predicate_expression

    def evaluate(self, context):
        value = text(self.expression, context).strip().lower()
        if value not in TRUE + FALSE:
            raise ValueError(f"condition: expected true or false, got '{value}'")
        return value in TRUE


class ParameterValue:
    def __init__(self, value, *, value_type=None):
        self.value, self.value_type = value, value_type


@dataclass
class Action:
    condition: object = None


@dataclass
class DeclareLaunchArgument(Action):
    name: str = ""
    default_value: object = None
    description: object = None

    def __init__(self, name, *, default_value=None, description=None, choices=None):
        self.name, self.default_value, self.condition = name, default_value, None
        assert description, f"argument '{name}' has no description"
        self.description = description


class SetEnvironmentVariable(Action):
    def __init__(self, name, value, *, condition=None):
        self.name, self.value, self.condition = name, value, condition


class OpaqueFunction(Action):
    def __init__(self, *, function, args=None, kwargs=None, condition=None):
        self.function, self.condition = function, condition


class IncludeLaunchDescription(Action):
    def __init__(self, launch_description_source, *, launch_arguments=None, condition=None):
        self.source, self.arguments = launch_description_source, dict(launch_arguments or ())
        self.condition = condition


class RegisterEventHandler(Action):
    def __init__(self, event_handler, *, condition=None):
        self.handler, self.condition = event_handler, condition


class EmitEvent(Action):
    def __init__(self, *, event, condition=None):
        self.event, self.condition = event, condition


class LogInfo(Action):
    def __init__(self, *, msg, condition=None):
        self.msg, self.condition = msg, condition


class Shutdown(Action):
    def __init__(self, *, reason="", condition=None):
        self.reason, self.condition = reason, condition


class Node(Action):
    lifecycle = False

    def __init__(
        self,
        *,
        executable,
        package,
        name=None,
        namespace=None,
        parameters=(),
        remappings=(),
        ros_arguments=(),
        arguments=(),
        output=None,
        on_exit=None,
        condition=None,
        additional_env=None,
    ):
        self.executable, self.package, self.name = executable, package, name
        self.namespace, self.parameters, self.remappings = namespace, parameters, remappings
        self.ros_arguments, self.arguments, self.on_exit = ros_arguments, arguments, on_exit
        self.condition = condition


class LifecycleNode(Node):
    lifecycle = True

    def __init__(self, *, name, namespace, autostart=False, **options):
        super().__init__(name=name, namespace=namespace, **options)


class OnStateTransition:
    def __init__(
        self,
        *,
        entities,
        target_lifecycle_node=None,
        transition=None,
        start_state=None,
        goal_state=None,
        handle_once=False,
    ):
        self.entities, self.target, self.handle_once = entities, target_lifecycle_node, handle_once
        self.start_state, self.goal_state = start_state, goal_state


class ChangeState:
    def __init__(self, *, lifecycle_node_matcher, transition_id):
        self.matcher, self.transition_id = lifecycle_node_matcher, transition_id


class OnProcessExit:
    def __init__(self, *, target_action=None, on_exit, handle_once=False):
        self.target, self.on_exit = target_action, on_exit


class ShutdownEvent:
    def __init__(self, *, reason=""):
        self.reason = reason


class PythonLaunchDescriptionSource:
    def __init__(self, launch_file_path):
        self.path = launch_file_path


class LaunchDescription:
    def __init__(self, entities=()):
        self.entities = list(entities)


MODULES = {
    "launch": (LaunchDescription,),
    "launch.actions": (
        DeclareLaunchArgument,
        EmitEvent,
        IncludeLaunchDescription,
        LogInfo,
        OpaqueFunction,
        RegisterEventHandler,
        SetEnvironmentVariable,
        Shutdown,
    ),
    "launch.conditions": (IfCondition,),
    "launch.event_handlers": (OnProcessExit,),
    "launch.events": (),
    "launch.launch_description_sources": (PythonLaunchDescriptionSource,),
    "launch.substitutions": (LaunchConfiguration, PathJoinSubstitution),
    "launch_ros": (),
    "launch_ros.actions": (LifecycleNode, Node),
    "launch_ros.event_handlers": (OnStateTransition,),
    "launch_ros.events": (),
    "launch_ros.events.lifecycle": (ChangeState,),
    "launch_ros.parameter_descriptions": (ParameterValue,),
    "launch_ros.substitutions": (FindPackageShare,),
}


def install(monkeypatch):
    """Put the stand-ins where `import` finds them, for one test."""
    for name, members in MODULES.items():
        module = ModuleType(name)
        for member in members:
            setattr(module, member.__name__, member)
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["launch.events"].Shutdown = ShutdownEvent
    sys.modules["launch.events"].matches_action = lambda action: action
    monkeypatch.delitem(sys.modules, "vggt_ros.nodes.launching", raising=False)


def text(value, context):
    """A substitution, or text, or a list of both, as text."""
    if isinstance(value, (list, tuple)):
        return "".join(text(part, context) for part in value)
    return value.perform(context) if hasattr(value, "perform") else str(value)


@dataclass
class Context:
    """What a launch has come to."""

    repository: Path
    configurations: dict
    declared: dict = field(default_factory=dict)
    environment: dict = field(default_factory=dict)
    nodes: list = field(default_factory=list)
    handlers: list = field(default_factory=list)
    events: list = field(default_factory=list)

    def node(self, executable):
        return next(node for node in self.nodes if node.executable == executable)


def run(repository, name, **arguments):
    """Do what `ros2 launch vggt_ros NAME argument:=value ...` would do."""
    context = Context(Path(repository), {k: str(v) for k, v in arguments.items()})
    _visit(_load(Path(repository) / "launch" / name).entities, context)
    unknown = set(arguments) - set(context.declared)
    assert not unknown, f"not declared: {unknown}"
    return context


def _load(path):
    spec = importlib.util.spec_from_file_location(path.stem.replace(".", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


def _visit(entities, context):
    for entity in entities:
        if entity.condition is not None and not entity.condition.evaluate(context):
            continue
        if isinstance(entity, DeclareLaunchArgument):
            context.declared[entity.name] = entity
            if entity.name not in context.configurations:
                if entity.default_value is None:
                    raise KeyError(f"argument '{entity.name}' is required")
                default = text(entity.default_value, context)
                context.configurations[entity.name] = default
        elif isinstance(entity, SetEnvironmentVariable):
            context.environment[entity.name] = text(entity.value, context)
        elif isinstance(entity, OpaqueFunction):
            _visit(entity.function(context) or [], context)
        elif isinstance(entity, IncludeLaunchDescription):
            for name, value in entity.arguments.items():
                context.configurations[name] = text(value, context)
            _visit(_load(Path(text(entity.source.path, context))).entities, context)
        elif isinstance(entity, Node):
            context.nodes.append(_resolved(entity, context))
        elif isinstance(entity, RegisterEventHandler):
            context.handlers.append(entity.handler)
        elif isinstance(entity, EmitEvent):
            context.events.append(entity.event)
        elif not isinstance(entity, LogInfo):
            raise TypeError(entity)


def _resolved(node, context):
    files, values = [], {}
    for entry in node.parameters:
        if isinstance(entry, dict):
            values.update({key: _typed(value, context) for key, value in entry.items()})
        else:
            files.append(text(entry, context))
    return SimpleNamespace(
        executable=node.executable,
        package=node.package,
        lifecycle=node.lifecycle,
        name=node.name,
        namespace=text(node.namespace or "", context),
        files=files,
        parameters=values,
        remappings=dict(node.remappings),
        arguments=[text(a, context) for a in node.arguments],
        ros_arguments=[text(a, context) for a in node.ros_arguments],
        on_exit=node.on_exit,
        action=node,
    )


def _typed(value, context):
    if not isinstance(value, ParameterValue):
        return value
    read = text(value.value, context)
    if value.value_type is bool:
        assert read.lower() in TRUE + FALSE, read
        return read.lower() in TRUE
    if value.value_type in (int, float, str):
        return value.value_type(read)
    import yaml

    return yaml.safe_load(read)
