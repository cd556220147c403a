"""Recurrent layers over the tokens of many sequences, written by hand for the CPU.

PyTorch runs a GRU or a plain recurrent layer as about ten small operations for each token, and autograd differentiates
them one by one, with a gradient of the weights for each. Here a token takes at most five operations, which write their
results straight into place, and at most three in the backward pass. What does not depend on the state is computed for a
chunk of tokens at once: the products with the input, the gates' derivatives, the gradients of input and weights. A
chunk is small enough to stay in the cache, and so are the copies where its layout differs from that of the sequences.
"""

from itertools import pairwise

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from onespike.functional.autocast import computed_in

#: Tokens in a chunk, those of all sequences together; measured.
_CHUNK = 8192

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


class _Rnn(torch.autograd.Function):
    """A chunk is a matrix (tokens * N, C): the rows of a token, one for each sequence, lie together."""

    @staticmethod
    def forward(ctx, x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, backwards: bool) -> Tensor:  # type: ignore[no-untyped-def]
        count, tokens, _ = x.shape
        channels = len(w_hh)
        w_in, bias = w_ih.to(x.dtype).t(), (b_ih + b_hh).to(x.dtype)
        w_state = w_hh.to(x.dtype).t().contiguous()  # small products with a transposed matrix take several times longer
        out, last = x.new_empty(count, tokens, channels), x.new_zeros(count, channels)
        states = []
        for chunk in _chunks(count, tokens, backwards):
            rows = _rows(x, chunk, backwards)
            h = x.new_empty(count + len(rows), channels)  # the state before the chunk, then after each token
            h[:count] = last
            torch.addmm(bias, rows, w_in, out=h[count:])
            each = h.split(count)
            for before, now in pairwise(each):
                now.addmm_(before, w_state).tanh_()
            last = each[-1]
            _put(out, chunk, backwards, h[count:])
            states.append(h)
        ctx.save_for_backward(x, w_ih, w_hh, b_ih, b_hh, *states)
        ctx.backwards = backwards
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        x, w_ih, w_hh, b_ih, b_hh, *states = ctx.saved_tensors
        count, tokens, _ = x.shape
        w_in, w_state = w_ih.to(x.dtype), w_hh.to(x.dtype)
        to_x, to_ih, to_hh, to_bias = torch.empty_like(x), *map(torch.zeros_like, (w_ih, w_hh, b_ih))
        carry = x.new_zeros(count, len(w_hh))  # gradient from a chunk's first token to the token before
        for chunk, h in zip(reversed(_chunks(count, tokens, ctx.backwards)), reversed(states), strict=True):
            d = _rows(gradient, chunk, ctx.backwards)
            each = d.split(count)
            each[-1].add_(carry)
            carry.zero_()
            for now, before, state in zip(each[::-1], (*each[-2::-1], carry), h.split(count)[::-1], strict=False):
                _tanh_backward(now, state, grad_input=now)
                before.addmm_(now, w_state)
            _put(to_x, chunk, ctx.backwards, d @ w_in)
            to_ih += d.t() @ _rows(x, chunk, ctx.backwards)
            to_hh += d.t() @ h[:-count]
            to_bias += d.sum(0)
        return to_x, to_ih, to_hh, to_bias, to_bias.to(b_hh.dtype, copy=True), None


