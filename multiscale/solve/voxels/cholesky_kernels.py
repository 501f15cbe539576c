"""Compiled loops of :mod:`multiscale.solve.voxels.cholesky`: orders, elimination trees, fronts, solves."""

# mypy: allow-untyped-defs
# The compiler infers the types of what it compiles; annotations would be noise.

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from micro.voxels.compilation import njit

#: Points that are no longer parted; the share of points that a half should have at least.
_LEAF, _BALANCE = 8, 0.4
#: Nodes of a subtree that are eliminated together whatever that fills; share of zeros that a front may get by
#: going on with the next node.
_TOGETHER, _ZEROS = 8, 0.15
#: Columns of a panel.
PANEL = 96


class Factor(NamedTuple):
    """L D L^T of a sparse matrix, L unit lower triangular in dense panels of columns.

    Columns ``first[s]`` to ``first[s + 1]`` make up panel s; ``below[row_start[s]:row_start[s + 1]]`` are
    its rows under them. ``values`` from ``value_start[s]`` hold, column after column, the rest of the panel's
    own rows, then the rows under it. ``pivot`` is one over D.
    """

    first: Any
    row_start: Any
    value_start: Any
    below: Any
    values: Any
    pivot: Any


@njit(nogil=True, cache=True)
def dissected(points):
    """Order of elimination of grid points: planes of points part halves, and come after them.

    Parameters
    ----------
    points : int (n, 3)
        Distinct ones.
    """
    n = len(points)
    order = np.arange(n)
    room = np.empty(n, np.int64)
    waiting = [(0, n)]
    while len(waiting) > 0:
        low, high = waiting.pop()
        size = high - low
        if size <= _LEAF:
            continue
        best, axis, at = np.inf, -1, 0
        for a in range(3):
            least = most = points[order[low], a]
            for k in range(low, high):
                least, most = min(least, points[order[k], a]), max(most, points[order[k], a])
            if most - least < 2:
                continue
            count = np.zeros(most - least + 1, np.int64)
            for k in range(low, high):
                count[points[order[k], a] - least] += 1
            before = count[0]
            for c in range(1, len(count) - 1):
                share = min(before, size - before - count[c]) / size
                score = count[c] / min(share, _BALANCE)  # both halves hold a point at least
                if score < best:
                    best, axis, at = score, a, least + c
                before += count[c]
        end = low
        for side in range(3):
            begin = end
            for k in range(low, high):
                p = points[order[k], axis]
                if (side == 0 and p < at) or (side == 1 and p > at) or (side == 2 and p == at):
                    room[end] = order[k]
                    end += 1
            if side < 2:
                waiting.append((begin, end))
        order[low:high] = room[low:high]
    return order


@njit(nogil=True, cache=True)
def elimination_tree(indptr, indices, order):
    """The tree of an elimination (Liu 1990), its order made a post-order.

    Returns the order, the parents in it (the last one's is n), and how many rows each column has from its
    diagonal on.

    Parameters
    ----------
    indptr, indices : int arrays
        Rows of the graph of the nodes.
    order : int (n,)
        Node by time of elimination.
    """
    n = len(order)
    position = np.empty(n, np.int64)
    position[order] = np.arange(n)
    parent, ancestor = np.full(n, n), np.full(n, n)
    for k in range(n):
        for q in range(indptr[order[k]], indptr[order[k] + 1]):
            r = position[indices[q]]
            while r < k:
                above = ancestor[r]
                ancestor[r] = k
                if above == n:
                    parent[r] = k
                    break
                r = above
    # Post-order: children in their order, each right before what hangs on it.
    child, sibling = np.full(n + 1, -1), np.full(n, -1)
    for k in range(n - 1, -1, -1):
        sibling[k] = child[parent[k]]
        child[parent[k]] = k
    number, count = np.empty(n + 1, np.int64), 0
    number[n] = n
    k = child[n]
    while k >= 0:
        while child[k] >= 0:
            k = child[k]
        while True:
            number[k] = count
            count += 1
            if sibling[k] >= 0:
                k = sibling[k]
                break
            k = parent[k]
            if k == n:
                k = -1
                break
    after, above = np.empty(n, np.int64), np.empty(n, np.int64)
    for k in range(n):
        after[number[k]] = order[k]
        above[number[k]] = number[parent[k]]
    position[after] = np.arange(n)
    rows, seen = np.ones(n, np.int64), np.arange(n)
    for k in range(n):
        seen[k] = k
        for q in range(indptr[after[k]], indptr[after[k] + 1]):
            r = position[indices[q]]
            while r < k and seen[r] != k:
                rows[r] += 1
                seen[r] = k
                r = above[r]
    return after, above, rows


