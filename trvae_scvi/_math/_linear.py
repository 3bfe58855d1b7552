"""Linear maps that do no work twice: of sparse counts, and with weights of its own for every condition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from scipy import sparse
from torch.autograd.function import once_differentiable

from ._precision import full, no_autocast

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["grouped_linear", "sparse_linear", "sum_of_squares"]


def sparse_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """`x W^T + b` for a sparse `x`, on the CPU.

    Parameters
    ----------
    x
        `n x n_in` tensor in the CSR layout, without a gradient.
    weight, bias
        `n_out x n_in` and `n_out` parameters.

    Returns
    -------
    `n x n_out` tensor.
    """
    return _SparseLinear.apply(x, weight, bias)


def grouped_linear(
    hidden: torch.Tensor,
    groups: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    offsets: tuple[torch.Tensor, torch.Tensor | None],
    responses: tuple[torch.Tensor, torch.Tensor | None],
    centre: torch.Tensor,
) -> torch.Tensor:
    """`W h + U_s (h - c) + b + d_s`, in one matrix product for every group `s` over its own rows.

    Parameters
    ----------
    hidden
        `... x n x n_in` tensor.
    groups
        Codes of `n` rows.
    weight, bias
        `n_out x n_in` and `n_out` parameters that the groups share.
    offsets
        `d`, rows of length `n_out` for the first groups and, or ``None``, for those that follow.
    responses
        `U`, likewise, rows of shape `n_in x n_out`.
    centre
        `c`, of length `n_in`, without a gradient.

    Returns
    -------
    `... x n x n_out` tensor.
    """
    codes = groups.expand(hidden.shape[:-1]).flatten()
    result = _GroupedLinear.apply(hidden.flatten(0, -2), codes, weight, bias, *offsets, *responses, centre)
    return result.unflatten(0, hidden.shape[:-1])


def sum_of_squares(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum of the squared entries, rows weighted, without a second tensor of the size of `x`, which may be large.

    Parameters
    ----------
    x
        `n x ...` tensor.
    weights
        `n` weights, without a gradient.
    """
    return _SumOfSquares.apply(x, weights)


class _SumOfSquares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weights)
        with no_autocast(x):
            return torch.linalg.vector_norm(full(x).flatten(1), dim=1).square() @ weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor, None]:
        x, weights = ctx.saved_tensors
        return x * (2.0 * grad_output * weights).view(-1, *(1 for _ in x.shape[1:])), None


class _SparseLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        with no_autocast(x):  # there is no such product in low precision
            return x @ weight.t().contiguous() + bias

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        grad_weight = None
        if ctx.needs_input_grad[1]:
            with no_autocast(x):
                grad_weight = (_transposed(x) @ grad_output.contiguous()).t()
        return None, grad_weight, grad_output.sum(dim=0)


def _transposed(x: torch.Tensor) -> torch.Tensor:
    """The transpose in the CSR layout, too; torch's own product with ``x.t()`` is four times as slow."""
    parts = (x.values(), x.col_indices(), x.crow_indices())
    transposed = sparse.csr_matrix(tuple(part.numpy() for part in parts), shape=tuple(x.shape)).T.tocsr()
    indptr, indices, values = map(torch.from_numpy, (transposed.indptr, transposed.indices, transposed.data))
    return torch.sparse_csr_tensor(indptr, indices, values, size=transposed.shape, check_invariants=False)


class _Groups:
    """Rows put in the order of their groups, and back."""

    def __init__(self, codes: torch.Tensor) -> None:
        present, counts = torch.unique(codes, return_counts=True)
        self.sizes = dict(zip(present.tolist(), counts.tolist(), strict=True))
        self.order = torch.argsort(codes, stable=True) if len(self.sizes) > 1 else None

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        return rows if self.order is None else rows.index_select(0, self.order)

    def scatter(self, rows: torch.Tensor) -> torch.Tensor:
        return rows if self.order is None else torch.empty_like(rows).index_copy_(0, self.order, rows)

    def __iter__(self) -> Iterator[tuple[int, slice]]:
        start = 0
        for code, size in self.sizes.items():
            yield code, slice(start, start + size)
            start += size


class _GroupedLinear(torch.autograd.Function):
    # one product with W + U_s instead of two, and its gradient used for both; automatic differentiation would also
    # make a table of zeros for every group that is looked up

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        codes: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        offset: torch.Tensor,
        new_offset: torch.Tensor | None,
        response: torch.Tensor,
        new_response: torch.Tensor | None,
        centre: torch.Tensor,
    ) -> torch.Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        groups = _Groups(codes)
        ordered = groups.gather(hidden).to(dtype)
        result = ordered.new_empty(len(hidden), len(weight))
        weights = []
        for code, rows in groups:
            own_response = _row(response, new_response, code)
            weights.append((weight.t() + own_response).to(dtype))
            own_bias = (bias + _row(offset, new_offset, code) - centre @ own_response).to(dtype)
            torch.addmm(own_bias, ordered[rows], weights[-1], out=result[rows])
        ctx.groups, ctx.hidden_dtype = groups, hidden.dtype
        ctx.save_for_backward(ordered, weight, offset, new_offset, response, new_response, centre, *weights)
        return groups.scatter(result)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        ordered, weight, *tables, centre = ctx.saved_tensors[:7]
        need_hidden, _, need_weight, need_bias, *need_tables, _ = ctx.needs_input_grad
        offset, new_offset, response, new_response = (
            torch.zeros_like(table) if needed else None for table, needed in zip(tables, need_tables, strict=True)
        )
        grad_hidden = torch.empty_like(ordered) if need_hidden else None
        grad_weight = torch.zeros_like(weight.t()) if need_weight else None
        grad_bias = weight.new_zeros(len(weight)) if need_bias else None
        n_old = len(tables[0])
        gathered = ctx.groups.gather(grad_output)
        for (code, rows), own_weight in zip(ctx.groups, ctx.saved_tensors[7:], strict=True):
            grad, old = gathered[rows], code < n_old
            if grad_hidden is not None:
                torch.mm(grad, own_weight.t(), out=grad_hidden[rows])
            own_response = response if old else new_response
            total = grad.sum(dim=0, dtype=weight.dtype)
            if grad_weight is not None or own_response is not None:
                product = ordered[rows].t() @ grad
                if grad_weight is not None:
                    grad_weight += product
                if own_response is not None:
                    own_response[code if old else code - n_old] = product - torch.outer(centre, total)
            own_offset = offset if old else new_offset
            if own_offset is not None:
                own_offset[code if old else code - n_old] = total
            if grad_bias is not None:
                grad_bias += total
        return (
            None if grad_hidden is None else ctx.groups.scatter(grad_hidden).to(ctx.hidden_dtype),
            None,
            None if grad_weight is None else grad_weight.t(),
            grad_bias,
            offset,
            new_offset,
            response,
            new_response,
            None,
        )


def _row(old: torch.Tensor, new: torch.Tensor | None, code: int) -> torch.Tensor:
    return old[code] if new is None or code < len(old) else new[code - len(old)]
