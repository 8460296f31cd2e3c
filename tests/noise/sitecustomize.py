"""Change the last bits of what PyTorch's kernels return; Python imports this when it starts."""

from __future__ import annotations

import importlib.machinery
import os
import sys
import zlib

SEED = os.environ.get("NOISE_SEED", "0")
ULPS = float(os.environ.get("NOISE_ULPS", "4"))

# Kernels by where PyTorch keeps them. Functions of torch.nn.functional call those of torch.
PRODUCTS = ("matmul", "mm", "bmm", "__matmul__", "__rmatmul__", "addmm", "baddbmm")
OF_TORCH = ("matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "conv2d", "softmax", "layer_norm")
OF_TENSOR = (*PRODUCTS, "softmax")
OF_FUNCTIONAL = ("linear", "conv2d", "scaled_dot_product_attention")
BY_ROW = ("softmax", "layer_norm")  # a row's bits do not depend on the other rows


class Noise:
    """What changes a kernel's result. `torch` is the imported module."""

    def __init__(self, torch):
        self.torch = torch
        self.integers = {
            torch.float64: torch.int64,
            torch.float32: torch.int32,
            torch.bfloat16: torch.int16,
            torch.float16: torch.int16,
        }
        self.is_inside = False

    def wrap(self, kernel):
        """Return a function that calls a kernel and changes its result."""

        def noisy(*arguments, **options):
            if self.is_inside or self.torch.compiler.is_compiling():
                return kernel(*arguments, **options)
            self.is_inside = True  # the noise calls kernels, too
            try:
                result = kernel(*arguments, **options)
                if self.is_changed(kernel, result, arguments):
                    result = result + self.noise(kernel, result, (*arguments, *options.values()))
                return result
            finally:
                self.is_inside = False

        noisy.__name__ = kernel.__name__
        return noisy

    def is_changed(self, kernel, result, arguments):
        """Tell whether a result may have other last bits."""
        if not isinstance(result, self.torch.Tensor) or result.dtype not in self.integers:
            return False
        if result.device.type != "cpu" or result.is_sparse or not result.numel():
            return False
        if type(result).__name__ == "FakeTensor":  # it has a shape alone
            return False
        factor = arguments[0] if arguments else None
        if kernel.__name__ in ("matmul", "mm", "linear") and factor.shape[-1:] == (1,):
            return False  # a product of one number is rounded once
        return kernel.__name__ == "layer_norm" or bool((result != result.round()).any())

    def noise(self, kernel, result, inputs):
        """Return what to add to a result."""
        with self.torch.no_grad():
            bits = self.hashed(kernel, result.detach(), inputs)
            if result.dtype in (self.torch.bfloat16, self.torch.float16):
                return self.steps(result.detach(), bits)
            unit = bits.to(result.dtype) / 2**15 - 1  # in [-1, 1)
            size = result.detach().abs()
            if kernel.__name__ != "softmax" and result.ndim:
                # the terms of a small sum may be large
                rms = size.square().mean(-1, keepdim=True).sqrt()
                size = self.torch.where(size == 0, size, size.maximum(rms))
            change = ULPS * self.torch.finfo(result.dtype).eps * unit * size
            return change.nan_to_num(0, 0, 0)

    def hashed(self, kernel, result, inputs):
        """Return a number from 0 to 2**16 - 1 for each element, by its bits and the call."""
        parts = [SEED, kernel.__name__]
        if kernel.__name__ in BY_ROW:
            parts.append(result.shape[-1:])
        else:
            for value in inputs:
                if isinstance(value, self.torch.Tensor) and not value.is_mkldnn:
                    parts.append((tuple(value.shape), value.data_ptr() % 64))
        seed = zlib.crc32(repr(parts).encode())
        bits = result.contiguous().view(self.integers[result.dtype]).long()
        bits = (bits ^ (bits >> 32)) & 0xFFFFFFFF
        for _ in range(2):
            bits = ((bits ^ seed ^ (bits >> 16)) * 0x2C1B3C6D) & 0xFFFFFFFF
        return bits >> 16

    def steps(self, result, bits):
        """Return the steps to the next number of few elements: a kernel rounds to 16 bits once."""
        step = (bits % 16 == 0).short() * (1 - 2 * (bits >> 15)).short()
        step *= result != 0
        moved = (result.contiguous().view(self.torch.int16) + step).view(result.dtype)
        return self.torch.where(moved.isfinite(), moved, result) - result


def install(torch):
    """Replace PyTorch's kernels by noisy ones."""
    noise = Noise(torch)
    for holder, names in (
        (torch, OF_TORCH),
        (torch.Tensor, OF_TENSOR),
        (torch.nn.functional, OF_FUNCTIONAL),
    ):
        for name in names:
            setattr(holder, name, noise.wrap(getattr(holder, name)))
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # layers that are packed for oneDNN
        packed = torch.ops.mkldnn._linear_pointwise
        noisy = noise.wrap(packed)
        noisy.binary = noise.wrap(packed.binary)
        torch.ops.mkldnn._linear_pointwise = noisy


class AfterTorch(importlib.machinery.PathFinder):
    """Install the noise as soon as PyTorch is imported."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != "torch":
            return None
        sys.meta_path.remove(cls)
        spec = super().find_spec(name, path, target)
        if spec is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                install(module)

            spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, AfterTorch)