class _Gru(torch.autograd.Function):
    """A chunk is a matrix: a column for each token and sequence, and the rows of four gates on top of each other.

    The gates are U_n h, r, z and n: the state's products go into the first three, the input's into the last three. With
    gates side by side, as in PyTorch's weights, an operation on one of them would run over short pieces.
    """

    @staticmethod
    def forward(ctx, x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, backwards: bool) -> Tensor:  # type: ignore[no-untyped-def]
        count, tokens, _ = x.shape
        channels = w_hh.shape[1]
        w_in, w_state = w_ih.to(x.dtype), w_hh.roll(channels, 0).to(x.dtype)
        bias = torch.cat((b_hh[2 * channels :], b_ih))
        bias[channels : 3 * channels] += b_hh[: 2 * channels]
        bias = bias.to(x.dtype)[:, None]
        out, last = x.new_empty(count, tokens, channels), x.new_zeros(channels, count)
        kept = []
        for chunk in _chunks(count, tokens, backwards):
            rows = _rows(x, chunk, backwards)
            gates = x.new_empty(4 * channels, len(rows))
            gates[:channels] = bias[:channels]
            torch.addmm(bias[channels:], w_in, rows.t(), out=gates[channels:])
            h = x.new_empty(channels, count + len(rows))  # the state before the chunk, then after each token
            h[:, :count] = last
            each = h.split(count, 1)
            by_state, r_and_z = gates[: 3 * channels], gates[channels : 3 * channels]
            parts = (part.split(count, 1) for part in (by_state, r_and_z, *gates.split(channels)))
            for before, now, products, rz, un, r, z, n in zip(each, each[1:], *parts, strict=False):
                products.addmm_(w_state, before)
                rz.sigmoid_()
                n.addcmul_(r, un).tanh_()
                torch.lerp(n, before, z, out=now)
            last = each[-1]
            _put(out, chunk, backwards, h[:, count:].t().contiguous())
            kept += [gates, h]
        ctx.save_for_backward(x, w_ih, w_hh, b_ih, b_hh, *kept)
        ctx.backwards = backwards
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        x, w_ih, w_hh, b_ih, b_hh, *kept = ctx.saved_tensors
        count, tokens, _ = x.shape
        channels = w_hh.shape[1]
        w_in, w_state = w_ih.to(x.dtype), w_hh.roll(channels, 0).to(x.dtype).t().contiguous()
        to_x, to_ih, to_hh = torch.empty_like(x), torch.zeros_like(w_ih), torch.zeros_like(w_hh)
        to_bias = torch.cat((b_hh[2 * channels :], b_ih)).zero_()
        carry = x.new_zeros(channels, count)  # gradient from a chunk's first token to the token before
        one = x.new_ones(())
        # Allocating for each chunk would cost more than computing it.
        room = x.new_empty(5 * channels * max((gates.shape[1] for gates in kept[::2]), default=0))
        chunks = reversed(_chunks(count, tokens, ctx.backwards))
        for chunk, gates, h in zip(chunks, kept[-2::-2], kept[::-2], strict=True):
            columns = gates.shape[1]
            d, g = room[: 5 * channels * columns].view(5 * channels, columns).split((4 * channels, channels))
            # h = n + z (h' - n), so all four gates' gradients are multiples of h's; first the factors.
            un, r, z, n = gates.split(channels)
            of_un, of_r, of_z, of_n = d.split(channels)
            _tanh_backward(torch.sub(one, z, out=of_n), n, grad_input=of_n)
            torch.mul(of_n, r, out=of_un)
            _sigmoid_backward(torch.mul(of_n, un, out=of_r), r, grad_input=of_r)
            _sigmoid_backward(torch.sub(h[:, :-count], n, out=of_z), z, grad_input=of_z)
            g.copy_(_rows(gradient, chunk, ctx.backwards).t())
            each = g.split(count, 1)
            each[-1].add_(carry)
            carry.zero_()
            stacked, by_state = d.view(4, channels, columns).split(count, 2), d[: 3 * channels].split(count, 1)
            parts = (part[::-1] for part in (each, stacked, by_state, z.split(count, 1)))
            for before, now, factors, products, z_now in zip((*each[-2::-1], carry), *parts, strict=True):
                factors.mul_(now)
                before.addcmul_(now, z_now).addmm_(w_state, products)
            _put(to_x, chunk, ctx.backwards, d[channels:].t() @ w_in)
            to_ih += d[channels:] @ _rows(x, chunk, ctx.backwards)
            to_hh += d[: 3 * channels] @ h[:, :-count].t()
            to_bias += d.sum(1)
        to_b_hh = to_bias[: 3 * channels].roll(-channels)
        return to_x, to_ih, to_hh.roll(-channels, 0), to_bias[channels:], to_b_hh, None


