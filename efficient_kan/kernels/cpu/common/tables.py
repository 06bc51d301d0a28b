"""Tables of knots: what the bases are in each span, and the guide by which spans among many knots are found (`common.spans`).

Shape legend: ``I`` inputs, ``T = G + 2k + 1`` knots of an input, ``k`` the spline order, ``W = k + 1`` bases per span.

In a span the bases are polynomials
in ``s = (x - middle) * scale``, which runs from -1/2 to 1/2 through the span: no coefficient is large on any knots. They are
worked out in float64 by the triangular scheme of Piegl and Tiller (*The NURBS Book*, A2.1-A2.3), on polynomials in place of
numbers, and rounded once.

A table is made of ``I * (T + 1)`` rows of ``row_length(k)`` numbers, row ``i * (T + 1) + c`` for span ``c`` of input ``i``:
``middle``, ``scale``, then for each power 0..k the ``W`` coefficients. Spans outside have rows of zeros.

A guide is made of ``I`` rows of ``guide_length(T)`` numbers. The range of an input's knots is cut into buckets of equal width.
A row holds where the first one starts, how many there are to a unit, the most knots in one of them and, for each of ``2 T``
buckets, the number of knots below it, reduced to where as many as those most are left. Where each of ``T`` buckets around
places of equal distance holds one knot, as on uniform knots, the most is 0: a bucket's own number is that of the knots below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from weakref import ReferenceType, ref

import torch
from torch import Tensor

from efficient_kan.kernels.cpu.codegen.jit import stored

_Made = TypeVar("_Made")

_FAKE = torch._C._TorchDispatchModeKey.FAKE
_BLOCK = 2**14  # knots that are worked on together


def row_length(spline_order: int) -> int:
    """Numbers in a row of a table."""
    return 2 + (spline_order + 1) ** 2


def guide_length(knots: int) -> int:
    """Numbers in a row of a guide."""
    return 3 + 2 * knots


def _polynomials(knots: Tensor, middle: Tensor, unit: Tensor, order: int) -> Tensor:
    """Coefficients ``(W, W, I, T - 1)`` of power ``m`` of basis ``r`` of each span, in float64.

    ``middle`` and ``unit``, the inverse of the scale, are what the place in a span is made with.
    Bases that do not exist, below the first or beyond the last, have numbers without meaning.
    """
    (inputs, count), k = knots.shape, order
    steps = torch.arange(1, k + 1, dtype=knots.dtype, device=knots.device)
    t = torch.cat((knots[:, :1] - steps.flip(0), knots, knots[:, -1:] + steps), 1)  # knots beyond the ends, distinct

    def knot(place: int) -> Tensor:
        """Knot ``place - k`` after the one that a span starts from."""
        return t[:, place : place + count - 1]

    p = knots.new_zeros(k + 1, k + 1, inputs, count - 1)
    p[0, 0] = 1.0
    for q in range(1, k + 1):
        for r in range(q):
            p[r, :q] *= 1.0 / (knot(k + 1 + r) - knot(k + 1 - q + r))
        for r in range(q, -1, -1):
            for m in range(q, -1, -1):
                value = torch.zeros_like(middle)
                if r > 0 and m < q:
                    value += (middle - knot(k - q + r)) * p[r - 1, m]
                if r > 0 and m > 0:
                    value += unit * p[r - 1, m - 1]
                if r < q and m < q:
                    value += (knot(k + 1 + r) - middle) * p[r, m]
                if r < q and m > 0:
                    value -= unit * p[r, m - 1]
                p[r, m] = value
    return p


def _table(knots: Tensor, order: int) -> Tensor:
    """The table ``(I * (T + 1), row_length(k))``; see the module's description."""
    (inputs, count), k, real = knots.shape, order, knots.dtype
    exact = knots.double()
    low, high = exact[:, :-1], exact[:, 1:]
    # What samples are taken away from and multiplied with is rounded: polynomials are in what comes of it.
    middle = (low + 0.5 * (high - low)).to(real).double()
    scale = (1.0 / (high - low)).clamp(max=torch.finfo(real).max).to(real).double()
    p = _polynomials(exact, middle, 1.0 / scale, k)
    table = knots.new_zeros((inputs, count + 1, row_length(k)))
    rows, spans = table[:, 1:-1], torch.arange(1, count, device=knots.device)
    rows[..., 0], rows[..., 1] = middle, scale
    coefficients = rows[..., 2:].unflatten(-1, (k + 1, k + 1))
    first = (spans - 1 - k).clamp(0, count - 2 * k - 2)  # as first_basis
    for place in range(k + 1):
        r = first + place - (spans - 1 - k)  # which of the span's own bases is at this place
        exists = (r >= 0) & (r <= k)
        of_place = p[r.clamp(0, k), :, :, torch.arange(count - 1, device=knots.device)]  # shape: (T - 1, W, I)
        coefficients[..., place] = torch.where(exists[:, None, None], of_place, 0.0).permute(2, 0, 1)
    rows *= (high > low).unsqueeze(-1)
    rows[~(high > low)] = 0.0  # also what is no number in an empty span
    return table.flatten(0, 1)