@njit(nogil=True, cache=True)
def fronts(parent, rows):
    """First nodes of the fronts: nodes that are eliminated together, in post-order; the last entry is n.

    Small subtrees are one, and a front goes on with the parent of its last node as long as that fills little.

    Parameters
    ----------
    parent, rows : int (n,)
        Of :func:`elimination_tree`.
    """
    n = len(parent)
    size = np.ones(n, np.int64)
    for k in range(n):
        if parent[k] < n:
            size[parent[k]] += size[k]
    starts = [0]
    zeros = k = 0
    while k < n:
        top = k  # of the largest small subtree that begins here
        while parent[top] < n and size[parent[top]] <= _TOGETHER:
            top = parent[top]
        end = top + 1 if size[top] <= _TOGETHER and top - size[top] + 1 == k else k + 1
        k = end
        if k == n:
            break
        width = end - starts[-1]
        more = width * (rows[k] + 1 - rows[k - 1])
        numbers = (width + 1) * (width + 2) // 2 + (width + 1) * (rows[k] - 1)
        if parent[k - 1] == k and zeros + more <= _ZEROS * numbers:
            zeros += more
        else:
            starts.append(k)
            zeros = 0
    starts.append(n)
    return np.array(starts)


@njit(nogil=True, cache=True)
def structure(indptr, indices, order, position, starts, rows):
    """Rows under each front: ``below[row_start[s]:row_start[s + 1]]`` are nodes in post-order, rising.

    Parameters
    ----------
    indptr, indices : int arrays
        Rows of the graph of the nodes.
    order, position : int (n,)
        Node by time of elimination, and the other way round.
    starts, rows : int arrays
        Of :func:`fronts` and :func:`elimination_tree`.
    """
    n, count = len(order), len(starts) - 1
    row_start = np.zeros(count + 1, np.int64)
    for s in range(count):
        row_start[s + 1] = row_start[s] + rows[starts[s + 1] - 1] - 1
    below = np.empty(row_start[count], np.int64)
    child, sibling = np.full(count, -1), np.full(count, -1)
    seen = np.full(n, -1)
    for s in range(count):
        first, last = starts[s], starts[s + 1]
        at = row_start[s]
        for k in range(first, last):
            for q in range(indptr[order[k]], indptr[order[k] + 1]):
                r = position[indices[q]]
                if r >= last and seen[r] != s:
                    seen[r] = s
                    below[at] = r
                    at += 1
        c = child[s]
        while c >= 0:
            for q in range(row_start[c], row_start[c + 1]):
                r = below[q]
                if r >= last and seen[r] != s:
                    seen[r] = s
                    below[at] = r
                    at += 1
            c = sibling[c]
        below[row_start[s] : at].sort()
        if at > row_start[s]:
            above = np.searchsorted(starts, below[row_start[s]], side="right") - 1
            sibling[s] = child[above]
            child[above] = s
    return row_start, below