def _chunks(count: int, tokens: int, backwards: bool) -> list[slice]:
    """The chunks of the tokens of `count` sequences, in the order of the scan; empty without sequences."""
    if not count:
        return []
    size = max(1, _CHUNK // count)
    chunks = [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]
    return chunks[::-1] if backwards else chunks


def _rows(x: Tensor, chunk: slice, backwards: bool) -> Tensor:
    """A copy of the tokens of a chunk of (N, T, C), one after the other in the order of the scan: (tokens * N, C)."""
    rows = x[:, chunk].transpose(0, 1)
    return (rows.flip(0) if backwards else rows).clone(memory_format=torch.contiguous_format).flatten(0, 1)


def _put(out: Tensor, chunk: slice, backwards: bool, rows: Tensor) -> None:
    """Write rows, as `_rows` returns them, into a chunk of (N, T, C)."""
    by_token = rows.view(-1, len(out), out.shape[2])
    out[:, chunk] = (by_token.flip(0) if backwards else by_token).transpose(0, 1)


def _expect_weights(gates: int, x: Tensor, **weights: Tensor) -> None:
    """Raise a ValueError unless weights and biases fit x and this many gates: broadcasting or a cast would hide it."""
    if x.dim() != 3 or not x.is_floating_point():
        raise ValueError(f"x: expected floats (N, T, C_in), got {x.dtype} {tuple(x.shape)}")
    dtype = computed_in(x)
    rows = gates * weights["w_hh"].shape[-1:].numel()  # of a single number it is 1
    shapes = {"w_ih": (rows, x.shape[2]), "w_hh": (rows, rows // gates), "b_ih": (rows,), "b_hh": (rows,)}
    for name, one in weights.items():
        if one.shape != shapes[name] or one.device != x.device or computed_in(one) != dtype:
            expected = f"{dtype} {shapes[name]} on {x.device} for x {tuple(x.shape)}"
            raise ValueError(f"{name}: expected {expected}, got {computed_in(one)} {tuple(one.shape)} on {one.device}")


def scan_rnn(x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, backwards: bool = False) -> Tensor:
    """Run a plain recurrent layer: h[t] = tanh(W x[t] + b + U h[t-1] + c), from h = 0.

    x is (N, T, C_in), W (C, C_in), U (C, C), b and c (C,); h is (N, T, C) and can be differentiated once. `backwards`
    starts from the last token: h[t+1] in place of h[t-1].

    Raises:
        ValueError: The shapes, devices or dtypes do not fit.
    """
    _expect_weights(1, x, w_ih=w_ih, w_hh=w_hh, b_ih=b_ih, b_hh=b_hh)
    return _Rnn.apply(x.to(computed_in(x)), w_ih, w_hh, b_ih, b_hh, backwards)


def scan_gru(x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, backwards: bool = False) -> Tensor:
    """Run a GRU, as `torch.nn.GRU` defines it, from h = 0.

        r, z = sigmoid(W_rz x[t] + b_rz + U_rz h[t-1] + c_rz)
        n = tanh(W_n x[t] + b_n + r (U_n h[t-1] + c_n))            h[t] = n + z (h[t-1] - n)

    Shapes are those of `scan_rnn`, the gates r, z and n on top of each other: W (3C, C_in), U (3C, C), b and c (3C,).

    Raises:
        ValueError: The shapes, devices or dtypes do not fit.
    """
    _expect_weights(3, x, w_ih=w_ih, w_hh=w_hh, b_ih=b_ih, b_hh=b_hh)
    return _Gru.apply(x.to(computed_in(x)), w_ih, w_hh, b_ih, b_hh, backwards)