def _guide(knots: Tensor) -> Tensor:
    """The guide ``(I, guide_length(T))``; see the module's description."""
    inputs, count = knots.shape
    reach = knots[:, -1:] - knots[:, :1]
    inverse = (count - 1) / reach
    low = knots[:, :1] - 0.5 / inverse
    places = torch.arange(2 * count, device=knots.device)
    single = (_buckets(knots, low, inverse, count - 1) == places[:count]).all(1, keepdim=True)
    many = 2 * count / reach
    of_knots = _buckets(knots, knots[:, :1], many, 2 * count - 1)
    below = torch.searchsorted(of_knots, places.expand(inputs, -1).contiguous())
    filled = of_knots.new_zeros((inputs, 2 * count)).scatter_add_(1, of_knots, torch.ones_like(of_knots))
    most = filled.amax(1, keepdim=True)
    guide = knots.new_zeros((inputs, guide_length(count)))
    guide[:, :1], guide[:, 1:2] = torch.where(single, low, knots[:, :1]), torch.where(single, inverse, many)
    guide[:, 2:3], guide[:, 3:] = torch.where(single, 0, most), torch.minimum(below, count - most)
    return guide


def _buckets(knots: Tensor, low: Tensor, inverse: Tensor, last: int) -> Tensor:
    """The bucket of each knot, as :func:`locate` finds it."""
    place = (knots - low) * inverse
    return torch.where(place > 0, place, 0.0).clamp(max=last).long()


def remembered(make: Callable[[Tensor, int], _Made]) -> Callable[[Tensor, int], _Made]:
    """Keep what ``make(knots, order)`` returns for as long as the tensor of knots lives and holds the same numbers.

    They are compared with a copy, because a tensor may be written to without its version telling. Fake ones hold none, and
    where everything that is made is fake, nothing is kept for a tensor that is not.
    """
    made: dict[int, tuple[ReferenceType[Tensor], int, Tensor, _Made]] = {}

    def remembering(knots: Tensor, order: int) -> _Made:
        held = stored(knots)
        if held and torch._C._len_torch_dispatch_stack() > 0 and torch._C._get_dispatch_mode(_FAKE) is not None:
            return make(knots, order)
        key = id(knots)
        found = made.get(key)
        if found is not None and found[0]() is knots and found[1] == order and (not held or torch.equal(found[2], knots)):
            return found[3]
        with torch.inference_mode(False):  # it may be needed for gradients later
            made[key] = found = ref(knots, lambda _: made.pop(key, None)), order, knots.clone(), make(knots, order)
        return found[3]

    return remembering


@remembered
def tables(knots: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """The guide ``(I, guide_length(T))`` and the table ``(I * (T + 1), row_length(k))`` of contiguous ``knots`` ``(I, T)``."""
    inputs, count = knots.shape
    if not stored(knots):
        return knots.new_empty((inputs, guide_length(count))), knots.new_empty((inputs * (count + 1), row_length(order)))
    with torch.no_grad():
        blocks = knots.split(max(1, _BLOCK // count))
        return torch.cat([_guide(block) for block in blocks]), torch.cat([_table(block, order) for block in blocks])