@njit(nogil=True, cache=True)
def working_bytes(starts, row_start, below):
    """Most memory that :func:`factorised` takes at once besides the factor: a front, and what waits for it.

    Parameters
    ----------
    starts, row_start, below : int arrays
        As for :func:`factorised`.
    """
    most, peak, waiting = 0, 0, 0
    stack = [0]
    stack.pop()
    for s in range(len(starts) - 1):
        left = 3 * (row_start[s + 1] - row_start[s])
        most = max(most, 3 * (starts[s + 1] - starts[s]) + left)
        while len(stack) > 0 and below[row_start[stack[-1]]] < starts[s + 1]:
            c = stack.pop()
            waiting -= 9 * (row_start[c + 1] - row_start[c]) ** 2
        if left > 0:
            stack.append(s)
            waiting += left**2
        peak = max(peak, waiting)
    return 8 * (most**2 + peak)


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _root(a):
    """Replace a small matrix, given by its lower triangle, by its Cholesky factor; whether it has one."""
    for i in range(len(a)):
        row = a[i]
        for j in range(i + 1):
            other = a[j]
            total = row[j]
            for k in range(j):
                total -= row[k] * other[k]
            if j < i:
                row[j] = total / other[j]
            elif total > 0:
                row[j] = np.sqrt(total)
            else:
                return False
        row[i + 1 :] = 0
    return True


@njit(nogil=True, cache=True)
def _inverse(lower):
    """Inverse of a small lower triangle."""
    n = len(lower)
    out = np.zeros_like(lower)
    for i in range(n):
        for k in range(i):
            x = lower[i, k]
            for j in range(k + 1):
                out[i, j] -= x * out[k, j]
        scale = 1 / lower[i, i]
        for j in range(i):
            out[i, j] *= scale
        out[i, i] = scale
    return out


