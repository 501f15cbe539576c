"""Training on several devices: one process each, started by torchrun; alone without it."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import nn


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


def average_gradients(network: nn.Module) -> None:
    """Replace gradients by their mean over the processes."""
    if world() > 1:
        for p in network.parameters():
            if p.grad is not None:
                dist.all_reduce(p.grad)
                p.grad /= world()


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
