#!/usr/bin/env python3
"""Writes babai.json: what GPTQ must choose, computed in exact rationals by elimination.

One row of weights is rounded column by column; after each, the inverse of H loses that column (Optimal Brain Surgeon), and the
weights that are left move by what the error costs them.  All numbers are exact in fp32; no quotient lies near a tie."""
import json
import pathlib
import random
from fractions import Fraction

random.seed(3)


def inverse(a):
    n = len(a)
    m = [list(row) + [Fraction(int(i == j)) for j in range(n)] for i, row in enumerate(a)]
    for i in range(n):
        pivot = next(k for k in range(i, n) if m[k][i])
        m[i], m[pivot] = m[pivot], m[i]
        m[i] = [x / m[i][i] for x in m[i]]
        for k in range(n):
            if k != i and m[k][i]:
                m[k] = [x - m[k][i] * y for x, y in zip(m[k], m[i])]
    return [row[n:] for row in m]


def nearest(x):
    """Python rounds ties to even, as the kernel does; near ties are refused."""
    if abs(x - int(x // 1) - Fraction(1, 2)) < Fraction(1, 10000):
        raise ValueError("near a tie")
    return round(x)


def eliminate(w, h, order, scale, zero, group, top):
    """Codes in the original order, and the loss (w - q) H (w - q)^T."""
    w = list(w)
    inv = inverse(h)
    code = [0] * len(w)
    left = list(order)
    loss = Fraction(0)
    for i in order:
        s, z = scale[i // group], zero[i // group]
        code[i] = max(0, min(top, nearest(w[i] / s) + z))
        error = (w[i] - (code[i] - z) * s) / inv[i][i]
        loss += error * error * inv[i][i]
        left.remove(i)
        row, pivot = inv[i], inv[i][i]
        for k in left:
            w[k] -= error * row[k]
        for a in left:
            for b in left:
                inv[a][b] -= inv[a][i] * row[b] / pivot
    return code, loss


def case(n, bits, group, sym):
    x = [[random.randint(-4, 4) * (1 + 3 * (j % 3 == 0)) for j in range(n)] for _ in range(2 * n)]
    h = [[Fraction(sum(r[i] * r[j] for r in x)) for j in range(n)] for i in range(n)]
    for i in range(n):
        h[i][i] += 1
    w = [Fraction(random.randint(-900, 900), 256) for _ in range(n)]
    top = 2**bits - 1
    groups = -(-n // group)
    scale = [Fraction(random.randint(60, 120), 128) * Fraction(8, 2**bits) for _ in range(groups)]
    zero = [2 ** (bits - 1) if sym else random.randint(1, top - 1) for _ in range(groups)]
    order = sorted(range(n), key=lambda i: (-h[i][i], i)) if random.random() < 0.6 else list(range(n))
    code, loss = eliminate(w, h, order, scale, zero, group, top)
    return {"bits": bits, "group": group, "sym": sym, "order": order, "w": [float(v) for v in w],
            "h": [int(v) for row in h for v in row], "scale": [float(v) for v in scale], "zero": zero,
            "code": code, "loss": float(loss)}


cases = []
while len(cases) < 60:
    n = random.randint(4, 16)
    try:
        cases.append(case(n, random.choice([2, 3, 4, 4, 8]), random.choice([n, 4, 3]), random.random() < 0.5))
    except ValueError:
        pass
path = pathlib.Path(__file__).with_suffix(".json")
path.write_text("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")
