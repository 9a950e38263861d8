"""A device that behaves as a GPU does towards the host, for machines without one.

Its tensors say that they are on `meta`, a device that no code treats as the CPU, and carry their values in host memory, so that results
can be compared with a CPU's. As on a GPU, no tensor but a single number can be mixed with one of the host. Each moment at which the host would wait for the
device is noted: `.item()`, `.tolist()`, a truth value, a result whose size depends on values (`nonzero`, `x[mask]`, `unique`, `bincount`), a
copy to the host, and a copy to the device that is not `non_blocking`, as `torch.tensor(..., device=...)` makes one.

torch's own FakeTensorMode refuses `x[:n]`, `x[index]` and `.to("cuda")` of fake CUDA tensors where torch is built for CPUs, and knows no values.

What this cannot see: kernels that a GPU has not, or rounds otherwise; branches for `device.type == "cuda"` (pinned memory, how many policies
fit); autocast; memory; whether a `non_blocking` copy has ended in time. benchmarks/gpu.sh asks a real GPU.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

import xtalrl

DEVICE = torch.device("meta")
_SOURCES = str(Path(xtalrl.__file__).parent)


class _Resident(torch.Tensor):
    """A tensor on the device; `values` are what a GPU would have in its memory."""

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> _Resident:
        tensor: _Resident = torch.Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
        )
        tensor.values = values
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} of a tensor on the stand-in device outside its block")


class StandInDevice:
    """In this block tensors on `DEVICE` work; `waits` has one line for every time the host waits for them."""

    def __init__(self) -> None:
        self.waits: list[str] = []

    def __enter__(self) -> StandInDevice:
        self._modes = ExitStack()
        self._modes.enter_context(_Functions(self))
        self._modes.enter_context(_Operations(self))
        return self

    def __exit__(self, *exception: Any) -> None:
        self._modes.close()

    def wait(self, what: str) -> None:
        """Note the line of xtalrl that makes the host wait."""
        frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(_SOURCES)]
        where = f"{Path(frames[-1].filename).name}: {frames[-1].line}" if frames else "a test"
        self.waits.append(f"{where} ({what})")


class _Functions(TorchFunctionMode):
    """Catches what turns Python's and numpy's numbers into tensors and back, which is not an operation."""

    def __init__(self, device: StandInDevice) -> None:
        self.device = device

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.Tensor.tolist, torch.Tensor.numpy) and isinstance(args[0], _Resident):
            self.device.wait(func.__name__)
            return getattr(args[0].values, func.__name__)()
        if func in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor) and not isinstance(args[-1], torch.Tensor):
            if func is torch.Tensor.new_tensor:
                kwargs = {"dtype": args[0].dtype, "device": args[0].device, **kwargs}
            if torch.device(kwargs.get("device") or "cpu") == DEVICE:
                host = torch.tensor(args[-1], **{**kwargs, "device": "cpu"})
                self.device.wait(f"{host.numel()} numbers to the device")
                return host.to(DEVICE, non_blocking=True)
        return func(*args, **kwargs)


class _Operations(TorchDispatchMode):
    """Does every operation on the values, having looked where its tensors are."""

    def __init__(self, device: StandInDevice) -> None:
        super().__init__()
        self.device = device

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and torch would load its compiler first

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        tensors: list[torch.Tensor] = []
        _map(tensors.append, (args, kwargs))
        residents = [x for x in tensors if isinstance(x, _Resident)]
        if kwargs.get("device") is not None:
            to_device = torch.device(kwargs["device"]) == DEVICE
            kwargs["device"] = torch.device("cpu")
        elif name == "copy_":
            to_device = isinstance(args[0], _Resident)
        else:
            to_device = bool(residents)

        if name in ("_to_copy", "copy_"):
            crosses = bool(residents) != to_device or len(residents) == 1 < len(tensors)
            non_blocking = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
            if crosses and not (to_device and non_blocking):
                self.device.wait("a copy to the device" if to_device else "a copy to the host")
        elif residents:
            if any(x.dim() for x in tensors if not isinstance(x, _Resident)):
                raise RuntimeError(f"{func} mixes tensors of {DEVICE} and of the host")
            if _depends_on_values(func, name, args, kwargs):
                self.device.wait(name.strip("_"))

        inner_args, inner_kwargs = _map(lambda x: x.values if isinstance(x, _Resident) else x, (args, kwargs))
        result = func(*inner_args, **inner_kwargs)
        if not to_device:
            return result
        return return_and_correct_aliasing(func, args, kwargs, _map(_Resident, result))


def _map(function: Callable[[torch.Tensor], Any], value: Any) -> Any:
    """The tensors in lists, tuples and dicts through a function."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, (list, tuple)):
        return type(value)([_map(function, item) for item in value])
    if isinstance(value, dict):
        return {name: _map(function, item) for name, item in value.items()}
    return value


def _depends_on_values(func: Any, name: str, args: Any, kwargs: Any) -> bool:
    """Whether the host needs values to go on: it is given them, or the result's size depends on them."""
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    if name.strip("_").removeprefix("unsafe_") in ("index", "index_put"):
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags))