@njit(nogil=True, cache=True)
def factorised(starts, row_start, below, places, element_start, moduli, stiffness, held):
    """The factor of the elements' sum, front by front (the multifrontal method of Duff and Reid 1983).

    Parameters
    ----------
    starts, row_start, below : int arrays
        The fronts' nodes and their rows, as :func:`fronts` and :func:`structure` give them.
    places : int (e, 24)
        Each element's unknowns, three a node; -1: none.
    element_start : int array
        Elements that come in with each front.
    moduli : (e,)
        What each element's ``stiffness`` (24, 24) is multiplied by.
    held : bool (3 n,)
        Unknowns that have no equation.

    Returns
    -------
    first, row_start, value_start, below, values, pivot : arrays
        Of :class:`Factor`.
    sound : bool
        Whether the sum is positive definite; otherwise the arrays mean nothing.
    """
    count, n = len(starts) - 1, starts[-1]
    panels, rows_used, values_used, most = 0, 0, 0, 0
    for s in range(count):
        own, rest = 3 * (starts[s + 1] - starts[s]), 3 * (row_start[s + 1] - row_start[s])
        most = max(most, own + rest)
        for c in range(0, own, PANEL):
            panels += 1
            rows_used += own - min(c + PANEL, own) + rest
        values_used += own * (own - 1) // 2 + own * rest
    first, panel_rows, value_start = (
        np.zeros(panels + 1, np.int64),
        np.zeros(panels + 1, np.int64),
        np.zeros(panels + 1, np.int64),
    )
    out_below, values = np.empty(rows_used, np.int32), np.empty(values_used, np.float32)
    pivot = np.empty(3 * n, np.float32)
    room = np.empty(most * most)
    where = np.full(n, -1)
    stack = [(0, room[:0])]
    stack.pop()
    p = row_at = value_at = 0
    for s in range(count):
        begin, end = starts[s], starts[s + 1]
        nodes = below[row_start[s] : row_start[s + 1]]
        own = 3 * (end - begin)
        size = own + 3 * len(nodes)
        f = room[: size * size].reshape(size, size)
        f[:] = 0
        for k in range(begin, end):
            where[k] = 3 * (k - begin)
        for k in range(len(nodes)):
            where[nodes[k]] = own + 3 * k
        for e in range(element_start[s], element_start[s + 1]):
            for a in range(24):
                row = places[e, a]
                if row < 0:
                    continue
                i = where[row // 3] + row % 3
                for b in range(24):
                    column = places[e, b]
                    if column >= 0:
                        j = where[column // 3] + column % 3
                        if j <= i:
                            f[i, j] += moduli[e] * stiffness[a, b]
        for k in range(own):
            if held[3 * begin + k]:
                f[k, k] = 1
        # What is left of the fronts that end in this one lies on top.
        while len(stack) > 0:
            c, update = stack[-1]
            lines = below[row_start[c] : row_start[c + 1]]
            if lines[0] >= end:
                break
            stack.pop()
            width = 3 * len(lines)
            for a in range(len(lines)):
                to = where[lines[a]]
                for component in range(3):
                    line, source = f[to + component], update[(3 * a + component) * width :]
                    for b in range(a + 1):
                        column = where[lines[b]]
                        line[column] += source[3 * b]
                        line[column + 1] += source[3 * b + 1]
                        line[column + 2] += source[3 * b + 2]
        for low in range(0, own, PANEL):
            high = min(low + PANEL, own)
            width, rest = high - low, size - high
            lower = f[low:high, low:high].copy()
            if not _root(lower):
                # An exception would leave all of the memory behind.
                return first, panel_rows, value_start, out_below, values, pivot, False
            scale = np.empty(width)
            for i in range(width):
                pivot[3 * begin + low + i] = 1 / lower[i, i] ** 2
                scale[i] = 1 / lower[i, i]
            left = np.dot(f[high:, low:high].copy(), _inverse(lower).T.copy())
            across = left.T.copy()
            for j in range(width):
                for i in range(j + 1, width):
                    values[value_at] = lower[i, j] * scale[j]
                    value_at += 1
                for i in range(rest):
                    values[value_at] = across[j, i] * scale[j]
                    value_at += 1
            for d in range(0, rest, 2 * PANEL):
                e = min(d + 2 * PANEL, rest)
                product = np.dot(left[d:], across[:, d:e].copy())
                for i in range(rest - d):
                    line, change = f[high + d + i], product[i]
                    for j in range(e - d):
                        line[high + d + j] -= change[j]
            for k in range(high, own):
                out_below[row_at] = 3 * begin + k
                row_at += 1
            for node in nodes:
                for component in range(3):
                    out_below[row_at] = 3 * node + component
                    row_at += 1
            p += 1
            first[p], panel_rows[p], value_start[p] = 3 * begin + high, row_at, value_at
        if len(nodes) > 0:
            stack.append((s, f[own:, own:].copy().reshape(-1)))
    return first, panel_rows, value_start, out_below, values, pivot, True


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def solve_factored(factor, b, room):
    """``b`` = (L D L^T)^-1 b in place; ``room`` is as long."""
    first, row_start, value_start, below, values, pivot = factor
    count = len(first) - 1
    for s in range(count):
        low, high = first[s], first[s + 1]
        start, size = row_start[s], row_start[s + 1] - row_start[s]
        at = value_start[s]
        total = room[:size]
        total[:] = 0
        for c in range(low, high):
            x = b[c]
            for k in range(c + 1, high):
                b[k] -= values[at] * x
                at += 1
            column = values[at : at + size]
            for k in range(size):
                total[k] += column[k] * x
            at += size
        for k in range(size):
            b[below[start + k]] -= total[k]
    for p in range(len(pivot)):
        b[p] *= pivot[p]
    for s in range(count - 1, -1, -1):
        low, high = first[s], first[s + 1]
        start, size = row_start[s], row_start[s + 1] - row_start[s]
        at = value_start[s + 1]
        known = room[:size]
        for k in range(size):
            known[k] = b[below[start + k]]
        for c in range(high - 1, low - 1, -1):
            at -= size
            column = values[at : at + size]
            total_c = b.dtype.type(0)
            for k in range(size):
                total_c += column[k] * known[k]
            at -= high - 1 - c
            for k in range(c + 1, high):
                total_c += values[at + k - c - 1] * b[k]
            b[c] -= total_c
