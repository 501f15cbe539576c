"""Training on several devices: one process each, started by torchrun; alone without it."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import nn

from micro.runtime.errors import InputError


def join(device: torch.device) -> torch.device:
    """Join the processes that torchrun started, if it did; the device of this one."""
    if "WORLD_SIZE" not in os.environ:
        return device
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if device.type == "cuda" else device


def rank() -> int:
    """Number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait() -> None:
    """Until all processes are here."""
    if dist.is_initialized():
        dist.barrier()


def share(rows: int) -> slice:
    """Rows of a batch that are for this process: every N-th.

    Raises
    ------
    InputError
        If there are fewer rows than processes.
    """
    if rows < world():
        raise InputError(f"at least a row for each of {world()} processes", key="batch", value=rows)
    return slice(rank(), None, world())


def weight(rows: int) -> float:
    """Factor on a mean over :func:`share` whose mean over the processes is that over the whole batch."""
    return len(range(rows)[share(rows)]) * world() / rows


def average(network: nn.Module, loss: torch.Tensor) -> torch.Tensor:
    """Replace gradients by their mean over the processes; the mean loss."""
    if world() == 1:
        return loss
    own = [loss, *(p.grad for p in network.parameters() if p.grad is not None)]
    together = torch.cat([t.reshape(-1) for t in own])  # one message instead of one a parameter
    dist.all_reduce(together)
    together /= world()
    mean, *gradients = together.split([t.numel() for t in own])
    for gradient, part in zip(own[1:], gradients, strict=True):
        gradient.copy_(part.view_as(gradient))
    return mean[0]


def precision(device: torch.device) -> AbstractContextManager:
    """bfloat16 products where the hardware has them (CUDA, AMX, AVX-512 with bf16), float32 elsewhere.

    Without such hardware bfloat16 is emulated, several times slower than float32.
    """
    if device.type == "cuda" or (device.type == "cpu" and _cpu_has_bfloat16()):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def _cpu_has_bfloat16() -> bool:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="ignore") as file:
            return "avx512_bf16" in file.read()
    except OSError:
        return False
